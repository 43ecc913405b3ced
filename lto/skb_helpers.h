// Helpers on packets that are linear and ours alone, from calls to code.
#pragma once

#include "translator/kernel.h"

#include "llvm/IR/Function.h"

namespace ujit {

/// In front of each call of a helper that reads, writes or pulls packet data, the few instructions which it
/// comes down to for most packets; for the others the call stays. Returns whether anything was changed.
bool expand_skb_helpers(llvm::Function &function, const SkbLayout &layout);

} // namespace ujit
