// Passes of our own over fused functions.
#pragma once

#include "llvm/Analysis/AliasAnalysis.h"
#include "llvm/IR/Function.h"

namespace ujit {

/// Loads and stores of single bytes that are one word, or copy one, become loads and stores of words. Returns
/// whether anything was changed.
bool merge_bytes(llvm::Function &function, llvm::AAResults &aliases);

/// A tail call of the function itself becomes a branch back behind its entry, so that the frame is set up
/// once and what does not change is computed once. Returns whether there was one.
bool loop_self_calls(llvm::Function &function);

/// Copies that loop passes make of a load are loads of their own, as are those by inlining (single_fetch.h):
/// after `make_copies`, each gets a discriminator of its own.
void number_copied_loads(llvm::Function &function, llvm::function_ref<void()> make_copies);

} // namespace ujit
