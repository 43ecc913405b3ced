// To know a bit of `freeze x`, LLVM first asks whether x could be poison, and whether some branch above
// decides on it: it climbs the dominator tree to the entry, and further for each operand of each condition
// that it meets. A program is mostly checks, so its tree is about as deep as the program is long, and
// InstCombine, which asks for bits all the time, takes the square of that: 100,000 instructions took 40
// seconds. Early CSE and SimplifyCFG ask too.
//
// For long functions the freezes are therefore calls of a function without a body while these passes run. It
// is pure, and its result is not undefined: equal ones are merged, unused ones go, and nothing asks further.
// What is not found this way is what a frozen load would have told of itself, and that is no more than its
// width.
#include "lto/passes.h"

#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Module.h"

namespace ujit {

using namespace llvm;

namespace {

/// IR instructions; below that, climbing costs less than the rest of the pass.
constexpr size_t long_function = 10'000;
constexpr const char hidden_prefix[] = "ujit.frozen.";

std::array<Type *, 6> types(LLVMContext &c) {
  return {Type::getInt1Ty(c),  Type::getInt8Ty(c),  Type::getInt16Ty(c),
          Type::getInt32Ty(c), Type::getInt64Ty(c), PointerType::get(c, 0)};
}

std::string hidden_name(const Type *type) {
  return hidden_prefix +
         (type->isPointerTy() ? std::string("p") : "i" + std::to_string(type->getIntegerBitWidth()));
}

Function *hidden_freeze(Module &module, Type *type) {
  const std::string name = hidden_name(type);
  if (Function *known = module.getFunction(name))
    return known;
  Function *f =
      Function::Create(FunctionType::get(type, {type}, false), GlobalValue::ExternalLinkage, name, module);
  f->setDoesNotAccessMemory();
  f->setDoesNotThrow();
  f->setWillReturn();
  f->setNoSync();
  f->setDoesNotFreeMemory();
  f->setSpeculatable();
  f->addRetAttr(Attribute::NoUndef);
  return f;
}

void replace(Instruction &from, Instruction *to) {
  to->insertBefore(from.getIterator());
  to->setDebugLoc(from.getDebugLoc());
  to->takeName(&from);
  from.replaceAllUsesWith(to);
  from.eraseFromParent();
}

PreservedAnalyses same_blocks() {
  PreservedAnalyses kept;
  kept.preserveSet<CFGAnalyses>();
  return kept;
}

} // namespace

PreservedAnalyses HideFreezesPass::run(Function &f, FunctionAnalysisManager &) {
  if (f.getInstructionCount() <= long_function)
    return PreservedAnalyses::all();
  const auto known = types(f.getContext());
  for (Instruction &i : make_early_inc_range(instructions(f)))
    if (isa<FreezeInst>(i) && is_contained(known, i.getType()))
      replace(i, CallInst::Create(hidden_freeze(*f.getParent(), i.getType()), {i.getOperand(0)}));
  return same_blocks();
}

PreservedAnalyses ShowFreezesPass::run(Function &f, FunctionAnalysisManager &) {
  bool any = false;
  for (Type *type : types(f.getContext()))
    if (Function *hidden = f.getParent()->getFunction(hidden_name(type))) {
      any = true;
      for (User *user : make_early_inc_range(hidden->users())) {
        auto &call = *cast<CallInst>(user);
        replace(call, new FreezeInst(call.getArgOperand(0)));
      }
      hidden->eraseFromParent();
    }
  return any ? same_blocks() : PreservedAnalyses::all();
}

} // namespace ujit
