// Where every packet ends: forwarded, handed to the stack, or dropped; and counted.
#pragma once

#include "common/checksum.h"
#include "xdp/parse.h"

#define AF_INET 2
#define AF_INET6 10

/* The way there by the control plane's table instead of the kernel's FIB. */
static __always_inline int forward_by_table(struct xdp_md *ctx, struct scratch *s)
{
	__u32 number = s->flags & FLAG_CLIENT ? 0 : s->backend;
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &number);
	struct ethhdr *eth;

	if (!hop || !hop->ifindex)
		return drop(ctx, s, REASON_NO_ROUTE);
	if (!packet_at(ctx, 0, &eth))
		return drop(ctx, s, REASON_TOO_SHORT);
	__builtin_memcpy(eth->h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->smac, ETH_ALEN);
	return finish(ctx, s, bpf_redirect(hop->ifindex, 0));
}

SEC("xdp")
int xdp_forward(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_FORWARD);
	struct bpf_fib_lookup fib = {};
	struct ethhdr *eth;
	long result;

	if (!s)
		return XDP_ABORTED;
	if (s->tuple.family == FAMILY_V4) {
		struct iphdr *ip;

		if (!packet_at(ctx, s->l3_offset, &ip))
			return drop(ctx, s, REASON_TOO_SHORT);
		ip->ttl--;
		ip->check = csum_apply(ip->check, csum_diff_half(0, bpf_htons(0x0100), 0));
		fib.family = AF_INET;
		fib.tos = ip->tos;
		fib.l4_protocol = ip->protocol;
		fib.tot_len = bpf_ntohs(ip->tot_len);
		fib.ipv4_src = ip->saddr;
		fib.ipv4_dst = ip->daddr;
	} else {
		struct ipv6hdr *ip;

		if (!packet_at(ctx, s->l3_offset, &ip))
			return drop(ctx, s, REASON_TOO_SHORT);
		ip->hop_limit--;
		fib.family = AF_INET6;
		fib.l4_protocol = ip->nexthdr;
		fib.tot_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		__builtin_memcpy(fib.ipv6_src, &ip->saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &ip->daddr, sizeof(fib.ipv6_dst));
	}
	if (!enable_fib)
		return forward_by_table(ctx, s);
	fib.ifindex = ctx->ingress_ifindex;
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	switch (result) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return drop(ctx, s, REASON_NO_ROUTE);
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return drop(ctx, s, REASON_MTU);
	default:
		return pass(ctx, s, REASON_NO_ROUTE); /* the stack resolves neighbours and knows more than the FIB */
	}
	if (!packet_at(ctx, 0, &eth))
		return drop(ctx, s, REASON_TOO_SHORT);
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	return finish(ctx, s, bpf_redirect(fib.ifindex, 0));
}

/* To the stack; programs at tc ingress read from the metadata why. */
SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_PASS);
	struct edge_meta *meta;

	if (!s)
		return XDP_ABORTED;
	if (meta_at(ctx, &meta)) {
		meta->reason = s->reason;
		meta->family = s->tuple.family;
	}
	return finish(ctx, s, XDP_PASS);
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} drop_events SEC(".maps");

/* Reports lost events by not being there: the reader compares with the drop counters. */
SEC("xdp")
int xdp_drop(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_DROP);
	struct drop_event *event;

	if (!s)
		return XDP_ABORTED;
	event = bpf_ringbuf_reserve(&drop_events, sizeof(*event), 0);
	if (event) {
		event->time = now();
		event->length = s->length;
		event->ifindex = ctx->ingress_ifindex;
		event->tuple = s->tuple;
		event->service = s->service;
		event->identity = s->identity;
		event->reason = s->reason;
		event->recirculations = s->recirculations;
		event->pad = 0;
		event->pad2 = 0;
		bpf_ringbuf_submit(event, 0);
	}
	return finish(ctx, s, XDP_DROP);
}

SEC("xdp")
int xdp_metrics(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_METRICS);

	if (!s)
		return XDP_ABORTED;
	count_packet(s->verdict, s->reason, s->tuple.family, s->service, s->length);
	return s->verdict;
}
