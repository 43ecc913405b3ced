// Programs of a chain parse the same headers again, and where a header may be there or not (a VLAN tag, an
// option), each of them asks again. Fused, the later questions have the answer of the first one, but nothing
// knows it: behind the first join both ways run through the same code, and what differs between them is a
// phi.
//
//          type == IP?                      type == IP?
//         ╱          ╲                     ╱          ╲
//        │         tag fits?              │         tag fits?
//         ╲          ╱                    │            │
//        join: offset = phi              rest,        rest, with a tag
//          rest, asking again          without a tag
//
// So the join is split: what it dominates is there once for each answer, and global value numbering, which
// follows, finds each of the later questions dominated by the first one: they go, with the loads and the
// bounds checks behind them. Since the join dominates the copied region, its values leave it through phis
// alone, and no other repair is needed.
#include "lto/passes.h"

#include "llvm/ADT/PostOrderIterator.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/IR/Instructions.h"
#include "llvm/Transforms/Utils/Cloning.h"

namespace ujit {

using namespace llvm;

namespace {

constexpr unsigned least_questions = 2;  ///< branches behind the join that ask again
constexpr size_t largest_region = 1'500; ///< instructions

struct Join {
  BasicBlock *block = nullptr;
  SmallPtrSet<BasicBlock *, 4> yes; ///< predecessors on the way where the condition holds
  SmallVector<BasicBlock *> region; ///< what it dominates, itself included
};

/// The ways into `block`, by the condition of the branch that dominates it.
bool find_ways(BasicBlock &block, BranchInst &branch, const DominatorTree &dt, Join &join) {
  const BasicBlockEdge if_true(branch.getParent(), branch.getSuccessor(0));
  const BasicBlockEdge if_false(branch.getParent(), branch.getSuccessor(1));
  auto on = [&](const BasicBlockEdge &way, BasicBlock *from) {
    return from == way.getStart() ? way.getEnd() == &block : dt.dominates(way, from);
  };
  bool no = false;
  for (BasicBlock *from : predecessors(&block)) {
    const bool yes = on(if_true, from);
    if (yes == on(if_false, from))
      return false;
    if (yes)
      join.yes.insert(from);
    no |= !yes;
  }
  return no && !join.yes.empty();
}

bool find_join(Function &f, const DominatorTree &dt, size_t largest, Join &join) {
  for (BasicBlock *block : ReversePostOrderTraversal<Function *>(&f)) {
    const DomTreeNode *above = dt.getNode(block)->getIDom();
    auto *branch = above ? dyn_cast<BranchInst>(above->getBlock()->getTerminator()) : nullptr;
    if (!branch || !branch->isConditional() || branch->getSuccessor(0) == branch->getSuccessor(1) ||
        !isa<Instruction>(branch->getCondition()) || !block->hasNPredecessorsOrMore(2))
      continue;
    const auto questions = count_if(branch->getCondition()->users(), [&](User *user) {
      auto *b = dyn_cast<BranchInst>(user);
      return b && dt.dominates(block, b->getParent());
    });
    join = {.block = block};
    if (questions < least_questions || !find_ways(*block, *branch, dt, join))
      continue;
    dt.getDescendants(block, join.region);
    size_t size = 0;
    for (BasicBlock *b : join.region)
      size += b->size();
    if (size <= largest)
      return true;
  }
  return false;
}

void split(Function &f, Join &join) {
  ValueToValueMapTy map;
  SmallVector<BasicBlock *> copies;
  for (BasicBlock *b : join.region) {
    copies.push_back(CloneBasicBlock(b, map, ".yes", &f));
    map[b] = copies.back();
  }
  remapInstructionsInBlocks(copies, map);
  for (BasicBlock *b : join.region)
    for (BasicBlock *to : successors(b))
      if (!map.count(to))
        for (PHINode &phi : to->phis()) {
          Value *value = phi.getIncomingValueForBlock(b);
          Value *copy = map.lookup(value);
          phi.addIncoming(copy ? copy : value, cast<BasicBlock>(map[b]));
        }
  auto *copy = cast<BasicBlock>(map[join.block]);
  for (BasicBlock *from : join.yes)
    from->getTerminator()->replaceSuccessorWith(join.block, copy);
  auto keep = [&](BasicBlock &block, bool yes) {
    for (PHINode &phi : make_early_inc_range(block.phis()))
      phi.removeIncomingValueIf([&](unsigned i) { return join.yes.contains(phi.getIncomingBlock(i)) != yes; },
                                /*DeletePHIIfEmpty=*/false);
  };
  keep(*join.block, false);
  keep(*copy, true);
}

} // namespace

bool split_paths(Function &f, const DominatorTree &dt, size_t limit) {
  const size_t size = f.getInstructionCount();
  Join join;
  if (size >= limit || !find_join(f, dt, std::min(largest_region, limit - size), join))
    return false;
  number_copied_loads(f, [&] { split(f, join); });
  return true;
}

} // namespace ujit
