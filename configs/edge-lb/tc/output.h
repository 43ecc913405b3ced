// Translation by the skb helpers, which keep the checksum state of the skb right, and where packets end.
#pragma once

#include "common/checksum.h"
#include "tc/state.h"

#define AF_INET 2
#define AF_INET6 10
#define OFFSET_OF(type, member) __builtin_offsetof(struct type, member)

/* Rewrites one end of the packet to `addr` and `port`, `reply`: the source. Zero, or an error of a helper. */
static __always_inline long rewrite(struct __sk_buff *skb, const struct flow_tuple *tuple,
				    const union ip_addr *addr, __be16 port, bool reply)
{
	const union ip_addr *old_addr = reply ? &tuple->src : &tuple->dst;
	__be16 old_port = reply ? tuple->sport : tuple->dport;
	__u32 l4 = cb_l4_offset(skb);
	__u32 port_at = l4 + (reply ? OFFSET_OF(ports, source) : OFFSET_OF(ports, dest));
	__u32 check_at = l4 + (tuple->proto == IPPROTO_TCP ? OFFSET_OF(tcphdr, check) : OFFSET_OF(udphdr, check));
	__u64 flags = tuple->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	long error;

	if (tuple->family == FAMILY_V6) {
		__u32 addr_at = L3_OFFSET + (reply ? OFFSET_OF(ipv6hdr, saddr) : OFFSET_OF(ipv6hdr, daddr));
		union ip_addr from = *old_addr, to = *addr;
		__s64 diff = bpf_csum_diff(from.v6, sizeof(from), to.v6, sizeof(to), 0);

		error = bpf_l4_csum_replace(skb, check_at, 0, diff, flags | BPF_F_PSEUDO_HDR);
		error = error ?: bpf_skb_store_bytes(skb, addr_at, &to, sizeof(to), 0);
	} else {
		__u32 addr_at = L3_OFFSET + (reply ? OFFSET_OF(iphdr, saddr) : OFFSET_OF(iphdr, daddr));
		__be32 to = addr->v4;

		error = bpf_l4_csum_replace(skb, check_at, old_addr->v4, to, flags | BPF_F_PSEUDO_HDR | sizeof(to));
		error = error ?: bpf_l3_csum_replace(skb, L3_OFFSET + OFFSET_OF(iphdr, check), old_addr->v4, to,
						     sizeof(to));
		error = error ?: bpf_skb_store_bytes(skb, addr_at, &to, sizeof(to), 0);
	}
	error = error ?: bpf_l4_csum_replace(skb, check_at, old_port, port, flags | sizeof(port));
	return error ?: bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_NAT)
int tc_nat(struct __sk_buff *skb)
{
	struct flow_tuple tuple;
	struct backend *backend;
	union ip_addr addr;

	trace_program(TC_SLOT_NAT);
	backend = backend_read(skb);
	if (!backend || backend->family != cb_family(skb))
		return drop(skb, REASON_NO_BACKEND);
	addr = backend->addr;
	if (!tuple_read(skb, &tuple) || rewrite(skb, &tuple, &addr, backend->port, false))
		return drop(skb, REASON_TOO_SHORT);
	return jump(skb, TC_SLOT_FORWARD);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_REV_NAT)
int tc_rev_nat(struct __sk_buff *skb)
{
	struct flow_tuple tuple;
	struct ct_entry *entry;
	union ip_addr addr;

	trace_program(TC_SLOT_REV_NAT);
	if (!tuple_read(skb, &tuple))
		return drop(skb, REASON_TOO_SHORT);
	entry = bpf_map_lookup_elem(&connections, &tuple);
	if (!entry)
		return drop(skb, REASON_NO_BACKEND); /* evicted since tc_conntrack saw it */
	addr = entry->nat_addr;
	if (rewrite(skb, &tuple, &addr, entry->nat_port, true))
		return drop(skb, REASON_TOO_SHORT);
	return jump(skb, TC_SLOT_FORWARD);
}

static __always_inline long write_macs(struct __sk_buff *skb, const __u8 *dmac, const __u8 *smac)
{
	long error = bpf_skb_store_bytes(skb, OFFSET_OF(ethhdr, h_dest), dmac, ETH_ALEN, 0);

	return error ?: bpf_skb_store_bytes(skb, OFFSET_OF(ethhdr, h_source), smac, ETH_ALEN, 0);
}

static __always_inline int forward_by_table(struct __sk_buff *skb)
{
	__u32 number = cb_flags(skb) & TC_FLAG_CLIENT ? 0 : skb->cb[CB_BACKEND];
	struct next_hop *found = bpf_map_lookup_elem(&next_hops, &number);
	struct next_hop hop;

	if (!found || !found->ifindex)
		return drop(skb, REASON_NO_ROUTE);
	hop = *found;
	if (write_macs(skb, hop.dmac, hop.smac))
		return drop(skb, REASON_TOO_SHORT);
	return finish(skb, bpf_redirect(hop.ifindex, 0), REASON_NONE);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_FORWARD)
int tc_forward(struct __sk_buff *skb)
{
	struct bpf_fib_lookup fib = {};
	long result;

	trace_program(TC_SLOT_FORWARD);
	if (cb_family(skb) == FAMILY_V4) {
		struct iphdr *ip;

		if (!packet_at(skb, L3_OFFSET, &ip))
			return drop(skb, REASON_TOO_SHORT);
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

		if (!packet_at(skb, L3_OFFSET, &ip))
			return drop(skb, REASON_TOO_SHORT);
		ip->hop_limit--;
		fib.family = AF_INET6;
		fib.l4_protocol = ip->nexthdr;
		fib.tot_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		__builtin_memcpy(fib.ipv6_src, &ip->saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &ip->daddr, sizeof(fib.ipv6_dst));
	}
	if (!enable_fib)
		return forward_by_table(skb);
	fib.ifindex = skb->ifindex;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH) /* known way, unknown MAC: the neighbour layer asks for it */
		return finish(skb, bpf_redirect_neigh(fib.ifindex, NULL, 0, 0), REASON_NONE);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return drop(skb, REASON_MTU);
	if (result != BPF_FIB_LKUP_RET_SUCCESS)
		return pass(skb, REASON_NO_ROUTE);
	if (write_macs(skb, fib.dmac, fib.smac))
		return drop(skb, REASON_TOO_SHORT);
	return finish(skb, bpf_redirect(fib.ifindex, 0), REASON_NONE);
}

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} drop_samples SEC(".maps");

#define SAMPLE_BYTES 64

/* A sample for the reader: the event, and behind it the packet's first bytes. */
SEC("tc") TAIL(jmp_tc, TC_SLOT_DROP)
int tc_drop(struct __sk_buff *skb)
{
	__u32 length = skb->len;
	__u8 reason = skb->cb[CB_VERDICT] >> 8;
	struct drop_event event = {
		.time = now(),
		.length = length,
		.ifindex = skb->ifindex,
		.service = cb_service(skb),
		.identity = cb_identity(skb),
		.reason = reason,
	};
	__u64 sample = length < SAMPLE_BYTES ? length : SAMPLE_BYTES;

	trace_program(TC_SLOT_DROP);
	bpf_perf_event_output(skb, &drop_samples, sample << 32 | BPF_F_CURRENT_CPU, &event, sizeof(event));
	return finish(skb, TC_ACT_SHOT, reason);
}

SEC("tc") TAIL(jmp_tc, TC_SLOT_METRICS)
int tc_metrics(struct __sk_buff *skb)
{
	__u8 verdict = skb->cb[CB_VERDICT], reason = skb->cb[CB_VERDICT] >> 8;

	trace_program(TC_SLOT_METRICS);
	count_packet(verdict, reason, cb_family(skb), cb_service(skb), skb->cb[CB_LENGTH]);
	return verdict;
}
