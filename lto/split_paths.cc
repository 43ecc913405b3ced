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
// So the join is split: what it dominates is there once for one answer and once for the others, and global
// value numbering, which follows, finds each of the later questions dominated by the first one: they go, with
// the loads and the bounds checks behind them. A switch is a question too, of which each case that has a way
// of its own is an answer. Since the join dominates the copied region, its values leave it through phis
// alone, and no other repair is needed.
#include "lto/passes.h"

#include "llvm/ADT/PostOrderIterator.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/IR/Instructions.h"
#include "llvm/Transforms/Utils/Cloning.h"

namespace ujit {

using namespace llvm;

namespace {

constexpr unsigned least_questions = 2;  ///< branches and switches behind the join that ask again
constexpr size_t largest_region = 1'500; ///< instructions

struct Join {
  BasicBlock *block = nullptr;
  SmallSetVector<BasicBlock *, 4> yes; ///< predecessors on the way of one answer
  SmallVector<BasicBlock *> region;    ///< what it dominates, itself included
};

/// What the end of a block goes by, a condition or the value of a switch, if it is computed.
Value *asked_by(Instruction &end) {
  Value *asked = nullptr;
  if (auto *branch = dyn_cast<BranchInst>(&end);
      branch && branch->isConditional() && branch->getSuccessor(0) != branch->getSuccessor(1))
    asked = branch->getCondition();
  else if (auto *choice = dyn_cast<SwitchInst>(&end))
    asked = choice->getCondition();
  return asked && isa<Instruction>(asked) ? asked : nullptr;
}

/// Branches and switches behind `block` that go by `asked`, or by a comparison of it.
size_t questions(Value *asked, const BasicBlock &block, const DominatorTree &dt) {
  auto asks = [&](User *user) {
    return isa<BranchInst, SwitchInst>(user) && dt.dominates(&block, cast<Instruction>(user)->getParent());
  };
  size_t n = 0;
  for (User *user : asked->users())
    n += isa<ICmpInst>(user) ? size_t(count_if(user->users(), asks)) : size_t(asks(user));
  return n;
}

/// The ways into `block`: those behind the first answer of `end` that has some of them for itself, and
/// others.
bool find_ways(BasicBlock &block, Instruction &end, const DominatorTree &dt, Join &join) {
  if (any_of(predecessors(&block), [&](BasicBlock *from) { return dt.dominates(&block, from); }))
    return false; // the head of a loop
  for (BasicBlock *to : successors(&end)) {
    const BasicBlockEdge answer(end.getParent(), to);
    if (!answer.isSingleEdge())
      continue;
    auto behind = [&](BasicBlock *from) {
      return from == answer.getStart() ? to == &block : dt.dominates(answer, from);
    };
    join.yes.clear();
    for (BasicBlock *from : predecessors(&block))
      if (behind(from))
        join.yes.insert(from);
    if (!join.yes.empty() && !all_of(predecessors(&block), behind))
      return true;
  }
  return false;
}

bool find_join(Function &f, const DominatorTree &dt, size_t largest, Join &join) {
  for (BasicBlock *block : ReversePostOrderTraversal<Function *>(&f)) {
    const DomTreeNode *above = dt.getNode(block)->getIDom();
    Value *asked = above ? asked_by(*above->getBlock()->getTerminator()) : nullptr;
    if (!asked || !block->hasNPredecessorsOrMore(2) || questions(asked, *block, dt) < least_questions)
      continue;
    join = {.block = block};
    if (!find_ways(*block, *above->getBlock()->getTerminator(), dt, join))
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
