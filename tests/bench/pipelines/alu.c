// Arithmetic above all: a flow hash, a token bucket (division by a variable), a dense switch, reductions modulo
// constants and variables, a mixing function. Five programs.
#include "pipeline.h"

struct scratch_value {
	__u32 words[3], hash;
	__u64 now, tokens;
	__u32 class, slot;
	__u64 digest;
};
struct bucket {
	__u64 rate, burst, tokens, last;
	__u32 ring, classes;
	__u64 dropped, passed, digests;
};

PROGRAM(hash_flow);
PROGRAM(take_token);
PROGRAM(choose_class);
PROGRAM(choose_slot);
PROGRAM(mix);

SLOTS(programs, 8, (void *)&hash_flow, (void *)&take_token, (void *)&choose_class, (void *)&choose_slot,
      (void *)&mix)
MAP(scratch, PERCPU_ARRAY, 1, __u32, struct scratch_value)
MAP(buckets, ARRAY, 4, __u32, struct bucket)

#define SCRATCH(s)                                                                                           \
	struct scratch_value *s = ARRAY_AT(scratch, 0);                                                      \
	if (!s)                                                                                              \
	return ABORTED
#define BUCKET(b, index)                                                                                     \
	struct bucket *b = ARRAY_AT(buckets, index);                                                         \
	if (!b)                                                                                              \
	return ABORTED

INLINE __u32 rotate(__u32 x, int by) { return x << by | x >> (32 - by); }
INLINE __u64 rotate64(__u64 x, int by) { return x << by | x >> (64 - by); }

PROGRAM(hash_flow)
{
	void *data = PACKET(ctx), *end = PACKET_END(ctx);
	SCRATCH(s);
	if (data + 54 > end)
		return DROP;
	__u32 a = *(__u32 *)(data + 26), b = *(__u32 *)(data + 30), c = *(__u32 *)(data + 34);
	s->words[0] = a;
	s->words[1] = b;
	s->words[2] = c;
	a += 0xdeadbeef + 12;
	b += 0xdeadbeef + 12;
	c += 0xdeadbeef + 12;
	c ^= b, c -= rotate(b, 14);
	a ^= c, a -= rotate(c, 11);
	b ^= a, b -= rotate(a, 25);
	c ^= b, c -= rotate(b, 16);
	a ^= c, a -= rotate(c, 4);
	b ^= a, b -= rotate(a, 14);
	c ^= b, c -= rotate(b, 24);
	s->hash = c;
	s->now = *(__u32 *)(data + 38);
	NEXT(1, take_token);
}

PROGRAM(take_token)
{
	SCRATCH(s);
	BUCKET(b, 0);
	__u64 elapsed = (s->now - b->last) & 0xffff;
	__u64 tokens = b->tokens + (b->rate ? elapsed * 1000000 / b->rate : 0);
	if (tokens > b->burst)
		tokens = b->burst;
	if (tokens < 10) {
		b->dropped++;
		return DROP;
	}
	tokens -= 10;
	b->tokens = tokens;
	b->last = s->now - 20;
	b->passed++;
	s->tokens = tokens % 1000;
	NEXT(2, choose_class);
}

INLINE __u32 operate(__u32 which, __u32 h, __u32 w)
{
	switch (which) {
	case 0: return h + w;
	case 1: return h ^ (w << 3);
	case 2: return h * 31 + w;
	case 3: return h - (w >> 2);
	case 4: return (h << 5) | (w & 31);
	case 5: return ~h + w;
	case 6: return (h >> 7) ^ w;
	case 7: return h | (w * 9);
	case 8: return h * w;
	case 9: return (h & 0xff00ff) + w;
	case 10: return rotate(h, 9) ^ w;
	case 11: return h - w * 3;
	case 12: return htonl(h) + w;
	case 13: return h ^ 0x5bd1e995;
	case 14: return w & 1 ? h + 1 : h - 1;
	default: return h + (w ^ 0x9e3779b9);
	}
}

PROGRAM(choose_class)
{
	SCRATCH(s);
	__u32 h = s->hash, w = s->words[2], class = h;
	for (int i = 0; i < 8; i++) {
		class = operate((h >> (i * 4)) & 15, class, w);
		w += class;
	}
	s->class = class;
	NEXT(3, choose_slot);
}

PROGRAM(choose_slot)
{
	SCRATCH(s);
	BUCKET(b, 0);
	__u32 ring = b->ring, classes = b->classes;
	if (!ring || !classes)
		return ABORTED;
	__u32 x = s->hash ^ s->class, quotient = x / classes;
	s->slot = x % ring;
	s->class = (quotient * 2654435761u) % 65537;
	s->hash = x / 10 + quotient % 7;
	NEXT(4, mix);
}

#define ROUND(v0, v1, v2, v3)                                                                                \
	v0 += v1, v1 = rotate64(v1, 13) ^ v0, v0 = rotate64(v0, 32);                                         \
	v2 += v3, v3 = rotate64(v3, 16) ^ v2;                                                                \
	v0 += v3, v3 = rotate64(v3, 21) ^ v0;                                                                \
	v2 += v1, v1 = rotate64(v1, 17) ^ v2, v2 = rotate64(v2, 32)

PROGRAM(mix)
{
	SCRATCH(s);
	BUCKET(b, 1);
	__u32 crc = ~0u, words[4] = {s->words[0], s->slot, s->class, s->hash};
#pragma unroll
	for (int i = 0; i < 4; i++) {
		crc ^= words[i];
#pragma unroll
		for (int j = 0; j < 6; j++) {
			crc ^= crc << 13;
			crc ^= crc >> 17;
			crc ^= crc << 5;
			crc = crc * 0x9e3779b1u + j;
		}
	}
	__u64 v0 = 0x736f6d6570736575ull ^ s->words[0], v1 = 0x646f72616e646f6dull ^ s->words[1],
	      v2 = 0x6c7967656e657261ull ^ s->words[0], v3 = 0x7465646279746573ull ^ s->tokens;
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	v0 ^= crc;
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	s->digest = v0 ^ v1 ^ v2 ^ v3;
	b->digests += s->digest;
	b->passed++;
	return (s->digest & 0xff) == 0x101 ? DROP : PASS;
}

ENTRY(hash_flow)
