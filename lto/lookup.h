// Lookups in hash tables, from calls of @ujit.lookup.N to code.
#pragma once

#include "translator/program.h"

#include "llvm/IR/Module.h"

namespace ujit {

/// Makes code of all lookups in a module: in place where they are few, as functions where that would grow the
/// code. Returns the functions that were changed.
std::vector<llvm::Function *> expand_lookups(llvm::Module &module, const Pipeline &pipeline);

} // namespace ujit
