// The load balancer itself, apart from packets: services, Maglev, connections, policy, counters. Each
// function is one step of the pipeline; the XDP and the tc programs wrap them.
#pragma once

#include <linux/in.h>

#include <bpf/bpf_endian.h>

#include "common/config.h"
#include "common/hash.h"
#include "common/maps.h"

static __always_inline __u64 now(void) { return enable_timestamps ? bpf_ktime_get_ns() : 0; }

static __always_inline void count_slot(void *map, __u32 slot)
{
	__u64 *count = bpf_map_lookup_elem(map, &slot);

	if (count)
		(*count)++;
}

static __always_inline void trace_program(__u32 slot)
{
	if (enable_trace)
		count_slot(&program_hits, slot);
}

/* What the longest matching prefix says about a source; null: nothing. */
static __always_inline struct source_class *source_find(const union ip_addr *addr, __u8 family)
{
	if (family == FAMILY_V6) {
		struct source_v6_key key = { .prefix_len = 128 };

		__builtin_memcpy(key.addr, addr->v6, sizeof(key.addr));
		return bpf_map_lookup_elem(&sources_v6, &key);
	}
	struct source_v4_key key = { .prefix_len = 32, .addr = addr->v4 };

	return bpf_map_lookup_elem(&sources_v4, &key);
}

/* The service behind the destination. `known_vip` tells, on null, whether the address is ours nevertheless. */
static __always_inline struct service *service_find(const struct flow_tuple *tuple, __u8 *known_vip)
{
	struct service_key key = { .vip = tuple->dst, .port = tuple->dport, .proto = tuple->proto };
	struct service *service = bpf_map_lookup_elem(&services, &key);

	*known_vip = 1;
	if (service)
		return service;
	key.port = 0;
	key.proto = 0;
	*known_vip = bpf_map_lookup_elem(&services, &key) != NULL;
	return NULL;
}

/* Maglev: the hash picks an element of the service's table. Null: the service has no backend there. */
static __always_inline struct backend *backend_choose(__u32 service, __u32 hash, __u32 *number)
{
	__u32 slot = service * EDGE_LB_MAGLEV_SIZE + hash % EDGE_LB_MAGLEV_SIZE;
	__u32 *chosen = bpf_map_lookup_elem(&maglev, &slot);
	struct backend *backend;

	if (!chosen)
		return NULL;
	*number = *chosen;
	backend = bpf_map_lookup_elem(&backends, number);
	return backend && backend->family != FAMILY_NONE ? backend : NULL;
}

/* A connection that may be used: a SYN on a closing one begins a new one. */
static __always_inline struct ct_entry *connection_find(const struct flow_tuple *tuple, __u8 syn, __u8 closing)
{
	struct ct_entry *entry = bpf_map_lookup_elem(&connections, tuple);

	if (!entry || (syn && (entry->flags & CT_CLOSING)))
		return NULL;
	if (closing && !(entry->flags & CT_CLOSING))
		entry->flags |= CT_CLOSING;
	if (enable_timestamps)
		entry->last_seen = now();
	return entry;
}

/* Remembers where the connection goes and, unless the backend answers by itself, how its replies come back. */
static __always_inline long connection_create(const struct flow_tuple *tuple, const union ip_addr *nat_addr,
					      __be16 nat_port, __u16 service, __u32 backend, __u32 flags)
{
	struct ct_entry entry = {
		.nat_addr = *nat_addr,
		.nat_port = nat_port,
		.service = service,
		.backend = backend,
		.flags = flags,
		.last_seen = now(),
	};
	struct flow_tuple reply = {
		.src = *nat_addr,
		.dst = tuple->src,
		.sport = nat_port,
		.dport = tuple->sport,
		.proto = tuple->proto,
		.family = tuple->family,
	};
	long error = bpf_map_update_elem(&connections, tuple, &entry, BPF_ANY);

	if (error || (flags & CT_DSR))
		return error;
	entry.nat_addr = tuple->dst;
	entry.nat_port = tuple->dport;
	entry.flags = CT_REPLY;
	return bpf_map_update_elem(&connections, &reply, &entry, BPF_ANY);
}

/* Policy of a web server: HTTP, HTTPS, QUIC and the usual alternatives. */
static __always_inline int policy_web_allows(__u8 proto, __be16 port)
{
	switch (bpf_ntohs(port)) {
	case 443:
		return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
	case 80:
	case 8080:
	case 8443:
		return proto == IPPROTO_TCP;
	default:
		return 0;
	}
}

/* Policy by who asks: a rule for the very port, or one for all ports. */
static __always_inline int policy_identity_allows(__u32 endpoint, __u32 identity, __be16 port, __u8 proto)
{
	struct policy_key key = { .endpoint = endpoint, .identity = identity, .port = port, .proto = proto };
	__u32 *allow = bpf_map_lookup_elem(&policy_rules, &key);

	if (!allow) {
		key.port = 0;
		allow = bpf_map_lookup_elem(&policy_rules, &key);
	}
	return allow && *allow;
}

static __always_inline void counter_add(struct counter *counter, __u32 bytes)
{
	counter->packets++;
	counter->bytes += bytes;
}

static __always_inline void count_packet(__u32 verdict, __u8 reason, __u8 family, __u32 service, __u32 bytes)
{
	struct metric_key key = { .verdict = verdict, .reason = reason, .family = family };
	struct counter *counter = bpf_map_lookup_elem(&metrics, &key);

	if (counter) {
		counter_add(counter, bytes);
	} else {
		struct counter first = { .packets = 1, .bytes = bytes };

		bpf_map_update_elem(&metrics, &key, &first, BPF_ANY);
	}
	if (service) {
		counter = bpf_map_lookup_elem(&service_stats, &service);
		if (counter)
			counter_add(counter, bytes);
	}
}
