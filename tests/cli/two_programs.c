// An XDP entry that tail-calls by EtherType: slot 1 is a program, slot 2 is empty.
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

int leaf(struct xdp_md *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 4);
  __uint(key_size, 4);
  __array(values, int(void *));
} calls SEC(".maps") = {.values = {[1] = (void *)&leaf}};

const volatile int verdict = XDP_PASS;

static __always_inline void count(__u32 which) {
  __u64 *n = bpf_map_lookup_elem(&counters, &which);
  if (n)
    *n += 1;
}

SEC("xdp")
int leaf(struct xdp_md *ctx) {
  count(1);
  return XDP_TX;
}

SEC("xdp")
int entry(struct xdp_md *ctx) {
  void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
  if (data + 14 > end)
    return XDP_DROP;
  if (*(__u16 *)(data + 12) == bpf_htons(0x0800))
    bpf_tail_call(ctx, &calls, 1);
  bpf_tail_call(ctx, &calls, 2);
  count(0);
  return verdict;
}

char _license[] SEC("license") = "GPL";
