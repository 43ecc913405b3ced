// What XDP programs hand to each other: the scratch map (one element a CPU: a packet is worked on by one CPU
// from entry to verdict), the metadata in front of the packet, and the table of programs.
//
// The kernel verifies each program alone, so each one looks the scratch element up again and checks packet
// bounds again. Offsets into the packet are kept as single bytes: that is the bound the verifier needs.
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "common/balance.h"
#include "common/packet.h"

#define FLAG_FRAGMENT 1  /* ports are known from the fragment table, not parsed */
#define FLAG_NO_L4 2     /* a later fragment: the packet has no transport header */
#define FLAG_SYN 4
#define FLAG_CLOSING 8
#define FLAG_ECHO 16     /* an ICMP echo request */
#define FLAG_CLIENT 32   /* on its way back to a client */

struct scratch {
	struct flow_tuple tuple;
	union ip_addr nat_addr; /* the backend, or for replies the virtual address */
	__be32 tunnel;
	__be16 nat_port;
	__u8 l3_offset;
	__u8 l4_offset;
	__be32 fragment_id;
	__u8 flags;
	__u8 recirculations;
	__u8 reason;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 ct_flags;
	__u16 pad;
	__u32 service;
	__u32 service_flags;
	__u32 backend;
	__u32 endpoint;
	__u32 identity;
	__u32 length; /* of the packet as it came, Ethernet header included */
	__u32 verdict;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* In front of the packet. Programs behind XDP (tc ingress) find it there when the packet is passed. */
struct edge_meta {
	__u32 hash; /* of the tuple */
	__u16 magic;
	__u8 reason;
	__u8 family;
};

/* Policy by endpoint: filled by the control plane when an endpoint comes up, indexed by endpoint.id. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, EDGE_LB_MAX_ENDPOINTS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} policy_calls SEC(".maps");

int xdp_classify(struct xdp_md *ctx);
int xdp_parse_v4(struct xdp_md *ctx);
int xdp_parse_v6(struct xdp_md *ctx);
int xdp_fragment(struct xdp_md *ctx);
int xdp_source(struct xdp_md *ctx);
int xdp_l4(struct xdp_md *ctx);
int xdp_conntrack(struct xdp_md *ctx);
int xdp_service(struct xdp_md *ctx);
int xdp_backend(struct xdp_md *ctx);
int xdp_policy(struct xdp_md *ctx);
int xdp_ct_create(struct xdp_md *ctx);
int xdp_nat_v4(struct xdp_md *ctx);
int xdp_nat_v6(struct xdp_md *ctx);
int xdp_rev_nat_v4(struct xdp_md *ctx);
int xdp_rev_nat_v6(struct xdp_md *ctx);
int xdp_encap_ipip(struct xdp_md *ctx);
int xdp_encap_vxlan(struct xdp_md *ctx);
int xdp_decap(struct xdp_md *ctx);
int xdp_echo_v4(struct xdp_md *ctx);
int xdp_echo_v6(struct xdp_md *ctx);
int xdp_icmp_error(struct xdp_md *ctx);
int xdp_forward(struct xdp_md *ctx);
int xdp_pass(struct xdp_md *ctx);
int xdp_drop(struct xdp_md *ctx);
int xdp_metrics(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SLOT_COUNT);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} jmp_table SEC(".maps") = {
	.values = {
		[SLOT_CLASSIFY] = (void *)&xdp_classify,
		[SLOT_PARSE_V4] = (void *)&xdp_parse_v4,
		[SLOT_PARSE_V6] = (void *)&xdp_parse_v6,
		[SLOT_FRAGMENT] = (void *)&xdp_fragment,
		[SLOT_SOURCE] = (void *)&xdp_source,
		[SLOT_L4] = (void *)&xdp_l4,
		[SLOT_CONNTRACK] = (void *)&xdp_conntrack,
		[SLOT_SERVICE] = (void *)&xdp_service,
		[SLOT_BACKEND] = (void *)&xdp_backend,
		[SLOT_POLICY] = (void *)&xdp_policy,
		[SLOT_CT_CREATE] = (void *)&xdp_ct_create,
		[SLOT_NAT_V4] = (void *)&xdp_nat_v4,
		[SLOT_NAT_V6] = (void *)&xdp_nat_v6,
		[SLOT_REV_NAT_V4] = (void *)&xdp_rev_nat_v4,
		[SLOT_REV_NAT_V6] = (void *)&xdp_rev_nat_v6,
		[SLOT_ENCAP_IPIP] = (void *)&xdp_encap_ipip,
		[SLOT_ENCAP_VXLAN] = (void *)&xdp_encap_vxlan,
		[SLOT_DECAP] = (void *)&xdp_decap,
		[SLOT_ECHO_V4] = (void *)&xdp_echo_v4,
		[SLOT_ECHO_V6] = (void *)&xdp_echo_v6,
		[SLOT_ICMP_ERROR] = (void *)&xdp_icmp_error,
		[SLOT_FORWARD] = (void *)&xdp_forward,
		[SLOT_PASS] = (void *)&xdp_pass,
		[SLOT_DROP] = (void *)&xdp_drop,
		[SLOT_METRICS] = (void *)&xdp_metrics,
	},
};

static __always_inline struct scratch *scratch_get(__u32 hits_slot)
{
	__u32 zero = 0;

	trace_program(hits_slot);
	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline __u32 packet_length(struct xdp_md *ctx)
{
	return ctx_pointer(ctx, data_end) - ctx_pointer(ctx, data);
}

static __always_inline bool meta_at(struct xdp_md *ctx, struct edge_meta **meta)
{
	void *data = ctx_pointer(ctx, data);

	*meta = ctx_pointer(ctx, data_meta);
	return (void *)(*meta + 1) <= data;
}

/* Goes on in jmp_table[slot]. An empty slot is a broken installation: counted, and the packet is lost. */
static __always_inline int jump(struct xdp_md *ctx, __u32 slot)
{
	bpf_tail_call_static(ctx, &jmp_table, slot);
	count_slot(&missed_calls, slot);
	return XDP_ABORTED;
}

static __always_inline int drop(struct xdp_md *ctx, struct scratch *s, __u8 reason)
{
	s->reason = reason;
	return jump(ctx, SLOT_DROP);
}

static __always_inline int pass(struct xdp_md *ctx, struct scratch *s, __u8 reason)
{
	s->reason = reason;
	return jump(ctx, SLOT_PASS);
}

static __always_inline int finish(struct xdp_md *ctx, struct scratch *s, __u32 verdict)
{
	s->verdict = verdict;
	return jump(ctx, SLOT_METRICS);
}

static __always_inline int reply_icmp_error(struct xdp_md *ctx, struct scratch *s, __u8 reason, __u8 type,
					    __u8 code)
{
	if (!enable_icmp_errors || s->tuple.family != FAMILY_V4)
		return drop(ctx, s, reason);
	s->reason = reason;
	s->icmp_type = type;
	s->icmp_code = code;
	return jump(ctx, SLOT_ICMP_ERROR);
}
