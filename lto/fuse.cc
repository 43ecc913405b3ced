// Fusing works top-down. Every program of the partition is first expanded once, its calls still calls; then
// the calls that the plan wants inlined are inlined into the functions that are emitted, level by level, so
// each copy of a program is made exactly once at its final place and the cost is linear in the result.
#include "lto/fuse.h"

#include "lto/expand.h"
#include "translator/leave_state.h"
#include "translator/lower.h"

#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/IR/DIBuilder.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/Linker/Linker.h"
#include "llvm/Transforms/Utils/Cloning.h"

#include <map>

namespace ujit {

using namespace llvm;

std::string entry_symbol(const Program &program) { return "ujit.entry." + program.name; }
static constexpr StringRef chain_prefix = "ujit.chain.";
std::string chain_symbol(const Program &program) { return (chain_prefix + program.name).str(); }
bool is_chain_copy(const Function &f) { return f.getName().starts_with(chain_prefix); }

FunctionType *program_type(LLVMContext &context, bool leaving) {
  Type *ptr = PointerType::get(context, 0);
  SmallVector<Type *, 4> types{ptr, ptr, Type::getInt64Ty(context)};
  if (leaving)
    types.push_back(ptr);
  return FunctionType::get(Type::getInt64Ty(context), types, false);
}

/// Kernel target: bit 63 of what an entry returns means leaving, so results are 32 bits.
static void cut_results(Function &f) {
  for (BasicBlock &b : f)
    if (auto *r = dyn_cast<ReturnInst>(b.getTerminator()))
      r->setOperand(0, IRBuilder<>(r).CreateAnd(r->getReturnValue(), 0xffffffff));
}

static constexpr const char resume_function[] = "ujit-resume";

/// Expands the tail calls of a program's main function and of its subprograms, which are found by their
/// calls.
static Error expand_program(const FuseInput &input, ProgId p, CopyKind kind, Function &main) {
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
    if (Error e = expand_tail_calls(input, p, kind, f == &main, *f))
      return e;
  }
  return Error::success();
}

/// What programs get for a count: the number, or the cell that holds it.
static Value *count_argument(const FuseInput &input, IRBuilder<> &b, Value *count) {
  if (!input.plan.count_cell)
    return count;
  Value *cell = b.CreateAlloca(b.getInt64Ty());
  b.CreateStore(count, cell);
  return b.CreatePtrToInt(cell, b.getInt64Ty());
}

static void drop_unused(Module &module) {
  for (bool again = true; again;) {
    again = false;
    for (Function &f : make_early_inc_range(module))
      if (f.use_empty() && (f.hasLocalLinkage() || f.isDeclaration())) {
        f.eraseFromParent();
        again = true;
      }
  }
}

static Expected<std::unique_ptr<Module>> parse(const std::vector<char> &bytes, const Program &program,
                                               LLVMContext &context) {
  return parseBitcodeFile(MemoryBufferRef(StringRef(bytes.data(), bytes.size()), program.name), context);
}

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
        emitted.push_back(module_->getFunction(in_.function_symbol(p)));
    for (ProgId p : partition_.functions)
      if (in_.plan[p].entry)
        emitted.push_back(make_entry(p));
    for (ProgId p : partition_.chain_copies)
      emitted.push_back(module_->getFunction(chain_symbol(in_.pipeline[p])));
    for (Function *f : emitted)
      if (Error e = inline_planned(*f))
        return e;
    drop_unused(*module_);
    return std::move(module_);
  }

private:
  Error link_members() {
    Linker linker(*module_);
    for (ProgId p : partition_.members) {
      Expected<std::unique_ptr<Module>> m =
          parse(in_.bitcode[index(in_.plan[p].origin)], in_.program(p), module_->getContext());
      if (!m)
        return m.takeError();
      // Bodies are templates; the functions made of them get the public names.
      Function *main = (*m)->getFunction(program_symbol(in_.program(p)));
      main->setName(in_.body_symbol(p));
      if (linker.linkInModule(std::move(*m)))
        return internal_error("linking failed").in_program(in_.program(p).name).error();
    }
    return Error::success();
  }

  /// An entry that nobody tail-calls exists only inside of its entry function.
  bool needs_function(ProgId p) const { return !in_.plan[p].entry || in_.called[index(p)]; }

  Function *body(ProgId p) { return module_->getFunction(in_.body_symbol(p)); }

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
    for (ProgId p : partition_.members) {
      if (in_.leave && !in_.leave->whole_result[index(p)])
        cut_results(*body(p));
      if (Error e = expand_program(in_, p, CopyKind::fused, *body(p)))
        return e;
    }
    for (auto &[p, copy] : chain)
      if (Error e = expand_program(in_, p, CopyKind::chain, *copy))
        return e;
    for (ProgId p : partition_.functions) {
      if (!needs_function(p))
        continue;
      const std::string name = in_.function_symbol(p);
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
          if (!callee || callee->isDeclaration() || is_chain_copy(*callee))
            continue;
          Function *&clone = done[callee];
          if (!clone) {
            ValueToValueMapTy map;
            clone = CloneFunction(callee, map);
            clone->setName(chain_prefix + callee->getName());
            work.push_back(clone);
          }
          c->setCalledFunction(clone);
        }
    }
    return Error::success();
  }

  /// The C function that the outside calls: the program is inlined into it and starts with a count of 0.
  Function *make_entry(ProgId p) {
    LLVMContext &c = module_->getContext();
    Function *target = body(p);
    IRBuilder<> b(c);
    Function *f = Function::Create(entry_type(c), GlobalValue::ExternalLinkage, entry_symbol(in_.pipeline[p]),
                                   *module_);
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
    Value *count = count_argument(in_, b, b.getInt64(0));
    if (in_.leave && !in_.leave->points.empty())
      enter_behind(b, *f);
    const bool calls = in_.plan.mode == PlanOptions::chain || !in_.plan.inline_entries;
    Function *callee = calls ? module_->getFunction(in_.function_symbol(p)) : target;
    SmallVector<Value *, 4> arguments{f->getArg(0), f->getArg(1), count};
    if (in_.leave)
      arguments.push_back(f->getArg(3));
    CallInst *call = b.CreateCall(callee, arguments);
    call->setCallingConv(CallingConv::PreserveNone);
    if (!calls)
      mark_for_inlining(*call);
    const bool cut = in_.leave && in_.leave->whole_result[index(p)];
    b.CreateRet(cut ? b.CreateAnd(call, 0xffffffff) : (Value *)call);
    return f;
  }

  /// Kernel target: a resume point and the leave frame come too.
  FunctionType *entry_type(LLVMContext &c) const {
    Type *ptr = PointerType::get(c, 0);
    SmallVector<Type *, 4> types{ptr, ptr};
    if (in_.leave)
      types.append({Type::getInt32Ty(c), ptr});
    return FunctionType::get(Type::getInt64Ty(c), types, false);
  }

  /// Not from the start: the rare way in.
  void enter_behind(IRBuilder<> &b, Function &f) {
    LLVMContext &c = f.getContext();
    BasicBlock *behind = BasicBlock::Create(c, "behind", &f), *start = BasicBlock::Create(c, "start", &f);
    b.CreateCondBr(b.CreateIsNull(f.getArg(2)), start, behind, MDBuilder(c).createBranchWeights(2000, 1));
    b.SetInsertPoint(behind);
    FunctionCallee resume = module_->getOrInsertFunction(resume_function, f.getFunctionType());
    cast<Function>(resume.getCallee())->setVisibility(GlobalValue::HiddenVisibility);
    CallInst *call = b.CreateCall(resume, {f.getArg(0), f.getArg(1), f.getArg(2), f.getArg(3)});
    call->addFnAttr(Attribute::NoUnwind);
    call->setTailCall();
    b.CreateRet(call);
    b.SetInsertPoint(start);
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

  const FuseInput &in_;
  const Partition &partition_;
  std::unique_ptr<Module> module_;
};

} // namespace

Error fuse_resumed(const FuseInput &input, ProgId p, Module &module) {
  Function &f = *module.getFunction(resume_symbol(input.program(p)));
  if (!input.leave->whole_result[index(p)])
    cut_results(f);
  if (Error e = expand_program(input, p, CopyKind::resumed, f))
    return e;
  drop_unused(module);
  return Error::success();
}

std::unique_ptr<Module> make_resume_dispatcher(const FuseInput &input, LLVMContext &context) {
  auto module = std::make_unique<Module>("resume", context);
  set_target(*module);
  IRBuilder<> b(context);
  Type *ptr = b.getPtrTy();
  Function *f = Function::Create(FunctionType::get(b.getInt64Ty(), {ptr, ptr, b.getInt32Ty(), ptr}, false),
                                 GlobalValue::ExternalLinkage, resume_function, *module);
  f->setVisibility(GlobalValue::HiddenVisibility);
  add_code_attributes(*f);
  f->addFnAttr(Attribute::Cold);
  b.SetInsertPoint(BasicBlock::Create(context, "entry", f));
  Value *frame = f->getArg(3);
  auto field = [&](uint32_t offset) { return b.CreateConstGEP1_64(b.getInt8Ty(), frame, offset); };
  b.CreateAlignedStore(f->getArg(2), field(leave_point_offset), Align(4));
  Value *count = b.CreateAlignedLoad(b.getInt32Ty(), field(leave_count_offset), Align(4));
  count = count_argument(input, b, b.CreateZExt(count, b.getInt64Ty()));
  BasicBlock *unknown = BasicBlock::Create(context, "unknown", f);
  SwitchInst *choice = b.CreateSwitch(f->getArg(2), unknown);
  b.SetInsertPoint(unknown);
  b.CreateRet(b.getInt64(0)); // no leave names such a point
  std::map<ProgId, BasicBlock *> blocks;
  for (uint32_t i = 0; i < input.leave->points.size(); ++i) {
    const ProgId p = input.leave->points[i].program;
    BasicBlock *&bb = blocks[p];
    if (!bb) {
      bb = BasicBlock::Create(context, "program", f);
      b.SetInsertPoint(bb);
      FunctionCallee resume =
          module->getOrInsertFunction(resume_symbol(input.program(p)), program_type(context, true));
      cast<Function>(resume.getCallee())->setVisibility(GlobalValue::HiddenVisibility);
      CallInst *call = b.CreateCall(resume, {f->getArg(0), f->getArg(1), count, frame});
      call->setCallingConv(CallingConv::PreserveNone);
      call->addFnAttr(Attribute::NoUnwind);
      b.CreateRet(call);
    }
    choice->addCase(b.getInt32(i + 1), bb);
  }
  return module;
}

Expected<std::unique_ptr<Module>> fuse(const FuseInput &input, const Partition &partition,
                                       LLVMContext &context) {
  return Fuser(input, partition, context).run();
}

} // namespace ujit
