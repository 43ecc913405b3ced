// A flow dissector at tc: nine programs walk the headers, offsets in skb->cb, what was found in a per-CPU key.
#define USE_TC
#include "pipeline.h"

struct flow {
	__u32 source[4], destination[4];
	__u16 network, transport, type, source_port, destination_port, vlan;
	__u8 protocol, fragment, encapsulated, first_fragment;
	__u32 label, gre_key;
};
enum { PROTOCOLS = 256, MAX_OFFSET = 512 };
/* Words of cb[]. */
enum { CB_OFFSET, CB_TYPE, CB_PROTOCOL, CB_DEPTH };

PROGRAM(dissect);
PROGRAM(vlan);
PROGRAM(ipv4);
PROGRAM(ipv6);
PROGRAM(extensions);
PROGRAM(gre);
PROGRAM(inner_ipv4);
PROGRAM(transport);
PROGRAM(finish);

SLOTS(programs, 16, (void *)&dissect, (void *)&vlan, (void *)&ipv4, (void *)&ipv6, (void *)&extensions,
      (void *)&gre, (void *)&inner_ipv4, (void *)&transport, (void *)&finish)
MAP(flow_key, PERCPU_ARRAY, 1, __u32, struct flow)
MAP(protocols, PERCPU_ARRAY, PROTOCOLS, __u32, struct counter)

#define FLOW(f)                                                                                              \
	struct flow *f = ARRAY_AT(flow_key, 0);                                                              \
	if (!f)                                                                                              \
	return ABORTED

/* The header of a type at the current offset, or null. */
INLINE void *header(CONTEXT *ctx, __u32 size)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	__u32 offset = ctx->cb[CB_OFFSET];
	if (offset > MAX_OFFSET || data + offset + size > end)
		return 0;
	return data + offset;
}

PROGRAM(dissect)
{
	FLOW(f);
	__builtin_memset(f, 0, sizeof(*f));
	ctx->cb[CB_OFFSET] = 0;
	struct ether_header *eth = header(ctx, sizeof(*eth));
	if (!eth)
		return DROP;
	ctx->cb[CB_OFFSET] = sizeof(*eth);
	ctx->cb[CB_TYPE] = eth->type;
	ctx->cb[CB_DEPTH] = 0;
	switch (eth->type) {
	case htons(TYPE_VLAN):
	case htons(TYPE_QINQ): NEXT(1, vlan);
	case htons(TYPE_IPV4): NEXT(2, ipv4);
	case htons(TYPE_IPV6): NEXT(3, ipv6);
	default: return PASS;
	}
}

PROGRAM(vlan)
{
	FLOW(f);
	struct vlan_header *tag = header(ctx, sizeof(*tag));
	if (!tag)
		return DROP;
	__u16 type = tag->type;
	f->vlan = htons(tag->tci) & 0xfff;
	ctx->cb[CB_OFFSET] += sizeof(*tag);
	if (type == htons(TYPE_VLAN)) {
		tag = header(ctx, sizeof(*tag));
		if (!tag)
			return DROP;
		type = tag->type;
		ctx->cb[CB_OFFSET] += sizeof(*tag);
	}
	ctx->cb[CB_TYPE] = type;
	switch (type) {
	case htons(TYPE_IPV4): NEXT(2, ipv4);
	case htons(TYPE_IPV6): NEXT(3, ipv6);
	default: return PASS;
	}
}

PROGRAM(ipv4)
{
	FLOW(f);
	struct ipv4_header *ip = header(ctx, sizeof(*ip));
	if (!ip || ip->version_length >> 4 != 4)
		return DROP;
	__u32 length = (ip->version_length & 15) * 4;
	if (length < sizeof(*ip))
		return DROP;
	f->type = htons(TYPE_IPV4);
	f->network = ctx->cb[CB_OFFSET];
	f->source[0] = ip->source;
	f->destination[0] = ip->destination;
	f->protocol = ip->protocol;
	ctx->cb[CB_PROTOCOL] = ip->protocol;
	ctx->cb[CB_OFFSET] += length;
	if (ip->fragment & htons(0x3fff)) {
		f->fragment = 1;
		if (ip->fragment & htons(0x1fff))
			NEXT(8, finish);
		f->first_fragment = 1;
	}
	if (ip->protocol == PROTOCOL_GRE)
		NEXT(5, gre);
	if (ip->protocol == PROTOCOL_IPIP)
		NEXT(6, inner_ipv4);
	NEXT(7, transport);
}

PROGRAM(ipv6)
{
	FLOW(f);
	struct ipv6_header *ip = header(ctx, sizeof(*ip));
	if (!ip || (ip->version_class_flow & htonl(0xf0000000)) != htonl(0x60000000))
		return DROP;
	f->type = htons(TYPE_IPV6);
	f->network = ctx->cb[CB_OFFSET];
#pragma unroll
	for (int i = 0; i < 4; i++) {
		f->source[i] = ip->source[i];
		f->destination[i] = ip->destination[i];
	}
	f->label = ip->version_class_flow & htonl(0x000fffff);
	f->protocol = ip->next;
	ctx->cb[CB_PROTOCOL] = ip->next;
	ctx->cb[CB_OFFSET] += sizeof(*ip);
	if (ip->next == PROTOCOL_TCP || ip->next == PROTOCOL_UDP)
		NEXT(7, transport);
	NEXT(4, extensions);
}

PROGRAM(extensions)
{
	FLOW(f);
	__u8 next = ctx->cb[CB_PROTOCOL];
	for (int i = 0; i < 4; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 60)
			break;
		__u8 *at = header(ctx, 8);
		if (!at)
			return DROP;
		if (next == 44) {
			f->fragment = 1;
			f->first_fragment = !(at[2] | (at[3] & 0xf8));
			ctx->cb[CB_OFFSET] += 8;
		} else {
			ctx->cb[CB_OFFSET] += (at[1] + 1) * 8;
		}
		next = at[0];
	}
	f->protocol = next;
	ctx->cb[CB_PROTOCOL] = next;
	if (f->fragment && !f->first_fragment)
		NEXT(8, finish);
	NEXT(7, transport);
}

PROGRAM(gre)
{
	FLOW(f);
	__u16 *head = header(ctx, 4);
	if (!head)
		return DROP;
	__u16 flags = head[0], type = head[1];
	if (flags & htons(0x4007)) /* routing, or another version */
		NEXT(8, finish);
	ctx->cb[CB_OFFSET] += 4;
	if (flags & htons(0x8000))
		ctx->cb[CB_OFFSET] += 4;
	if (flags & htons(0x2000)) {
		__u32 *key = header(ctx, 4);
		if (!key)
			return DROP;
		f->gre_key = *key;
		ctx->cb[CB_OFFSET] += 4;
	}
	if (flags & htons(0x1000))
		ctx->cb[CB_OFFSET] += 4;
	if (type != htons(TYPE_IPV4))
		NEXT(8, finish);
	NEXT(6, inner_ipv4);
}

PROGRAM(inner_ipv4)
{
	FLOW(f);
	struct ipv4_header *ip = header(ctx, sizeof(*ip));
	if (!ip || ip->version_length >> 4 != 4)
		return DROP;
	__u32 length = (ip->version_length & 15) * 4;
	if (length < sizeof(*ip))
		return DROP;
	f->encapsulated = 1;
	f->network = ctx->cb[CB_OFFSET];
	f->source[0] = ip->source;
	f->destination[0] = ip->destination;
	f->protocol = ip->protocol;
	ctx->cb[CB_PROTOCOL] = ip->protocol;
	ctx->cb[CB_OFFSET] += length;
	NEXT(7, transport);
}

PROGRAM(transport)
{
	FLOW(f);
	f->transport = ctx->cb[CB_OFFSET];
	__u32 protocol = ctx->cb[CB_PROTOCOL];
	if (protocol == PROTOCOL_TCP) {
		struct tcp_header *tcp = header(ctx, sizeof(*tcp));
		if (!tcp || tcp->offset >> 4 < 5)
			return DROP;
		f->source_port = tcp->source;
		f->destination_port = tcp->destination;
	} else if (protocol == PROTOCOL_UDP) {
		struct udp_header *udp = header(ctx, sizeof(*udp));
		if (!udp)
			return DROP;
		f->source_port = udp->source;
		f->destination_port = udp->destination;
	}
	NEXT(8, finish);
}

PROGRAM(finish)
{
	FLOW(f);
	struct counter *c = ARRAY_AT(protocols, f->protocol);
	if (!c)
		return ABORTED;
	c->packets++;
	c->bytes += ctx->len;
	__u32 hash = f->source[0] ^ f->source[1] ^ f->source[2] ^ f->source[3];
	hash = hash * 0x9e3779b1 + (f->destination[0] ^ f->destination[1] ^ f->destination[2] ^ f->destination[3]);
	hash = hash * 0x9e3779b1 + ((__u32)f->source_port << 16 | f->destination_port) + f->protocol;
	ctx->mark = hash ^ hash >> 16;
	return PASS;
}

ENTRY(dissect)
