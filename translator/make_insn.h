// Instructions of programs that we write ourselves.
#pragma once

#include "translator/isa.h"

namespace ujit {

/// One slot, field by field; a 64-bit immediate load is followed by a second one, make_insn(0, 0, 0, 0,
/// upper).
constexpr Insn make_insn(unsigned opcode, unsigned dst, unsigned src, int64_t offset, int64_t imm) {
  return {.opcode = uint8_t(opcode),
          .dst = uint8_t(dst & 15),
          .src = uint8_t(src & 15),
          .offset = int16_t(offset),
          .imm = int32_t(imm)};
}

} // namespace ujit
