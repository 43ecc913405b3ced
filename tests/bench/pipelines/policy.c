// A chain of policies at tc: which program comes next is data. The endpoint's number chooses its policy, the policy's
// verdict chooses the way out; both prog arrays are indexed by what maps say. State travels in skb->cb.
#define USE_TC
#include "pipeline.h"

enum { ENDPOINTS = 32, EXITS = 8, IDENTITY_ANY = 0 };
enum { EXIT_DROP, EXIT_LOCAL, EXIT_TUNNEL, EXIT_HOST };
enum { CB_ENDPOINT, CB_IDENTITY, CB_PORT, CB_NETWORK, CB_EXIT };

struct endpoint {
	__u32 id, interface;
	__u8 mac[6];
	__u16 flags;
};
struct identity {
	__u32 id, exit;
};
struct port_rule {
	__u16 low, high;
	__u32 identity;
};

PROGRAM(from_device);
PROGRAM(lookup);
PROGRAM(policy_web);
PROGRAM(policy_identity);
PROGRAM(policy_all);
PROGRAM(exit_drop);
PROGRAM(exit_local);
PROGRAM(exit_tunnel);
PROGRAM(exit_host);

SLOTS(programs, 4, (void *)&from_device, (void *)&lookup)
#if defined(__bpf__) && !defined(ONE_PROGRAM)
SLOTS(policies, ENDPOINTS, [1] = (void *)&policy_web, [2] = (void *)&policy_web, [3] = (void *)&policy_web,
      [4] = (void *)&policy_identity, [5] = (void *)&policy_identity, [6] = (void *)&policy_all,
      [7] = (void *)&policy_all, [8] = (void *)&policy_web, [9] = (void *)&policy_identity)
SLOTS(exits, EXITS, [0] = (void *)&exit_drop, [1] = (void *)&exit_local, [2] = (void *)&exit_tunnel,
      [3] = (void *)&exit_host)
#define NEXT_POLICY(index)                                                                                   \
	do {                                                                                                 \
		bpf_tail_call(ctx, &policies, index);                                                        \
		return DROP;                                                                                 \
	} while (0)
#define NEXT_EXIT(index)                                                                                     \
	do {                                                                                                 \
		bpf_tail_call(ctx, &exits, index);                                                           \
		return DROP;                                                                                 \
	} while (0)
#else
#define NEXT_POLICY(index)                                                                                   \
	switch (index) {                                                                                     \
	case 1:                                                                                              \
	case 2:                                                                                              \
	case 3:                                                                                              \
	case 8: return policy_web(ctx);                                                                      \
	case 4:                                                                                              \
	case 5:                                                                                              \
	case 9: return policy_identity(ctx);                                                                 \
	case 6:                                                                                              \
	case 7: return policy_all(ctx);                                                                      \
	default: return DROP;                                                                                \
	}
#define NEXT_EXIT(index)                                                                                     \
	switch (index) {                                                                                     \
	case 0: return exit_drop(ctx);                                                                       \
	case 1: return exit_local(ctx);                                                                      \
	case 2: return exit_tunnel(ctx);                                                                     \
	case 3: return exit_host(ctx);                                                                       \
	default: return DROP;                                                                                \
	}
#endif

MAP(endpoints, HASH, 1024, __u32, struct endpoint)
MAP(identities, HASH, 4096, __u32, struct identity)
MAP(port_rules, ARRAY, ENDPOINTS, __u32, struct port_rule)
MAP(counters, PERCPU_ARRAY, ENDPOINTS, __u32, struct counter)

INLINE void count(CONTEXT *ctx, __u32 what)
{
	struct counter *c = ARRAY_AT(counters, what);
	if (c) {
		c->packets++;
		c->bytes += ctx->len;
	}
}

PROGRAM(from_device)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	struct ether_header *eth = data;
	if ((void *)(eth + 1) > end)
		return DROP;
	if (eth->type != htons(TYPE_IPV4))
		return PASS;
	struct ipv4_header *ip = data + sizeof(*eth);
	if ((void *)(ip + 1) > end || ip->version_length != 0x45)
		return DROP;
	ctx->cb[CB_NETWORK] = sizeof(*eth);
	ctx->cb[CB_PORT] = 0;
	if (ip->protocol == PROTOCOL_TCP || ip->protocol == PROTOCOL_UDP) {
		struct udp_header *ports = (void *)(ip + 1);
		if ((void *)(ports + 1) > end)
			return DROP;
		ctx->cb[CB_PORT] = htons(ports->destination);
	}
	NEXT(1, lookup);
}

PROGRAM(lookup)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	__u32 network = ctx->cb[CB_NETWORK];
	if (network > 64)
		return DROP;
	struct ipv4_header *ip = data + network;
	if ((void *)(ip + 1) > end)
		return DROP;
	__u32 source = ip->source & htonl(0xffffff00), destination = ip->destination;
	struct endpoint *endpoint = HASH_AT(endpoints, &destination);
	if (!endpoint)
		return PASS;
	struct identity *identity = HASH_AT(identities, &source);
	ctx->cb[CB_ENDPOINT] = endpoint->id;
	ctx->cb[CB_IDENTITY] = identity ? identity->id : IDENTITY_ANY;
	ctx->cb[CB_EXIT] = identity ? identity->exit : EXIT_HOST;
	ctx->mark = endpoint->interface;
	NEXT_POLICY(endpoint->id);
}

PROGRAM(policy_web)
{
	count(ctx, 1);
	__u32 port = ctx->cb[CB_PORT];
	if (port != 80 && port != 443 && port != 8080)
		NEXT_EXIT(EXIT_DROP);
	NEXT_EXIT(ctx->cb[CB_EXIT]);
}

PROGRAM(policy_identity)
{
	count(ctx, 2);
	struct port_rule *rule = ARRAY_AT(port_rules, ctx->cb[CB_ENDPOINT]);
	if (!rule)
		return ABORTED;
	__u32 port = ctx->cb[CB_PORT], identity = ctx->cb[CB_IDENTITY];
	if (port < rule->low || port > rule->high || (rule->identity && rule->identity != identity))
		NEXT_EXIT(EXIT_DROP);
	NEXT_EXIT(ctx->cb[CB_EXIT]);
}

PROGRAM(policy_all)
{
	count(ctx, 3);
	NEXT_EXIT(ctx->cb[CB_EXIT]);
}

PROGRAM(exit_drop)
{
	count(ctx, 4);
	return DROP;
}

PROGRAM(exit_local)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	__u32 network = ctx->cb[CB_NETWORK];
	if (network > 64)
		return DROP;
	struct ipv4_header *ip = data + network;
	if ((void *)(ip + 1) > end || ip->ttl <= 1)
		return DROP;
	/* The lifetime is the high byte of its 16 bits. */
	__u32 sum = ip->checksum + htons(0x0100);
	ip->checksum = (__u16)(sum + (sum >= 0xffff));
	ip->ttl--;
	count(ctx, 5);
	return bpf_redirect(ctx->mark, 0);
}

PROGRAM(exit_tunnel)
{
	ctx->mark = 0x0e00 | ctx->cb[CB_IDENTITY] << 16;
	count(ctx, 6);
	return bpf_redirect(42, 0);
}

PROGRAM(exit_host)
{
	ctx->mark = 0x0c00 | ctx->cb[CB_IDENTITY] << 16;
	count(ctx, 7);
	return PASS;
}

ENTRY(from_device)
