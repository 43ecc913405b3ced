// Fusing works top-down. Every program of the partition is first expanded once, its calls still calls; then
// the calls that the plan wants inlined are inlined into the functions that are emitted, level by level, so
// each copy of a program is made exactly once at its final place and the cost is linear in the result.
#include "lto/fuse.h"

#include "lto/expand.h"
#include "translator/lower.h"

#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/IR/DIBuilder.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/Linker/Linker.h"
#include "llvm/Transforms/Utils/Cloning.h"

namespace ujit {

using namespace llvm;

std::string entry_symbol(const Program &program) { return "ujit.entry." + program.name; }
std::string chain_symbol(const Program &program) { return "ujit.chain." + program.name; }

static std::string template_symbol(const Program &program) { return "ujit.body." + program.name; }

namespace {

class Fuser {
public:
  Fuser(const FuseInput &input, const Partition &partition, LLVMContext &context)
      : in_(input), partition_(partition), module_(std::make_unique<Module>("partition", context)) {
    set_target(*module_);
  }

  Expected<std::unique_ptr<Module>> run() {
    if (Error e = link_members())
      return e;
    if (Error e = make_functions())
      return e;
    std::vector<Function *> emitted;
    for (ProgId p : partition_.functions)
      if (needs_function(p))
        emitted.push_back(module_->getFunction(program_symbol(in_.pipeline[p])));
    for (ProgId p : partition_.functions)
      if (in_.plan[p].entry)
        emitted.push_back(make_entry(p));
    for (ProgId p : partition_.chain_copies)
      emitted.push_back(module_->getFunction(chain_symbol(in_.pipeline[p])));
    for (Function *f : emitted)
      if (Error e = inline_planned(*f))
        return e;
    drop_unused();
    return std::move(module_);
  }

private:
  Error link_members() {
    Linker linker(*module_);
    for (ProgId p : partition_.members) {
      const std::vector<char> &bytes = in_.bitcode[index(p)];
      Expected<std::unique_ptr<Module>> m =
          parseBitcodeFile(MemoryBufferRef(StringRef(bytes.data(), bytes.size()), in_.pipeline[p].name),
                           module_->getContext());
      if (!m)
        return m.takeError();
      // Bodies are templates; the functions made of them get the public names.
      Function *main = (*m)->getFunction(program_symbol(in_.pipeline[p]));
      main->setName(template_symbol(in_.pipeline[p]));
      if (linker.linkInModule(std::move(*m)))
        return internal_error("linking failed").in_program(in_.pipeline[p].name).error();
    }
    return Error::success();
  }

  /// An entry that nobody tail-calls exists only inside of its entry function.
  bool needs_function(ProgId p) const { return !in_.plan[p].entry || in_.called[index(p)]; }

  Function *body(ProgId p) { return module_->getFunction(template_symbol(in_.pipeline[p])); }

  /// Expands every member; `functions` get their public name, chain copies a second body in which all calls
  /// leave.
  Error make_functions() {
    std::vector<std::pair<ProgId, Function *>> chain;
    for (ProgId p : partition_.chain_copies) {
      ValueToValueMapTy map;
      Function *copy = CloneFunction(body(p), map);
      copy->setName(chain_symbol(in_.pipeline[p]));
      if (Error e = clone_tail_calling_subprograms(*copy, p))
        return e;
      chain.push_back({p, copy});
    }
    for (ProgId p : partition_.members)
      if (Error e = expand_program(p, false, *body(p)))
        return e;
    for (auto &[p, copy] : chain)
      if (Error e = expand_program(p, true, *copy))
        return e;
    for (ProgId p : partition_.functions) {
      if (!needs_function(p))
        continue;
      const std::string name = program_symbol(in_.pipeline[p]);
      ValueToValueMapTy map;
      Function *f = CloneFunction(body(p), map);
      if (Function *declared = module_->getFunction(name)) {
        declared->replaceAllUsesWith(f);
        declared->eraseFromParent();
      }
      f->setName(name);
    }
    for (ProgId p : partition_.members)
      body(p)->setLinkage(GlobalValue::InternalLinkage);
    return Error::success();
  }

  /// A chain copy's calls all leave, also those in its subprograms: it needs its own copies of them.
  Error clone_tail_calling_subprograms(Function &copy, ProgId p) {
    SmallVector<Function *> work{&copy};
    DenseMap<Function *, Function *> done;
    while (!work.empty()) {
      Function *f = work.pop_back_val();
      for (BasicBlock &b : *f)
        for (Instruction &i : b) {
          auto *c = dyn_cast<CallInst>(&i);
          Function *callee = c ? c->getCalledFunction() : nullptr;
          if (!callee || callee->isDeclaration() || callee->getName().starts_with("ujit.chain."))
            continue;
          Function *&clone = done[callee];
          if (!clone) {
            ValueToValueMapTy map;
            clone = CloneFunction(callee, map);
            clone->setName("ujit.chain." + callee->getName());
            work.push_back(clone);
          }
          c->setCalledFunction(clone);
        }
    }
    return Error::success();
  }

  /// Expands the tail calls of a program's main function and of its subprograms, which are found by their
  /// calls.
  Error expand_program(ProgId p, bool chain, Function &main) {
    SmallVector<Function *> work{&main};
    SmallPtrSet<Function *, 8> seen{&main};
    while (!work.empty()) {
      Function *f = work.pop_back_val();
      for (BasicBlock &b : *f)
        for (Instruction &i : b)
          if (auto *c = dyn_cast<CallInst>(&i))
            if (Function *callee = c->getCalledFunction();
                callee && !callee->isDeclaration() && callee->getCallingConv() != CallingConv::PreserveNone &&
                seen.insert(callee).second)
              work.push_back(callee);
      if (Error e = expand_tail_calls(in_, p, chain, f == &main, *f))
        return e;
    }
    return Error::success();
  }

  /// The C function that the outside calls: the program is inlined into it and starts with a count of 0.
  Function *make_entry(ProgId p) {
    LLVMContext &c = module_->getContext();
    Function *target = body(p);
    IRBuilder<> b(c);
    Function *f = Function::Create(FunctionType::get(b.getInt64Ty(), {b.getPtrTy(), b.getPtrTy()}, false),
                                   GlobalValue::ExternalLinkage, entry_symbol(in_.pipeline[p]), *module_);
    f->copyAttributesFrom(target);
    f->setCallingConv(CallingConv::C);
    f->setLinkage(GlobalValue::ExternalLinkage);
    f->setVisibility(GlobalValue::DefaultVisibility);
    b.SetInsertPoint(BasicBlock::Create(c, "entry", f));
    if (DISubprogram *sp = target->getSubprogram()) {
      DISubprogram *own = DISubprogram::getDistinct(
          c, sp->getScope(), "entry of " + in_.pipeline[p].name, f->getName(), sp->getFile(), 1,
          sp->getType(), 1, nullptr, 0, 0, DINode::FlagArtificial, sp->getSPFlags(), sp->getUnit());
      f->setSubprogram(own);
      b.SetCurrentDebugLocation(DILocation::get(c, 1, 0, own));
    }
    Value *count = b.getInt64(0);
    if (in_.plan.count_cell) {
      Value *cell = b.CreateAlloca(b.getInt64Ty());
      b.CreateStore(count, cell);
      count = b.CreatePtrToInt(cell, b.getInt64Ty());
    }
    Function *callee =
        in_.plan.mode == PlanOptions::chain ? module_->getFunction(program_symbol(in_.pipeline[p])) : target;
    CallInst *call = b.CreateCall(callee, {f->getArg(0), f->getArg(1), count});
    call->setCallingConv(CallingConv::PreserveNone);
    if (in_.plan.mode != PlanOptions::chain)
      mark_for_inlining(*call);
    b.CreateRet(call);
    return f;
  }

  Error inline_planned(Function &root) {
    std::vector<CallBase *> work;
    auto collect = [&](auto &&range) {
      for (auto &i : range)
        if (auto *c = dyn_cast<CallBase>(&i); c && is_marked_for_inlining(*c))
          work.push_back(c);
    };
    for (BasicBlock &b : root)
      collect(b);
    while (!work.empty()) {
      CallBase *call = work.back();
      work.pop_back();
      InlineFunctionInfo info;
      InlineResult r = InlineFunction(*call, info);
      if (!r.isSuccess())
        return internal_error(std::string("inlining failed: ") + r.getFailureReason()).error();
      for (CallBase *c : info.InlinedCallSites)
        if (is_marked_for_inlining(*c))
          work.push_back(c);
    }
    return Error::success();
  }

  void drop_unused() {
    for (bool again = true; again;) {
      again = false;
      for (Function &f : make_early_inc_range(*module_))
        if (f.use_empty() && (f.hasLocalLinkage() || f.isDeclaration())) {
          f.eraseFromParent();
          again = true;
        }
    }
  }

  const FuseInput &in_;
  const Partition &partition_;
  std::unique_ptr<Module> module_;
};

} // namespace

Expected<std::unique_ptr<Module>> fuse(const FuseInput &input, const Partition &partition,
                                       LLVMContext &context) {
  return Fuser(input, partition, context).run();
}

} // namespace ujit
