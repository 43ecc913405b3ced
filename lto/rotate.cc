// A rotate of a mixed word, `x = h ^ k; x << 13 | x >> 51`, is a funnel shift of x and h once it is known
// that the upper bits of k are 0: InstCombine asks which bits of an operand count, and h has the same. A
// rotate is one instruction; a funnel shift of two words is slow on many CPUs, or three instructions.
#include "lto/passes.h"

#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/PatternMatch.h"

namespace ujit {

using namespace llvm;
using namespace llvm::PatternMatch;

/// Whether `changed` is `original` with bits changed by an operation that leaves those of `mask` alone.
static bool differs_outside(Value *changed, Value *original, const APInt &mask, const SimplifyQuery &query) {
  Value *by = nullptr;
  return match(changed, m_CombineOr(m_c_Xor(m_Specific(original), m_Value(by)),
                                    m_c_Or(m_Specific(original), m_Value(by)))) &&
         MaskedValueIsZero(by, mask, query);
}

bool restore_rotates(Function &f) {
  const DataLayout &layout = f.getDataLayout();
  bool any = false;
  for (Instruction &i : instructions(f)) {
    auto *shift = dyn_cast<IntrinsicInst>(&i);
    const APInt *by = nullptr;
    if (!shift ||
        !(shift->getIntrinsicID() == Intrinsic::fshl || shift->getIntrinsicID() == Intrinsic::fshr) ||
        !match(shift->getArgOperand(2), m_APInt(by)))
      continue;
    const unsigned bits = by->getBitWidth();
    unsigned from_second = unsigned(by->urem(bits));
    if (shift->getIntrinsicID() == Intrinsic::fshr)
      from_second = bits - from_second;
    if (from_second == 0 || from_second == bits)
      continue;
    Value *first = shift->getArgOperand(0), *second = shift->getArgOperand(1);
    const APInt high = APInt::getHighBitsSet(bits, from_second);
    const SimplifyQuery query(layout, shift);
    if (differs_outside(first, second, high, query) || differs_outside(second, first, high, query)) {
      shift->setArgOperand(1, first);
      any = true;
    }
  }
  return any;
}

} // namespace ujit
