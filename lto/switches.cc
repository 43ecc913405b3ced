// A dense `switch` reaches us as the binary search that the compiler made of it, since bytecode has no jump
// tables. Where values are as random as traffic is, each of its comparisons is mispredicted half the time; a
// table is one prediction, and fewer instructions.
//
//        x < 8?                              switch x
//       ╱      ╲                      ╱   ╱   ╱    ╲    ╲
//    x < 4?     x < 12?       ->     0   1   2 ...  14   15
//    ╱   ╲       ╱   ╲
//   ...   ...   ...   x == 15?
//
// A tree of branches that do nothing but compare one value with constants says for each way out of it which
// values take it; those are the cases. The way out with the most values is the default, unless all values
// that there can be have a case. What a kernel's mitigations forbid is asked by the caller: a switch becomes
// a table.
#include "lto/passes.h"

#include "llvm/ADT/PostOrderIterator.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/ConstantRange.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/PatternMatch.h"
#include "llvm/IR/ProfDataUtils.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"
#include "llvm/Transforms/Utils/Local.h"

#include <numeric>

namespace ujit {

using namespace llvm;
using namespace llvm::PatternMatch;

namespace {

constexpr size_t least_comparisons = 6;
constexpr size_t most_comparisons = 512;
constexpr uint64_t most_cases = 1'024;
constexpr uint64_t least_density = 40; ///< cases in a hundred values between the first and the last

struct Interval {
  uint64_t first = 0, last = 0;
  uint64_t more() const { return last - first; } ///< values beside the first: no overflow
};
using Values = SmallVector<Interval, 2>;

Values intervals(const ConstantRange &range) {
  if (range.isEmptySet())
    return {};
  const uint64_t most = APInt::getMaxValue(range.getBitWidth()).getZExtValue();
  if (range.isFullSet())
    return {{0, most}};
  const uint64_t lower = range.getLower().getZExtValue(), behind = range.getUpper().getZExtValue();
  if (behind == 0)
    return {{lower, most}};
  if (lower < behind)
    return {{lower, behind - 1}};
  return {{0, behind - 1}, {lower, most}};
}

Values meet(const Values &values, const ConstantRange &range) {
  Values out;
  const Values in = intervals(range);
  for (const Interval &a : values)
    for (const Interval &b : in)
      if (std::max(a.first, b.first) <= std::min(a.last, b.last))
        out.push_back({std::max(a.first, b.first), std::min(a.last, b.last)});
  return out;
}

/// How a block ends: by comparing `value` with constants.
struct Question {
  BranchInst *branch = nullptr;
  Value *value = nullptr;
  ConstantRange yes = ConstantRange::getEmpty(1); ///< values that go to the first successor
};

std::optional<Question> question_of(BasicBlock &block) {
  auto *branch = dyn_cast<BranchInst>(block.getTerminator());
  Value *value = nullptr;
  CmpInst::Predicate predicate{};
  const APInt *constant = nullptr, *added = nullptr;
  if (!branch || !branch->isConditional() || branch->getSuccessor(0) == branch->getSuccessor(1) ||
      !match(branch->getCondition(), m_ICmp(predicate, m_Value(value), m_APInt(constant))) ||
      !value->getType()->isIntegerTy() || value->getType()->getIntegerBitWidth() > 64)
    return std::nullopt;
  ConstantRange yes = ConstantRange::makeExactICmpRegion(predicate, *constant);
  if (Value *inner = nullptr; match(value, m_Add(m_Value(inner), m_APInt(added)))) {
    value = inner;
    yes = yes.subtract(*added);
  }
  return Question{branch, value, yes};
}

/// A way out of the tree.
struct Leaf {
  BasicBlock *from = nullptr, *to = nullptr;
  Values values;
  double likely = 0; ///< of all that enter the tree

  uint64_t more() const { // values beside one in each interval, saturating
    return std::accumulate(values.begin(), values.end(), uint64_t(0),
                           [](uint64_t n, const Interval &i) { return SaturatingAdd(n, i.more()); });
  }
};

struct Tree {
  BasicBlock *root = nullptr;
  Value *value = nullptr;
  bool weighted = false;
  SmallVector<BasicBlock *> inner; ///< blocks of the tree below its root
  std::vector<Leaf> leaves;
};

/// Nothing happens in the block but a comparison of the tree's value.
bool only_asks(BasicBlock &block, const Value *value) {
  if (!block.getSinglePredecessor())
    return false;
  const auto question = question_of(block);
  if (!question || question->value != value)
    return false;
  return none_of(block, [&](const Instruction &i) {
    return &i != question->branch && (isa<PHINode>(i) || i.mayHaveSideEffects() || i.mayReadFromMemory() ||
                                      i.isUsedOutsideOfBlock(&block));
  });
}

Tree grow(BasicBlock &root, const Question &first) {
  Tree tree{.root = &root, .value = first.value};
  struct Work {
    BasicBlock *block;
    Values values;
    double likely;
  };
  const ConstantRange all = computeConstantRange(first.value, /*ForSigned=*/false);
  std::vector<Work> work{{&root, intervals(all), 1}};
  while (!work.empty()) {
    const Work at = std::move(work.back());
    work.pop_back();
    const Question question = *question_of(*at.block);
    uint64_t taken = 1, passed = 1;
    tree.weighted |= extractBranchWeights(*question.branch, taken, passed);
    const double first_way = double(taken + 1) / double(taken + passed + 2);
    for (unsigned way : {1u, 0u}) {
      BasicBlock *to = question.branch->getSuccessor(way);
      Values values = meet(at.values, way == 0 ? question.yes : question.yes.inverse());
      const double likely = at.likely * (way == 0 ? first_way : 1 - first_way);
      if (!values.empty() && tree.inner.size() < most_comparisons && only_asks(*to, tree.value)) {
        tree.inner.push_back(to);
        work.push_back({to, std::move(values), likely});
      } else {
        tree.leaves.push_back({at.block, to, std::move(values), likely});
      }
    }
  }
  return tree;
}

/// Whether the leaves' values, but for those of the default, are few and dense. No default where that one has
/// fewer values than all others together: they become cases too, and the table needs no check of its bounds.
bool choose_default(const Tree &tree, const Leaf *&otherwise) {
  otherwise = nullptr;
  for (const Leaf &leaf : tree.leaves)
    if (!leaf.values.empty() && (!otherwise || leaf.more() > otherwise->more()))
      otherwise = &leaf;
  uint64_t cases = 0, low = UINT64_MAX, high = 0;
  SmallPtrSet<BasicBlock *, 16> targets;
  for (const Leaf &leaf : tree.leaves) {
    if (&leaf == otherwise || leaf.values.empty())
      continue;
    targets.insert(leaf.to);
    cases = SaturatingAdd(cases, SaturatingAdd(leaf.more(), uint64_t(leaf.values.size())));
    low = std::min(low, leaf.values.front().first);
    high = std::max(high, leaf.values.back().last);
  }
  if (cases > most_cases || targets.size() < least_comparisons / 2 ||
      cases * 100 < (high - low) * least_density)
    return false;
  if (otherwise->more() < cases)
    otherwise = nullptr;
  return true;
}

/// Where the new switch goes for a leaf: its target, or, as phis there tell ways apart, a block that leads
/// there.
BasicBlock *way_to(const Leaf &leaf, Function &f) {
  if (leaf.to->phis().empty())
    return leaf.to;
  BasicBlock *way = BasicBlock::Create(f.getContext(), "", &f, leaf.to);
  BranchInst::Create(leaf.to, way)->setDebugLoc(leaf.from->getTerminator()->getDebugLoc());
  for (PHINode &phi : leaf.to->phis())
    phi.addIncoming(phi.getIncomingValueForBlock(leaf.from), way);
  return way;
}

void replace(Function &f, Tree &tree, const Leaf *otherwise) {
  constexpr double scale = 1 << 20;
  auto *old = cast<BranchInst>(tree.root->getTerminator());
  Value *condition = old->getCondition();
  IRBuilder<> builder(old);
  BasicBlock *none = otherwise ? way_to(*otherwise, f) : BasicBlock::Create(f.getContext(), "", &f);
  if (!otherwise)
    new UnreachableInst(f.getContext(), none);
  SwitchInst *made = builder.CreateSwitch(tree.value, none);
  SmallVector<uint32_t> weights{uint32_t(otherwise ? otherwise->likely * scale : 0) + 1};
  for (const Leaf &leaf : tree.leaves) {
    if (leaf.values.empty() || &leaf == otherwise)
      continue;
    BasicBlock *way = way_to(leaf, f);
    const auto number = double(leaf.more() + leaf.values.size());
    for (const Interval &i : leaf.values)
      for (uint64_t v = i.first;; ++v) {
        made->addCase(cast<ConstantInt>(ConstantInt::get(tree.value->getType(), v)), way);
        weights.push_back(uint32_t(leaf.likely / number * scale) + 1);
        if (v == i.last)
          break;
      }
  }
  if (tree.weighted)
    setBranchWeights(*made, weights, /*IsExpected=*/false);
  for (const Leaf &leaf : tree.leaves)
    if (leaf.from == tree.root)
      leaf.to->removePredecessor(tree.root, /*KeepOneInputPHIs=*/true);
  old->eraseFromParent();
  RecursivelyDeleteTriviallyDeadInstructions(condition);
  DeleteDeadBlocks(tree.inner, nullptr, /*KeepOneInputPHIs=*/true);
}

} // namespace

bool restore_switches(Function &f) {
  bool any = false;
  SmallPtrSet<BasicBlock *, 16> gone;
  const ReversePostOrderTraversal<Function *> order(&f);
  const SmallVector<BasicBlock *> blocks(order.begin(), order.end());
  for (BasicBlock *block : blocks) {
    if (gone.contains(block))
      continue;
    const auto question = question_of(*block);
    if (!question)
      continue;
    Tree tree = grow(*block, *question);
    const Leaf *otherwise = nullptr;
    if (tree.inner.size() + 1 < least_comparisons || !choose_default(tree, otherwise))
      continue;
    gone.insert(tree.inner.begin(), tree.inner.end());
    replace(f, tree, otherwise);
    any = true;
  }
  return any;
}

} // namespace ujit
