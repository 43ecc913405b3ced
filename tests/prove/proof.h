// One proof: the function that a subprogram's bytecode was translated to returns for all arguments what the
// specification says, never poison, and never runs into undefined behaviour.
#pragma once

#include "tests/prove/specification.h"

#include "llvm/IR/Module.h"

#include <string>

namespace ujit::prove {

struct Verdict {
  enum Kind { proved, refuted, undecided } kind;
  std::string
      text; ///< refuted: registers and both results; undecided: what is not modelled, or that time ran out
};

/// `function` has the parameters (ptr, i64, r1 ... r5), as subprograms have; `code` is the subprogram.
Verdict prove(z3::context &context, const llvm::Function &function, std::span<const Encoded> code);

} // namespace ujit::prove
