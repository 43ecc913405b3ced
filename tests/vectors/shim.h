/* What lib/test_bpf.c and the selftests' verifier tables need of the kernel, in user space. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#define BIT(n) (1u << (n))
#define GFP_KERNEL 0
#define kmalloc_array(n, size, flags) calloc(n, size)
#define kfree free
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define U64_MAX UINT64_MAX
#define S64_MAX INT64_MAX
#define S64_MIN INT64_MIN
#define U32_MAX UINT32_MAX
#define S32_MAX INT32_MAX
#define S32_MIN INT32_MIN
#define U16_MAX UINT16_MAX
#define S16_MAX INT16_MAX
#define S16_MIN INT16_MIN
#define U8_MAX UINT8_MAX
#define S8_MAX INT8_MAX
#define S8_MIN INT8_MIN
#define __init
#define unlikely(x) (x)
#define likely(x) (x)
#define fallthrough __attribute__((__fallthrough__))
#define min_t(type, a, b) ((type)(a) < (type)(b) ? (type)(a) : (type)(b))
#define max_t(type, a, b) ((type)(a) > (type)(b) ? (type)(a) : (type)(b))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define div64_u64(a, b) ((u64)(a) / (u64)(b))
#define div64_u64_rem(a, b, r) (*(r) = (u64)(a) % (u64)(b), (u64)(a) / (u64)(b))
#define upper_32_bits(n) ((u32)(((u64)(n)) >> 32))
#define lower_32_bits(n) ((u32)(n))
#define sizeof_field(type, field) sizeof(((type *)0)->field)
#define offsetofend(type, field) (offsetof(type, field) + sizeof_field(type, field))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define BUG_ON(x) do { if (x) abort(); } while (0)
#define pr_info(...) ((void)0)
#define pr_err(...) ((void)0)
#define cpu_to_be16 __builtin_bswap16
#define cpu_to_be32 __builtin_bswap32
#define cpu_to_be64 __builtin_bswap64
#define cpu_to_le16(x) ((u16)(x))
#define cpu_to_le32(x) ((u32)(x))
#define cpu_to_le64(x) ((u64)(x))
#define swab16 __builtin_bswap16
#define swab32 __builtin_bswap32
#define swab64 __builtin_bswap64
#define swap(a, b) do { __typeof__(a) t__ = (a); (a) = (b); (b) = t__; } while (0)

struct rnd_state { u32 s; };
static inline void prandom_seed_state(struct rnd_state *state, u64 seed) { state->s = (u32)seed; }
static inline u32 prandom_u32_state(struct rnd_state *state) { return state->s = state->s * 1664525 + 1013904223; }

/* A vector as the runner reads it: one line of fields, then instructions in hex. Strings have no newline. */
static inline void put_insns(const struct bpf_insn *insns, unsigned len) {
  const unsigned char *bytes = (const unsigned char *)insns;
  for (size_t i = 0; i < (size_t)len * 8; i++)
    printf("%02x", bytes[i]);
  printf("\n");
}

/* The C library defines both, the kernel only that of the machine. */
#undef __BIG_ENDIAN
