// Initial contents from `.values`: programs, inner maps. Callbacks by address. All kinds of map attributes.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

int tail_two(struct xdp_md *ctx);
int tail_five(struct xdp_md *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 6);
  __uint(key_size, sizeof(__u32));
  __array(values, int(void *));
} jmp_table SEC(".maps") = {
    .values = {[2] = (void *)&tail_two, [5] = (void *)&tail_five},
};

struct inner {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u64);
  __uint(map_flags, BPF_F_NO_PREALLOC);
} inner_a SEC(".maps"), inner_b SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct inner);
} outer SEC(".maps") = {
    .values = {[0] = &inner_a, [3] = &inner_b},
};

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, 1000);
  __uint(key_size, 8);
  __uint(value_size, 12);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(numa_node, 0);
} routes SEC(".maps");

static long count(void *map, __u32 *key, __u64 *value, __u64 *sum) {
  *sum += *value;
  return 0;
}

SEC("xdp") int tail_two(struct xdp_md *ctx) {
  __u64 sum = 0;
  bpf_for_each_map_elem(&inner_a, count, &sum, 0);
  return sum & 3;
}

SEC("xdp") int tail_five(struct xdp_md *ctx) {
  __u32 zero = 0;
  void *m = bpf_map_lookup_elem(&outer, &zero);
  if (!m)
    return XDP_ABORTED;
  return bpf_map_lookup_elem(m, &zero) ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int entry(struct xdp_md *ctx) {
  __u64 key = 7;
  if (!bpf_map_lookup_elem(&routes, &key))
    bpf_tail_call(ctx, &jmp_table, 2);
  bpf_tail_call(ctx, &jmp_table, 5);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
__u32 _version SEC("version") = 0x60100;
