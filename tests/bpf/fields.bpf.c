// Values of which the kernel keeps parts apart when it copies them.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct task;

struct plain {
  __u32 a[3];
  union {
    __u64 b;
    __u8 c[12];
  };
};
struct locked {
  __u64 count;
  struct bpf_spin_lock lock;
};
struct nested {
  __u32 a;
  struct {
    struct bpf_timer timers[2];
  } in;
};
struct pointing {
  __u64 a;
  struct task __attribute__((btf_type_tag("kptr"))) * task;
};

#define ARRAY(name)                                                                                          \
  struct {                                                                                                   \
    __uint(type, BPF_MAP_TYPE_ARRAY);                                                                        \
    __uint(max_entries, 1);                                                                                  \
    __type(key, __u32);                                                                                      \
    __type(value, struct name);                                                                              \
  } name SEC(".maps")
ARRAY(plain);
ARRAY(locked);
ARRAY(nested);
ARRAY(pointing);

SEC("tc") int use(struct __sk_buff *skb) {
  __u32 key = 0;
  return !bpf_map_lookup_elem(&plain, &key) + !bpf_map_lookup_elem(&locked, &key) +
         !bpf_map_lookup_elem(&nested, &key) + !bpf_map_lookup_elem(&pointing, &key);
}

char _license[] SEC("license") = "GPL";
