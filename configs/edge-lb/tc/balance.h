// The load balancer's core at tc: parsing, connections, services, backends, policy. The steps themselves are
// those of common/balance.h; what XDP has beyond them (tunnels, fragments, ICMP) is left to the stack here.
#pragma once

#include "tc/state.h"

SEC("tc")
int tc_entry(struct __sk_buff *skb)
{
	trace_program(TC_SLOT_ENTRY);
	for (int i = 0; i < 5; i++)
		skb->cb[i] = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return jump(skb, TC_SLOT_PARSE_V4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6) && enable_ipv6)
		return jump(skb, TC_SLOT_PARSE_V6);
	return pass(skb, REASON_NOT_IP);
}

/* What both families do once the transport header is found. */
static __always_inline int classify(struct __sk_buff *skb)
{
	struct flow_tuple tuple;

	if (!tuple_read(skb, &tuple))
		return drop(skb, REASON_TOO_SHORT);
	if (enable_source_filter) {
		struct source_class *class = source_find(&tuple.src, tuple.family);

		if (class && class->blocked)
			return drop(skb, REASON_SOURCE_BLOCKED);
		if (class)
			skb->cb[CB_SERVICE] = class->identity << 16;
	}
	if (tuple.proto == IPPROTO_TCP) {
		struct tcphdr *tcp;

		if (!packet_at(skb, cb_l4_offset(skb), &tcp))
			return drop(skb, REASON_TOO_SHORT);
		if (tcp->syn && !tcp->ack)
			cb_add_flags(skb, TC_FLAG_SYN);
		if (tcp->fin || tcp->rst)
			cb_add_flags(skb, TC_FLAG_CLOSING);
	}
	skb->cb[CB_HASH] = flow_hash(&tuple, lb_seed);
	return jump(skb, TC_SLOT_CONNTRACK);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_PARSE_V4)
int tc_parse_v4(struct __sk_buff *skb)
{
	struct iphdr *ip;
	__u32 header;

	trace_program(TC_SLOT_PARSE_V4);
	/* Headers may still be in pages of the driver: make them linear before reading them in place. */
	if (bpf_skb_pull_data(skb, 0) || !packet_at(skb, L3_OFFSET, &ip))
		return drop(skb, REASON_TOO_SHORT);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || bpf_ntohs(ip->tot_len) < header)
		return drop(skb, REASON_BAD_HEADER);
	cb_set_headers(skb, L3_OFFSET + header, ip->protocol, FAMILY_V4);
	if (ip->ttl <= 1 || (ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET)) ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return pass(skb, REASON_UNKNOWN_PROTOCOL);
	return classify(skb);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_PARSE_V6)
int tc_parse_v6(struct __sk_buff *skb)
{
	struct ipv6hdr *ip;

	trace_program(TC_SLOT_PARSE_V6);
	if (bpf_skb_pull_data(skb, 0) || !packet_at(skb, L3_OFFSET, &ip))
		return drop(skb, REASON_TOO_SHORT);
	if (ip->version != 6)
		return drop(skb, REASON_BAD_HEADER);
	cb_set_headers(skb, L3_OFFSET + sizeof(*ip), ip->nexthdr, FAMILY_V6);
	if (ip->hop_limit <= 1 || (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP))
		return pass(skb, REASON_UNKNOWN_PROTOCOL);
	return classify(skb);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_CONNTRACK)
int tc_conntrack(struct __sk_buff *skb)
{
	struct flow_tuple tuple;
	struct ct_entry *entry;

	trace_program(TC_SLOT_CONNTRACK);
	if (!tuple_read(skb, &tuple))
		return drop(skb, REASON_TOO_SHORT);
	entry = connection_find(&tuple, cb_flags(skb) & TC_FLAG_SYN, cb_flags(skb) & TC_FLAG_CLOSING);
	if (!entry)
		return jump(skb, TC_SLOT_SERVICE);
	cb_set_service(skb, entry->service);
	skb->cb[CB_BACKEND] = entry->backend;
	if (entry->flags & CT_REPLY) {
		cb_add_flags(skb, TC_FLAG_CLIENT);
		return jump(skb, TC_SLOT_REV_NAT);
	}
	return jump(skb, TC_SLOT_NAT);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_SERVICE)
int tc_service(struct __sk_buff *skb)
{
	struct flow_tuple tuple;
	struct service *service;
	__u8 known_vip;

	trace_program(TC_SLOT_SERVICE);
	if (!tuple_read(skb, &tuple))
		return drop(skb, REASON_TOO_SHORT);
	service = service_find(&tuple, &known_vip);
	if (!service)
		return known_vip ? drop(skb, REASON_PORT_UNREACHABLE) : pass(skb, REASON_NOT_OURS);
	if (service->flags & SERVICE_DSR)
		return pass(skb, REASON_NOT_OURS);
	cb_set_service(skb, service->id);
	return jump(skb, TC_SLOT_BACKEND);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_BACKEND)
int tc_backend(struct __sk_buff *skb)
{
	struct backend *backend;
	__u32 number = 0;

	trace_program(TC_SLOT_BACKEND);
	backend = backend_choose(cb_service(skb), skb->cb[CB_HASH], &number);
	if (!backend || backend->family != cb_family(skb))
		return drop(skb, REASON_NO_BACKEND);
	skb->cb[CB_BACKEND] = number;
	return jump(skb, TC_SLOT_POLICY);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_POLICY)
int tc_policy(struct __sk_buff *skb)
{
	struct backend *backend;
	struct endpoint *endpoint;
	union ip_addr addr;

	trace_program(TC_SLOT_POLICY);
	backend = backend_read(skb);
	if (!backend)
		return drop(skb, REASON_NO_BACKEND);
	addr = backend->addr;
	endpoint = bpf_map_lookup_elem(&endpoints, &addr);
	if (!endpoint)
		return jump(skb, TC_SLOT_CT_CREATE);
	skb->cb[CB_ENDPOINT] = endpoint->id;
	bpf_tail_call(skb, &policy_tc, endpoint->policy);
	count_slot(&missed_calls, TC_SLOT_POLICY);
	if (policy_default_allow)
		return jump(skb, TC_SLOT_CT_CREATE);
	return drop(skb, REASON_POLICY_DEFAULT);
}

SEC("tc") TAIL(policy_tc, POLICY_ALLOW_ALL)
int tc_policy_allow_all(struct __sk_buff *skb)
{
	trace_program(TC_SLOT_COUNT + POLICY_ALLOW_ALL);
	return jump(skb, TC_SLOT_CT_CREATE);
}

SEC("tc") TAIL(policy_tc, POLICY_WEB)
int tc_policy_web(struct __sk_buff *skb)
{
	struct backend *backend;

	trace_program(TC_SLOT_COUNT + POLICY_WEB);
	backend = backend_read(skb);
	if (!backend || !policy_web_allows(cb_proto(skb), backend->port))
		return drop(skb, REASON_POLICY_DENIED);
	return jump(skb, TC_SLOT_CT_CREATE);
}

SEC("tc") TAIL(policy_tc, POLICY_IDENTITY)
int tc_policy_identity(struct __sk_buff *skb)
{
	struct backend *backend;

	trace_program(TC_SLOT_COUNT + POLICY_IDENTITY);
	backend = backend_read(skb);
	if (!backend ||
	    !policy_identity_allows(skb->cb[CB_ENDPOINT], cb_identity(skb), backend->port, cb_proto(skb)))
		return drop(skb, REASON_POLICY_DENIED);
	return jump(skb, TC_SLOT_CT_CREATE);
}

SEC("tc") TAIL(policy_tc, POLICY_QUARANTINE)
int tc_policy_quarantine(struct __sk_buff *skb)
{
	trace_program(TC_SLOT_COUNT + POLICY_QUARANTINE);
	if (cb_identity(skb) != IDENTITY_OFFICE)
		return drop(skb, REASON_POLICY_DENIED);
	return jump(skb, TC_SLOT_CT_CREATE);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_CT_CREATE)
int tc_ct_create(struct __sk_buff *skb)
{
	struct flow_tuple tuple;
	struct backend *backend;
	union ip_addr addr;

	trace_program(TC_SLOT_CT_CREATE);
	backend = backend_read(skb);
	if (!backend || !tuple_read(skb, &tuple))
		return drop(skb, REASON_NO_BACKEND);
	addr = backend->addr;
	if (connection_create(&tuple, &addr, backend->port, cb_service(skb), skb->cb[CB_BACKEND], 0))
		return drop(skb, REASON_CT_FULL);
	return jump(skb, TC_SLOT_NAT);
}
