// From the wire to a flow tuple: Ethernet and VLAN tags, IPv4 and IPv6 with extension headers, fragments,
// source classes, transport headers.
#pragma once

#include "xdp/state.h"

#define MAX_VLAN_TAGS 2
#define MAX_EXTENSION_HEADERS 4
#define MAX_L4_OFFSET 200 /* headers in front of the transport may take this many bytes */
#define IPV6_MORE_FRAGMENTS 1
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* <linux/icmp.h> pulls in headers of the C library, which the bpf target has not; both versions start alike. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_UNREACHABLE_PORT 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129

struct vlan_header {
	__be16 tci;
	__be16 proto;
};

struct extension_header {
	__u8 next;
	__u8 length;
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

SEC("xdp")
int xdp_entry(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_ENTRY);
	struct edge_meta *meta;

	if (!s)
		return XDP_ABORTED;
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return XDP_PASS; /* a driver without metadata: the stack can do without us */
	if (!meta_at(ctx, &meta))
		return XDP_PASS;
	meta->hash = 0;
	meta->magic = EDGE_LB_META_MAGIC;
	meta->reason = REASON_NONE;
	meta->family = FAMILY_NONE;
	__builtin_memset(s, 0, sizeof(*s));
	s->length = packet_length(ctx);
	return jump(ctx, SLOT_CLASSIFY);
}

SEC("xdp")
int xdp_classify(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_CLASSIFY);
	__u32 offset = sizeof(struct ethhdr);
	struct ethhdr *eth;
	__be16 proto;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, 0, &eth))
		return drop(ctx, s, REASON_TOO_SHORT);
	proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_header *vlan;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if (!packet_at(ctx, offset, &vlan))
			return drop(ctx, s, REASON_TOO_SHORT);
		proto = vlan->proto;
		offset += sizeof(*vlan);
	}
	s->l3_offset = offset;
	if (proto == bpf_htons(ETH_P_IP))
		return jump(ctx, SLOT_PARSE_V4);
	if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!enable_ipv6)
			return pass(ctx, s, REASON_IPV6_DISABLED);
		return jump(ctx, SLOT_PARSE_V6);
	}
	return pass(ctx, s, REASON_NOT_IP);
}

SEC("xdp")
int xdp_parse_v4(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_PARSE_V4);
	struct flow_tuple tuple = { .family = FAMILY_V4 };
	struct iphdr *ip;
	__be16 fragment;
	__u32 header;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, s->l3_offset, &ip))
		return drop(ctx, s, REASON_TOO_SHORT);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || bpf_ntohs(ip->tot_len) < header)
		return drop(ctx, s, REASON_BAD_HEADER);
	if ((void *)ip + header > ctx_pointer(ctx, data_end) ||
	    bpf_ntohs(ip->tot_len) > packet_length(ctx) - s->l3_offset)
		return drop(ctx, s, REASON_TOO_SHORT);
	fragment = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
	tuple.src.v4 = ip->saddr;
	tuple.dst.v4 = ip->daddr;
	tuple.proto = ip->protocol;
	s->tuple = tuple;
	s->l4_offset = s->l3_offset + header;
	if ((ip->protocol == IPPROTO_IPIP || ip->protocol == IPPROTO_IPV6) && ip->daddr == bpf_htonl(node_ip)) {
		if (fragment)
			return pass(ctx, s, REASON_NOT_OURS); /* the stack reassembles */
		return jump(ctx, SLOT_DECAP);
	}
	if (ip->ttl <= 1)
		return reply_icmp_error(ctx, s, REASON_TTL_EXPIRED, ICMP_TIME_EXCEEDED, 0);
	if (fragment) {
		s->fragment_id = ip->id;
		s->flags = FLAG_FRAGMENT;
		if (ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
			s->flags |= FLAG_NO_L4;
		return jump(ctx, SLOT_FRAGMENT);
	}
	return jump(ctx, SLOT_SOURCE);
}

SEC("xdp")
int xdp_parse_v6(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_PARSE_V6);
	struct flow_tuple tuple = { .family = FAMILY_V6 };
	struct ipv6hdr *ip;
	__u32 offset;
	__u8 next, flags = 0;

	if (!s)
		return XDP_ABORTED;
	if (!packet_at(ctx, s->l3_offset, &ip))
		return drop(ctx, s, REASON_TOO_SHORT);
	if (ip->version != 6)
		return drop(ctx, s, REASON_BAD_HEADER);
	if (bpf_ntohs(ip->payload_len) + sizeof(*ip) > packet_length(ctx) - s->l3_offset)
		return drop(ctx, s, REASON_TOO_SHORT);
	__builtin_memcpy(&tuple.src, &ip->saddr, sizeof(tuple.src));
	__builtin_memcpy(&tuple.dst, &ip->daddr, sizeof(tuple.dst));
	next = ip->nexthdr;
	offset = s->l3_offset + sizeof(*ip);
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct fragment_header *header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		if (flags & FLAG_NO_L4)
			break; /* what follows in a later fragment is data */
		/* Every extension header takes a multiple of eight bytes. */
		if (!packet_at(ctx, offset, &header))
			return drop(ctx, s, REASON_TOO_SHORT);
		if (next == IPPROTO_FRAGMENT) {
			s->fragment_id = header->id;
			if (header->offset & bpf_htons(IPV6_FRAGMENT_OFFSET))
				flags = FLAG_FRAGMENT | FLAG_NO_L4;
			else if (header->offset & bpf_htons(IPV6_MORE_FRAGMENTS))
				flags = FLAG_FRAGMENT;
			offset += sizeof(*header);
		} else {
			offset += (((struct extension_header *)header)->length + 1) * 8;
		}
		next = header->next;
		if (offset > MAX_L4_OFFSET)
			return drop(ctx, s, REASON_BAD_HEADER);
	}
	tuple.proto = next;
	s->tuple = tuple;
	s->flags = flags;
	s->l4_offset = offset;
	if (ip->hop_limit <= 1)
		return drop(ctx, s, REASON_TTL_EXPIRED);
	if (flags & FLAG_FRAGMENT)
		return jump(ctx, SLOT_FRAGMENT);
	return jump(ctx, SLOT_SOURCE);
}

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} fragments SEC(".maps");

/* The first fragment of a datagram has the ports and leaves them for those that follow. */
SEC("xdp")
int xdp_fragment(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_FRAGMENT);
	struct fragment_key key = {};
	struct fragment_ports *ports;

	if (!s)
		return XDP_ABORTED;
	if (!enable_fragments)
		return drop(ctx, s, REASON_FRAGMENTS_DISABLED);
	key.src = s->tuple.src;
	key.dst = s->tuple.dst;
	key.id = s->fragment_id;
	key.proto = s->tuple.proto;
	key.family = s->tuple.family;
	if (s->flags & FLAG_NO_L4) {
		ports = bpf_map_lookup_elem(&fragments, &key);
		if (!ports)
			return drop(ctx, s, REASON_FRAGMENT_UNKNOWN);
	} else {
		if (!packet_at(ctx, s->l4_offset, &ports))
			return drop(ctx, s, REASON_TOO_SHORT);
		struct fragment_ports copy = *ports;

		bpf_map_update_elem(&fragments, &key, &copy, BPF_ANY);
	}
	s->tuple.sport = ports->sport;
	s->tuple.dport = ports->dport;
	return jump(ctx, SLOT_SOURCE);
}

SEC("xdp")
int xdp_source(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_SOURCE);
	struct source_class *class;

	if (!s)
		return XDP_ABORTED;
	if (enable_source_filter) {
		class = source_find(&s->tuple.src, s->tuple.family);
		if (class && class->blocked)
			return drop(ctx, s, REASON_SOURCE_BLOCKED);
		if (class)
			s->identity = class->identity;
	}
	return jump(ctx, SLOT_L4);
}

SEC("xdp")
int xdp_l4(struct xdp_md *ctx)
{
	struct scratch *s = scratch_get(SLOT_L4);
	struct edge_meta *meta;

	if (!s)
		return XDP_ABORTED;
	if (s->tuple.proto == IPPROTO_TCP && !(s->flags & FLAG_NO_L4)) {
		struct tcphdr *tcp;

		if (!packet_at(ctx, s->l4_offset, &tcp))
			return drop(ctx, s, REASON_TOO_SHORT);
		s->tuple.sport = tcp->source;
		s->tuple.dport = tcp->dest;
		if (tcp->syn && !tcp->ack)
			s->flags |= FLAG_SYN;
		if (tcp->fin || tcp->rst)
			s->flags |= FLAG_CLOSING;
	} else if (s->tuple.proto == IPPROTO_UDP && !(s->flags & FLAG_NO_L4)) {
		struct udphdr *udp;

		if (!packet_at(ctx, s->l4_offset, &udp))
			return drop(ctx, s, REASON_TOO_SHORT);
		s->tuple.sport = udp->source;
		s->tuple.dport = udp->dest;
	} else if (s->tuple.proto == IPPROTO_ICMP && s->tuple.family == FAMILY_V4) {
		struct icmp_header *icmp;

		if (!packet_at(ctx, s->l4_offset, &icmp))
			return drop(ctx, s, REASON_TOO_SHORT);
		if (icmp->type != ICMP_ECHO_REQUEST || (s->flags & FLAG_FRAGMENT) || !enable_echo_reply)
			return pass(ctx, s, REASON_NOT_OURS);
		s->flags |= FLAG_ECHO;
	} else if (s->tuple.proto == IPPROTO_ICMPV6 && s->tuple.family == FAMILY_V6) {
		struct icmp_header *icmp;

		if (!packet_at(ctx, s->l4_offset, &icmp))
			return drop(ctx, s, REASON_TOO_SHORT);
		if (icmp->type != ICMP6_ECHO_REQUEST || (s->flags & FLAG_FRAGMENT) || !enable_echo_reply)
			return pass(ctx, s, REASON_NOT_OURS);
		s->flags |= FLAG_ECHO;
	} else if (s->tuple.proto != IPPROTO_TCP && s->tuple.proto != IPPROTO_UDP) {
		return pass(ctx, s, REASON_UNKNOWN_PROTOCOL);
	}
	if (!meta_at(ctx, &meta))
		return drop(ctx, s, REASON_ADJUST_FAILED);
	meta->hash = flow_hash(&s->tuple, lb_seed);
	meta->family = s->tuple.family;
	if (s->flags & FLAG_ECHO)
		return jump(ctx, SLOT_SERVICE);
	if (enable_custom)
		bpf_tail_call_static(ctx, &jmp_table, SLOT_CUSTOM);
	/* No custom program, or it has nothing to say about this packet and the slot was emptied meanwhile. */
	return jump(ctx, SLOT_CONNTRACK);
}
