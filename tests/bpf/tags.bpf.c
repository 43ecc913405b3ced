// Slots from declaration tags, static programs, and subprograms in every place where they can be.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define SLOT(n) __attribute__((btf_decl_tag("tail:calls/" #n)))

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u32);
  __uint(pinning, 16);
} calls SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
  __uint(pinning, LIBBPF_PIN_BY_NAME);
} scratch SEC(".maps");

static __attribute__((noinline)) int text_static(int x) {
  asm volatile("" : "+r"(x));
  return x * 3;
}

__attribute__((noinline)) int text_global(int x) {
  asm volatile("" : "+r"(x));
  return text_static(x) + text_static(x + 1);
}

static __attribute__((noinline, section("xdp/tail"))) int section_static(int x) {
  asm volatile("" : "+r"(x));
  return x + 5;
}

SLOT(3) static __attribute__((used, section("xdp/tail"))) int tail_static(struct xdp_md *ctx) {
  return section_static(ctx->ingress_ifindex);
}

SLOT(1) SEC("xdp/tail") int tail_global(struct xdp_md *ctx) {
  __u32 key = 0;
  __u64 *v = bpf_map_lookup_elem(&scratch, &key);
  if (v)
    *v += 1;
  bpf_tail_call(ctx, &calls, 3);
  return section_static(ctx->rx_queue_index) + text_global(ctx->ingress_ifindex);
}

SEC("xdp/entry") int entry(struct xdp_md *ctx) {
  bpf_tail_call(ctx, &calls, 1);
  return text_global(ctx->rx_queue_index);
}

char _license[] SEC("license") = "Dual BSD/GPL";
