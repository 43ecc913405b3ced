// Recirculation at XDP: a packet comes back to the first program as often as it has tunnels or tags around it; each time
// a layer is taken off. The graph is a cycle, and the kernel's limit of 33 tail calls guards it.
#include "pipeline.h"

struct scratch_value {
	__u32 rounds, outer;
	__u16 vlan, layers;
};
struct neighbour {
	__u8 mac[6];
	__u16 interface;
};
enum { LAYERS = 8, MAX_ROUNDS = 6, TURN_AGAIN = 0x100 };

PROGRAM(classify);
PROGRAM(take_tag);
PROGRAM(take_tunnel);
PROGRAM(deliver);

SLOTS(programs, 4, (void *)&classify, (void *)&take_tag, (void *)&take_tunnel, (void *)&deliver)
MAP(scratch, PERCPU_ARRAY, 1, __u32, struct scratch_value)
MAP(neighbours, HASH, 8192, __u32, struct neighbour)
MAP(layers, PERCPU_ARRAY, LAYERS, __u32, struct counter)

#define SCRATCH(s)                                                                                           \
	struct scratch_value *s = ARRAY_AT(scratch, 0);                                                      \
	if (!s)                                                                                              \
	return ABORTED

#if defined(__bpf__) && !defined(ONE_PROGRAM)
#define AGAIN NEXT(0, classify)
#else
#define AGAIN return TURN_AGAIN
#endif

#if defined(__bpf__) && !defined(ONE_PROGRAM)
SEC("xdp") int receive(CONTEXT *ctx)
#else
INLINE int receive(CONTEXT *ctx)
#endif
{
	SCRATCH(s);
	s->rounds = s->outer = 0;
	s->vlan = s->layers = 0;
#if defined(__bpf__) && !defined(ONE_PROGRAM)
	NEXT(0, classify);
#else
#pragma unroll
	for (int i = 0; i < MAX_ROUNDS; i++) {
		int result = classify(ctx);
		if (result != TURN_AGAIN)
			return result;
	}
	return DROP;
#endif
}

PROGRAM(classify)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	if (s->rounds++ >= MAX_ROUNDS)
		return DROP;
	struct ether_header *eth = data;
	if ((void *)(eth + 1) > end)
		return DROP;
	if (eth->type == htons(TYPE_VLAN))
		NEXT(1, take_tag);
	if (eth->type != htons(TYPE_IPV4))
		return PASS;
	struct ipv4_header *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end || ip->version_length != 0x45)
		return DROP;
	if (ip->protocol == PROTOCOL_IPIP)
		NEXT(2, take_tunnel);
	NEXT(3, deliver);
}

/* Moves the Ethernet header `by` bytes on and cuts off what was there before. */
INLINE int cut(CONTEXT *ctx, __u32 by, __u16 type)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	struct ether_header *old = data, *eth = data + by;
	if ((void *)(eth + 1) > end || (void *)(old + 1) > end)
		return -1;
	struct ether_header copy = *old;
	copy.type = type;
	*eth = copy;
	return bpf_xdp_adjust_head(ctx, by);
}

PROGRAM(take_tag)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	struct vlan_header *tag = data + sizeof(struct ether_header);
	if ((void *)(tag + 1) > end)
		return DROP;
	__u16 type = tag->type;
	s->vlan = htons(tag->tci) & 0xfff;
	s->layers++;
	if (cut(ctx, sizeof(*tag), type))
		return DROP;
	AGAIN;
}

PROGRAM(take_tunnel)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	struct ipv4_header *ip = data + sizeof(struct ether_header);
	if ((void *)(ip + 1) > end || ip->ttl <= 1)
		return DROP;
	s->outer ^= ip->source;
	s->layers++;
	if (cut(ctx, sizeof(*ip), htons(TYPE_IPV4)))
		return DROP;
	AGAIN;
}

PROGRAM(deliver)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	struct ether_header *eth = data;
	struct ipv4_header *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end)
		return DROP;
	__u32 destination = ip->destination;
	struct neighbour *n = HASH_AT(neighbours, &destination);
	if (!n)
		return PASS;
	__builtin_memcpy(eth->destination, n->mac, 6);
	struct counter *c = ARRAY_AT(layers, s->layers & (LAYERS - 1));
	if (!c)
		return ABORTED;
	c->packets++;
	c->bytes += end - data;
	return bpf_redirect(n->interface, 0);
}

ENTRY(receive)
