#include "lto/check.h"
#include "lto/trace_bytes.h"

#include "tests/support/case_file.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

constexpr std::string_view two_programs = R"(-- prog entry xdp
r6 = r1
r7 = *(u32 *)(r6 + 0)
r8 = *(u32 *)(r6 + 4)
r2 = r7
r2 += 14
if r2 > r8 goto short
r3 = *(u8 *)(r7 + 12)
r1 = r6
r2 = map calls ll
call tail_call
r0 = 2
exit
short:
r0 = 1
exit
-- prog leaf xdp
r6 = 0
*(u32 *)(r10 - 4) = r6
r1 = map counts ll
r2 = r10
r2 += -4
call map_lookup_elem
if r0 == 0 goto out
r1 = *(u64 *)(r0 + 0)
r1 += 1
*(u64 *)(r0 + 0) = r1
out:
r0 = 3
exit
-- map calls prog_array key=4 value=4 entries=4
1: leaf
-- map counts array key=4 value=8 entries=1
-- packet
0102030405060708090a0b0c01000000
-- result
3
)";

Expected<Case> parse(std::string_view text) {
  Expected<Case> c = parse_case(text, "t.case");
  if (c)
    c->pipeline.entries = {ProgId(0)};
  return c;
}

CapturedPacket packet(uint8_t selector, size_t size = 20) {
  CapturedPacket p;
  p.bytes.assign(size, 0);
  if (size > 12)
    p.bytes[12] = selector;
  return p;
}

TEST(Check, AllExecutorsAgree) {
  auto c = parse(two_programs);
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  const std::vector<CapturedPacket> packets = {packet(1), packet(0), packet(1), packet(9), packet(1, 5)};
  const std::vector<MapSeed> seeds = {{"counts", {{{0, 0, 0, 0}, {{40, 0, 0, 0, 0, 0, 0, 0}}}}}};
  auto r = check({c->pipeline, ProgId(0), packets, seeds, {}}, {}, true);
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  for (const Difference &d : r->differences)
    ADD_FAILURE() << print_difference(d);
  EXPECT_EQ(r->total_differences, 0u);
  EXPECT_EQ(r->packets, 4u);
  ASSERT_EQ(r->not_checked.size(), 1u);
  EXPECT_EQ(r->not_checked[0].first, 4u);
  EXPECT_EQ(r->executors.size(), 4u);
}

TEST(Check, TracesHoldVerdictsAndMaps) {
  auto c = parse(two_programs);
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  const std::vector<CapturedPacket> packets = {packet(1), packet(0), packet(1)};
  const std::vector<MapSeed> seeds = {{"counts", {{{0, 0, 0, 0}, {{40, 0, 0, 0, 0, 0, 0, 0}}}}}};
  auto t = execute_interpreter({c->pipeline, ProgId(0), packets, seeds, {}});
  ASSERT_TRUE(bool(t)) << llvm::toString(t.takeError());
  EXPECT_EQ(t->packets[0].result.value, 3u);
  EXPECT_EQ(t->packets[1].result.value, 2u);
  ASSERT_EQ(t->maps.size(), 1u);
  EXPECT_EQ(t->maps[0].entries[0].values[0][0], 42);
}

/// Code that the verifier would never let through: the worker dies, the tool does not.
TEST(Check, FaultNamesProgramAndInstruction) {
  auto c = parse(R"(-- prog entry xdp
r6 = r1
r2 = map calls ll
r3 = 0
call tail_call
r0 = 2
exit
-- prog wild xdp
r1 = *(u32 *)(r1 + 0)
r2 = 0x100000000000 ll
r1 += r2
r0 = *(u64 *)(r1 + 0)
exit
-- map calls prog_array key=4 value=4 entries=1
0: wild
-- packet
00
-- result
0
)");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  auto linked = link(c->pipeline, {});
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  const std::vector<CapturedPacket> packets = {packet(0)};
  auto t = execute_image({c->pipeline, ProgId(0), packets, {}, {}}, linked->image.object, "fused");
  ASSERT_FALSE(bool(t));
  const std::string text = llvm::toString(t.takeError());
  EXPECT_NE(text.find("wild: insn 4: fused code: SIGSEGV"), std::string::npos) << text;
  EXPECT_NE(text.find("at packet 1"), std::string::npos) << text;
}

TEST(TraceBytes, ReadBackEqualOrRefused) {
  Trace t;
  t.executor = "x";
  t.measured_seconds = 1.5;
  Observation o;
  o.result.value = 7;
  o.result.packet = {1, 2, 3};
  o.result.context = {4};
  o.result.redirect.kind = Redirect::map;
  o.result.redirect.map_id = MapId(3);
  o.result.events = {{MapId(1), 2, {5, 6}}};
  o.result.clones = {{1, 2, {7}}};
  o.result.printed = {"hello"};
  o.not_run = "why";
  t.packets = {o, o};
  t.maps = {{"m", {{{1}, {{2}, {3}}}}}};
  const std::vector<uint8_t> bytes = pack(t);
  auto back = unpack(bytes);
  ASSERT_TRUE(bool(back)) << llvm::toString(back.takeError());
  EXPECT_EQ(back->executor, "x");
  EXPECT_EQ(back->packets[1].result, o.result);
  EXPECT_EQ(back->packets[1].not_run, "why");
  EXPECT_EQ(back->maps, t.maps);
  EXPECT_EQ(back->measured_seconds, 1.5);
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto cut = unpack(std::span(bytes).first(i));
    EXPECT_FALSE(bool(cut)) << i;
    llvm::consumeError(cut.takeError());
    std::vector<uint8_t> damaged = bytes;
    damaged[i] ^= 0xff;
    llvm::consumeError(unpack(damaged).takeError());
  }
}

} // namespace
} // namespace ujit
