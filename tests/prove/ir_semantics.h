// LLVM IR as terms, by the letter of LLVM's language reference: every value is a bit vector together with the
// condition under which it is poison, and a function has a condition under which it runs into undefined
// behaviour. Integers only, no memory, no loops; anything else is refused by name.
#pragma once

#include "tests/prove/terms.h"

#include "llvm/IR/Function.h"
#include "llvm/Support/Error.h"

#include <vector>

namespace ujit::prove {

struct Meaning {
  z3::expr value;     ///< what the function returns
  z3::expr poison;    ///< ... and when that is poison
  z3::expr undefined; ///< when it meets undefined behaviour on the way
};

/// `arguments` are well-defined bit vectors of the parameters' widths. A frozen poison is a fresh
/// variable: a proof over all variables is a proof for every choice. Errors: what is not modelled.
llvm::Expected<Meaning> meaning_of(const llvm::Function &function, const std::vector<z3::expr> &arguments,
                                   Terms &terms);

} // namespace ujit::prove
