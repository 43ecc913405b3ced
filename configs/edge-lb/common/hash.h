// The flow hash: Jenkins' lookup3 over the ten words of a tuple, as the kernel's jhash2. The traffic generator
// includes it too, to know which backend the datapath will choose.
#pragma once

#include "edge_lb.h"

#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif

#define HASH_ROTATE(x, n) (((x) << (n)) | ((x) >> (32 - (n))))

#define HASH_MIX(a, b, c)                                                                                   \
	do {                                                                                                \
		a -= c, a ^= HASH_ROTATE(c, 4), c += b;                                                     \
		b -= a, b ^= HASH_ROTATE(a, 6), a += c;                                                     \
		c -= b, c ^= HASH_ROTATE(b, 8), b += a;                                                     \
		a -= c, a ^= HASH_ROTATE(c, 16), c += b;                                                    \
		b -= a, b ^= HASH_ROTATE(a, 19), a += c;                                                    \
		c -= b, c ^= HASH_ROTATE(b, 4), b += a;                                                     \
	} while (0)

#define HASH_FINAL(a, b, c)                                                                                 \
	do {                                                                                                \
		c ^= b, c -= HASH_ROTATE(b, 14);                                                            \
		a ^= c, a -= HASH_ROTATE(c, 11);                                                            \
		b ^= a, b -= HASH_ROTATE(a, 25);                                                            \
		c ^= b, c -= HASH_ROTATE(b, 16);                                                            \
		a ^= c, a -= HASH_ROTATE(c, 4);                                                             \
		b ^= a, b -= HASH_ROTATE(a, 14);                                                            \
		c ^= b, c -= HASH_ROTATE(b, 24);                                                            \
	} while (0)

static __noinline __u32 flow_hash(const struct flow_tuple *tuple, __u32 seed)
{
	__u32 a = 0xdeadbeef + sizeof(*tuple) + seed, b = a, c = a;

	a += tuple->src.v6[0], b += tuple->src.v6[1], c += tuple->src.v6[2];
	HASH_MIX(a, b, c);
	a += tuple->src.v6[3], b += tuple->dst.v6[0], c += tuple->dst.v6[1];
	HASH_MIX(a, b, c);
	a += tuple->dst.v6[2], b += tuple->dst.v6[3], c += (__u32)tuple->sport << 16 | tuple->dport;
	HASH_MIX(a, b, c);
	a += (__u32)tuple->proto << 8 | tuple->family;
	HASH_FINAL(a, b, c);
	return c;
}
