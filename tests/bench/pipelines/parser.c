// Eight programs that each find their way through the headers again, as programs of different authors behind one
// hook do: every one checks every bound for itself.
#include "pipeline.h"

struct state_value {
	__u32 marks, path_hash, score;
	__u16 mss;
	__u8 options, window_scale;
};
enum { CLASSES = 64 };

PROGRAM(check_frame);
PROGRAM(check_network);
PROGRAM(check_lifetime);
PROGRAM(classify_source);
PROGRAM(check_transport);
PROGRAM(read_options);
PROGRAM(peek_payload);
PROGRAM(verdict);

SLOTS(programs, 8, (void *)&check_frame, (void *)&check_network, (void *)&check_lifetime,
      (void *)&classify_source, (void *)&check_transport, (void *)&read_options, (void *)&peek_payload,
      (void *)&verdict)
MAP(state, PERCPU_ARRAY, 1, __u32, struct state_value)
MAP(classes, PERCPU_ARRAY, CLASSES, __u32, struct counter)

#define STATE(s)                                                                                             \
	struct state_value *s = ARRAY_AT(state, 0);                                                          \
	if (!s)                                                                                              \
	return ABORTED

struct headers {
	void *data, *end;
	struct ether_header *eth;
	struct ipv4_header *ip;
	struct tcp_header *tcp;
	void *payload;
};

/* Ethernet with at most two tags, IPv4 with options, TCP. 0, or why not. */
INLINE int parse(CONTEXT *ctx, struct headers *h)
{
	h->data = PACKET(ctx);
	h->end = PACKET_END(ctx);
	h->eth = h->data;
	if ((void *)(h->eth + 1) > h->end)
		return 1;
	__u16 type = h->eth->type;
	void *at = h->eth + 1;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct vlan_header *tag = at;
		if (type != htons(TYPE_VLAN) && type != htons(TYPE_QINQ))
			break;
		if ((void *)(tag + 1) > h->end)
			return 1;
		type = tag->type;
		at = tag + 1;
	}
	if (type != htons(TYPE_IPV4))
		return 2;
	h->ip = at;
	if ((void *)(h->ip + 1) > h->end || h->ip->version_length >> 4 != 4)
		return 1;
	__u32 length = (h->ip->version_length & 15) * 4;
	if (length < sizeof(*h->ip))
		return 1;
	if (h->ip->protocol != PROTOCOL_TCP)
		return 2;
	h->tcp = at + length;
	if ((void *)(h->tcp + 1) > h->end)
		return 1;
	length = (h->tcp->offset >> 4) * 4;
	if (length < sizeof(*h->tcp))
		return 1;
	h->payload = (void *)h->tcp + length;
	if (h->payload > h->end)
		return 1;
	return 0;
}

#define PARSE(h)                                                                                             \
	struct headers h;                                                                                    \
	int bad_ = parse(ctx, &h);                                                                           \
	if (bad_)                                                                                            \
	return bad_ == 2 ? PASS : DROP

PROGRAM(check_frame)
{
	PARSE(h);
	STATE(s);
	s->marks = s->score = s->path_hash = 0;
	s->mss = 536;
	s->options = s->window_scale = 0;
	if (h.eth->source[0] & 1)
		return DROP;
	if (h.eth->destination[0] & 1)
		s->marks |= 1;
	NEXT(1, check_network);
}

PROGRAM(check_network)
{
	PARSE(h);
	STATE(s);
	__u32 length = htons(h.ip->length);
	if (length > h.end - (void *)h.ip)
		return DROP;
	if (h.ip->fragment & htons(0x1fff))
		return DROP;
	if (h.ip->tos >> 2)
		s->marks |= 2;
	s->score += h.ip->tos >> 5;
	NEXT(2, check_lifetime);
}

PROGRAM(check_lifetime)
{
	PARSE(h);
	STATE(s);
	if (h.ip->ttl <= 1)
		return DROP;
	if (h.ip->ttl < 32)
		s->marks |= 4;
	NEXT(3, classify_source);
}

PROGRAM(classify_source)
{
	PARSE(h);
	STATE(s);
	__u32 source = htonl(h.ip->source);
	if (source >> 24 == 127 || source >> 28 >= 14)
		return DROP;
	if (source >> 24 == 10 || source >> 20 == 0xac1 || source >> 16 == 0xc0a8)
		s->marks |= 8;
	s->score += (source >> 24) & 7;
	NEXT(4, check_transport);
}

PROGRAM(check_transport)
{
	PARSE(h);
	STATE(s);
	__u8 flags = h.tcp->flags;
	if ((flags & 3) == 3 || (flags & 6) == 6 || flags == 0)
		return DROP;
	if (flags & 2)
		s->marks |= 16;
	if (h.tcp->source == 0 || h.tcp->destination == 0)
		return DROP;
	s->score += htons(h.tcp->destination) < 1024 ? 1 : 2;
	NEXT(5, read_options);
}

PROGRAM(read_options)
{
	PARSE(h);
	STATE(s);
	__u8 *at = (void *)(h.tcp + 1);
	void *end = h.end;
	UNKNOWN(end);
	for (int i = 0; i < 8; i++) {
		if ((void *)at >= h.payload || (void *)(at + 1) > end || at[0] == 0)
			break;
		if (at[0] == 1) {
			at++;
			continue;
		}
		if ((void *)(at + 4) > end || at[1] < 2 || at[1] > 40)
			return DROP;
		if (at[0] == 2)
			s->mss = at[2] << 8 | at[3];
		else if (at[0] == 3)
			s->window_scale = at[2];
		s->options++;
		at += at[1];
	}
	NEXT(6, peek_payload);
}

PROGRAM(peek_payload)
{
	PARSE(h);
	STATE(s);
	__u8 *at = h.payload;
	if ((void *)(at + 4) <= h.end && at[0] == 'G' && at[1] == 'E' && at[2] == 'T' && at[3] == ' ') {
		__u32 hash = 5381;
		at += 4;
		for (int i = 0; i < 24; i++) {
			if ((void *)(at + i + 1) > h.end || at[i] == ' ' || at[i] == '?')
				break;
			hash = hash * 33 + at[i];
		}
		s->path_hash = hash;
		s->marks |= 32;
	}
	NEXT(7, verdict);
}

PROGRAM(verdict)
{
	PARSE(h);
	STATE(s);
	__u32 class = (s->path_hash ^ s->marks ^ s->mss ^ s->score) & (CLASSES - 1);
	struct counter *c = ARRAY_AT(classes, class);
	if (!c)
		return ABORTED;
	c->packets++;
	c->bytes += h.end - h.data;
	return s->score > 20 && s->options > 6 ? DROP : PASS;
}

ENTRY(check_frame)
