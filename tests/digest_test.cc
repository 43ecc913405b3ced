#include "lto/digest.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

Map make_map(std::string name, MapType type, uint32_t value_size, uint32_t max_entries) {
  Map map;
  map.name = std::move(name);
  map.type = type;
  map.key_size = 4;
  map.value_size = value_size;
  map.max_entries = max_entries;
  return map;
}

Program make_program(std::string name, std::vector<Insn> insns) {
  Program program;
  program.subprograms = {{name, 0, uint32_t(insns.size()), 0}};
  program.name = std::move(name);
  program.type = ProgType::xdp;
  program.insns = std::move(insns);
  return program;
}

Pipeline small_pipeline() {
  Pipeline p;
  p.maps = {make_map("config", MapType::array, 16, 1), make_map("jmp", MapType::prog_array, 4, 8)};
  p.maps[0].frozen = true;
  p.maps[0].contents = std::vector<uint8_t>(16, 3);
  p.maps[0].bound = {{"endpoint", 4, 4, 7}};
  p.maps[1].prog_slots = {{3, ProgId(1)}};
  const Insn second_half{}, exit{0x95, 0, 0, 0, 0};
  p.programs = {
      make_program(
          "one",
          {{0x18, 1, 1, 0, 0}, second_half, {0x18, 2, 2, 0, 0}, {0, 0, 0, 0, 4}, {0xb7, 0, 0, 0, 7}, exit}),
      make_program("two", {{0x18, 2, 1, 0, 1}, second_half, exit})};
  p.entries = {ProgId(0)};
  return p;
}

TEST(Digest, DoesNotDependOnNumbers) {
  Pipeline a = small_pipeline(), b = small_pipeline();
  std::swap(b.maps[0], b.maps[1]);
  std::swap(b.programs[0], b.programs[1]);
  b.programs[1].insns[0].imm = b.programs[1].insns[2].imm = 1;
  b.programs[0].insns[0].imm = 0;
  b.maps[0].prog_slots = {{3, ProgId(0)}};
  b.entries = {ProgId(1)};
  EXPECT_EQ(program_digest(a, ProgId(0)), program_digest(b, ProgId(1)));
  EXPECT_EQ(program_digest(a, ProgId(1)), program_digest(b, ProgId(0)));
  EXPECT_EQ(pipeline_digest(a), pipeline_digest(b));
  EXPECT_NE(program_digest(a, ProgId(0)), program_digest(a, ProgId(1)));
  EXPECT_EQ(program_digest(a, ProgId(0)).size(), 64u);
}

TEST(Digest, CoversWhatTheCodeDependsOn) {
  const Pipeline base = small_pipeline();
  auto changes = [&](auto change) {
    Pipeline p = base;
    change(p);
    EXPECT_NE(pipeline_digest(p), pipeline_digest(base));
    return program_digest(p, ProgId(0)) != program_digest(base, ProgId(0));
  };
  EXPECT_TRUE(changes([](Pipeline &p) { p.programs[0].insns[4].imm = 8; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.programs[0].insns[3].imm = 8; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.programs[0].type = ProgType::sched_cls; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.maps[0].contents[0] = 1; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.maps[0].value_size = 17; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.maps[0].name = "konfig"; }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.maps[0].bound.clear(); }));
  EXPECT_TRUE(changes([](Pipeline &p) { p.maps[0].inner = MapId(0); }));
  EXPECT_FALSE(changes([](Pipeline &p) { p.maps[1].max_entries = 9; }));
  EXPECT_FALSE(changes([](Pipeline &p) { p.maps[1].prog_slots[0].first = 4; }));
  EXPECT_FALSE(changes([](Pipeline &p) { p.entries.clear(); }));

  Pipeline same = base;
  same.maps[0].contents[5] = 99; // bound
  same.maps[0].bound[0].value = 8;
  same.programs[0].lines = {{0, "a.c", 1, ""}};
  EXPECT_EQ(pipeline_digest(same), pipeline_digest(base));
}

} // namespace
} // namespace ujit
