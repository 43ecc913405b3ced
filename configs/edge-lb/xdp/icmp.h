// Answers that the load balancer gives itself: echo replies for virtual addresses, and ICMP errors.
#pragma once

#include "common/checksum.h"
#include "xdp/parse.h"

#define REPLY_TTL 64

/* Of the packet that an ICMP error is about: an IPv4 header and eight bytes. */
struct icmp_quote {
	__u8 bytes[28];
};

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

SEC("xdp")
int xdp_echo_v4(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ECHO_V4);
	struct icmp_header *icmp;
	struct ethhdr *eth;
	struct iphdr *ip;
	__be16 ttl_word;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, 0, &eth) || !packet_at(ctx, s->l3_offset, &ip) || !packet_at(ctx, s->l4_offset, &icmp))
		return drop(ctx, s, REASON_TOO_SHORT);
	swap_macs(eth);
	ip->daddr = s->tuple.src.v4;
	ip->saddr = s->tuple.dst.v4;
	ttl_word = bpf_htons(ip->ttl << 8);
	ip->ttl = REPLY_TTL;
	ip->check = csum_apply(ip->check, csum_diff_half(0, ttl_word, bpf_htons(REPLY_TTL << 8)));
	icmp->type = ICMP_ECHO_REPLY;
	icmp->checksum = csum_apply(icmp->checksum, csum_diff_half(0, bpf_htons(ICMP_ECHO_REQUEST << 8),
								   bpf_htons(ICMP_ECHO_REPLY << 8)));
	return finish(ctx, s, XDP_TX);
}

SEC("xdp")
int xdp_echo_v6(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ECHO_V6);
	struct icmp_header *icmp;
	struct ipv6hdr *ip;
	struct ethhdr *eth;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, 0, &eth) || !packet_at(ctx, s->l3_offset, &ip) || !packet_at(ctx, s->l4_offset, &icmp))
		return drop(ctx, s, REASON_TOO_SHORT);
	swap_macs(eth);
	__builtin_memcpy(&ip->daddr, &s->tuple.src, sizeof(ip->daddr));
	__builtin_memcpy(&ip->saddr, &s->tuple.dst, sizeof(ip->saddr));
	ip->hop_limit = REPLY_TTL;
	icmp->type = ICMP6_ECHO_REPLY;
	icmp->checksum = csum_apply(icmp->checksum, csum_diff_half(0, bpf_htons(ICMP6_ECHO_REQUEST << 8),
									 bpf_htons(ICMP6_ECHO_REPLY << 8)));
	return finish(ctx, s, XDP_TX);
}

/* Answers an IPv4 packet with an error that quotes its first bytes, never longer than what came. */
SEC("xdp")
int xdp_icmp_error(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ICMP_ERROR);
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct icmp_header icmp;
		struct icmp_quote quote;
	} __attribute__((packed)) * reply;
	struct icmp_quote *quoted;
	struct ethhdr *old, eth;
	int grow;

	if (!s)
		return XDP_ABORTED;
	if (s->tuple.proto == IPPROTO_ICMP)
		return drop(ctx, s, s->reason); /* no errors about ICMP: it could be an error (RFC 1122) */
	if (!packet_at(ctx, 0, &old) || !packet_at(ctx, s->l3_offset, &quoted))
		return drop(ctx, s, REASON_TOO_SHORT);
	eth = *old;
	eth.h_proto = bpf_htons(ETH_P_IP);
	swap_macs(&eth);
	if (bpf_xdp_adjust_head(ctx, (int)s->l3_offset - (int)(sizeof(*reply) - sizeof(*quoted))))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	grow = (int)sizeof(*reply) - (int)packet_length(ctx);
	if (grow && bpf_xdp_adjust_tail(ctx, grow))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	if (!packet_at(ctx, 0, &reply))
		return drop(ctx, s, REASON_TOO_SHORT);
	reply->eth = eth;
	reply->ip = (struct iphdr){
		.version = 4,
		.ihl = sizeof(reply->ip) / 4,
		.tot_len = bpf_htons(sizeof(*reply) - sizeof(reply->eth)),
		.ttl = REPLY_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = bpf_htonl(node_ip),
		.daddr = s->tuple.src.v4,
	};
	reply->ip.check = csum_of(&reply->ip, sizeof(reply->ip));
	reply->icmp = (struct icmp_header){ .type = s->icmp_type, .code = s->icmp_code };
	reply->icmp.checksum = csum_of(&reply->icmp, sizeof(reply->icmp) + sizeof(reply->quote));
	return finish(ctx, s, XDP_TX);
}
