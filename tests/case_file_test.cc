#include "tests/support/simple_host.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

std::string error_of(std::string_view text) {
  auto c = parse_case(text, "dir/t.case");
  return c ? "no error" : llvm::toString(c.takeError());
}

TEST(CaseFile, HoldsEverySection) {
  auto c = parse_case(R"(# a comment
-- prog entry
exit
-- prog leaf sched_cls
r1 = map jmp ll
call own
exit
-- sub own
r0 = 2
exit
-- map jmp prog_array entries=4 edges=sealed pinned
3: leaf
1: entry
-- map table percpu_hash key=2 value=1 entries=8 flags=1
0102: 05 | 06
-- map config array frozen
data: 00000000 01
bound: id 0 4 0x7
-- map outer array_of_maps entries=2 inner=table
1: table
-- entry leaf entry
-- packet
01 02 # two bytes
03
-- packet out
ff
-- packet
04
-- result
0x10
-1
-- map out table
0102: 07
-- ir
  first
second
-- option modes=interpreter
)",
                      "dir/t.case");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  EXPECT_EQ(c->name, "t");
  const Pipeline &p = c->pipeline;
  ASSERT_EQ(p.programs.size(), 2u);
  EXPECT_EQ(p.programs[0].type, ProgType::xdp);
  EXPECT_EQ(p.programs[0].object, "t.case");
  EXPECT_EQ(p.programs[1].type, ProgType::sched_cls);
  EXPECT_EQ(p.programs[1].subprograms, (std::vector<Subprogram>{{"leaf", 0, 4, 0}, {"own", 4, 6, 0}}));
  EXPECT_EQ(line_at(p.programs[1], 4)->line, 9u);
  EXPECT_EQ(line_at(p.programs[1], 4)->text, "r0 = 2");
  EXPECT_EQ(p.maps[0].prog_slots, (std::vector<std::pair<uint32_t, ProgId>>{{1, ProgId(0)}, {3, ProgId(1)}}));
  EXPECT_TRUE(p.maps[0].pinned);
  EXPECT_EQ(p.maps[1].type, MapType::percpu_hash);
  EXPECT_EQ(p.maps[1].key_size, 2u);
  EXPECT_EQ(p.maps[2].contents, (std::vector<uint8_t>{0, 0, 0, 0, 1}));
  EXPECT_EQ(p.maps[2].value_size, 5u);
  EXPECT_TRUE(p.maps[2].frozen);
  EXPECT_EQ(p.maps[2].bound, (std::vector<BoundConstant>{{"id", 0, 4, 7}}));
  EXPECT_EQ(p.maps[3].inner, MapId(1));
  EXPECT_EQ(p.maps[3].inner_slots, (std::vector<std::pair<uint32_t, MapId>>{{1, MapId(1)}}));
  EXPECT_EQ(p.entries, (std::vector<ProgId>{ProgId(0), ProgId(1)}));
  EXPECT_EQ(c->edges, (std::vector<std::pair<MapId, std::string>>{{MapId(0), "sealed"}}));
  EXPECT_EQ(c->seeds, (std::vector<MapSeed>{{"table", {{{1, 2}, {{5}, {6}}}}}}));
  EXPECT_EQ(c->maps_out, (std::vector<MapSeed>{{"table", {{{1, 2}, {{7}}}}}}));
  ASSERT_EQ(c->inputs.size(), 2u);
  EXPECT_EQ(c->inputs[0].bytes, (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_EQ(c->inputs[0].out, (std::vector<uint8_t>{0xff}));
  EXPECT_EQ(c->inputs[0].result, 16u);
  EXPECT_EQ(c->inputs[1].result, UINT64_MAX);
  EXPECT_FALSE(c->inputs[1].out);
  EXPECT_EQ(c->ir, (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(c->options.at("modes"), "interpreter");
}

TEST(CaseFile, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(error_of(""), "t.case: line 1: no program");
  EXPECT_EQ(error_of("exit"), "t.case: line 1: text before the first section");
  EXPECT_EQ(error_of("-- prog"), "t.case: line 1: `-- prog NAME [TYPE]` expected");
  EXPECT_EQ(error_of("-- prog a nothing"), "t.case: line 1: program type `nothing` does not exist");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- prog a\nexit"), "t.case: line 3: program `a` is defined twice");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- sub\nexit"), "t.case: line 3: `-- sub NAME` expected");
  EXPECT_EQ(error_of("-- prog a\nfoo"), "t.case: line 2: `foo` is no instruction");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m"), "t.case: line 3: `-- map NAME TYPE ...` expected");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m tree"), "t.case: line 3: map type `tree` does not exist");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m hash key=x"), "t.case: line 3: `x` is no number");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m hash blue"),
            "t.case: line 3: `blue` says nothing about a map");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m hash inner=x"), "t.case: line 3: map `x` does not exist");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m hash\n0: 1"), "t.case: line 4: key: hex bytes expected");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m hash\n00: 1"), "t.case: line 4: value: hex bytes expected");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m prog_array\n0: b"),
            "t.case: line 4: program `b` does not exist");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map m prog_array\nx: a"), "t.case: line 4: slot `x` is no number");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- packet\n0g"), "t.case: line 4: hex bytes expected");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- packet out\n00"),
            "t.case: line 3: output without an input before it");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- result\nx"), "t.case: line 4: `x` is no number");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- result\n1\n2"), "t.case: line 1: 2 results for 1 inputs");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- map out m"), "t.case: line 3: `-- map out NAME` of a map expected");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- entry b"), "t.case: line 1: entry `b` is no program");
  EXPECT_EQ(error_of("-- prog a\nexit\n-- colour"), "t.case: line 3: section `colour` is unknown");
}

TEST(CaseFile, NamesEveryDifference) {
  auto c = parse_case(
      "-- prog a\nexit\n-- map m hash key=1 value=1\n-- memory\n01\n-- memory out\n02\n-- result\n7\n"
      "-- map out m\n01: 02\n",
      "t.case");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  CaseRun run{{8}, {{3}}, {{"m", {{{2}, {{2}}}}}}};
  EXPECT_EQ(differences(*c, run),
            (std::vector<std::string>{"input 0: result is 0x8, should be 0x7",
                                      "input 0: bytes are 03, should be 02", "map m: no entry 01: 02",
                                      "map m: unexpected entry 02: 02"}));
  EXPECT_EQ(differences(*c, {{7}, {{2}}, {{"m", {{{1}, {{2}}}}}}}), std::vector<std::string>{});
}

TEST(CaseFile, ReadsTheConformanceSuitesFormat) {
  auto c = parse_case(R"(-- asm
mov32 %r0, 1          # comment
lddw %r2, 0x1122334455667788
ldxdw %r3, [%r1+8]
stxb [%r10-1], %r2
sth [%r10-4], -1
jeq %r0, %r2, exit
lock fetch add32 [%r10-8], %r2
lock cmpxchg [%r10-16], %r3
movsx832 %r4, %r5
be16 %r0
swap32 %r0
neg %r0
sdiv32 %r0, -3
call local func1
ja +0
exit
func1:
exit
-- mem
00 11 22 33
44
-- result
0x5
)",
                      "t.data");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  EXPECT_EQ(c->rules, ImmediateRules::standard);
  EXPECT_EQ(c->inputs[0].bytes.size(), 5u);
  const auto &insns = c->pipeline.programs[0].insns;
  const char *texts[] = {"w0 = 1",
                         "r2 = 0x1122334455667788 ll",
                         "",
                         "r3 = *(u64 *)(r1 + 8)",
                         "*(u8 *)(r10 - 1) = r2",
                         "*(u16 *)(r10 - 4) = -1",
                         "if r0 == r2 goto +9",
                         "w2 = atomic_fetch_add((u32 *)(r10 - 8), w2)",
                         "r0 = cmpxchg_64(r10 - 16, r0, r3)",
                         "w4 = (s8)w5",
                         "r0 = be16 r0",
                         "r0 = bswap32 r0",
                         "r0 = -r0",
                         "w0 s/= -3",
                         "call pc+2",
                         "goto +0",
                         "exit",
                         "exit"};
  ASSERT_EQ(insns.size(), std::size(texts));
  for (uint32_t at = 0; at < insns.size(); at++)
    if (*texts[at]) {
      EXPECT_EQ(print_insn(insns, at), texts[at]) << at;
    }
  EXPECT_EQ(error_of("-- asm\nexit\nmove %r0, 1"),
            "t.case: line 2 of the assembly: `move %r0, 1` is no instruction");
}

TEST(CaseFile, ReadsRawPrograms) {
  auto c = parse_case("-- raw\n95 00 00 00 00 00 00 00\n-- result\n0", "t.data");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  EXPECT_EQ(c->pipeline.programs[0].insns, std::vector{Insn{.opcode = 0x95}});
  EXPECT_EQ(error_of("-- raw\n95 00"), "t.case: program is 2 bytes long, which is not a multiple of 8");
}

TEST(CaseFile, RefusesFilesThatAreNotThere) {
  EXPECT_EQ(llvm::toString(read_case("/nonexistent/x.case").takeError()),
            "/nonexistent/x.case: cannot be read: No such file or directory");
  EXPECT_EQ(llvm::toString(find_cases("/nonexistent").takeError()),
            "/nonexistent: cannot be read: No such file or directory");
}

TEST(CheckCase, NamesFileProgramAndInstruction) {
  auto c = parse_case("-- prog a\nexit\n-- prog b\nr0 /= 0\nexit", "x/t.case");
  ASSERT_TRUE(bool(c));
  EXPECT_EQ(llvm::toString(check_case(*c)), "t.case: b: insn 0: division by immediate 0");
}

} // namespace
} // namespace ujit
