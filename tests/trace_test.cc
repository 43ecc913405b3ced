#include "lto/trace.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

Pipeline two_maps() {
  Pipeline p;
  p.maps.resize(2);
  p.maps[0].name = "a";
  p.maps[1].name = "events";
  return p;
}

Trace sample(const char *executor) {
  Trace t;
  t.executor = executor;
  PacketResult r;
  r.value = 2;
  r.packet = std::vector<uint8_t>(40, 7);
  r.context = {1, 2};
  r.events = {{MapId(1), 0, {1, 2, 3}}};
  t.packets = {{r, ""}, {r, ""}};
  t.maps = {{"a", {{{0, 0}, {{1, 2}}}}}, {"b", {{{1}, {{1}, {2}}}}}};
  return t;
}

TEST(Trace, EqualTracesDoNotDiffer) { EXPECT_EQ(compare(two_maps(), sample("x"), sample("y")).total, 0u); }

TEST(Trace, EveryFieldIsCompared) {
  Trace y = sample("y");
  y.packets[0].result.value = uint32_t(-1);
  y.packets[0].result.metadata = {1};
  y.packets[0].result.clones = {{3, 0, {}}};
  y.packets[0].result.printed = {"hello"};
  y.packets[1].result.packet[20] = 8;
  y.packets[1].result.context[1] = 3;
  y.packets[1].result.redirect.kind = Redirect::interface;
  y.packets[1].result.redirect.ifindex = 4;
  y.packets[1].result.events[0].data.pop_back();
  y.maps[0].entries[0].values[0][1] = 9;
  y.maps[1].entries[0].values[1] = {3};
  y.maps[1].entries.push_back({{2}, {{5}, {5}}});
  const Comparison c = compare(two_maps(), sample("x"), y, 20);
  std::string all;
  for (const Difference &d : c.differences)
    all += print_difference(d);
  EXPECT_EQ(all,
            "difference: packet 1, return value\n  x  2\n  y  -1\n"
            "difference: packet 1, metadata\n  x  0 bytes\n  y  1 byte, 0x0000: [01]\n"
            "difference: packet 1, number of clones\n  x  0\n  y  1\n"
            "difference: packet 1, printed text\n  x  \n  y  hello\n"
            "difference: packet 2, packet\n"
            "  x  40 bytes, 0x0010: 07 07 07 07 [07] 07 07 07 07 07 07 07 07 07 07 07\n"
            "  y  40 bytes, 0x0010: 07 07 07 07 [08] 07 07 07 07 07 07 07 07 07 07 07\n"
            "difference: packet 2, context\n  x  2 bytes, 0x0000: 01 [02]\n  y  2 bytes, 0x0000: 01 [03]\n"
            "difference: packet 2, redirect\n  x  none\n  y  interface 4\n"
            "difference: packet 2, event 0 of events\n"
            "  x  3 bytes, 0x0000: 01 02 [03]\n  y  2 bytes, 0x0000: 01 02\n"
            "difference: a[0000]\n  x  2 bytes, 0x0000: 01 [02]\n  y  2 bytes, 0x0000: 01 [09]\n"
            "difference: b[01], CPU 1\n  x  1 byte, 0x0000: [02]\n  y  1 byte, 0x0000: [03]\n"
            "difference: b[02]\n  x  absent\n  y  1 byte, 0x0000: 05\n");
}

TEST(Trace, WhatIsNotSeenIsNotCompared) {
  Trace y = sample("y");
  y.packets[0].result.context.clear();
  y.packets[0].result.redirect.kind = Redirect::peer;
  y.packets[0].result.clones.resize(1);
  y.packets[0].result.printed = {"x"};
  y.packets[0].result.events[0].data = {1, 2, 3, 0, 0};
  y.packets[1].not_run = "too short";
  y.packets[1].result = {};
  y.maps.pop_back();
  EXPECT_GT(compare(two_maps(), sample("x"), y).total, 0u);
  y.sees_redirects = y.sees_clones = y.sees_printed = false;
  y.pads_events = true;
  y.context_ranges.emplace();
  EXPECT_EQ(compare(two_maps(), sample("x"), y).total, 0u);
}

TEST(Trace, DifferencesAreCapped) {
  Trace x = sample("x"), y = sample("y");
  x.packets.resize(50, x.packets[0]);
  y.packets.resize(50, y.packets[0]);
  for (Observation &o : y.packets)
    o.result.value = 0;
  const Comparison c = compare(two_maps(), x, y, 10);
  EXPECT_EQ(c.differences.size(), 10u);
  EXPECT_EQ(c.total, 50u);
}

} // namespace
} // namespace ujit
