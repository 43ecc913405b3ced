// Connections, services, backends and policy. An established connection goes from xdp_conntrack straight to
// translation or encapsulation; a new one passes service, backend and policy once and is then remembered.
#pragma once

#include "xdp/parse.h"

/* Goes on to whatever takes the packet to s->backend. */
static __always_inline int jump_to_backend(struct xdp_md *ctx, struct scratch *s)
{
	if (!enable_nat || (s->ct_flags & CT_DSR)) {
		if (encap_mode == ENCAP_VXLAN)
			return jump(ctx, SLOT_ENCAP_VXLAN);
		return jump(ctx, SLOT_ENCAP_IPIP);
	}
	if (s->tuple.family == FAMILY_V6)
		return jump(ctx, SLOT_NAT_V6);
	return jump(ctx, SLOT_NAT_V4);
}

SEC("xdp")
int xdp_conntrack(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_CONNTRACK);
	struct ct_entry *entry;

	if (!s)
		return XDP_ABORTED;
	entry = connection_find(&s->tuple, s->flags & FLAG_SYN, s->flags & FLAG_CLOSING);
	if (!entry)
		return jump(ctx, SLOT_SERVICE);
	s->nat_addr = entry->nat_addr;
	s->nat_port = entry->nat_port;
	s->service = entry->service;
	s->backend = entry->backend;
	s->ct_flags = entry->flags;
	if (s->ct_flags & CT_REPLY) {
		s->flags |= FLAG_CLIENT;
		if (s->tuple.family == FAMILY_V6)
			return jump(ctx, SLOT_REV_NAT_V6);
		return jump(ctx, SLOT_REV_NAT_V4);
	}
	if (s->ct_flags & CT_DSR) {
		__u32 number = s->backend;
		struct backend *backend = bpf_map_lookup_elem(&backends, &number);

		if (!backend || backend->family == FAMILY_NONE)
			return drop(ctx, s, REASON_NO_BACKEND);
		s->tunnel = backend->tunnel;
	}
	return jump_to_backend(ctx, s);
}

SEC("xdp")
int xdp_service(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_SERVICE);
	struct service *service;
	__u8 known_vip;

	if (!s)
		return XDP_ABORTED;
	service = service_find(&s->tuple, &known_vip);
	if (service) {
		s->service = service->id;
		s->service_flags = service->flags;
		return jump(ctx, SLOT_BACKEND);
	}
	if (!known_vip)
		return pass(ctx, s, REASON_NOT_OURS);
	if (s->flags & FLAG_ECHO) {
		if (s->tuple.family == FAMILY_V6)
			return jump(ctx, SLOT_ECHO_V6);
		return jump(ctx, SLOT_ECHO_V4);
	}
	if (s->flags & FLAG_NO_L4)
		return drop(ctx, s, REASON_PORT_UNREACHABLE);
	return reply_icmp_error(ctx, s, REASON_PORT_UNREACHABLE, ICMP_UNREACHABLE,
				ICMP_UNREACHABLE_PORT);
}

SEC("xdp")
int xdp_backend(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_BACKEND);
	struct edge_meta *meta;
	struct backend *backend;
	__u32 number = 0;

	if (!s)
		return XDP_ABORTED;
	if (!meta_at(ctx, &meta) || meta->magic != EDGE_LB_META_MAGIC)
		return drop(ctx, s, REASON_ADJUST_FAILED);
	backend = backend_choose(s->service, meta->hash, &number);
	if (!backend || (backend->family != s->tuple.family && !(s->service_flags & SERVICE_DSR)))
		return drop(ctx, s, REASON_NO_BACKEND);
	s->backend = number;
	s->nat_addr = backend->addr;
	s->nat_port = backend->port;
	s->tunnel = backend->tunnel;
	s->ct_flags = !enable_nat || (s->service_flags & SERVICE_DSR) ? CT_DSR : 0;
	return jump(ctx, SLOT_POLICY);
}

/* A backend that is an endpoint of ours has a policy program; others are somebody else's to guard. */
SEC("xdp")
int xdp_policy(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_POLICY);
	struct endpoint *endpoint;

	if (!s)
		return XDP_ABORTED;
	endpoint = bpf_map_lookup_elem(&endpoints, &s->nat_addr);
	if (!endpoint)
		return jump(ctx, SLOT_CT_CREATE);
	s->endpoint = endpoint->id;
	bpf_tail_call(ctx, &policy_calls, endpoint->id);
	/* The endpoint is known, but its policy is not there yet, or not any more. */
	count_slot(&missed_calls, SLOT_POLICY);
	if (policy_default_allow)
		return jump(ctx, SLOT_CT_CREATE);
	return drop(ctx, s, REASON_POLICY_DEFAULT);
}

SEC("xdp")
int policy_allow_all(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(HITS_POLICY_ALLOW_ALL);

	if (!s)
		return XDP_ABORTED;
	return jump(ctx, SLOT_CT_CREATE);
}

SEC("xdp")
int policy_web(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(HITS_POLICY_WEB);

	if (!s)
		return XDP_ABORTED;
	if (!policy_web_allows(s->tuple.proto, s->nat_port))
		return drop(ctx, s, REASON_POLICY_DENIED);
	return jump(ctx, SLOT_CT_CREATE);
}

SEC("xdp")
int policy_identity(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(HITS_POLICY_IDENTITY);

	if (!s)
		return XDP_ABORTED;
	if (!policy_identity_allows(s->endpoint, s->identity, s->nat_port, s->tuple.proto))
		return drop(ctx, s, REASON_POLICY_DENIED);
	return jump(ctx, SLOT_CT_CREATE);
}

/* Under investigation: only the office gets through. */
SEC("xdp")
int policy_quarantine(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(HITS_POLICY_QUARANTINE);

	if (!s)
		return XDP_ABORTED;
	if (s->identity != IDENTITY_OFFICE)
		return drop(ctx, s, REASON_POLICY_DENIED);
	return jump(ctx, SLOT_CT_CREATE);
}

SEC("xdp")
int xdp_ct_create(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_CT_CREATE);

	if (!s)
		return XDP_ABORTED;
	if (connection_create(&s->tuple, &s->nat_addr, s->nat_port, s->service, s->backend, s->ct_flags))
		return drop(ctx, s, REASON_CT_FULL);
	return jump_to_backend(ctx, s);
}
