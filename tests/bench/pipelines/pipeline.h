// One source, three forms, so that what differs between two rows of the benchmark is never the program:
//
//     (nothing)           eBPF, each PROGRAM by itself, chained by tail calls
//     -DONE_PROGRAM       eBPF, everything inlined into the entry
//     not for bpf         C for this machine: what the compiler makes of the source with nothing in between
//
// A pipeline says `NEXT(slot, program)` where it tail-calls. The context's packet pointers, maps and helpers are
// behind macros only where C has to reach them in another way (plain.h).
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#if defined(USE_TC)
#define CONTEXT struct __sk_buff
#define PASS 0
#define DROP 2
#define ABORTED 2
#else
#define CONTEXT struct xdp_md
#define PASS 2
#define DROP 1
#define ABORTED 0
#endif
#define INLINE static inline __attribute__((always_inline))

#ifdef __bpf__
#include <bpf/bpf_helpers.h>

#define PACKET(ctx) ((void *)(long)(ctx)->data)
#define PACKET_END(ctx) ((void *)(long)(ctx)->data_end)
#define MAP(name, kind, entries, key_type, value_type)                                                       \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_##kind);                                                           \
		__uint(max_entries, entries);                                                                \
		__type(key, key_type);                                                                       \
		__type(value, value_type);                                                                   \
	} name SEC(".maps");
#define ARRAY_AT(name, index) bpf_map_lookup_elem(&name, &(__u32){index})
#define HASH_AT(name, key) bpf_map_lookup_elem(&name, key)
/* Keeps a check that the compiler knows to be superfluous and the verifier does not. */
#define UNKNOWN(x) __asm__ volatile("" : "+r"(x))
char _license[] SEC("license") = "Dual BSD/GPL";
#else
#include "plain.h"
#endif

#ifdef USE_TC
#define HOOK "tc"
#else
#define HOOK "xdp"
#endif

#if defined(__bpf__) && !defined(ONE_PROGRAM)
#define PROGRAM(name)                                                                                        \
	SEC(HOOK) int name(CONTEXT *ctx)
#define NEXT(slot, name)                                                                                     \
	do {                                                                                                 \
		bpf_tail_call(ctx, &programs, slot);                                                         \
		return ABORTED;                                                                              \
	} while (0)
#define SLOTS(name, entries, ...)                                                                            \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                                       \
		__uint(max_entries, entries);                                                                \
		__uint(key_size, 4);                                                                         \
		__array(values, int(void *));                                                                \
	} name SEC(".maps") = {.values = {__VA_ARGS__}};
#define ENTRY(name)
#else
#define PROGRAM(name) INLINE int name(CONTEXT *ctx)
#define NEXT(slot, name) return name(ctx)
#define SLOTS(name, entries, ...)
#ifdef __bpf__
#define ENTRY(name)                                                                                          \
	SEC(HOOK) int whole(CONTEXT *ctx) { return name(ctx); }
#else
#define ENTRY(name)                                                                                          \
	__u64 whole(CONTEXT *ctx) { return (__u32)name(ctx); }
#endif
#endif

#define htons(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)

struct ether_header {
	__u8 destination[6], source[6];
	__u16 type;
} __attribute__((packed));
struct vlan_header {
	__u16 tci, type;
};
struct ipv4_header {
	__u8 version_length, tos;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 source, destination;
};
struct ipv6_header {
	__u32 version_class_flow;
	__u16 length;
	__u8 next, hops;
	__u32 source[4], destination[4];
};
struct tcp_header {
	__u16 source, destination;
	__u32 sequence, acknowledgement;
	__u8 offset, flags;
	__u16 window, checksum, urgent;
};
struct udp_header {
	__u16 source, destination, length, checksum;
};

#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86dd
#define TYPE_VLAN 0x8100
#define TYPE_QINQ 0x88a8
#define PROTOCOL_IPIP 4
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_GRE 47

struct counter {
	__u64 packets, bytes;
};

INLINE __u16 fold_checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/* RFC 1624: the checksum after a word of the covered bytes has changed. */
INLINE __u16 replace_word(__u16 checksum, __u32 from, __u32 to)
{
	__u32 sum = (__u16)~checksum;
	sum += (__u16)~(from & 0xffff);
	sum += (__u16)~(from >> 16);
	sum += (to & 0xffff) + (to >> 16);
	return fold_checksum(sum);
}

INLINE __u16 replace_half(__u16 checksum, __u16 from, __u16 to)
{
	return fold_checksum((__u32)(__u16)~checksum + (__u16)~from + to);
}
