#include "tests/support/simple_host.h"

#include "translator/assembler.h"

#include "llvm/ADT/StringExtras.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// The value of r0, or the error.
std::string outcome(const std::string &text, InterpreterOptions options = {}) {
  auto c = parse_case("-- prog main\n" + text, "t.case");
  if (!c)
    return llvm::toString(c.takeError());
  c->rules = ImmediateRules::standard;
  auto run = run_interpreted(*c, options);
  if (!run)
    return llvm::toString(run.takeError());
  return "0x" + llvm::utohexstr(run->results[0], /*LowerCase=*/true);
}

TEST(Interpreter, DividesByZeroAsTheStandardSays) {
  EXPECT_EQ(outcome("r0 = 5\nr0 /= 0\nexit"), "0x0");
  EXPECT_EQ(outcome("r0 = -5\nr0 %= 0\nexit"), "0xfffffffffffffffb");
  EXPECT_EQ(outcome("r0 = -5\nw0 %= 0\nexit"), "0xfffffffb");
  EXPECT_EQ(outcome("r0 = -5\nr0 s/= r1\nexit"), "0x0");
  EXPECT_EQ(outcome("r0 = -5\nr0 s%= r1\nexit"), "0xfffffffffffffffb");
}

TEST(Interpreter, SurvivesTheLowestNumberByMinusOne) {
  EXPECT_EQ(outcome("r0 = 0x8000000000000000 ll\nr0 s/= -1\nexit"), "0x8000000000000000");
  EXPECT_EQ(outcome("r0 = 0x8000000000000000 ll\nr0 s%= -1\nexit"), "0x0");
  EXPECT_EQ(outcome("w0 = 0x80000000\nw0 s/= -1\nexit"), "0x80000000");
  EXPECT_EQ(outcome("w0 = 0x80000000\nw0 s%= -1\nexit"), "0x0");
  EXPECT_EQ(outcome("w0 = -7\nw0 s/= 2\nexit"), "0xfffffffd");
  EXPECT_EQ(outcome("w0 = -7\nw0 s%= 2\nexit"), "0xffffffff");
}

TEST(Interpreter, MasksShiftsAlsoByImmediates) {
  EXPECT_EQ(outcome("r0 = 1\nr1 = 68\nr0 <<= r1\nexit"), "0x10");
  EXPECT_EQ(outcome("w0 = 1\nr1 = 36\nw0 <<= w1\nexit"), "0x10");
  EXPECT_EQ(outcome("r0 = 1\nr0 <<= 68\nexit"), "0x10");
  EXPECT_EQ(outcome("w0 = 0x80000000\nw0 s>>= 33\nexit"), "0xc0000000");
  EXPECT_EQ(outcome("r0 = -1\nw0 >>= 0\nexit"), "0xffffffff");
}

TEST(Interpreter, NamesProgramAndInstructionOfABadAccess) {
  EXPECT_EQ(outcome("r0 = *(u64 *)(r10 + 0)\nexit"),
            "t.case: main: insn 0: load of 8 bytes outside of the stack frame");
  EXPECT_EQ(outcome("r0 = 0\n*(u64 *)(r10 - 520) = 0\nexit"),
            "t.case: main: insn 1: store of 8 bytes outside of the stack frame");
  EXPECT_EQ(outcome("r1 = 16\nlock *(u64 *)(r1 + 0) += r1\nexit"),
            "t.case: main: insn 1: store of 8 bytes at 0x10, which the program may not touch");
  EXPECT_EQ(outcome("r0 = *(u8 *)(r1 + 2)\nexit\n-- memory\n01 02").substr(0, 43),
            "t.case: main: insn 0: load of 1 bytes at 0x");
  EXPECT_EQ(outcome("r0 = -2 ll\nr0 = *(u32 *)(r0 + 0)\nexit"),
            "t.case: main: insn 2: load of 4 bytes at 0xfffffffffffffffe, which the program may not touch");
}

TEST(Interpreter, RefusesMisalignedAtomics) {
  EXPECT_EQ(outcome("lock *(u64 *)(r10 - 12) += r1\nexit"), "t.case: main: insn 0: misaligned atomic access");
  EXPECT_EQ(outcome("r0 = load_acquire((u16 *)(r10 - 3))\nexit"),
            "t.case: main: insn 0: misaligned atomic access");
  EXPECT_EQ(outcome("store_release((u32 *)(r10 - 6), r1)\nexit"),
            "t.case: main: insn 0: misaligned atomic access");
}

TEST(Interpreter, EndsWhatDoesNotEnd) {
  InterpreterOptions options;
  options.budget = 1000;
  EXPECT_EQ(outcome("again: goto again", options),
            "t.case: main: insn 0: more than 1000 instructions were executed");
  EXPECT_EQ(outcome("call f\nexit\nf: call f\nexit"), "t.case: main: insn 2: more than 272 nested calls");
}

TEST(Interpreter, MayGotoLeavesAnEndlessLoop) {
  EXPECT_EQ(outcome("again: may_goto out\nr0 += 1\ngoto again\nout: exit"), "0x800000");
}

TEST(Interpreter, PlacesErrorsOfTheHost) {
  EXPECT_EQ(outcome("r0 = 0\ncall 100\nexit"), "t.case: main: insn 1: helper 100 is not supported here");
  EXPECT_EQ(outcome("r1 = map 9 ll\nexit"), "t.case: main: insn 0: map 9 does not exist");
  EXPECT_EQ(outcome("r1 = 0\ncall map_lookup_elem\nexit"), "t.case: main: insn 1: r1 is no map");
  EXPECT_EQ(outcome("r1 = 1\nr2 = func f ll\nr4 = 0\ncall loop\nexit\nf: call 100\nexit"),
            "t.case: main: insn 6: helper 100 is not supported here");
  EXPECT_EQ(outcome("r1 = 1\nr2 = 77\nr4 = 0\ncall loop\nexit"),
            "t.case: main: insn 3: call of 0x4d, which is not the address of a function");
}

TEST(Interpreter, FunctionAddressesAreStableAndDistinct) {
  EXPECT_EQ(outcome("r1 = func f ll\nr2 = func f ll\nr3 = func g ll\nr0 = 0\nif r1 != r2 goto out\n"
                    "if r1 == r3 goto out\nr0 = 1\nout: exit\n-- sub f\nexit\n-- sub g\nexit"),
            "0x1");
}

TEST(Interpreter, CountsTailCallsOverTheWholeRun) {
  // The subprogram is left 33 times by a tail call; each time its target returns 1 to the caller.
  EXPECT_EQ(
      outcome(
          "r6 = 0\nr7 = 40\nagain: call hop\nr6 += r0\nr7 += -1\nif r7 != 0 goto again\nr0 = r6\nexit\n"
          "-- sub hop\nr2 = map jmp ll\nr3 = 0\ncall tail_call\nr0 = 0\nexit\n-- prog leaf\nr0 = 1\nexit\n"
          "-- map jmp prog_array entries=1\n0: leaf"),
      "0x21");
}

TEST(Interpreter, ProgramsThatWereNotCheckedDoNoHarm) {
  Pipeline empty;
  SimpleHost host(empty, {});
  for (std::vector<Insn> insns : {std::vector<Insn>{},
                                  {Insn{}},
                                  {Insn{.opcode = 0x18}},
                                  {Insn{.opcode = 0x05, .offset = -9}},
                                  {Insn{.opcode = 0x85, .src = 1, .imm = 99}},
                                  {Insn{.opcode = 0xbf, .dst = 12}},
                                  {Insn{.opcode = 0x95, .src = 15}}}) {
    Program program;
    program.insns = insns;
    auto result = Interpreter(host).run(program, 0);
    EXPECT_FALSE(bool(result));
    llvm::consumeError(result.takeError());
  }
}

} // namespace
} // namespace ujit
