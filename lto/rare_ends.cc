// Which way a packet goes, where nothing was measured: a branch of which one side does nothing more than end
// the program with a verdict that drops the packet is more likely to go the other way, as datapaths look for
// errors more often than they meet them. But a firewall drops a lot, so the weights are mild: they say what
// is laid out straight, and take nothing out of line.
#include "lto/passes.h"

#include "llvm/IR/Constants.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/MDBuilder.h"

#include <algorithm>

namespace ujit {

using namespace llvm;

/// The verdict that the program ends with once control goes from `from` to `to`, if nothing is asked any
/// more.
static std::optional<uint64_t> verdict_behind(const BasicBlock *from, const BasicBlock *to) {
  constexpr size_t longest_way = 8;
  SmallVector<const BasicBlock *, longest_way + 1> way{from, to};
  const ReturnInst *end = nullptr;
  while (!(end = dyn_cast<ReturnInst>(way.back()->getTerminator()))) {
    auto *branch = dyn_cast<BranchInst>(way.back()->getTerminator());
    if (!branch || branch->isConditional() || way.size() > longest_way)
      return std::nullopt;
    way.push_back(branch->getSuccessor(0));
  }
  const Value *result = end->getReturnValue();
  for (size_t i = way.size() - 1; i > 0; --i)
    if (auto *phi = dyn_cast<PHINode>(result); phi && phi->getParent() == way[i])
      result = phi->getIncomingValueForBlock(way[i - 1]);
  auto *c = dyn_cast<ConstantInt>(result);
  return c ? std::optional(c->getZExtValue()) : std::nullopt;
}

bool weigh_ends(Function &function, std::span<const uint64_t> drops) {
  constexpr uint32_t likelier = 4;
  bool changed = false;
  for (BasicBlock &b : function) {
    auto *branch = dyn_cast<BranchInst>(b.getTerminator());
    if (!branch || branch->isUnconditional() || branch->hasMetadata(LLVMContext::MD_prof))
      continue;
    auto is_drop = [&](unsigned side) {
      const std::optional<uint64_t> verdict = verdict_behind(&b, branch->getSuccessor(side));
      return verdict && std::ranges::find(drops, *verdict) != drops.end();
    };
    const bool first = is_drop(0), second = is_drop(1);
    if (first == second)
      continue;
    branch->setMetadata(
        LLVMContext::MD_prof,
        MDBuilder(function.getContext()).createBranchWeights(first ? 1 : likelier, first ? likelier : 1));
    changed = true;
  }
  return changed;
}

} // namespace ujit
