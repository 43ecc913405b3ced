#include "translator/assembler.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

std::string error_of(std::string_view text) {
  AssemblerOptions options;
  options.file = "t.s";
  auto assembly = assemble(text, options);
  if (assembly)
    return "no error";
  return llvm::toString(assembly.takeError());
}

Assembly assembled(std::string_view text) {
  auto assembly = assemble(text);
  if (assembly)
    return std::move(*assembly);
  ADD_FAILURE() << llvm::toString(assembly.takeError());
  return {};
}

TEST(Assembler, ResolvesLabelsInBothDirectionsAndOverWideInstructions) {
  auto a = assembled(
      "again: r1 = 5 ll\nif r1 == 0 goto again\nif w1 & 4 goto out\nr2 = 1 ll\ngotol again\nout: exit");
  ASSERT_EQ(a.insns.size(), 8u);
  EXPECT_EQ(a.insns[2].offset, -3);
  EXPECT_EQ(a.insns[3].offset, 3);
  EXPECT_EQ(a.insns[6].imm, -7);
}

TEST(Assembler, TakesSpacesCommentsAndBothRegisterNames) {
  auto a =
      assembled("  r1=r2 ; one\n\n# two\n*( u32*) (r1+4)=w2 // three\nw3 = *(u16 *)(r1 + 0x10)\nr4 s>>= 3");
  ASSERT_EQ(a.insns.size(), 4u);
  EXPECT_EQ(print_insn(a.insns, 0), "r1 = r2");
  EXPECT_EQ(print_insn(a.insns, 1), "*(u32 *)(r1 + 4) = r2");
  EXPECT_EQ(print_insn(a.insns, 2), "r3 = *(u16 *)(r1 + 16)");
  EXPECT_EQ(a.lines.size(), 4u);
  EXPECT_EQ(a.lines[1].line, 4u);
}

TEST(Assembler, KnowsSubprogramsHelpersAndMaps) {
  AssemblerOptions options;
  options.name = "entry";
  options.find_map = [](std::string_view name) {
    return name == "jmp" ? std::optional(MapId(3)) : std::nullopt;
  };
  auto a = assemble("call sum\nr2 = func sum ll\nr1 = map jmp ll\nr1 = map jmp + 8 ll\ncall ktime_get_ns\n"
                    "call bpf_tail_call\nexit\nsub sum:\nout: goto out\nexit",
                    options);
  ASSERT_TRUE(bool(a)) << llvm::toString(a.takeError());
  EXPECT_EQ(a->subprograms, (std::vector<Subprogram>{{"entry", 0, 10, 0}, {"sum", 10, 12, 0}}));
  EXPECT_EQ(find_row(a->insns[0])->op, Op::call_local);
  EXPECT_EQ(call_target(0, a->insns[0]), 10);
  EXPECT_EQ(call_target(1, a->insns[1]), 10);
  EXPECT_EQ(a->insns[3].imm, 3);
  EXPECT_EQ(a->insns[6].imm, 8);
  EXPECT_EQ(a->insns[7].imm, 5);
  EXPECT_EQ(a->insns[8].imm, 12);
}

TEST(Assembler, ACalledLabelBeginsASubprogram) {
  auto a = assembled("call f\nexit\nf: r0 = 1\nexit");
  EXPECT_EQ(a.subprograms, (std::vector<Subprogram>{{"main", 0, 2, 0}, {"f", 2, 4, 0}}));
}

TEST(Assembler, LabelsAreLocalToTheirSubprogram) {
  auto a = assembled("goto out\nout: exit\nsub f:\ngoto out\nr0 = 1\nout: exit");
  EXPECT_EQ(a.insns[0].offset, 0);
  EXPECT_EQ(a.insns[2].offset, 1);
}

TEST(Assembler, TakesBothSpellingsOf32Bits) {
  auto a = assembled("r0 = 0xffffffff\nr0 = -1\nr0 = 4294967295\nr1 = -1 ll\nr1 = 0xffffffffffffffff ll");
  EXPECT_EQ(a.insns[0].imm, -1);
  EXPECT_EQ(a.insns[0], a.insns[1]);
  EXPECT_EQ(a.insns[0], a.insns[2]);
  EXPECT_EQ(imm64(a.insns, 3), UINT64_MAX);
  EXPECT_EQ(imm64(a.insns, 5), UINT64_MAX);
}

TEST(Assembler, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(error_of("r0 = 1\nfoo bar"), "t.s: line 2: `foo bar` is no instruction");
  EXPECT_EQ(error_of("r16 = 1"), "t.s: line 1: `r16 = 1` is no instruction");
  EXPECT_EQ(error_of("r0 = 1 2"), "t.s: line 1: `r0 = 1 2` is no instruction");
  EXPECT_EQ(error_of("w1 = -w2"), "t.s: line 1: `w1 = -w2` is no instruction");
  EXPECT_EQ(error_of("goto there"), "t.s: line 1: label `there` is not defined");
  EXPECT_EQ(error_of("a: a: exit"), "t.s: line 1: `a` is defined twice (first in line 1)");
  EXPECT_EQ(error_of("sub f:\nexit\nsub f:\nexit"), "t.s: line 3: `f` is defined twice (first in line 1)");
  EXPECT_EQ(error_of("call nothing"), "t.s: line 1: `nothing` is neither a subprogram nor a helper");
  EXPECT_EQ(error_of("r1 = func nothing ll"), "t.s: line 1: subprogram `nothing` is not defined");
  EXPECT_EQ(error_of("r1 = map nothing ll"), "t.s: line 1: map `nothing` does not exist");
  EXPECT_EQ(error_of("r0 = 4294967296"), "t.s: line 1: immediate 4294967296 does not fit 32 bits");
  EXPECT_EQ(error_of("r0 = -2147483649"), "t.s: line 1: immediate -2147483649 does not fit 32 bits");
  EXPECT_EQ(error_of("r0 = *(u8 *)(r1 + 32768)"), "t.s: line 1: offset 32768 does not fit 16 bits");
  EXPECT_EQ(error_of("r0 = -9223372036854775809 ll"),
            "t.s: line 1: immediate -9223372036854775809 does not fit 64 bits");
  EXPECT_EQ(error_of("r0 = 99999999999999999999 ll"),
            "t.s: line 1: `r0 = 99999999999999999999 ll` is no instruction");
  EXPECT_EQ(error_of(".insn 1, 2"), "t.s: line 1: .insn takes opcode, dst, src, offset and imm");
  EXPECT_EQ(error_of(".insn 256, 0, 0, 0, 0"), "t.s: line 1: a field of .insn does not fit");
  EXPECT_EQ(error_of(".insn x"), "t.s: line 1: `x` is no number");
  EXPECT_EQ(error_of(".insn 1 2"), "t.s: line 1: `,` expected before `2`");
}

TEST(Assembler, RefusesAShortJumpThatIsTooFarButTakesALongOne) {
  std::string filler;
  for (int i = 0; i < 32768; i++)
    filler += "r1 += 1\n";
  EXPECT_EQ(error_of("goto far\n" + filler + "far: exit"),
            "t.s: line 1: label `far` is 32768 slots away, which does not fit 16 bits");
  EXPECT_EQ(assembled("gotol far\n" + filler + "far: exit").insns[0].imm, 32768);
}

} // namespace
} // namespace ujit
