// The pipelines as C. Maps are reached as the kernel's JIT reaches them: their addresses are constants in the
// code, which the benchmark fills in (symbols ujit_map_NAME and ujit_values_NAME). Helpers are the same functions
// that the other rows call, out of line.
#pragma once

struct plain_context {
#ifdef USE_TC
	__u8 uapi[192];
#else
	__u8 uapi[24];
#endif
	__u8 *packet, *packet_end, *packet_meta;
};

#define PACKET(ctx) ((void *)((struct plain_context *)(ctx))->packet)
#define PACKET_END(ctx) ((void *)((struct plain_context *)(ctx))->packet_end)
#define PLAIN_ADDRESS(symbol)                                                                                \
	({                                                                                                   \
		void *address_;                                                                              \
		__asm__("movabsq $" #symbol ", %0" : "=r"(address_));                                        \
		address_;                                                                                    \
	})
#define MAP(name, kind, entries, key_type, value_type)                                                       \
	enum { entries_of_##name = entries };                                                                \
	typedef value_type value_of_##name;                                                                  \
	INLINE __attribute__((unused)) void *object_of_##name(void) { return PLAIN_ADDRESS(ujit_map_##name); }                       \
	INLINE __attribute__((unused)) value_type *values_of_##name(void) { return PLAIN_ADDRESS(ujit_values_##name); }
#define ARRAY_AT(name, index)                                                                                \
	({                                                                                                   \
		__u64 index_ = (__u32)(index);                                                               \
		index_ < entries_of_##name                                                                   \
			? (value_of_##name *)((__u8 *)values_of_##name() +                                   \
					      index_ * ((sizeof(value_of_##name) + 7) & ~7ul))               \
			: (value_of_##name *)0;                                                              \
	})
#define UNKNOWN(x)
#define HASH_AT(name, key) bpf_map_lookup_elem(object_of_##name(), key)

void *bpf_map_lookup_elem(void *map, const void *key);
__u64 bpf_ktime_get_ns(void);
long bpf_redirect(__u32 ifindex, __u64 flags);
long bpf_xdp_adjust_head(void *ctx, int delta);
