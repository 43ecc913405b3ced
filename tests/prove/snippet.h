// Small programs around one instruction, each with a subprogram whose arguments are unknown numbers and whose
// result shows one register afterwards.
#pragma once

#include "tests/prove/proof.h"

#include "translator/program.h"

#include "lto/optimise.h"

#include <memory>

namespace ujit::prove {

/// The body of the subprogram, r1 to r5 set, ending in `exit`; `at` is the slot of the instruction that it is
/// about.
struct Snippet {
  std::vector<Insn> code;
  uint32_t at = 0;
  std::string text() const; ///< the instruction, in assembler syntax, and how the result is observed
};

/// Why a row is left out, or empty: memory, maps and calls.
std::string_view out_of_scope(const InsnRow &row);

/// All forms of a row: registers apart and equal, operands known at translation time, immediates, jumps
/// forward, backward and to the next instruction, and every register that could have changed.
std::vector<Snippet> snippets_of(const InsnRow &row);

std::vector<Encoded> encode(std::span<const Insn> code);

/// The subprogram's function as translate() makes it, alone in `module`; simplified if asked.
struct Translated {
  std::unique_ptr<llvm::Module> module;
  llvm::Function *function = nullptr;
};
Expected<Translated> translate_snippet(const Snippet &snippet, llvm::LLVMContext &context,
                                       llvm::TargetMachine *simplify_for);

} // namespace ujit::prove
