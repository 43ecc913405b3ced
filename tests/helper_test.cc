#include "translator/context.h"
#include "translator/helper.h"
#include "translator/instance.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <linux/bpf.h>

namespace ujit {
namespace {

TEST(HelperTable, HoldsEveryHelperOfTheHeader) {
  EXPECT_GE(helper_table().size(), 211u);
  for (const Helper &h : helper_table()) {
    EXPECT_TRUE(h.name.starts_with("bpf_")) << h.name;
    EXPECT_LE(h.argc, 5) << h.name;
    EXPECT_EQ(find_helper(h.id), &h);
    ASSERT_NE(find_helper(h.name), nullptr);
    EXPECT_EQ(find_helper(h.name)->id, h.id);
  }
  EXPECT_EQ(find_helper(0u), nullptr);
  EXPECT_EQ(find_helper(1u << 30), nullptr);
  EXPECT_EQ(find_helper("bpf_nothing"), nullptr);
}

TEST(HelperTable, CountsArguments) {
  auto argc = [](std::string_view name) { return int(find_helper(name)->argc); };
  EXPECT_EQ(argc("bpf_ktime_get_ns"), 0);
  EXPECT_EQ(argc("bpf_map_lookup_elem"), 2);
  EXPECT_EQ(argc("bpf_map_update_elem"), 4);
  EXPECT_EQ(argc("bpf_trace_printk"), 5);
  EXPECT_EQ(argc("bpf_tail_call"), 3);
  EXPECT_EQ(find_helper(helper_tail_call)->name, "bpf_tail_call");
  EXPECT_EQ(find_helper(helper_map_delete_elem)->name, "bpf_map_delete_elem");
}

TEST(HelperEffects, AgreeWithTheGeneratedTable) {
  for (const HelperEffects &e : effects_table()) {
    const Helper *h = find_helper(e.id);
    ASSERT_NE(h, nullptr) << e.id;
    EXPECT_EQ(find_effects(e.id), &e);
    int args = 0;
    while (args < 5 && e.args[args] != Arg::none)
      args++;
    for (int i = args; i < 5; i++)
      EXPECT_EQ(e.args[i], Arg::none) << h->name;
    EXPECT_EQ(args, h->argc) << h->name;
    for (int i = 0; i < args; i++) {
      bool sized = e.args[i] == Arg::mem_read || e.args[i] == Arg::mem_write || e.args[i] == Arg::mem_rw;
      EXPECT_EQ(sized, i + 1 < args && e.args[i + 1] == Arg::size) << h->name << " argument " << i;
      if (e.args[i] == Arg::fixed_mem) {
        EXPECT_NE(e.fixed_size, 0u) << h->name;
      }
    }
  }
}

TEST(HelperEffects, AreConsistent) {
  for (const HelperEffects &e : effects_table()) {
    std::string_view name = find_helper(e.id)->name;
    if (e.moves_packet) {
      EXPECT_TRUE(e.touches & writes_ctx) << name;
      EXPECT_TRUE(e.touches & writes_packet) << name;
    }
    if (e.callback) {
      EXPECT_EQ(e.touches, touches_everything) << name;
    }
    if (e.pure) {
      EXPECT_FALSE(e.touches & (writes_ctx | writes_packet | writes_maps)) << name;
      EXPECT_FALSE(e.moves_packet || e.captures || e.callback) << name;
      for (Arg a : e.args)
        EXPECT_TRUE(a != Arg::mem_write && a != Arg::mem_rw && a != Arg::value_out && a != Arg::fixed_mem)
            << name;
    }
  }
}

/// The kernel's bpf_helper_changes_pkt_data(), written down a second time.
TEST(HelperEffects, KnowsWhatMovesPacketData) {
  for (std::string_view name :
       {"bpf_clone_redirect", "bpf_l3_csum_replace", "bpf_l4_csum_replace", "bpf_skb_adjust_room",
        "bpf_skb_change_head", "bpf_skb_change_proto", "bpf_skb_change_tail", "bpf_skb_pull_data",
        "bpf_skb_store_bytes", "bpf_skb_vlan_pop", "bpf_skb_vlan_push", "bpf_xdp_adjust_head",
        "bpf_xdp_adjust_meta", "bpf_xdp_adjust_tail"}) {
    const HelperEffects *e = find_effects(find_helper(name)->id);
    ASSERT_NE(e, nullptr) << name;
    EXPECT_TRUE(e->moves_packet) << name;
  }
  EXPECT_FALSE(find_effects(helper_map_lookup_elem)->moves_packet);
}

TEST(ContextFields, FollowTheUapiStructs) {
  const ContextField *data = context_field(ProgType::xdp, offsetof(xdp_md, data), 4);
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(data->kind, FieldKind::packet);
  EXPECT_EQ(data->target, offsetof(XdpContext, packet));
  const ContextField *cb = context_field(ProgType::sched_cls, offsetof(__sk_buff, cb[3]), 4);
  ASSERT_NE(cb, nullptr);
  EXPECT_EQ(cb->name, "cb");
  EXPECT_TRUE(cb->writable);
  EXPECT_EQ(cb->size, 20);
  EXPECT_FALSE(context_field(ProgType::sched_cls, offsetof(__sk_buff, len), 4)->writable);
  EXPECT_TRUE(context_field(ProgType::sched_cls, offsetof(__sk_buff, mark), 4)->writable);
  EXPECT_FALSE(context_field(ProgType::socket_filter, offsetof(__sk_buff, mark), 4)->writable);
  EXPECT_EQ(context_field(ProgType::sched_cls, offsetof(__sk_buff, data_end), 4)->target,
            offsetof(SkbContext, packet_end));
}

TEST(ContextFields, RefuseWhatLiesOutside) {
  EXPECT_EQ(context_field(ProgType::xdp, -4, 4), nullptr);
  EXPECT_EQ(context_field(ProgType::xdp, 24, 4), nullptr);
  EXPECT_EQ(context_field(ProgType::xdp, 2, 4), nullptr);
  EXPECT_EQ(context_field(ProgType::sched_cls, 192, 4), nullptr);
  EXPECT_EQ(context_field(ProgType::sched_cls, offsetof(__sk_buff, cb[4]), 8), nullptr);
  EXPECT_EQ(context_field(ProgType::kprobe, 0, 8), nullptr);
  EXPECT_TRUE(context_fields(ProgType::kprobe).empty());
}

TEST(InstanceLayout, IsSortedAndFollowsThePipeline) {
  Pipeline p;
  p.programs.resize(2);
  p.maps.resize(4);
  constexpr MapType types[] = {MapType::hash, MapType::percpu_array, MapType::array, MapType::array};
  for (size_t i = 0; i < p.maps.size(); i++)
    p.maps[i].type = types[i];
  p.maps[2].is_template = true;
  p.maps[3].contents = {1};
  p.maps[3].bound = {{"x", 0, 1, 7}};
  InstanceLayout layout(p);
  using S = InstanceSlot;
  std::vector<S> wanted = {{S::map, 0},     {S::map, 1},    {S::map, 3},         {S::values, 0},
                           {S::values, 1},  {S::values, 3}, {S::constant, 3, 0}, {S::program, 0},
                           {S::program, 1}, {S::cpu}};
  EXPECT_EQ(layout.slots(), wanted);
  for (size_t i = 0; i < wanted.size(); i++)
    EXPECT_EQ(layout.offset_of(wanted[i]), i * 8);
  EXPECT_EQ(array_stride(0), 0u);
  EXPECT_EQ(array_stride(1), 8u);
  EXPECT_EQ(array_stride(8), 8u);
  EXPECT_EQ(array_stride(0xffffffffu), 0x100000000u);
}

} // namespace
} // namespace ujit
