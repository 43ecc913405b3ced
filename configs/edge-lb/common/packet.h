// Access to packet bytes, the same for struct xdp_md and struct __sk_buff.
#pragma once

#include <stdbool.h>

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

/* A packet pointer of the context. In C the 32-bit fields are widened, and clang may widen one that it still has
 * in a register: then the verifier sees a number. Written as one instruction, each use is a load of its own. */
#define ctx_pointer(ctx, field)                                                                             \
	({                                                                                                  \
		void *pointer_;                                                                             \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                       \
			     : "=r"(pointer_)                                                               \
			     : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field)));                    \
		pointer_;                                                                                   \
	})

/* Points `*pointer` at `length` bytes at `offset`; false where the packet is shorter. (A function that returned
 * the pointer or null would make compilers test the pointer once more, which some verifiers do not follow.) */
static __always_inline bool packet_access(void *data, void *end, __u32 offset, __u32 length, void **pointer)
{
	*pointer = data + offset;
	return data + offset + length <= end;
}

/* Points `*pointer` at a header of its type. */
#define packet_at(ctx, offset, pointer)                                                                     \
	packet_access(ctx_pointer(ctx, data), ctx_pointer(ctx, data_end), offset, sizeof(**(pointer)),      \
		      (void **)(pointer))
