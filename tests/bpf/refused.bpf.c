// Programs that only a running kernel can complete, beside one that is whole.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct sock_common {
  __u16 skc_family;
} __attribute__((preserve_access_index));
struct sock {
  struct sock_common __sk_common;
} __attribute__((preserve_access_index));

extern int kernel_function(void *x) __attribute__((section(".ksyms")));
extern int CONFIG_HZ __attribute__((section(".kconfig")));

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 2);
  __uint(key_size, 4);
  __uint(value_size, 4);
} calls SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 2);
  __uint(key_size, 4);
  __uint(value_size, 4);
} unused SEC(".maps");

__attribute__((noinline)) int family_of(struct sock *sk) { return sk->__sk_common.skc_family; }

SEC("xdp") int whole(struct xdp_md *ctx) { return XDP_PASS; }

__attribute__((btf_decl_tag("tail:calls/1"))) SEC("xdp") int core_in_subprogram(struct xdp_md *ctx) {
  return family_of((void *)(long)ctx->data);
}

__attribute__((btf_decl_tag("tail:unused/0"))) SEC("xdp") int kfunc(struct xdp_md *ctx) {
  return kernel_function(ctx);
}

SEC("xdp") int kconfig(struct xdp_md *ctx) { return CONFIG_HZ; }

SEC("xdp") int caller(struct xdp_md *ctx) {
  bpf_tail_call(ctx, &calls, 1);
  return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
