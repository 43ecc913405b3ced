#include "lto/trace.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

Trace sample(const char *executor) {
  Trace t;
  t.executor = executor;
  Observation o;
  o.retval = 2;
  o.packet = std::vector<uint8_t>(40, 7);
  o.redirect = std::optional<RedirectTarget>{};
  t.packets = {o, o};
  t.maps = {{"a", {{{0, 0}, {{1, 2}}}}}, {"b", {{{1}, {{1}, {2}}}}}};
  t.events = {{"events", {{1, 2, 3}}, false}};
  return t;
}

TEST(Trace, EqualTracesDoNotDiffer) { EXPECT_EQ(compare(sample("x"), sample("y")).total, 0u); }

TEST(Trace, EveryFieldIsCompared) {
  Trace y = sample("y");
  y.packets[0].retval = uint32_t(-1);
  y.packets[1].packet[20] = 8;
  y.packets[1].redirect = std::optional<RedirectTarget>({"tx", 3, 0});
  y.maps[0].entries[0].values[0][1] = 9;
  y.maps[1].entries[0].values[1] = {3};
  y.maps[1].entries.push_back({{2}, {{5}, {5}}});
  y.events[0].samples[0].pop_back();
  const Comparison c = compare(sample("x"), y);
  std::string all;
  for (const Difference &d : c.differences)
    all += print_difference(d);
  EXPECT_EQ(all,
            "difference: packet 0, return value\n  x  2\n  y  -1\n"
            "difference: packet 1, packet\n"
            "  x  40 bytes, 0x0010: 07 07 07 07 [07] 07 07 07 07 07 07 07 07 07 07 07\n"
            "  y  40 bytes, 0x0010: 07 07 07 07 [08] 07 07 07 07 07 07 07 07 07 07 07\n"
            "difference: packet 1, redirect\n  x  none\n  y  tx[3]\n"
            "difference: map a[0000]\n  x  2 bytes, 0x0000: 01 [02]\n  y  2 bytes, 0x0000: 01 [09]\n"
            "difference: map b[01], CPU 1\n  x  1 bytes, 0x0000: [02]\n  y  1 bytes, 0x0000: [03]\n"
            "difference: map b[02]\n  x  absent\n  y  1 bytes, 0x0000: [05]\n"
            "difference: event 0 of events\n  x  3 bytes, 0x0000: 01 02 [03]\n  y  2 bytes, 0x0000: 01 02\n");
}

TEST(Trace, WhatIsNotObservedIsNotCompared) {
  Trace y = sample("y");
  y.packets[0].redirect.reset();
  y.packets[1].not_run = true;
  y.packets[1].retval = 5;
  y.events[0].padded = true;
  y.events[0].samples[0] = {1, 2, 3, 0, 0};
  y.maps.pop_back();
  EXPECT_EQ(compare(sample("x"), y).total, 0u);
}

TEST(Trace, DifferencesAreCapped) {
  Trace x = sample("x"), y = sample("y");
  x.packets.resize(50, x.packets[0]);
  y.packets.resize(50, y.packets[0]);
  for (Observation &o : y.packets)
    o.retval = 0;
  const Comparison c = compare(x, y, 10);
  EXPECT_EQ(c.differences.size(), 10u);
  EXPECT_EQ(c.total, 50u);
}

} // namespace
} // namespace ujit
