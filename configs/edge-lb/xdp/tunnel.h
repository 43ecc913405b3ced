// Encapsulation towards backends that answer clients by themselves (IPIP, or IPv6 in IPv4, or VXLAN), and
// decapsulation of what is tunnelled to this node: the inner packet starts again at xdp_classify.
#pragma once

#include "common/checksum.h"
#include "xdp/parse.h"

#define OUTER_TTL 64

struct vxlan_header {
	__be32 flags;
	__be32 vni;
};

#define VXLAN_FLAG_VNI 0x08000000

/* Writes the outer IPv4 header. The packet is not aligned for it: `at` is untyped. `length` is that of the whole IPv4 packet. */
static __always_inline void outer_ipv4(void *at, __be32 destination, __u8 proto, __u16 length)
{
	struct iphdr *ip = at;

	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = 0;
	ip->tot_len = bpf_htons(length);
	ip->id = 0;
	ip->frag_off = 0;
	ip->ttl = OUTER_TTL;
	ip->protocol = proto;
	ip->check = 0;
	ip->saddr = bpf_htonl(node_ip);
	ip->daddr = destination;
	ip->check = csum_of(ip, sizeof(*ip));
}

SEC("xdp")
int xdp_encap_ipip(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ENCAP_IPIP);
	struct {
		struct ethhdr eth;
		struct iphdr ip;
	} __attribute__((packed)) * outer;
	struct ethhdr *old, eth;
	__u32 length;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, 0, &old))
		return drop(ctx, s, REASON_TOO_SHORT);
	eth = *old;
	eth.h_proto = bpf_htons(ETH_P_IP);
	length = packet_length(ctx) - s->l3_offset; /* VLAN tags end here */
	if (bpf_xdp_adjust_head(ctx, (int)s->l3_offset - (int)sizeof(*outer)))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	if (!packet_at(ctx, 0, &outer))
		return drop(ctx, s, REASON_TOO_SHORT);
	outer->eth = eth;
	outer_ipv4(&outer->ip, s->tunnel, s->tuple.family == FAMILY_V6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
		   length + sizeof(outer->ip));
	s->l3_offset = sizeof(eth);
	s->tuple.family = FAMILY_V4;
	return jump(ctx, SLOT_FORWARD);
}

SEC("xdp")
int xdp_encap_vxlan(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ENCAP_VXLAN);
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct udphdr udp;
		struct vxlan_header vxlan;
		struct ethhdr inner;
	} __attribute__((packed)) * outer;
	struct edge_meta *meta;
	struct ethhdr *old, eth;
	__u32 length, hash;

	if (!s)
		return XDP_ABORTED;
	if (!meta_at(ctx, &meta) || !packet_at(ctx, 0, &old))
		return drop(ctx, s, REASON_TOO_SHORT);
	hash = meta->hash;
	eth = *old;
	length = packet_length(ctx) - s->l3_offset;
	if (bpf_xdp_adjust_head(ctx, (int)s->l3_offset - (int)sizeof(*outer)))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	if (!packet_at(ctx, 0, &outer))
		return drop(ctx, s, REASON_TOO_SHORT);
	eth.h_proto = s->tuple.family == FAMILY_V6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	outer->inner = eth;
	eth.h_proto = bpf_htons(ETH_P_IP);
	outer->eth = eth;
	length += sizeof(*outer) - sizeof(outer->eth);
	outer_ipv4(&outer->ip, s->tunnel, IPPROTO_UDP, length);
	/* The source port spreads flows over paths (RFC 7348); UDP over IPv4 may leave the checksum out. */
	outer->udp.source = bpf_htons(0xc000 | (hash & 0x3fff));
	outer->udp.dest = bpf_htons(EDGE_LB_VXLAN_PORT);
	outer->udp.len = bpf_htons(length - sizeof(outer->ip));
	outer->udp.check = 0;
	outer->vxlan.flags = bpf_htonl(VXLAN_FLAG_VNI);
	outer->vxlan.vni = bpf_htonl(vxlan_vni << 8);
	s->l3_offset = sizeof(eth);
	s->tuple.family = FAMILY_V4;
	return jump(ctx, SLOT_FORWARD);
}

SEC("xdp")
int xdp_decap(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_DECAP);
	struct ethhdr *old, *new, eth;

	if (!s)
		return XDP_ABORTED;
	if (s->recirculations >= max_recirculations)
		return drop(ctx, s, REASON_RECIRCULATION);
	s->recirculations++;
	if (!packet_at(ctx, 0, &old))
		return drop(ctx, s, REASON_TOO_SHORT);
	eth = *old;
	eth.h_proto = s->tuple.proto == IPPROTO_IPV6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_xdp_adjust_head(ctx, (int)s->l4_offset - (int)sizeof(eth)))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	if (!packet_at(ctx, 0, &new))
		return drop(ctx, s, REASON_TOO_SHORT);
	*new = eth;
	return jump(ctx, SLOT_CLASSIFY);
}
