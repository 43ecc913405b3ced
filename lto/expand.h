// Tail-call sites: from the marker that translation leaves to the code that the plan asks for.
#pragma once

#include "lto/fuse.h"

#include "llvm/IR/InstrTypes.h"

namespace ujit {

/// What a function is a copy for.
enum class CopyKind : uint8_t {
  fused,
  chain,  ///< all calls leave through their prog arrays
  resumed ///< it goes on behind a call that left: only out-of-line functions are called, the rest leaves
};

/// Replaces every call of @ujit.tail_call in `f`, a function of program `p`. `main`: `f` is the program
/// itself and not a subprogram.
Error expand_tail_calls(const FuseInput &input, ProgId p, CopyKind kind, bool main, llvm::Function &f);

void mark_for_inlining(llvm::CallBase &call);
bool is_marked_for_inlining(const llvm::CallBase &call);

} // namespace ujit
