// One mistake an object, chosen by -DMISTAKE=n; 0 is none.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define TAIL(map, n) __attribute__((btf_decl_tag("tail:" #map "/" #n)))

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 4);
  __uint(key_size, 4);
#if MISTAKE == 1
  __uint(colour, 4);
#elif MISTAKE == 2
  __uint(pinning, 7);
#elif MISTAKE == 3
  __uint(value_size, 4);
  __type(value, __u64);
#elif MISTAKE == 4
  int max_flags;
#endif
} calls SEC(".maps");

#if MISTAKE == 5
TAIL(calls, 1) SEC("xdp") int other(struct xdp_md *ctx) { return 2; }
#endif

#if MISTAKE == 6
TAIL(call, 1)
#elif MISTAKE == 7
TAIL(calls, 4)
#else
TAIL(calls, 1)
#endif
SEC("xdp") int leaf(struct xdp_md *ctx) { return 1; }

const char *names[] = {"a", "b"};

SEC("xdp") int entry(struct xdp_md *ctx) {
  bpf_tail_call(ctx, &calls, 1);
#if MISTAKE == 8
  return names[ctx->rx_queue_index & 1][0];
#else
  return 0;
#endif
}

char _license[] SEC("license") = "GPL";
