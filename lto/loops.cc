// What loops need beside LLVM's passes.
#include "lto/passes.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/Instructions.h"

namespace ujit {

using namespace llvm;

bool loop_self_calls(Function &f) {
  SmallVector<CallInst *> calls;
  for (BasicBlock &b : f)
    if (CallInst *c = b.getTerminatingMustTailCall(); c && c->getCalledFunction() == &f)
      calls.push_back(c);
  if (calls.empty())
    return false;
  // Memory of the frame is made once; its life begins anew in each round.
  BasicBlock &entry = f.getEntryBlock();
  BasicBlock::iterator at = entry.begin();
  while (isa<AllocaInst>(at))
    ++at;
  for (Instruction &i : make_range(at, entry.end()))
    if (isa<AllocaInst>(i))
      return false;
  BasicBlock *head = entry.splitBasicBlock(at, "again");
  IRBuilder<> b(head, head->begin());
  SmallVector<PHINode *> values;
  for (Argument &a : f.args()) {
    PHINode *phi = b.CreatePHI(a.getType(), unsigned(calls.size()) + 1);
    a.replaceAllUsesWith(phi);
    phi->addIncoming(&a, &entry);
    values.push_back(phi);
  }
  for (CallInst *c : calls) {
    BasicBlock *from = c->getParent();
    for (unsigned i = 0; i < values.size(); ++i)
      values[i]->addIncoming(c->getArgOperand(i), from);
    Instruction *ret = from->getTerminator();
    BranchInst::Create(head, ret->getIterator())->setDebugLoc(c->getDebugLoc());
    ret->eraseFromParent();
    c->eraseFromParent();
  }
  // The instance is the same in all rounds, also to those who look for it among the arguments.
  for (unsigned i = 0; i < values.size(); ++i) {
    bool same = true;
    for (Value *v : values[i]->incoming_values())
      same &= v == values[i] || v == f.getArg(i);
    if (same) {
      values[i]->replaceAllUsesWith(f.getArg(i));
      values[i]->eraseFromParent();
    }
  }
  return true;
}

void number_copied_loads(Function &f, function_ref<void()> make_copies) {
  auto loads = [&] {
    MapVector<const DILocation *, SmallVector<LoadInst *, 1>> by_place;
    for (BasicBlock &b : f)
      for (Instruction &i : b)
        if (auto *l = dyn_cast<LoadInst>(&i); l && l->getDebugLoc() && l->getDebugLoc().getLine() != 0)
          by_place[l->getDebugLoc().get()].push_back(l);
    return by_place;
  };
  DenseMap<const DILocation *, size_t> before;
  for (auto &[place, all] : loads())
    before[place] = all.size();
  make_copies();
  for (auto &[place, all] : loads())
    if (all.size() > before.lookup(place))
      for (unsigned k = 1; k < all.size(); ++k)
        all[k]->setDebugLoc(place->cloneWithDiscriminator(place->getDiscriminator() + k));
}

} // namespace ujit
