#include "tests/paths.h"
#include "tests/support/case_file.h"
#include "translator/assembler.h"
#include "translator/isa.h"

#include <gtest/gtest.h>

#include <ctime>
#include <set>

namespace ujit {
namespace {

/// An instruction of a row, with different values in all fields that it uses, and its second slot.
std::vector<Insn> example_of(const InsnRow &row) {
  auto value = [](FieldRule rule, int32_t used) {
    return rule.kind == FieldRule::any ? used : rule.kind == FieldRule::equals ? rule.value : 0;
  };
  std::vector<Insn> insns(is_ld_imm64(row.op) ? 2 : 1);
  insns[0].opcode = row.opcode;
  insns[0].dst = value(row.dst, 3) & 15;
  insns[0].src = value(row.src, 7) & 15;
  insns[0].offset = int16_t(value(row.offset, -6));
  insns[0].imm = value(row.imm, 12);
  if (row.mnemonic.find("$v") != row.mnemonic.npos || row.mnemonic.find("$q") != row.mnemonic.npos)
    insns[1].imm = 0x12345678;
  return insns;
}

TEST(IsaTable, IsSortedAndRowsExcludeEachOther) {
  auto table = isa_table();
  ASSERT_EQ(table.size(), 180u);
  for (size_t i = 0; i < table.size(); i++) {
    EXPECT_LE(table[i ? i - 1 : 0].opcode, table[i].opcode);
    EXPECT_EQ(find_row(example_of(table[i])[0]), &table[i]) << table[i].mnemonic;
  }
}

TEST(IsaTable, EveryRowPrintsAndAssemblesBack) {
  std::set<std::string> texts;
  for (const InsnRow &row : isa_table()) {
    auto insns = example_of(row);
    std::string text = print_insn(insns, 0);
    EXPECT_TRUE(texts.insert(text).second) << text << " is ambiguous";
    EXPECT_EQ(text.find('$'), text.npos) << text;
    auto back = assemble(text);
    ASSERT_TRUE(bool(back)) << text << ": " << llvm::toString(back.takeError());
    EXPECT_EQ(back->insns, insns) << text;
  }
}

TEST(IsaTable, EveryFieldSurvivesTheRoundTripAtItsLimits) {
  for (const InsnRow &row : isa_table())
    for (int32_t imm : {INT32_MIN, -1, 0, INT32_MAX})
      for (int16_t offset : {INT16_MIN, -1, 0, INT16_MAX})
        for (unsigned reg : {0u, 10u}) {
          auto insns = example_of(row);
          if (row.imm.kind == FieldRule::any)
            insns[0].imm = imm;
          if (row.offset.kind == FieldRule::any)
            insns[0].offset = offset;
          if (row.dst.kind == FieldRule::any)
            insns[0].dst = reg & 15;
          if (row.src.kind == FieldRule::any)
            insns[0].src = reg & 15;
          std::string text = print_insn(insns, 0);
          auto back = assemble(text);
          ASSERT_TRUE(bool(back)) << text << ": " << llvm::toString(back.takeError());
          ASSERT_EQ(back->insns, insns) << text;
        }
}

TEST(IsaTable, EveryRowHasACase) {
  auto files = find_cases(source_dir() + "/tests/cases");
  ASSERT_TRUE(bool(files)) << llvm::toString(files.takeError());
  std::set<const InsnRow *> covered;
  for (const std::string &file : *files) {
    auto c = read_case(file);
    if (!c) {
      llvm::consumeError(c.takeError()); // a case of the assembler's errors
      continue;
    }
    for (const Program &program : c->pipeline.programs)
      for (uint32_t at = 0; at < program.insns.size(); at++) {
        covered.insert(find_row(program.insns[at]));
        at += is_wide(program.insns[at]);
      }
  }
  for (const InsnRow &row : isa_table())
    EXPECT_TRUE(covered.contains(&row)) << "no case has `" << row.mnemonic << "`";
}

TEST(FindRow, KnowsNothingBeyondTheTable) {
  size_t known = 0;
  for (unsigned opcode = 0; opcode < 256; opcode++)
    known += !rows_of_opcode(uint8_t(opcode)).empty();
  EXPECT_EQ(known, 129u);
  EXPECT_EQ(find_row(Insn{.opcode = 0x00}), nullptr);
  EXPECT_EQ(find_row(Insn{.opcode = 0x8f}), nullptr);               // neg by register
  EXPECT_EQ(find_row(Insn{.opcode = 0xbf, .offset = 24}), nullptr); // movsx of 24 bits
  EXPECT_EQ(find_row(Insn{.opcode = 0xbc, .offset = 32}), nullptr); // movsx of 32 to 32 bits
  EXPECT_EQ(find_row(Insn{.opcode = 0x3f, .offset = 2}), nullptr);  // neither div nor sdiv
  EXPECT_EQ(find_row(Insn{.opcode = 0xdb, .imm = 0xe0}), nullptr);  // xchg without fetch
  EXPECT_EQ(find_row(Insn{.opcode = 0xd3, .imm = 0}), nullptr);     // 8-bit atomic add
  EXPECT_EQ(find_row(Insn{.opcode = 0xd7, .imm = 8}), nullptr);     // bswap8
  EXPECT_EQ(find_row(Insn{.opcode = 0x18, .src = 7}), nullptr);
  EXPECT_EQ(find_row(Insn{.opcode = 0x85, .src = 3}), nullptr);
}

TEST(FindRow, SelectsByField) {
  EXPECT_EQ(find_row(Insn{.opcode = 0x3f, .offset = 1})->op, Op::sdiv);
  EXPECT_EQ(find_row(Insn{.opcode = 0x97, .offset = 1})->op, Op::smod);
  EXPECT_EQ(find_row(Insn{.opcode = 0xbf, .offset = 32})->bits, 32);
  EXPECT_EQ(find_row(Insn{.opcode = 0xdb, .imm = 0xf1})->op, Op::atomic_cmpxchg);
  EXPECT_EQ(find_row(Insn{.opcode = 0xdb, .imm = 0x100})->op, Op::load_acquire);
  EXPECT_TRUE(find_row(Insn{.opcode = 0xc3, .imm = 0x51})->fetch);
  EXPECT_EQ(find_row(Insn{.opcode = 0x18, .src = 4})->op, Op::ld_func);
  EXPECT_EQ(find_row(Insn{.opcode = 0x85, .src = 2})->op, Op::call_kfunc);
  EXPECT_EQ(find_row(Insn{.opcode = 0x06})->width, 32);
  EXPECT_EQ(find_row(Insn{.opcode = 0x05})->width, 16);
}

TEST(JumpTarget, UsesTheFieldOfTheForm) {
  Insn by_offset{.opcode = 0x05, .offset = -3}, by_imm{.opcode = 0x06, .imm = 100000};
  EXPECT_EQ(jump_target(10, by_offset, *find_row(by_offset)), 8);
  EXPECT_EQ(jump_target(10, by_imm, *find_row(by_imm)), 100011);
  EXPECT_EQ(jump_target(0, by_offset, *find_row(by_offset)), -2);
}

TEST(DecodeBytes, IsLittleEndianWithDstInTheLowHalf) {
  const uint8_t bytes[] = {0x7b, 0x1a, 0xf8, 0xff, 0x04, 0x03, 0x02, 0x81};
  auto insns = decode_bytes(bytes);
  ASSERT_TRUE(bool(insns));
  ASSERT_EQ(insns->size(), 1u);
  EXPECT_EQ((*insns)[0],
            (Insn{.opcode = 0x7b, .dst = 10, .src = 1, .offset = -8, .imm = int32_t(0x81020304)}));
}

TEST(DecodeBytes, RefusesHalfAnInstruction) {
  const uint8_t bytes[12] = {};
  auto insns = decode_bytes(bytes);
  EXPECT_EQ(llvm::toString(insns.takeError()), "program is 12 bytes long, which is not a multiple of 8");
}

TEST(PrintInsn, WritesWhatKernelAndCompilerWrite) {
  struct {
    const char *text;
    Insn insn;
  } known[] = {
      {"r1 = *(u32 *)(r2 + 4)", {.opcode = 0x61, .dst = 1, .src = 2, .offset = 4}},
      {"*(u64 *)(r10 - 8) = r1", {.opcode = 0x7b, .dst = 10, .src = 1, .offset = -8}},
      {"if r1 > r2 goto +3", {.opcode = 0x2d, .dst = 1, .src = 2, .offset = 3}},
      {"if w1 s<= -1 goto -2", {.opcode = 0xd6, .dst = 1, .offset = -2, .imm = -1}},
      {"w0 += 5", {.opcode = 0x04, .imm = 5}},
      {"r0 = bswap32 r0", {.opcode = 0xd7, .imm = 32}},
      {"r1 = (s16)r2", {.opcode = 0xbf, .dst = 1, .src = 2, .offset = 16}},
      {"lock *(u64 *)(r1 + 0) += r2", {.opcode = 0xdb, .dst = 1, .src = 2}},
      {"r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)", {.opcode = 0xdb, .dst = 1, .src = 2, .imm = 1}},
      {"call 12", {.opcode = 0x85, .imm = 12}},
      {"call pc+4", {.opcode = 0x85, .src = 1, .imm = 4}},
      {"gotol -70000", {.opcode = 0x06, .imm = -70000}},
      {"exit", {.opcode = 0x95}},
  };
  for (auto &[text, insn] : known)
    EXPECT_EQ(print_insn({&insn, 1}, 0), text);
}

TEST(PrintInsn, WritesWhatIsNoInstructionAsRawFields) {
  Insn bad{.opcode = 0xff, .dst = 1, .src = 2, .offset = -3, .imm = 4}, half{.opcode = 0x18};
  EXPECT_EQ(print_insn({&bad, 1}, 0), ".insn 0xff, 1, 2, -3, 4");
  EXPECT_EQ(print_insn({&half, 1}, 0), ".insn 0x18, 0, 0, 0, 0");
  auto back = assemble(print_insn({&bad, 1}, 0));
  ASSERT_TRUE(bool(back));
  EXPECT_EQ(back->insns[0], bad);
}

TEST(CheckProgram, TakesAMillionInstructionsInWellUnderASecond) {
  std::vector<Insn> insns(1'000'000, Insn{.opcode = 0x07, .dst = 1, .imm = 1});
  insns.front() = {.opcode = 0x06, .imm = 999'998};
  insns.back() = {.opcode = 0x95};
  uint32_t start = 0;
  const std::clock_t begin = std::clock(); // of CPU time: other work on the machine is no fault
  Error e = check_program(insns, {&start, 1});
  EXPECT_FALSE(bool(e));
  EXPECT_LT(std::clock() - begin, CLOCKS_PER_SEC);
}

TEST(Program, FindsSubprogramsAndLines) {
  Program p;
  p.subprograms = {{"main", 0, 5, 0}, {"one", 5, 9, 0}, {"two", 9, 12, 0}};
  EXPECT_EQ(subprogram_at(p, 0), 0u);
  EXPECT_EQ(subprogram_at(p, 4), 0u);
  EXPECT_EQ(subprogram_at(p, 5), 1u);
  EXPECT_EQ(subprogram_at(p, 11), 2u);
  EXPECT_EQ(line_at(p, 3), nullptr);
  p.lines = {{2, "a.c", 10, ""}, {6, "a.c", 11, ""}};
  EXPECT_EQ(line_at(p, 1), nullptr);
  EXPECT_EQ(line_at(p, 5)->line, 10u);
  EXPECT_EQ(line_at(p, 100)->line, 11u);
}

TEST(Names, OfTypesAreReadBack) {
  for (ProgType type : {ProgType::unspec, ProgType::sched_cls, ProgType::xdp, ProgType::tracing})
    EXPECT_EQ(prog_type_by_name(name_of(type)), type);
  for (MapType type : {MapType::hash, MapType::prog_array, MapType::devmap_hash, MapType::ringbuf})
    EXPECT_EQ(map_type_by_name(name_of(type)), type);
  EXPECT_EQ(name_of(MapType(999)), "unknown");
  EXPECT_FALSE(map_type_by_name("unknown"));
}

} // namespace
} // namespace ujit
