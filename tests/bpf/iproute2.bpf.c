// Legacy maps as iproute2 defines them, `id/slot` sections, and data relocations that mean a value.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct bpf_elf_map {
  __u32 type, size_key, size_value, max_elem, flags, id, pinning, inner_id, inner_idx;
};

struct bpf_elf_map jmp SEC("maps") = {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 12, 0, 2, 0, 0, 0};
struct bpf_elf_map stats SEC("maps") = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 3, 0, 5, 2, 0, 0};
struct bpf_elf_map outer SEC("maps") = {BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 2, 0, 6, 0, 7, 0};
struct bpf_elf_map shape SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0, 7, 0, 0, 0};
struct bpf_elf_map member SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0, 0, 0, 6, 1};

volatile __u32 LXC_ID = 0xbeef;
volatile __u32 LXC_MARK = 0x80000001;

SEC("2/7") int tail_seven(struct __sk_buff *skb) {
  bpf_tail_call(skb, &jmp, 0xa);
  skb->mark = (__u32)(unsigned long)&LXC_MARK;
  return 1;
}

SEC("2/0xa") int tail_ten(struct __sk_buff *skb) {
  __u32 zero = 0;
  return bpf_map_lookup_elem(&stats, &zero) && bpf_map_lookup_elem(&outer, &zero) ? 2 : 0;
}

SEC("from-container") int from_container(struct __sk_buff *skb) {
  bpf_tail_call(skb, &jmp, 7);
  return (__u32)(unsigned long)&LXC_ID;
}

char _license[] SEC("license") = "GPL";
