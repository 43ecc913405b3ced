// Internet checksums, updated incrementally (RFC 1624): a difference is gathered in 64 bits over all words
// that change, and applied once to each checksum that covers them.
#pragma once

#include <bpf/bpf_helpers.h>

#include "edge_lb.h"

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u64 csum_diff_word(__u64 diff, __be32 from, __be32 to)
{
	return diff + (__u32)~from + to;
}

static __always_inline __u64 csum_diff_half(__u64 diff, __be16 from, __be16 to)
{
	return diff + (__u16)~from + to;
}

static __always_inline __u64 csum_diff_addr(__u64 diff, const union ip_addr *from, const union ip_addr *to)
{
	for (int i = 0; i < 4; i++)
		diff = csum_diff_word(diff, from->v6[i], to->v6[i]);
	return diff;
}

static __always_inline __u16 csum_apply(__u16 check, __u64 diff)
{
	return ~csum_fold(diff + (__u16)~check);
}

/* Over `length` bytes, a multiple of four. */
static __always_inline __u16 csum_of(void *words, __u32 length)
{
	return ~csum_fold(bpf_csum_diff(NULL, 0, words, length, 0));
}
