// A layer-4 load balancer: six programs with two hash lookups between them (a rule, a connection), the packet
// rewritten and redirected. What a program has found out is in a per-CPU scratch map.
#include "pipeline.h"

struct scratch_value {
	__u32 source, destination;
	__u16 source_port, destination_port;
	__u8 protocol, flags;
	__u16 network, transport, length;
	__u32 identity, backend;
	__u16 backend_port, interface;
	__u8 mac[6];
	__u16 new_flow;
};
struct rule_key {
	__u32 net;
	__u16 port;
	__u8 protocol, pad;
};
struct rule {
	__u32 action, identity;
	__u64 hits;
};
struct connection_key {
	__u32 source, destination;
	__u16 source_port, destination_port;
	__u8 protocol, pad[3];
};
struct connection {
	__u64 packets, bytes, last_seen;
	__u32 backend;
	__u16 backend_port, interface;
	__u8 mac[6], state, flags;
};
enum { COUNT_FORWARDED, COUNT_NO_RULE, COUNT_DENIED, COUNT_NO_CONNECTION, COUNTS = 16 };

PROGRAM(ethernet);
PROGRAM(ipv4);
PROGRAM(transport);
PROGRAM(check_rule);
PROGRAM(track);
PROGRAM(rewrite);

SLOTS(programs, 8, (void *)&ethernet, (void *)&ipv4, (void *)&transport, (void *)&check_rule, (void *)&track,
      (void *)&rewrite)
MAP(scratch, PERCPU_ARRAY, 1, __u32, struct scratch_value)
MAP(rules, HASH, 4096, struct rule_key, struct rule)
MAP(connections, HASH, 65536, struct connection_key, struct connection)
MAP(clock, ARRAY, 1, __u32, __u64) /* seconds, kept by user space: the helper's time would differ from run to run */
MAP(counters, PERCPU_ARRAY, COUNTS, __u32, struct counter)

#define SCRATCH(s)                                                                                           \
	struct scratch_value *s = ARRAY_AT(scratch, 0);                                                      \
	if (!s)                                                                                              \
	return ABORTED

INLINE void count(__u32 what, __u32 length)
{
	struct counter *c = ARRAY_AT(counters, what);
	if (c) {
		c->packets++;
		c->bytes += length;
	}
}

PROGRAM(ethernet)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	struct ether_header *eth = data;
	if (data + sizeof(*eth) > end)
		return DROP;
	__u16 type = eth->type;
	__u32 offset = sizeof(*eth);
	if (type == htons(TYPE_VLAN)) {
		struct vlan_header *tag = data + offset;
		if ((void *)(tag + 1) > end)
			return DROP;
		type = tag->type;
		offset += sizeof(*tag);
	}
	if (type != htons(TYPE_IPV4))
		return PASS;
	s->network = offset;
	s->length = (__u16)(end - data);
	s->new_flow = 0;
	NEXT(1, ipv4);
}

PROGRAM(ipv4)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	__u32 offset = s->network;
	if (offset > 64)
		return DROP;
	struct ipv4_header *ip = data + offset;
	if ((void *)(ip + 1) > end || ip->version_length >> 4 != 4)
		return DROP;
	__u32 length = (ip->version_length & 15) * 4;
	if (length < sizeof(*ip) || ip->ttl <= 1)
		return DROP;
	if (ip->fragment & htons(0x3fff))
		return PASS;
	s->source = ip->source;
	s->destination = ip->destination;
	s->protocol = ip->protocol;
	s->transport = offset + length;
	NEXT(2, transport);
}

PROGRAM(transport)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	__u32 offset = s->transport;
	if (offset > 128)
		return DROP;
	if (s->protocol == PROTOCOL_TCP) {
		struct tcp_header *tcp = data + offset;
		if ((void *)(tcp + 1) > end || tcp->offset >> 4 < 5)
			return DROP;
		s->source_port = tcp->source;
		s->destination_port = tcp->destination;
		s->flags = tcp->flags;
	} else if (s->protocol == PROTOCOL_UDP) {
		struct udp_header *udp = data + offset;
		if ((void *)(udp + 1) > end)
			return DROP;
		s->source_port = udp->source;
		s->destination_port = udp->destination;
		s->flags = 0;
	} else {
		return PASS;
	}
	NEXT(3, check_rule);
}

PROGRAM(check_rule)
{
	SCRATCH(s);
	struct rule_key key = {
		.net = s->source & htonl(0xffffff00), .port = s->destination_port, .protocol = s->protocol};
	struct rule *rule = HASH_AT(rules, &key);
	if (!rule) {
		count(COUNT_NO_RULE, s->length);
		return DROP;
	}
	rule->hits++;
	if (rule->action == 0) {
		count(COUNT_DENIED, s->length);
		return DROP;
	}
	s->identity = rule->identity;
	NEXT(4, track);
}

PROGRAM(track)
{
	SCRATCH(s);
	struct connection_key key = {.source = s->source,
				     .destination = s->destination,
				     .source_port = s->source_port,
				     .destination_port = s->destination_port,
				     .protocol = s->protocol};
	struct connection *c = HASH_AT(connections, &key);
	if (!c) {
		count(COUNT_NO_CONNECTION, s->length);
		return PASS;
	}
	__u64 *now = ARRAY_AT(clock, 0);
	if (!now)
		return ABORTED;
	c->packets++;
	c->bytes += s->length;
	c->last_seen = *now;
	c->flags |= s->flags;
	if (s->flags & 5) {
		c->state = 2;
		s->new_flow = 2;
	} else if (c->state == 0) {
		c->state = 1;
		s->new_flow = 1;
	}
	s->backend = c->backend;
	s->backend_port = c->backend_port;
	s->interface = c->interface;
	__builtin_memcpy(s->mac, c->mac, 6);
	NEXT(5, rewrite);
}

PROGRAM(rewrite)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	__u32 network = s->network, offset = s->transport;
	if (network > 64 || offset > 128)
		return DROP;
	struct ether_header *eth = data;
	struct ipv4_header *ip = data + network;
	if ((void *)(eth + 1) > end || (void *)(ip + 1) > end)
		return DROP;
	__u32 old_address = ip->destination, address = s->backend;
	__u16 old_port, port = s->backend_port;
	ip->checksum = replace_word(ip->checksum, old_address, address);
	ip->destination = address;
	if (s->protocol == PROTOCOL_TCP) {
		struct tcp_header *tcp = data + offset;
		if ((void *)(tcp + 1) > end)
			return DROP;
		old_port = tcp->destination;
		tcp->checksum =
			replace_half(replace_word(tcp->checksum, old_address, address), old_port, port);
		tcp->destination = port;
	} else {
		struct udp_header *udp = data + offset;
		if ((void *)(udp + 1) > end)
			return DROP;
		old_port = udp->destination;
		if (udp->checksum)
			udp->checksum = replace_half(replace_word(udp->checksum, old_address, address),
						     old_port, port);
		udp->destination = port;
	}
	__builtin_memcpy(eth->source, eth->destination, 6);
	__builtin_memcpy(eth->destination, s->mac, 6);
	count(COUNT_FORWARDED, s->length);
	return bpf_redirect(s->interface, 0);
}

ENTRY(ethernet)
