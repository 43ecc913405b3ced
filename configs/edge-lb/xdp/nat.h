// Address translation: towards the backend (destination) and back to the client (source). The four programs
// differ in the family and in which end of the packet they rewrite.
#pragma once

#include "common/checksum.h"
#include "xdp/parse.h"

/* Applies `diff` to the transport checksum and writes the new port. False: the packet is too short. */
static __always_inline int nat_l4(struct xdp_md *ctx, struct scratch *s, __u64 diff, int reply)
{
	if (s->flags & FLAG_NO_L4)
		return 1;
	if (s->tuple.proto == IPPROTO_TCP) {
		struct tcphdr *tcp;

		if (!packet_at(ctx, s->l4_offset, &tcp))
			return 0;
		diff = csum_diff_half(diff, reply ? tcp->source : tcp->dest, s->nat_port);
		if (reply)
			tcp->source = s->nat_port;
		else
			tcp->dest = s->nat_port;
		tcp->check = csum_apply(tcp->check, diff);
	} else {
		struct udphdr *udp;

		if (!packet_at(ctx, s->l4_offset, &udp))
			return 0;
		diff = csum_diff_half(diff, reply ? udp->source : udp->dest, s->nat_port);
		if (reply)
			udp->source = s->nat_port;
		else
			udp->dest = s->nat_port;
		if (udp->check) {
			__u16 check = csum_apply(udp->check, diff);

			udp->check = check ? check : 0xffff; /* 0 would mean: no checksum */
		}
	}
	return 1;
}

static __always_inline int nat_v4(struct xdp_md *ctx, __u32 hits_slot, int reply)
{
	struct scratch *s = scratch_get(hits_slot);
	struct iphdr *ip;
	__be32 old;
	__u64 diff;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, s->l3_offset, &ip))
		return drop(ctx, s, REASON_TOO_SHORT);
	old = reply ? ip->saddr : ip->daddr;
	if (reply)
		ip->saddr = s->nat_addr.v4;
	else
		ip->daddr = s->nat_addr.v4;
	diff = csum_diff_word(0, old, s->nat_addr.v4);
	ip->check = csum_apply(ip->check, diff);
	if (!nat_l4(ctx, s, diff, reply))
		return drop(ctx, s, REASON_TOO_SHORT);
	return jump(ctx, SLOT_FORWARD);
}

static __always_inline int nat_v6(struct xdp_md *ctx, __u32 hits_slot, int reply)
{
	struct scratch *s = scratch_get(hits_slot);
	struct ipv6hdr *ip;
	union ip_addr old;
	__u64 diff;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, s->l3_offset, &ip))
		return drop(ctx, s, REASON_TOO_SHORT);
	__builtin_memcpy(&old, reply ? &ip->saddr : &ip->daddr, sizeof(old));
	__builtin_memcpy(reply ? &ip->saddr : &ip->daddr, &s->nat_addr, sizeof(old));
	diff = csum_diff_addr(0, &old, &s->nat_addr);
	if (!nat_l4(ctx, s, diff, reply))
		return drop(ctx, s, REASON_TOO_SHORT);
	return jump(ctx, SLOT_FORWARD);
}

SEC("xdp")
int xdp_nat_v4(struct xdp_md *ctx) { return nat_v4(ctx, SLOT_NAT_V4, 0); }

SEC("xdp")
int xdp_nat_v6(struct xdp_md *ctx) { return nat_v6(ctx, SLOT_NAT_V6, 0); }

SEC("xdp")
int xdp_rev_nat_v4(struct xdp_md *ctx) { return nat_v4(ctx, SLOT_REV_NAT_V4, 1); }

SEC("xdp")
int xdp_rev_nat_v6(struct xdp_md *ctx) { return nat_v6(ctx, SLOT_REV_NAT_V6, 1); }
