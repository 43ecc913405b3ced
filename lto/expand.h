// Tail-call sites: from the marker that translation leaves to the code that the plan asks for.
#pragma once

#include "lto/fuse.h"

#include "llvm/IR/InstrTypes.h"

namespace ujit {

/// Replaces every call of @ujit.tail_call in `f`, a function of program `p`. `chain`: all of them leave
/// through their prog arrays. `main`: `f` is the program itself and not a subprogram.
Error expand_tail_calls(const FuseInput &input, ProgId p, bool chain, bool main, llvm::Function &f);

void mark_for_inlining(llvm::CallBase &call);
bool is_marked_for_inlining(const llvm::CallBase &call);

} // namespace ujit
