// Legacy maps as libbpf and samples/bpf define them, and sections that are named map/slot.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct map_def {
  __u32 type, key_size, value_size, max_entries, map_flags;
};

struct map_def jmp_table SEC("maps") = {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 3, 0};
struct map_def flows SEC("maps") = {BPF_MAP_TYPE_LRU_HASH, 12, 20, 64, 0};

SEC("jmp_table/2") int last(struct __sk_buff *skb) {
  char key[12] = {};
  return !bpf_map_lookup_elem(&flows, key);
}

SEC("classifier/entry") int entry(struct __sk_buff *skb) {
  bpf_tail_call(skb, &jmp_table, 2);
  return 0;
}

char _license[] SEC("license") = "GPL";
