// A program with a global function, and programs that attach to it.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int replaceable(struct xdp_md *ctx) {
  volatile int result = 2;
  return ctx ? result : 0;
}

SEC("xdp")
int target(struct xdp_md *ctx) { return replaceable(ctx); }

SEC("freplace/replaceable")
int extension(struct xdp_md *ctx) { return 1; }

SEC("fentry/target")
int on_entry(void *ctx) { return 0; }

SEC("fexit/replaceable")
int on_exit(void *ctx) { return 0; }

char licence[] SEC("license") = "GPL";
