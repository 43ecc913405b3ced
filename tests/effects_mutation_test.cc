// The optimiser believes the table of helper effects. Here one row at a time lies, and the comparison of
// interpreter and image must notice. A row that is not covered has its reason in `not_shown`.
#include "kernel-iface/embedded/helpers.h"
#include "lto/check.h"
#include "tests/support/case_file.h"
#include "translator/helper.h"

#include "gtest/gtest.h"

#include <set>

namespace ujit {
namespace {

// --- Lies --------------------------------------------------------------------------------------------

enum class Lie {
  touches_nothing, ///< neither context nor packet nor maps
  writes_nothing,  ///< what its arguments point to is only read
  reads_nothing,   ///< pointer arguments are numbers, and the result depends on nothing else
  is_pure,         ///< nobody misses a call
};

HelperEffects with(HelperEffects e, Lie lie) {
  switch (lie) {
  case Lie::touches_nothing:
    e.touches = touch_nothing;
    e.moves_packet = false;
    break;
  case Lie::writes_nothing:
    for (Arg &a : e.args)
      if (a == Arg::mem_write || a == Arg::mem_rw || a == Arg::fixed_mem || a == Arg::value_out)
        a = Arg::mem_read;
    break;
  case Lie::reads_nothing:
    for (Arg &a : e.args)
      if (a == Arg::key || a == Arg::value || a == Arg::mem_read || a == Arg::mem_rw)
        a = Arg::scalar;
    e.touches = touch_nothing;
    e.moves_packet = false;
    e.pure = true;
    break;
  case Lie::is_pure: e.pure = true; break;
  }
  return e;
}

HelperEffects lying_row;
const HelperEffects *lying(uint32_t id) { return id == lying_row.id ? &lying_row : nullptr; }

// --- Programs ----------------------------------------------------------------------------------------

struct Shown {
  std::string_view helper;
  Lie lie;
  std::string program;
  std::string maps = {};
};

/// r6: context, r7: packet, at least 40 bytes.
std::string skb(const std::string &body) {
  return "-- prog entry sched_cls\nr6 = r1\nr7 = *(u32 *)(r6 + 76)\nr8 = *(u32 *)(r6 + 80)\nr2 = r7\nr2 += "
         "40\n"
         "if r2 > r8 goto out\n" +
         body + "exit\nout:\nr0 = 0\nexit\n";
}
std::string xdp(const std::string &body) {
  return "-- prog entry xdp\nr6 = r1\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr2 = r7\nr2 += 40\n"
         "if r2 > r8 goto out\n" +
         body + "exit\nout:\nr0 = 0\nexit\n";
}
const std::string skb_again =
    "r7 = *(u32 *)(r6 + 76)\nr8 = *(u32 *)(r6 + 80)\nr2 = r7\nr2 += 40\nif r2 > r8 goto out\n";
const std::string xdp_again =
    "r7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr2 = r7\nr2 += 40\nif r2 > r8 goto out\n";

/// A context field before and behind a call; `call` without its first argument.
std::string field(int offset, const std::string &call) {
  std::string load = "*(u32 *)(r6 + " + std::to_string(offset) + ")\n";
  return skb("r9 = " + load + "r1 = r6\n" + call + "r0 = " + load + "r0 <<= 8\nr9 &= 255\nr0 += r9\n");
}
/// The two bytes at 24 of the packet, before and behind a call.
std::string bytes_at_24(const std::string &call) {
  return skb("r9 = *(u16 *)(r7 + 24)\nr1 = r6\n" + call + skb_again + "r0 = *(u16 *)(r7 + 24)\nr0 ^= r9\n");
}
/// One call with 1 in the 8 bytes at r10-8, and one with 2.
std::string twice(const std::string &call, const std::string &second) {
  return "*(u64 *)(r10 - 8) = 1\n" + call + "*(u64 *)(r10 - 8) = 2\n" + second;
}
std::string twice(const std::string &call) { return twice(call, call) + "r0 = 1\n"; }
/// 0 in the 8 bytes at r10-8, a call that writes them.
std::string written(const std::string &call) {
  return "*(u64 *)(r10 - 8) = 0\n" + call + "r0 = *(u32 *)(r10 - 8)\n";
}

const std::string hash = "-- map m hash key=8 value=8 entries=4\n0100000000000000: "
                         "0a00000000000000\n0200000000000000: 1400000000000000\n";
/// Looked up by a call; hash tables are searched inline, with the key by value.
const std::string trie = "-- map m lpm_trie key=8 value=8 entries=4 flags=1\n0100000000000000: "
                         "0a00000000000000\n0200000000000000: 1400000000000000\n";
const std::string percpu = "-- map m percpu_hash key=8 value=8 entries=4\n0100000000000000: "
                           "0a00000000000000\n0200000000000000: 1400000000000000\n";
const std::string array = "-- map m array key=4 value=8 entries=4\n";
const std::string perf = "-- map m perf_event_array key=4 value=4 entries=4\n";
const std::string ring = "-- map m ringbuf key=0 value=0 entries=4096\n";
const std::string map_and_key = "r1 = map m ll\nr2 = r10\nr2 += -8\n";
const std::string perf_call =
    "r1 = r6\nr2 = map m ll\nr3 = 0xffffffff ll\nr4 = r10\nr4 += -8\nr5 = 8\ncall perf_event_output\n";
const std::string load_bytes = "r1 = r6\nr2 = 14\nr3 = r10\nr3 += -8\nr4 = 8\n";
const std::string two_results = "r9 <<= 8\nr9 &= 0xff00\nr0 &= 0xff\nr0 += r9\n";
std::string look_up(const std::string &helper) {
  std::string call =
      map_and_key + "r3 = 0\ncall " + helper + "\nif r0 == 0 goto out\nr0 = *(u64 *)(r0 + 0)\n";
  return xdp(twice(call + "r9 = r0\n", call) + two_results);
}

const std::vector<Shown> &shown() {
  static const std::vector<Shown> all = {
      {"bpf_map_lookup_elem", Lie::reads_nothing, look_up("map_lookup_elem"), trie},
      {"bpf_map_lookup_percpu_elem", Lie::reads_nothing, look_up("map_lookup_percpu_elem"), percpu},
      {"bpf_map_update_elem", Lie::touches_nothing,
       xdp("*(u32 *)(r10 - 4) = 0\n*(u64 *)(r10 - 16) = 77\nr1 = map m ll\nr2 = r10\nr2 += -4\ncall "
           "map_lookup_elem\n"
           "if r0 == 0 goto out\nr7 = r0\nr8 = *(u64 *)(r7 + 0)\nr1 = map m ll\nr2 = r10\nr2 += -4\nr3 = "
           "r10\nr3 += -16\n"
           "r4 = 0\ncall map_update_elem\nr0 = *(u64 *)(r7 + 0)\nr0 += r8\n"),
       array},
      {"bpf_map_update_elem", Lie::reads_nothing,
       xdp(twice(map_and_key + "r3 = r10\nr3 += -8\nr4 = 0\ncall map_update_elem\n")), hash},
      {"bpf_map_delete_elem", Lie::reads_nothing, xdp(twice(map_and_key + "call map_delete_elem\n")), hash},
      {"bpf_skb_store_bytes", Lie::touches_nothing,
       skb("*(u64 *)(r10 - 8) = 0x55\nr9 = *(u8 *)(r7 + 14)\nr1 = r6\nr2 = 14\nr3 = r10\nr3 += -8\nr4 = "
           "1\nr5 = 0\n"
           "call skb_store_bytes\n" +
           skb_again + "r0 = *(u8 *)(r7 + 14)\nr0 ^= r9\n")},
      {"bpf_skb_store_bytes", Lie::reads_nothing,
       skb(twice("r1 = r6\nr2 = 14\nr3 = r10\nr3 += -8\nr4 = 1\nr5 = 0\ncall skb_store_bytes\n",
                 "r1 = r6\nr2 = 15\nr3 = r10\nr3 += -8\nr4 = 1\nr5 = 0\ncall skb_store_bytes\n"))},
      {"bpf_l3_csum_replace", Lie::touches_nothing,
       bytes_at_24("r2 = 24\nr3 = 1\nr4 = 7\nr5 = 2\ncall l3_csum_replace\n")},
      {"bpf_l4_csum_replace", Lie::touches_nothing,
       bytes_at_24("r2 = 24\nr3 = 1\nr4 = 7\nr5 = 2\ncall l4_csum_replace\n")},
      {"bpf_clone_redirect", Lie::touches_nothing,
       skb("*(u8 *)(r7 + 14) = 1\nr1 = r6\nr2 = 1\nr3 = 0\ncall clone_redirect\n" + skb_again +
           "*(u8 *)(r7 + 14) = 2\nr0 = 1\n")},
      {"bpf_skb_vlan_push", Lie::touches_nothing, field(20, "r2 = 129\nr3 = 5\ncall skb_vlan_push\n")},
      {"bpf_skb_vlan_pop", Lie::touches_nothing,
       skb("r1 = r6\nr2 = 129\nr3 = 5\ncall skb_vlan_push\nr9 = *(u32 *)(r6 + 20)\nr1 = r6\ncall "
           "skb_vlan_pop\n"
           "r0 = *(u32 *)(r6 + 20)\nr0 <<= 8\nr0 += r9\n")},
      {"bpf_skb_get_tunnel_key", Lie::writes_nothing,
       skb("*(u64 *)(r10 - 48) = 5\nr1 = r6\nr2 = r10\nr2 += -48\nr3 = 44\nr4 = 0\ncall skb_get_tunnel_key\n"
           "r0 = *(u64 *)(r10 - 48)\n")},
      {"bpf_perf_event_output", Lie::reads_nothing, skb(twice(perf_call)), perf},
      {"bpf_skb_load_bytes", Lie::writes_nothing, skb(written(load_bytes + "call skb_load_bytes\n"))},
      {"bpf_skb_load_bytes_relative", Lie::writes_nothing,
       skb(written(load_bytes + "r5 = 0\ncall skb_load_bytes_relative\n"))},
      {"bpf_csum_diff", Lie::reads_nothing,
       xdp(twice("r1 = 0\nr2 = 0\nr3 = r10\nr3 += -8\nr4 = 8\nr5 = 0\ncall csum_diff\nr9 = r0\n",
                 "r1 = 0\nr2 = 0\nr3 = r10\nr3 += -8\nr4 = 8\nr5 = 0\ncall csum_diff\n") +
           two_results)},
      {"bpf_skb_change_proto", Lie::touches_nothing,
       field(16, "r2 = 0xdd86\nr3 = 0\ncall skb_change_proto\n")},
      {"bpf_skb_change_type", Lie::touches_nothing, field(4, "r2 = 1\ncall skb_change_type\n")},
      {"bpf_get_hash_recalc", Lie::touches_nothing, field(68, "call get_hash_recalc\n")},
      {"bpf_skb_change_tail", Lie::touches_nothing, field(0, "r2 = 50\nr3 = 0\ncall skb_change_tail\n")},
      {"bpf_skb_change_head", Lie::touches_nothing, field(0, "r2 = 16\nr3 = 0\ncall skb_change_head\n")},
      {"bpf_skb_adjust_room", Lie::touches_nothing,
       field(0, "r2 = 20\nr3 = 0\nr4 = 0\ncall skb_adjust_room\n")},
      {"bpf_set_hash", Lie::touches_nothing, field(68, "r2 = 7\ncall set_hash\n")},
      {"bpf_set_hash_invalid", Lie::touches_nothing,
       skb("r1 = r6\nr2 = 7\ncall set_hash\nr9 = *(u32 *)(r6 + 68)\nr1 = r6\ncall set_hash_invalid\nr0 = "
           "*(u32 *)(r6 + 68)\n"
           "r0 <<= 8\nr0 += r9\n")},
      {"bpf_skb_set_tstamp", Lie::touches_nothing,
       skb("r9 = *(u64 *)(r6 + 152)\nr1 = r6\nr2 = 77\nr3 = 1\ncall skb_set_tstamp\nr0 = *(u64 *)(r6 + "
           "152)\nr0 ^= r9\n")},
      {"bpf_xdp_adjust_head", Lie::touches_nothing,
       xdp("r9 = *(u8 *)(r7 + 0)\nr1 = r6\nr2 = 4\ncall xdp_adjust_head\n" + xdp_again +
           "r0 = *(u8 *)(r7 + 0)\nr0 <<= 8\nr0 += r9\n")},
      {"bpf_xdp_adjust_meta", Lie::touches_nothing,
       xdp("r9 = *(u32 *)(r6 + 8)\nr1 = r6\nr2 = -4\ncall xdp_adjust_meta\nr0 = *(u32 *)(r6 + 8)\nr0 -= "
           "r9\n")},
      {"bpf_xdp_adjust_tail", Lie::touches_nothing,
       xdp("r1 = r6\nr2 = -8\ncall xdp_adjust_tail\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr0 = "
           "r8\nr0 -= r7\n")},
      {"bpf_fib_lookup", Lie::writes_nothing,
       xdp("*(u64 *)(r10 - 64) = 2\n*(u64 *)(r10 - 56) = 0\n*(u64 *)(r10 - 48) = 0\n*(u64 *)(r10 - 40) = "
           "0\n*(u64 *)(r10 - 32) = 0\n"
           "*(u64 *)(r10 - 24) = 0\n*(u64 *)(r10 - 16) = 0\n*(u64 *)(r10 - 8) = 0\n*(u32 *)(r10 - 56) = "
           "1\n*(u32 *)(r10 - 32) = 0x0100000a\n"
           "*(u32 *)(r10 - 48) = 0x0200000a\n*(u32 *)(r10 - 44) = 0x0100000a\n"
           "r1 = r6\nr2 = r10\nr2 += -64\nr3 = 64\nr4 = 0\ncall fib_lookup\nr0 = *(u32 *)(r10 - 56)\nr1 = "
           "*(u64 *)(r10 - 8)\nr0 += r1\n")},
      {"bpf_ringbuf_output", Lie::reads_nothing,
       xdp(twice("r1 = map m ll\nr2 = r10\nr2 += -8\nr3 = 8\nr4 = 0\ncall ringbuf_output\n")), ring},
      {"bpf_trace_printk", Lie::reads_nothing,
       xdp("*(u64 *)(r10 - 8) = 0x61\nr1 = r10\nr1 += -8\nr2 = 2\nr3 = 0\nr4 = 0\nr5 = 0\ncall "
           "trace_printk\n*(u64 *)(r10 - 8) = 0x62\nr1 = r10\nr1 += -8\n"
           "r2 = 2\nr3 = 0\nr4 = 0\nr5 = 0\ncall trace_printk\nr0 = 1\n")},
      {"bpf_redirect_neigh", Lie::reads_nothing,
       skb("*(u64 *)(r10 - 24) = 2\n*(u64 *)(r10 - 16) = 0x0100000a\n*(u64 *)(r10 - 8) = 0\nr1 = 1\nr2 = "
           "r10\nr2 += -24\nr3 = 20\nr4 = 0\n"
           "call redirect_neigh\n")},
      {"bpf_check_mtu", Lie::writes_nothing,
       skb("*(u64 *)(r10 - 8) = 0\nr1 = r6\nr2 = 2\nr3 = r10\nr3 += -8\nr4 = 0\nr5 = 0\ncall check_mtu\nr0 = "
           "*(u32 *)(r10 - 8)\n")},
      {"bpf_xdp_load_bytes", Lie::writes_nothing, xdp(written(load_bytes + "call xdp_load_bytes\n"))},
      {"bpf_xdp_store_bytes", Lie::touches_nothing,
       xdp("*(u64 *)(r10 - 8) = 0x55\nr9 = *(u8 *)(r7 + 14)\n" + load_bytes + "call xdp_store_bytes\n" +
           xdp_again + "r0 = *(u8 *)(r7 + 14)\nr0 ^= r9\n")},
      {"bpf_xdp_store_bytes", Lie::reads_nothing,
       xdp(twice(load_bytes + "call xdp_store_bytes\n",
                 "r1 = r6\nr2 = 24\nr3 = r10\nr3 += -8\nr4 = 8\ncall xdp_store_bytes\n"))},
      {"bpf_get_prandom_u32", Lie::is_pure,
       xdp("call get_prandom_u32\nr9 = r0\ncall get_prandom_u32\nr0 -= r9\n")},
      {"bpf_redirect", Lie::is_pure, skb("r1 = 1\nr2 = 0\ncall redirect\nr0 = 7\n")},
  };
  return all;
}

/// Rows with pointers or effects on memory, of helpers that the embedded kernel has.
const std::pair<std::string_view, std::string_view> not_shown[] = {
    {"bpf_tail_call", "is never a call"},
    {"bpf_loop", "is never a call"},
    {"bpf_for_each_map_elem", "is not described to the optimiser: its callback is our own code"},
    {"bpf_spin_lock", "orders accesses for other CPUs only: Litmus.SpinLock"},
    {"bpf_spin_unlock", "orders accesses for other CPUs only: Litmus.SpinLock"},
    {"bpf_skb_pull_data", "packets of the embedded kernel are linear: it changes nothing"},
    {"bpf_csum_update", "changes a checksum that programs cannot read"},
    {"bpf_csum_level", "changes a checksum that programs cannot read"},
    {"bpf_skb_set_tunnel_key", "needs a tunnel device"},
    {"bpf_sk_lookup_tcp", "the embedded kernel has no sockets"},
    {"bpf_sk_lookup_udp", "the embedded kernel has no sockets"},
    {"bpf_skc_lookup_tcp", "the embedded kernel has no sockets"},
    {"bpf_sk_release", "the embedded kernel has no sockets"},
    {"bpf_ringbuf_submit",
     "its memory carries no domain, and nothing comes behind it that a program could write"},
    {"bpf_ringbuf_discard",
     "its memory carries no domain, and nothing comes behind it that a program could write"},
    {"bpf_ringbuf_reserve", "has no pointer arguments, its memory carries no domain"},
    {"bpf_strncmp", "its second string is a pointer of any kind: then no row is believed"},
    {"bpf_skb_output", "for tracing programs"},
    {"bpf_xdp_output", "for tracing programs"},
    {"bpf_get_socket_cookie", "reads what programs cannot write"},
    {"bpf_get_netns_cookie", "reads what programs cannot write"},
    {"bpf_get_cgroup_classid", "reads what programs cannot write"},
    {"bpf_get_route_realm", "reads what programs cannot write"},
    {"bpf_skb_cgroup_id", "reads what programs cannot write"},
    {"bpf_skb_ancestor_cgroup_id", "reads what programs cannot write"},
    {"bpf_skb_cgroup_classid", "reads what programs cannot write"},
    {"bpf_xdp_get_buff_len", "reads what programs cannot write"},
};

// --- Tests -------------------------------------------------------------------------------------------

class Mutation : public testing::TestWithParam<size_t> {
protected:
  void TearDown() override { effects_override_for_tests = nullptr; }

  size_t differences(const Case &c) {
    CapturedPacket packet; // IPv4, TCP
    packet.bytes = *from_hex("020000000001020000000002080045000040000040004006000"
                             "00a0000020a000001303900500000000100000002501000"
                             "000000000000000000000000000000000000000000");
    packet.bytes.resize(80);
    const std::vector<CapturedPacket> packets = {packet};
    Execution x{c.pipeline, ProgId(0), packets, c.seeds, {}};
    FibRoute route;
    route.ifindex = 9;
    x.routes = {route};
    LinkOptions options;
    options.disabled = {"inline-helpers", "inline-skb-helpers", "inline-updates"}; // code has no row
    auto result = check(x, options, false);
    if (!result) {
      ADD_FAILURE() << llvm::toString(result.takeError());
      return 0;
    }
    for (const Difference &d : result->differences)
      if (!effects_override_for_tests)
        ADD_FAILURE() << print_difference(d);
    return result->total_differences;
  }
};

TEST_P(Mutation, IsNoticed) {
  const Shown &s = shown()[GetParam()];
  auto c = parse_case(s.program + s.maps + "-- packet\n00\n-- result\n0\n", "mutation");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  c->pipeline.entries = {ProgId(0)};
  const HelperEffects *row = find_effects(find_helper(s.helper)->id);
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(differences(*c), 0u);
  lying_row = with(*row, s.lie);
  ASSERT_NE(lying_row, *row);
  effects_override_for_tests = lying;
  EXPECT_GT(differences(*c), 0u) << s.helper;
}

std::string name_of_mutation(const testing::TestParamInfo<size_t> &info) {
  static const char *const lies[] = {"TouchesNothing", "WritesNothing", "ReadsNothing", "IsPure"};
  const Shown &s = shown()[info.param];
  return std::string(s.helper) + "_" + lies[size_t(s.lie)];
}
INSTANTIATE_TEST_SUITE_P(HelperEffects, Mutation, testing::Range<size_t>(0, shown().size()),
                         name_of_mutation);

TEST(HelperEffects, EveryRowWithMemoryIsShownOrSaysWhyNot) {
  std::set<std::string_view> known;
  for (const Shown &s : shown())
    known.insert(s.helper);
  for (auto &[helper, reason] : not_shown) {
    EXPECT_FALSE(known.contains(helper)) << helper;
    known.insert(helper);
  }
  for (const HelperEffects &e : effects_table()) {
    std::string_view name = find_helper(e.id)->name;
    bool memory = e.touches != touch_nothing;
    for (Arg a : e.args)
      memory |= a != Arg::none && a != Arg::scalar && a != Arg::map && a != Arg::ctx && a != Arg::size;
    if (memory && (find_helper_address(name) || e.id == helper_tail_call)) {
      EXPECT_TRUE(known.contains(name)) << name;
    }
  }
}

} // namespace
} // namespace ujit
