// In a kernel, a per-CPU array is a table of per-CPU pointers, and the address of an element is what the
// table holds plus this CPU's offset. To the optimiser that is a number which became a pointer: it may lead
// anywhere. Once the index is a constant, the element is an object like any other, so it gets a name: two
// elements differ, one element is itself in every program, and what is stored there is known where it is
// loaded again. The binding turns the name into the same loads (lto/bind.cc).
#include "lto/passes.h"

#include "translator/lower.h"

#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"

namespace ujit {

using namespace llvm;

namespace {

/// "ujit.percpu.N.K" if the address is where element K of per-CPU array N is: the address that the K-th word
/// of
/// @ujit.values.N holds, plus this CPU's offset.
std::optional<std::string> name_of_element(const IntToPtrInst &address) {
  auto is_offset = [](const LoadInst &l) {
    return l.getPointerAddressSpace() == gs_address_space &&
           l.getPointerOperand()->getName() == "this_cpu_off";
  };
  auto *sum = dyn_cast<BinaryOperator>(address.getOperand(0));
  if (!sum || sum->getOpcode() != Instruction::Add)
    return std::nullopt;
  auto *word = dyn_cast<LoadInst>(sum->getOperand(0)), *offset = dyn_cast<LoadInst>(sum->getOperand(1));
  if (!word || !offset)
    return std::nullopt;
  if (is_offset(*word))
    std::swap(word, offset);
  if (!is_offset(*offset) || !word->hasMetadata(LLVMContext::MD_invariant_load))
    return std::nullopt;
  APInt at(64, 0);
  Value *table = word->getPointerOperand()->stripAndAccumulateConstantOffsets(
      address.getModule()->getDataLayout(), at, /*AllowNonInbounds=*/true);
  StringRef map = table->getName();
  if (!isa<GlobalVariable>(table) || !map.consume_front("ujit.values.") || at.isNegative() || at.urem(8) != 0)
    return std::nullopt;
  return ("ujit.percpu." + map + "." + Twine(at.udiv(8).getZExtValue())).str();
}

} // namespace

bool name_elements(Function &function) {
  bool changed = false;
  for (Instruction &i : make_early_inc_range(instructions(function)))
    if (auto *address = dyn_cast<IntToPtrInst>(&i))
      if (std::optional<std::string> name = name_of_element(*address)) {
        Type *byte = Type::getInt8Ty(function.getContext());
        address->replaceAllUsesWith(function.getParent()->getOrInsertGlobal(*name, byte));
        address->eraseFromParent();
        changed = true;
      }
  return changed;
}

} // namespace ujit
