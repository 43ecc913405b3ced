// A pipeline with each kind of tail call, for tests of installed images; compiled for XDP, and with TC for tc.
// Which way a packet goes is up to `steer`, a map that user space can write at any time.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#ifdef TC
typedef struct __sk_buff context;
#define PROGRAM SEC("tc")
#define PASS TC_ACT_OK
#define DROP TC_ACT_SHOT
#else
typedef struct xdp_md context;
#define PROGRAM SEC("xdp.frags")
#define PASS XDP_PASS
#define DROP XDP_DROP
#endif

struct steer {
  __u32 way;    // 0 to 7: which leaf
  __u32 device; // where redirected packets go
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct steer);
} steer SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 32);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 256);
  __type(key, __u32);
  __type(value, __u64);
} lengths SEC(".maps");

#ifndef TC
struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u32);
} out SEC(".maps");
#endif

int mid(context *ctx);
int last(context *ctx);
int leaf_pass(context *ctx);
int leaf_drop(context *ctx);
int leaf_redirect(context *ctx);
int leaf_rewrite(context *ctx);
int leaf_loop(context *ctx);
int leaf_far(context *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 32);
  __uint(key_size, 4);
  __array(values, int(context *));
} calls SEC(".maps") = {.values = {[1] = (void *)&mid,
                                   [2] = (void *)&last,
                                   [8] = (void *)&leaf_pass,
                                   [9] = (void *)&leaf_drop,
                                   [10] = (void *)&leaf_redirect,
                                   [11] = (void *)&leaf_rewrite,
                                   [12] = (void *)&leaf_loop,
                                   [13] = (void *)&leaf_far}};

static __always_inline void count(__u32 n) {
  __u64 *counter = bpf_map_lookup_elem(&counters, &n);
  if (counter)
    __sync_fetch_and_add(counter, 1);
}

static __always_inline __u8 *headers(context *ctx, __u32 size) {
  __u8 *data = (__u8 *)(long)ctx->data;
  return data + size <= (__u8 *)(long)ctx->data_end ? data : 0;
}

PROGRAM int entry(context *ctx) {
  count(0);
#ifdef TC
  __u32 length = ctx->len;
#else
  __u32 length = ctx->data_end - ctx->data;
#endif
  __u64 one = 1, *seen = bpf_map_lookup_elem(&lengths, &length);
  if (seen)
    __sync_fetch_and_add(seen, 1);
  else
    bpf_map_update_elem(&lengths, &length, &one, BPF_NOEXIST);
  bpf_tail_call(ctx, &calls, 1);
  count(1);
  return PASS;
}

PROGRAM int mid(context *ctx) {
  __u32 zero = 0, sum = 0;
  count(2);
  struct steer *s = bpf_map_lookup_elem(&steer, &zero);
  if (!s)
    return DROP;
  __u8 *p = headers(ctx, 14);
  if (!p)
    return DROP;
  for (int i = 0; i < 14; i++)
    sum = sum * 31 + p[i];
  bpf_tail_call(ctx, &calls, 8 + (s->way & 7));
  // What was computed before the call is needed behind it.
  count(16 + (sum & 7));
  bpf_tail_call(ctx, &calls, 2);
  count(3);
  return PASS;
}

PROGRAM int last(context *ctx) {
  count(4);
  return PASS;
}

PROGRAM int leaf_pass(context *ctx) {
  count(8);
  return PASS;
}

PROGRAM int leaf_drop(context *ctx) {
  count(9);
  return DROP;
}

PROGRAM int leaf_redirect(context *ctx) {
  count(10);
#ifdef TC
  __u32 zero = 0;
  struct steer *s = bpf_map_lookup_elem(&steer, &zero);
  return s ? bpf_redirect(s->device, 0) : DROP;
#else
  return bpf_redirect_map(&out, 0, 0);
#endif
}

PROGRAM int leaf_rewrite(context *ctx) {
  count(11);
#ifdef TC
  if (bpf_skb_pull_data(ctx, 14))
    return DROP;
#endif
  __u8 *p = headers(ctx, 14);
  if (!p)
    return DROP;
#pragma unroll
  for (int i = 0; i < 6; i++) {
    __u8 byte = p[i];
    p[i] = p[i + 6];
    p[i + 6] = byte;
  }
#ifdef TC
  return bpf_redirect(ctx->ifindex, 0);
#else
  return XDP_TX;
#endif
}

// Until the kernel's limit.
PROGRAM int leaf_loop(context *ctx) {
  count(12);
  bpf_tail_call(ctx, &calls, 12);
  count(13);
  return PASS;
}

// Through a slot that tests fill with a program that cannot be fused.
PROGRAM int leaf_far(context *ctx) {
  __u8 *p = headers(ctx, 14);
  __u32 kind = p ? p[12] : 0;
  count(14);
  bpf_tail_call(ctx, &calls, 20);
  count(24 + (kind & 7));
  return PASS;
}

char licence[] SEC("license") = "GPL";
