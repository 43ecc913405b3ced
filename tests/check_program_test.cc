#include "translator/assembler.h"
#include "translator/isa.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

struct Malformed {
  const char *text;
  const char *error; ///< null: the program is good
};

std::string check(const char *text, ImmediateRules rules = ImmediateRules::kernel) {
  auto assembly = assemble(text);
  if (!assembly)
    return "assembler: " + llvm::toString(assembly.takeError());
  Error e = check_program(assembly->insns, subprogram_starts(assembly->subprograms), rules);
  return e ? llvm::toString(std::move(e)) : "good";
}

void expect_errors(std::initializer_list<Malformed> programs) {
  for (auto &[text, error] : programs)
    EXPECT_EQ(check(text), error ? error : "good") << text;
}

TEST(CheckProgram, RefusesUnknownOpcodesAndForms) {
  expect_errors({
      {".insn 0, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x00"},
      {".insn 0xff, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0xff"},
      {".insn 0x8f, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x8f"},                   // neg by register
      {".insn 0x9d, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x9d"},                   // exit by register
      {".insn 0x95, 0, 0, 0, 0\n.insn 0x96, 0, 0, 0, 0", "insn 1: unknown opcode 0x96"}, // 32-bit exit
      {".insn 0x86, 0, 0, 0, 1\nexit", "insn 0: unknown opcode 0x86"},                   // 32-bit call
      {".insn 0x0d, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x0d"},                   // ja by register
      {".insn 0xe7, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0xe7"},
      {".insn 0x38, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x38"},  // ld_abs of 64 bits
      {".insn 0x99, 0, 1, 0, 0\nexit", "insn 0: unknown opcode 0x99"},  // ldx of sign-extended 64 bits
      {".insn 0xdf, 0, 0, 0, 16\nexit", "insn 0: unknown opcode 0xdf"}, // 64-bit to_be
      {".insn 0x1a, 0, 0, 0, 0\nexit", "insn 0: unknown opcode 0x1a"},
      {".insn 0xbf, 0, 1, 24, 0\nexit",
       "insn 0: opcode 0xbf has no form with offset 24 (known: 0, 8, 16, 32)"},
      {".insn 0xbc, 0, 1, 32, 0\nexit", "insn 0: opcode 0xbc has no form with offset 32 (known: 0, 8, 16)"},
      {".insn 0xb7, 0, 0, 8, 0\nexit", "insn 0: opcode 0xb7 has no form with offset 8 (known: 0)"},
      {".insn 0x3f, 0, 1, 2, 0\nexit", "insn 0: opcode 0x3f has no form with offset 2 (known: 0, 1)"},
      {".insn 0x94, 0, 0, -1, 3\nexit", "insn 0: opcode 0x94 has no form with offset -1 (known: 0, 1)"},
      {".insn 0xd4, 0, 0, 0, 8\nexit", "insn 0: opcode 0xd4 has no form with imm 8 (known: 16, 32, 64)"},
      {".insn 0xdc, 0, 0, 0, 0\nexit", "insn 0: opcode 0xdc has no form with imm 0 (known: 16, 32, 64)"},
      {".insn 0xd7, 0, 0, 0, 128\nexit", "insn 0: opcode 0xd7 has no form with imm 128 (known: 16, 32, 64)"},
      {".insn 0xdb, 1, 2, 0, 0xe0\nexit", "insn 0: opcode 0xdb has no form with imm 224 (known: 0, 1, 64, "
                                          "65, 80, 81, 160, 161, 225, 241, 256, 272)"},
      {".insn 0xc3, 1, 2, 0, 0x10\nexit", "insn 0: opcode 0xc3 has no form with imm 16 (known: 0, 1, 64, 65, "
                                          "80, 81, 160, 161, 225, 241, 256, 272)"},
      {".insn 0xd3, 1, 2, 0, 0\nexit", "insn 0: opcode 0xd3 has no form with imm 0 (known: 256, 272)"},
      {".insn 0x18, 1, 7, 0, 0\n.insn 0, 0, 0, 0, 0\nexit",
       "insn 0: opcode 0x18 has no form with src 7 (known: 0, 1, 2, 3, 4, 5, 6)"},
      {".insn 0x85, 0, 3, 0, 0\nexit", "insn 0: opcode 0x85 has no form with src 3 (known: 0, 1, 2)"},
      {".insn 0xe5, 0, 1, 0, 0\nexit", "insn 0: opcode 0xe5 has no form with src 1 (known: 0)"},
  });
}

TEST(CheckProgram, RefusesReservedFields) {
  expect_errors({
      {".insn 0x07, 0, 1, 0, 5\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0x07, 0, 0, 2, 5\nexit", "insn 0: reserved field offset is 2, must be 0"},
      {".insn 0x0f, 0, 1, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0xbf, 0, 1, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0x87, 0, 1, 0, 0\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0x84, 0, 0, 0, 9\nexit", "insn 0: reserved field imm is 9, must be 0"},
      {".insn 0xdc, 0, 1, 0, 16\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0xd7, 0, 0, 4, 16\nexit", "insn 0: reserved field offset is 4, must be 0"},
      {".insn 0x61, 0, 1, 0, 7\nexit", "insn 0: reserved field imm is 7, must be 0"},
      {".insn 0x91, 0, 1, 0, 7\nexit", "insn 0: reserved field imm is 7, must be 0"},
      {".insn 0x7a, 10, 1, -8, 7\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0x7b, 10, 1, -8, 7\nexit", "insn 0: reserved field imm is 7, must be 0"},
      {".insn 0x30, 1, 0, 0, 7\nexit", "insn 0: reserved field dst is 1, must be 0"},
      {".insn 0x30, 0, 1, 0, 7\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0x50, 0, 1, 3, 7\nexit", "insn 0: reserved field offset is 3, must be 0"},
      {".insn 0x18, 0, 0, 1, 7\n.insn 0, 0, 0, 0, 0\nexit", "insn 0: reserved field offset is 1, must be 0"},
      {".insn 0x05, 1, 0, 0, 0\nexit", "insn 0: reserved field dst is 1, must be 0"},
      {".insn 0x05, 0, 0, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0x06, 0, 0, 5, 0\nexit", "insn 0: reserved field offset is 5, must be 0"},
      {".insn 0x15, 0, 1, 0, 5\nexit", "insn 0: reserved field src is 1, must be 0"},
      {".insn 0x1d, 0, 1, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0x1e, 0, 1, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0xe5, 2, 0, 0, 0\nexit", "insn 0: reserved field dst is 2, must be 0"},
      {".insn 0x85, 1, 0, 0, 5\nexit", "insn 0: reserved field dst is 1, must be 0"},
      {".insn 0x85, 0, 0, 1, 5\nexit", "insn 0: reserved field offset is 1, must be 0"},
      {".insn 0x85, 0, 1, 1, 0\nexit", "insn 0: reserved field offset is 1, must be 0"},
      {".insn 0x8d, 1, 0, 0, 5\nexit", "insn 0: reserved field imm is 5, must be 0"},
      {".insn 0x95, 1, 0, 0, 0", "insn 0: reserved field dst is 1, must be 0"},
      {".insn 0x95, 0, 2, 0, 0", "insn 0: reserved field src is 2, must be 0"},
      {".insn 0x95, 0, 0, 3, 0", "insn 0: reserved field offset is 3, must be 0"},
      {".insn 0x95, 0, 0, 0, 4", "insn 0: reserved field imm is 4, must be 0"},
  });
}

TEST(CheckProgram, RefusesRegistersThatDoNotExistOrAreReadOnly) {
  expect_errors({
      {"r11 = 1\nexit", "insn 0: register r11 does not exist"},
      {"r1 = r15\nexit", "insn 0: register r15 does not exist"},
      {"*(u8 *)(r12 + 0) = 1\nexit", "insn 0: register r12 does not exist"},
      {"if r13 == 0 goto +0\nexit", "insn 0: register r13 does not exist"},
      {"callx r14\nexit", "insn 0: register r14 does not exist"},
      {"r10 = 1\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 += -8\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"w10 = w1\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = -r10\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = be16 r10\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = *(u64 *)(r1 + 0)\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = 5 ll\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = load_acquire((u64 *)(r1 + 0))\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"r10 = atomic_fetch_add((u64 *)(r1 + 0), r10)\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"w10 = xchg32_32(r1 + 0, w10)\nexit", "insn 0: r10, the frame pointer, is read-only"},
      {"*(u64 *)(r10 - 8) = r10\nexit", nullptr},
      {"lock *(u64 *)(r10 - 8) += r10\nexit", nullptr},
      {"r0 = cmpxchg_64(r10 - 8, r0, r10)\nexit", nullptr},
      {"if r10 == r1 goto +0\nexit", nullptr},
  });
}

TEST(CheckProgram, RefusesImmediatesOutOfRange) {
  expect_errors({
      {"r0 /= 0\nexit", "insn 0: division by immediate 0"},
      {"w0 %= 0\nexit", "insn 0: division by immediate 0"},
      {"r0 s/= 0\nexit", "insn 0: division by immediate 0"},
      {"w0 s%= 0\nexit", "insn 0: division by immediate 0"},
      {"r0 <<= 64\nexit", "insn 0: shift by 64 is not in 0 to 63"},
      {"r0 >>= -1\nexit", "insn 0: shift by -1 is not in 0 to 63"},
      {"w0 s>>= 32\nexit", "insn 0: shift by 32 is not in 0 to 31"},
      {"r0 <<= 63\nw0 >>= 31\nr0 s>>= 0\nexit", nullptr},
      {"r0 /= r1\nexit", nullptr},
  });
  EXPECT_EQ(check("r0 /= 0\nr0 <<= 64\nexit", ImmediateRules::standard), "good");
}

TEST(CheckProgram, RefusesMalformedWideInstructions) {
  const char *second =
      "insn 1: second slot of a 64-bit immediate load must have opcode, dst, src and offset 0";
  expect_errors({
      {"r0 = 0\n.insn 0x18, 1, 0, 0, 5", "insn 1: 64-bit immediate load without its second slot"},
      {".insn 0x18, 1, 0, 0, 5\nsub f:\n.insn 0, 0, 0, 0, 0\nexit",
       "insn 0: 64-bit immediate load without its second slot"},
      {".insn 0x18, 1, 0, 0, 5\nexit", second},
      {".insn 0x18, 1, 0, 0, 5\n.insn 0, 1, 0, 0, 0\nexit", second},
      {".insn 0x18, 1, 0, 0, 5\n.insn 0, 0, 1, 0, 0\nexit", second},
      {".insn 0x18, 1, 0, 0, 5\n.insn 0, 0, 0, 1, 0\nexit", second},
      {".insn 0x18, 1, 1, 0, 5\n.insn 0, 0, 0, 0, 6\nexit",
       "insn 1: reserved field imm of the second slot is 6, must be 0"},
      {".insn 0x18, 1, 4, 0, 1\n.insn 0, 0, 0, 0, 6\nexit\nsub f:\nexit",
       "insn 1: reserved field imm of the second slot is 6, must be 0"},
      {".insn 0x18, 1, 5, 0, 1\n.insn 0, 0, 0, 0, -1\nexit",
       "insn 1: reserved field imm of the second slot is -1, must be 0"},
      {"r1 = map 1 + 4294967295 ll\nexit", nullptr},
  });
}

TEST(CheckProgram, RefusesJumpsThatLeaveOrSplit) {
  expect_errors({
      {"goto +1\nexit", "insn 0: jump to slot 2 is outside of the program"},
      {"goto -2\nexit", "insn 0: jump to slot -1 is outside of the program"},
      {"r0 = 0\ngotol +2147483647", "insn 1: jump to slot 2147483649 is outside of the program"},
      {"gotol -2147483648\nexit", "insn 0: jump to slot -2147483647 is outside of the program"},
      {"if r0 == 0 goto +32767\nexit", "insn 0: jump to slot 32768 is outside of the program"},
      {"may_goto +9\nexit", "insn 0: jump to slot 10 is outside of the program"},
      {"if r0 == 0 goto +1\nr1 = 5 ll\nexit",
       "insn 0: jump to slot 2, the middle of a 64-bit immediate load"},
      {"r1 = 5 ll\nif w0 != w1 goto -2\nexit",
       "insn 2: jump to slot 1, the middle of a 64-bit immediate load"},
      {"goto +1\nexit\nsub f:\nexit", "insn 0: jump to slot 2 is outside of the subprogram (slots 0 to 1)"},
      {"exit\nsub f:\ngoto -2", "insn 1: jump to slot 0 is outside of the subprogram (slots 1 to 1)"},
      {"goto -1", nullptr},
  });
}

TEST(CheckProgram, RefusesCallsThatStartNoSubprogram) {
  expect_errors({
      {"call pc+0\nexit", "insn 0: call of slot 1, which starts no subprogram"},
      {"call pc+9\nexit", "insn 0: call of slot 10, which starts no subprogram"},
      {"call pc-5\nexit", "insn 0: call of slot -4, which starts no subprogram"},
      {"call pc+2147483647\nexit", "insn 0: call of slot 2147483648, which starts no subprogram"},
      {"r1 = func +2 ll\nexit\nsub f:\nr0 = 1\nexit", nullptr},
      {"r1 = func +3 ll\nexit\nsub f:\nr0 = 1\nexit",
       "insn 0: address of slot 4, which starts no subprogram"},
      {"call pc-1\nexit", nullptr}, // main calls itself
  });
}

TEST(CheckProgram, RefusesFallingOffTheEnd) {
  const char *message = "control falls off the end: the last instruction must be exit or goto";
  std::string at0 = std::string("insn 0: ") + message, at1 = std::string("insn 1: ") + message;
  expect_errors({
      {"r0 = 0", at0.c_str()},
      {"exit\nr0 = 5 ll", at1.c_str()},
      {"exit\ncall 12", at1.c_str()},
      {"exit\nif r0 == 0 goto -2", at1.c_str()},
      {"exit\nmay_goto -1", at1.c_str()},
      {"r0 = 0\nsub f:\nexit", at0.c_str()},
      {"exit\nsub f:\nr0 = 0", at1.c_str()},
      {"exit\nsub f:\nexit", nullptr},
  });
}

TEST(CheckProgram, RefusesBadSubprogramStarts) {
  std::vector<Insn> insns(3, Insn{.opcode = 0x95});
  auto error = [&](std::vector<uint32_t> starts) {
    Error e = check_program(insns, starts);
    return e ? llvm::toString(std::move(e)) : "good";
  };
  EXPECT_EQ(error({}), "first subprogram does not start at slot 0");
  EXPECT_EQ(error({1}), "first subprogram does not start at slot 0");
  EXPECT_EQ(error({0, 3}), "subprogram start 3 is outside of the program");
  EXPECT_EQ(error({0, 2, 1}), "subprogram starts 2 and 1 are not in order");
  EXPECT_EQ(error({0, 1, 1}), "subprogram starts 1 and 1 are not in order");
  EXPECT_EQ(error({0, 1, 2}), "good");
  insns.clear();
  EXPECT_EQ(error({0}), "program has no instructions");
}

} // namespace
} // namespace ujit
