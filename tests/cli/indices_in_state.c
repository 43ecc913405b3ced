// A datapath whose prog-array indices are configuration. The first program copies one of two sets of
// constants, by EtherType, to the second element of a per-CPU array; the programs behind it, with updates of
// a flow table in between, jump by the indices that they find there, and hand two of them on in cb[].
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { MAIN, POLICY, ALLOWED, DENIED, jumps = 8 };

struct settings {
  __u32 address[4];
  __be16 mtu, port;
  __u32 flags;
  __u8 name[16];
  __u32 jump[jumps];
};

const volatile struct { struct settings v4, v6; } configured;

struct state {
  __u32 length, mark, hash, verdict;
  __u8 scratch[256];
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, struct state);
} state_map SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, __u64);
  __type(value, __u64);
} flows SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct settings);
} copied SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 64);
  __uint(key_size, 4);
  __uint(value_size, 4);
} programs SEC(".maps"), policies SEC(".maps");

static __always_inline struct state *state_of(void) {
  __u32 key = 0;
  return bpf_map_lookup_elem(&state_map, &key);
}

static __always_inline struct settings *settings_of(void) {
  __u32 key = 1;
  return bpf_map_lookup_elem(&state_map, &key);
}

SEC("tc")
int preamble(struct __sk_buff *skb) {
  volatile struct settings *settings = settings_of();
  const volatile struct settings *from = &configured.v4;
  if (!settings)
    return TC_ACT_SHOT;
  if (skb->protocol == bpf_htons(0x86dd))
    from = &configured.v6;
  *settings = *from;
  bpf_tail_call(skb, &programs, settings->jump[MAIN]);
  return TC_ACT_SHOT;
}

SEC("tc")
int main_program(struct __sk_buff *skb) {
  struct state *state = state_of();
  struct settings *settings = settings_of();
  if (!state || !settings)
    return TC_ACT_SHOT;
  __u64 key = skb->len, now = bpf_ktime_get_ns() & 0;
  state->length = skb->len;
  state->verdict = 0;
  bpf_map_update_elem(&flows, &key, &now, BPF_ANY);
  skb->cb[0] = settings->jump[ALLOWED];
  skb->cb[1] = settings->jump[DENIED];
  bpf_tail_call(skb, &policies, settings->jump[POLICY]);
  return TC_ACT_SHOT;
}

SEC("tc")
int policy(struct __sk_buff *skb) {
  if (skb->len > 60)
    bpf_tail_call(skb, &programs, skb->cb[0]);
  bpf_tail_call(skb, &programs, skb->cb[1]);
  return TC_ACT_SHOT;
}

SEC("tc")
int allowed(struct __sk_buff *skb) {
  struct state *state = state_of();
  return state && state->length > 60 ? TC_ACT_OK : TC_ACT_UNSPEC;
}

SEC("tc")
int denied(struct __sk_buff *skb) { return TC_ACT_SHOT; }

SEC("tc")
int unused(struct __sk_buff *skb) { return TC_ACT_STOLEN; }

/// The same by an update, from the stack, and a lookup.
SEC("tc")
int preamble_by_update(struct __sk_buff *skb) {
  struct settings settings = {.jump = {configured.v4.jump[MAIN], configured.v4.jump[POLICY]}};
  __u32 key = 0;
  settings.flags = skb->len;
  if (bpf_map_update_elem(&copied, &key, &settings, BPF_ANY))
    return TC_ACT_SHOT;
  bpf_tail_call(skb, &programs, settings.jump[MAIN]);
  return TC_ACT_SHOT;
}

SEC("tc")
int main_by_update(struct __sk_buff *skb) {
  __u32 key = 0;
  struct settings *settings = bpf_map_lookup_elem(&copied, &key);
  if (!settings || settings->flags != skb->len)
    return TC_ACT_SHOT;
  skb->cb[0] = 3;
  skb->cb[1] = 4;
  bpf_tail_call(skb, &policies, settings->jump[POLICY]);
  return TC_ACT_SHOT;
}

char _license[] SEC("license") = "GPL";
