// Passes of our own over fused functions.
#pragma once

#include "llvm/Analysis/AliasAnalysis.h"
#include "llvm/Analysis/MemorySSA.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/Function.h"
#include "llvm/IR/PassManager.h"

#include <span>

namespace ujit {

/// A branch of which one side only ends the program with one of the verdicts `drops` is likelier to go the
/// other way, where nothing is known of it. Returns whether there was one.
bool weigh_ends(llvm::Function &function, std::span<const uint64_t> drops);

/// Loads and stores of parts that are one word, copy one, or set one to a constant become accesses of words.
/// Returns whether anything was changed.
bool merge_bytes(llvm::Function &function, llvm::AAResults &aliases);

/// Kernel images: addresses of per-CPU array elements at constant indices become symbols (@ujit.percpu.N.K).
/// Returns whether there were any.
bool name_elements(llvm::Function &function);

/// A tail call of the function itself becomes a branch back behind its entry, so that the frame is set up
/// once and what does not change is computed once. Returns whether there was one.
bool loop_self_calls(llvm::Function &function);

/// Splits the first join behind which the same question is asked again, so that each of its answers has code
/// of its own, unless the function would grow beyond `limit` instructions. Returns whether there was one;
/// then value numbering has to follow.
bool split_paths(llvm::Function &function, const llvm::DominatorTree &tree, size_t limit);

/// Loads of state that hold a constant on each way to them become phis of those constants. Keeps `memory` up
/// to date. Returns whether there were any.
bool carry_constants(llvm::Function &function, llvm::AAResults &aliases, llvm::MemorySSA &memory);

/// Copies that loop passes make of a load are loads of their own, as are those by inlining (single_fetch.h):
/// after `make_copies`, each gets a discriminator of its own.
void number_copied_loads(llvm::Function &function, llvm::function_ref<void()> make_copies);

/// Funnel shifts of two words that have the same bits where it counts become rotates of the first. Returns
/// whether there were any.
bool restore_rotates(llvm::Function &function);

/// Trees of comparisons of one value become switches, where they are dense: jump tables. Returns whether
/// there were any.
bool restore_switches(llvm::Function &function);

/// Between these two, what is frozen is the result of a call in long functions, and passes that look through
/// a freeze are linear there.
struct HideFreezesPass : llvm::PassInfoMixin<HideFreezesPass> {
  llvm::PreservedAnalyses run(llvm::Function &function, llvm::FunctionAnalysisManager &);
  static bool isRequired() { return true; }
};
struct ShowFreezesPass : llvm::PassInfoMixin<ShowFreezesPass> {
  llvm::PreservedAnalyses run(llvm::Function &function, llvm::FunctionAnalysisManager &);
  static bool isRequired() { return true; }
};

/// Loops become vector code where that pays. Returns whether the function has any now; only then may it use
/// vector registers.
bool vectorise_loops(llvm::Function &function, llvm::FunctionAnalysisManager &analyses);

} // namespace ujit
