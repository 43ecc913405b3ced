// What tc programs hand to each other: skb->cb, 20 bytes that the kernel keeps with the packet. That is too
// little for a tuple, so each program takes it from the packet again. Words change their meaning on the way.
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "common/balance.h"
#include "common/packet.h"

#define CB_HEADERS 0  /* bits 0-7 layer 4 offset, 8-15 protocol, 16-23 family, 24-31 TC_FLAG_* */
#define CB_HASH 1     /* up to tc_backend: the flow hash */
#define CB_ENDPOINT 1 /* from tc_policy on: endpoint id */
#define CB_SERVICE 2  /* bits 0-15 service id, 16-31 identity of the source */
#define CB_BACKEND 3  /* up to tc_forward: backend number */
#define CB_LENGTH 3   /* in tc_drop and tc_metrics: bytes of the packet */
#define CB_VERDICT 4  /* bits 0-7 verdict, 8-15 enum edge_lb_reason */

#define TC_FLAG_SYN 1
#define TC_FLAG_CLOSING 2
#define TC_FLAG_CLIENT 4 /* on its way back to a client */

#define L3_OFFSET sizeof(struct ethhdr)

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, TC_SLOT_COUNT);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} jmp_tc SEC(".maps");

/* By endpoint.policy. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 16);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} policy_tc SEC(".maps");

/* Puts the program that follows into a slot; loaders read the tag from BTF. */
#define TAIL_TAG(map, slot) __attribute__((btf_decl_tag("tail:" #map "/" #slot)))
#define TAIL(map, slot) TAIL_TAG(map, slot)

static __always_inline __u8 cb_l4_offset(struct __sk_buff *skb) { return skb->cb[CB_HEADERS]; }

static __always_inline __u8 cb_proto(struct __sk_buff *skb) { return skb->cb[CB_HEADERS] >> 8; }

static __always_inline __u8 cb_family(struct __sk_buff *skb) { return skb->cb[CB_HEADERS] >> 16; }

static __always_inline __u8 cb_flags(struct __sk_buff *skb) { return skb->cb[CB_HEADERS] >> 24; }

static __always_inline void cb_set_headers(struct __sk_buff *skb, __u8 l4_offset, __u8 proto, __u8 family)
{
	skb->cb[CB_HEADERS] = l4_offset | proto << 8 | family << 16;
}

static __always_inline void cb_add_flags(struct __sk_buff *skb, __u32 flags)
{
	skb->cb[CB_HEADERS] |= flags << 24;
}

static __always_inline __u32 cb_service(struct __sk_buff *skb) { return skb->cb[CB_SERVICE] & 0xffff; }

static __always_inline __u32 cb_identity(struct __sk_buff *skb) { return skb->cb[CB_SERVICE] >> 16; }

static __always_inline void cb_set_service(struct __sk_buff *skb, __u32 service)
{
	skb->cb[CB_SERVICE] = (skb->cb[CB_SERVICE] & 0xffff0000) | service;
}

static __always_inline int jump(struct __sk_buff *skb, __u32 slot)
{
	bpf_tail_call_static(skb, &jmp_tc, slot);
	count_slot(&missed_calls, slot);
	return TC_ACT_SHOT;
}

static __always_inline int finish(struct __sk_buff *skb, __u8 verdict, __u8 reason)
{
	skb->cb[CB_LENGTH] = skb->len;
	skb->cb[CB_VERDICT] = verdict | reason << 8;
	return jump(skb, TC_SLOT_METRICS);
}

static __always_inline int pass(struct __sk_buff *skb, __u8 reason) { return finish(skb, TC_ACT_OK, reason); }

static __always_inline int drop(struct __sk_buff *skb, __u8 reason)
{
	skb->cb[CB_VERDICT] = TC_ACT_SHOT | reason << 8;
	return jump(skb, TC_SLOT_DROP);
}

/* Source and destination port, where TCP and UDP have them alike. */
struct ports {
	__be16 source;
	__be16 dest;
};

/* The tuple of the packet as it is now; false where it is too short. */
static __always_inline bool tuple_read(struct __sk_buff *skb, struct flow_tuple *tuple)
{
	struct ports *ports;

	__builtin_memset(tuple, 0, sizeof(*tuple));
	tuple->family = cb_family(skb);
	tuple->proto = cb_proto(skb);
	if (tuple->family == FAMILY_V6) {
		struct ipv6hdr *ip;

		if (!packet_at(skb, L3_OFFSET, &ip))
			return false;
		__builtin_memcpy(&tuple->src, &ip->saddr, sizeof(tuple->src));
		__builtin_memcpy(&tuple->dst, &ip->daddr, sizeof(tuple->dst));
	} else {
		struct iphdr *ip;

		if (!packet_at(skb, L3_OFFSET, &ip))
			return false;
		tuple->src.v4 = ip->saddr;
		tuple->dst.v4 = ip->daddr;
	}
	if (!packet_at(skb, cb_l4_offset(skb), &ports))
		return false;
	tuple->sport = ports->source;
	tuple->dport = ports->dest;
	return true;
}

static __always_inline struct backend *backend_read(struct __sk_buff *skb)
{
	__u32 number = skb->cb[CB_BACKEND];

	return bpf_map_lookup_elem(&backends, &number);
}
