// 64-bit immediates, helper calls, subprograms, callbacks and tail calls.
#include "translator/instance.h"
#include "translator/lowering.h"

#include "llvm/IR/IntrinsicInst.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/ModRef.h"

#include <linux/bpf.h>

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

Error Lowering::lower_ld_imm64(uint32_t slot, const Insn &insn, const InsnRow &row) {
  switch (row.op) {
  case Op::ld_imm64: write(insn.dst, builder_.getInt64(imm64(program_.insns, slot))); return Error::success();
  case Op::ld_map: write(insn.dst, p_.map_symbol(uint32_t(insn.imm))); return Error::success();
  case Op::ld_map_value:
    write(insn.dst, builder_.CreateConstGEP1_64(builder_.getInt8Ty(), p_.values_symbol(uint32_t(insn.imm)),
                                                uint32_t(program_.insns[slot + 1].imm)));
    return Error::success();
  case Op::ld_func:
    write(insn.dst, nullptr); // known by its provenance where it is used
    return Error::success();
  case Op::ld_btf_id:
    if (p_.pipeline.kernel)
      return lower_kernel_variable(slot, insn);
    [[fallthrough]];
  default:
    return fail(unsupported("`" + print_insn(program_.insns, slot) + "` is not supported in object form")
                    .at(slot)
                    .with_hint("kernel variables and map indices are resolved by a kernel"));
  }
}

// --- Helpers -----------------------------------------------------------------------------------------

static bool writes_through(Arg a) {
  return a == Arg::value_out || a == Arg::mem_write || a == Arg::mem_rw || a == Arg::fixed_mem ||
         a == Arg::callback_ctx || a == Arg::ctx;
}

/// Tells the optimiser which memory a call leaves alone. What it reads and writes through its arguments
/// is one part, what it touches behind them the other; only where one alias domain covers both can the latter
/// be narrowed.
void Lowering::describe_effects(CallInst *call, const Helper &helper, const HelperEffects *effects) {
  call->addFnAttr(Attribute::NoUnwind);
  if (!effects || !p_.options.helper_effects)
    return;
  call->addFnAttr(Attribute::WillReturn);
  bool writes = false, pointers = false, any_pointer = false;
  using Domain = ProgramLowering::Domain;
  bool io = effects->touches & (reads_packet | writes_packet | reads_ctx | writes_ctx);
  bool maps = effects->touches & (reads_maps | writes_maps);
  bool other = false;
  for (unsigned a = 0; a < helper.argc; ++a) {
    Arg kind = effects->args[a];
    if (kind == Arg::any && state_.regs[a + 1].is_pointer())
      any_pointer = true;
    if (!ujit::is_pointer(kind))
      continue;
    if (!effects->captures)
      call->addParamAttr(a, Attribute::NoCapture);
    if (const Provenance &map = state_.regs[a + 1]; kind == Arg::map)
      other |= map.kind != Kind::map_object || map.id == Provenance::any_map || p_.is_scratch(map.id);
    if (kind == Arg::map || kind == Arg::ctx || kind == Arg::func)
      continue; // the map object is no memory of ours; the context's fields are in `touches`
    pointers = true;
    writes |= writes_through(kind);
    if (!writes_through(kind))
      call->addParamAttr(a, Attribute::ReadOnly);
    switch (p_.domain_of(state_.regs[a + 1])) {
    case Domain::context:
    case Domain::packet:
    case Domain::io: io = true; break;
    case Domain::maps:
    case Domain::one_map: maps = true; break;
    case Domain::scratch: other = true; break;
    case Domain::none:
      // Our own frame carries no domain: the call's domain says nothing about it.
      other |= state_.regs[a + 1].kind != Kind::stack && state_.regs[a + 1].kind != Kind::outer_stack;
      break;
    }
  }
  if (any_pointer || effects->callback)
    return;
  if (effects->touches == touch_nothing) {
    MemoryEffects memory = effects->pure ? MemoryEffects::inaccessibleMemOnly(ModRefInfo::Ref)
                                         : MemoryEffects::inaccessibleMemOnly(ModRefInfo::ModRef);
    if (pointers)
      memory |= MemoryEffects::argMemOnly(writes ? ModRefInfo::ModRef : ModRefInfo::Ref);
    call->setMemoryEffects(memory);
  } else if (!(effects->touches & (writes_packet | writes_ctx | writes_maps)) && !writes) {
    call->setMemoryEffects(
        MemoryEffects::readOnly() |
        MemoryEffects::inaccessibleMemOnly(effects->pure ? ModRefInfo::Ref : ModRefInfo::ModRef));
  }
  if (!other && io != maps)
    call->setMetadata(LLVMContext::MD_tbaa, p_.domain_tag(io ? Domain::io : Domain::maps));
}

std::optional<uint32_t> Lowering::inlined_callback(uint32_t helper) const {
  if (helper != helper_loop && helper != helper_for_each_map_elem)
    return std::nullopt;
  const Provenance &f = state_.regs[2];
  return f.kind == Kind::function ? std::optional(f.id) : std::nullopt;
}

Error Lowering::lower_helper(uint32_t slot, const Insn &insn) {
  const uint32_t id = uint32_t(insn.imm);
  const Helper *helper = find_helper(id);
  const HelperEffects *effects = find_effects(id);
  if (!helper)
    return fail(unsupported(formatv("helper #{0} is not known", id)).at(slot));
  if (id == helper_tail_call)
    return lower_tail_call(slot);

  auto clobber = [&](Value *result) {
    write(0, result);
    for (unsigned r = 1; r <= 5; ++r)
      write(r, nullptr);
  };
  if (p_.pipeline.kernel && id == helper_map_lookup_elem) {
    if (state_.regs[1].kind != Kind::map_object) // a lookup that was open-coded is one only then
      return fail(unsupported("lookup in a map that cannot be followed").at(slot));
    if (lower_kernel_lookup(slot))
      return Error::success();
  }
  const Provenance &map = state_.regs[1];
  if (id == helper_map_lookup_elem && map.kind == Kind::map_object && map.id != Provenance::any_map &&
      p_.options.inline_lookups && is_plain_array(map.id)) {
    lower_array_lookup(map.id);
    return Error::success();
  }
  if (id == helper_map_lookup_elem && map.kind == Kind::map_object && map.id != Provenance::any_map &&
      has_inline_table(map.id)) {
    lower_table_lookup(map.id);
    return Error::success();
  }
  if (id == helper_map_update_elem && map.kind == Kind::map_object && map.id != Provenance::any_map) {
    const Map &m = p_.pipeline.maps[map.id];
    if (m.frozen || m.flags & BPF_F_RDONLY_PROG)
      return fail(input_error(formatv("map {0} is read-only", m.name)).at(slot));
    if (lower_array_update(slot, map.id))
      return Error::success();
  }
  if (helper->name == "bpf_get_smp_processor_id" && !p_.pipeline.kernel) {
    LoadInst *cpu = builder_.CreateAlignedLoad(i64(), p_.symbol("ujit.cpu", i64()), Align(8));
    cpu->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(p_.context(), {}));
    clobber(cpu);
    return Error::success();
  }
  if (lower_small_helper(slot, *helper))
    return Error::success();
  std::optional<uint32_t> callback;
  if (effects && effects->callback) {
    callback = inlined_callback(id);
    if (!callback)
      return fail(
          unsupported(("helper " + helper->name + " with a callback is not supported in object form").str())
              .at(slot)
              .with_hint("callbacks of bpf_loop and bpf_for_each_map_elem are"));
    if (id == helper_loop) {
      lower_loop(slot, *callback);
      return Error::success();
    }
  }

  std::vector<Type *> types;
  std::vector<Value *> args;
  for (unsigned a = 0; a < helper->argc; ++a) {
    Arg kind = effects ? effects->args[a] : Arg::any;
    bool pointer = ujit::is_pointer(kind);
    if (kind != Arg::func && kind != Arg::none && state_.regs[a + 1].kind == Kind::function)
      return fail(
          unsupported(("helper " + helper->name + " with a callback is not supported").str()).at(slot));
    types.push_back(pointer ? (Type *)builder_.getPtrTy() : i64());
    if (kind == Arg::none)
      args.push_back(ConstantInt::get(i64(), 0));
    else if (kind == Arg::func)
      args.push_back(callback_thunk(*callback));
    else
      args.push_back(pointer ? as_ptr(a + 1) : as_int(a + 1));
  }
  if (callback) { // the thunk finds the instance beside the program's own callback context
    Type *pair = StructType::get(builder_.getPtrTy(), builder_.getPtrTy());
    IRBuilder<> at_entry(&function_->getEntryBlock(), function_->getEntryBlock().begin());
    AllocaInst *packed = at_entry.CreateAlloca(pair);
    builder_.CreateStore(instance_, packed);
    builder_.CreateStore(args[2], builder_.CreateStructGEP(pair, packed, 1));
    args[2] = packed;
  }
  bool pointer = effects && effects->ret != Ret::scalar && effects->ret != Ret::none;
  // Verified form: one helper may be several kernel functions.
  const KernelCall *kernel_call = p_.pipeline.kernel ? program_.kernel_call_at(slot) : nullptr;
  if (kernel_call && kernel_call->symbol == hash_lookup_symbol)
    kernel_call = nullptr; // yields an element; the helper, the value in whatever map it is
  FunctionCallee f = p_.module.getOrInsertFunction(
      kernel_call ? StringRef(kernel_call->symbol) : StringRef(helper->name),
      FunctionType::get(pointer ? (Type *)builder_.getPtrTy() : i64(), types, false));
  CallInst *call = builder_.CreateCall(f, args);
  if (effects && effects->ret == Ret::mem_or_null)
    call->addRetAttr(Attribute::NoAlias); // a record that nobody else has yet
  if (callback)
    call->addFnAttr(Attribute::NoUnwind);
  else
    describe_effects(call, *helper, effects);
  clobber(call);
  return Error::success();
}

// --- Subprograms and callbacks -----------------------------------------------------------------------

CallInst *Lowering::call_subprogram(uint32_t callee, ArrayRef<std::pair<Value *, Provenance>> given) {
  Function *f = p_.functions[callee];
  const State &entry = p_.facts.subprograms[callee].entry[0];
  std::vector<Value *> args{instance_, count_};
  for (unsigned r = 1; r <= 5; ++r) {
    const Provenance &to = entry.regs[r];
    if (to.kind == Kind::unset)
      continue;
    Provenance from = r <= given.size() ? given[r - 1].second : Provenance();
    Value *v = r <= given.size() ? given[r - 1].first : nullptr;
    args.push_back(has_pointer_form(to) ? to_ptr(v, from) : to_int(v, from));
  }
  CallInst *call = builder_.CreateCall(f, args);
  call->setCallingConv(f->getCallingConv());
  return call;
}

Error Lowering::lower_local_call(uint32_t slot, const Insn &insn) {
  uint32_t callee = uint32_t(subprogram_at(program_, uint32_t(call_target(slot, insn))));
  std::array<std::pair<Value *, Provenance>, 5> args;
  for (unsigned r = 1; r <= 5; ++r)
    args[r - 1] = {values_[r], state_.regs[r]};
  Value *result = call_subprogram(callee, args);
  Provenance p = p_.facts.subprograms[callee].result;
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
  write(0, has_pointer_form(p) ? builder_.CreateIntToPtr(result, builder_.getPtrTy()) : result);
  return Error::success();
}

/// bpf_loop(nr, callback, context, flags): the loop itself, so that its body can be inlined.
void Lowering::lower_loop(uint32_t slot, uint32_t callback) {
  constexpr uint32_t max_loops = 1u << 23; // BPF_MAX_LOOPS
  constexpr int64_t invalid = -22, too_big = -7;
  Type *i32 = builder_.getInt32Ty();
  Value *count = builder_.CreateTrunc(as_int(1), i32);
  std::pair<Value *, Provenance> cb_context{values_[3], state_.regs[3]};
  if (is_recomputed(cb_context.second) || cb_context.second.is_pointer())
    cb_context = {as_ptr(3), Provenance::pointer(Kind::memory)};
  Value *flags = as_int(4);
  BasicBlock *check = builder_.GetInsertBlock();
  auto block = [&](const char *name) { return BasicBlock::Create(p_.context(), name, function_); };
  BasicBlock *head = block("loop.head"), *body = block("loop.body"), *next = block("loop.next"),
             *done = block("loop.done");
  Value *bad_flags = builder_.CreateICmpNE(flags, builder_.getInt64(0));
  Value *bad_count = builder_.CreateICmpUGT(count, builder_.getInt32(max_loops));
  Value *error = builder_.CreateSelect(bad_flags, builder_.getInt64(uint64_t(invalid)),
                                       builder_.getInt64(uint64_t(too_big)));
  builder_.CreateCondBr(builder_.CreateOr(bad_flags, bad_count), done, head);

  builder_.SetInsertPoint(head);
  PHINode *i = builder_.CreatePHI(i32, 2, "i");
  i->addIncoming(builder_.getInt32(0), check);
  builder_.CreateCondBr(builder_.CreateICmpULT(i, count), body, done);

  builder_.SetInsertPoint(body);
  Value *stop =
      call_subprogram(callback, {{builder_.CreateZExt(i, i64()), Provenance::number()}, cb_context});
  Value *after = builder_.CreateAdd(i, builder_.getInt32(1));
  builder_.CreateCondBr(builder_.CreateICmpNE(stop, builder_.getInt64(0)), done, next);
  builder_.SetInsertPoint(next);
  i->addIncoming(after, next);
  builder_.CreateBr(head);

  builder_.SetInsertPoint(done);
  PHINode *result = builder_.CreatePHI(i64(), 3);
  result->addIncoming(error, check);
  IRBuilder<>::InsertPointGuard guard(builder_);
  builder_.SetInsertPoint(head->getTerminator());
  result->addIncoming(builder_.CreateZExt(i, i64()), head);
  builder_.SetInsertPoint(body->getTerminator());
  result->addIncoming(builder_.CreateZExt(after, i64()), body);
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
  write(0, result);
}

/// A function that a helper can call: C ABI, four arguments, the last one leads to the instance.
Value *Lowering::callback_thunk(uint32_t subprogram) {
  Function *callee = p_.functions[subprogram];
  std::string name = (callee->getName() + ".callback").str();
  if (Function *f = p_.module.getFunction(name))
    return f;
  PointerType *ptr = builder_.getPtrTy();
  Function *f = Function::Create(FunctionType::get(i64(), {i64(), ptr, ptr, ptr}, false),
                                 GlobalValue::InternalLinkage, name, p_.module);
  f->copyAttributesFrom(callee);
  f->setCallingConv(CallingConv::C);
  f->setLinkage(GlobalValue::InternalLinkage);
  IRBuilder<> b(BasicBlock::Create(p_.context(), "entry", f));
  if (scope_) {
    f->setSubprogram(p_.debug->createFunction(p_.debug_file, callee->getName(), name, p_.debug_file, 1,
                                              scope_->getType(), 1, DINode::FlagZero,
                                              DISubprogram::SPFlagDefinition));
    b.SetCurrentDebugLocation(
        DILocation::get(p_.context(), program_.subprograms[subprogram].start + 1, 0, f->getSubprogram()));
  }
  Value *instance = b.CreateLoad(ptr, f->getArg(3));
  Value *context = b.CreateLoad(ptr, b.CreateConstGEP1_64(b.getInt8Ty(), f->getArg(3), 8));
  std::array<Value *, 4> given{f->getArg(0), f->getArg(1), f->getArg(2), context};
  std::vector<Value *> args{instance, b.getInt64(0)};
  const State &entry = p_.facts.subprograms[subprogram].entry[0];
  for (unsigned r = 1; r <= 4; ++r) {
    if (entry.regs[r].kind == Kind::unset)
      continue;
    Value *v = given[r - 1];
    bool pointer = has_pointer_form(entry.regs[r]);
    if (pointer != v->getType()->isPointerTy())
      v = pointer ? b.CreateIntToPtr(v, ptr) : b.CreatePtrToInt(v, i64());
    args.push_back(v);
  }
  CallInst *call = b.CreateCall(callee, args);
  call->setCallingConv(callee->getCallingConv());
  b.CreateRet(call);
  return f;
}

/// Calls through a register exist for plain programs only, where the register holds a helper's number.
Error Lowering::lower_callx(uint32_t slot, const Insn &insn) {
  if (program_.type != ProgType::unspec)
    return fail(unsupported("call through a register")
                    .at(slot)
                    .with_hint("the kernel's verifier refuses it as well"));
  std::vector<Type *> types(6, i64());
  std::vector<Value *> args{as_int(insn.dst)};
  for (unsigned r = 1; r <= 5; ++r)
    args.push_back(as_int(r));
  FunctionCallee f =
      p_.module.getOrInsertFunction("ujit_call_helper", FunctionType::get(i64(), types, false));
  write(0, builder_.CreateCall(f, args));
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
  return Error::success();
}

Error Lowering::lower_tail_call(uint32_t slot) {
  if (state_.regs[2].kind != Kind::map_object)
    return fail(input_error("the second argument of bpf_tail_call is not a map").at(slot));
  if (uint32_t map = state_.regs[2].id;
      map != Provenance::any_map && p_.pipeline.maps[map].type != MapType::prog_array)
    return fail(
        input_error("bpf_tail_call on map " + p_.pipeline.maps[map].name + ", which is not a prog array")
            .at(slot));
  Type *ptr = builder_.getPtrTy();
  FunctionCallee f = p_.module.getOrInsertFunction("ujit.tail_call", builder_.getVoidTy(), ptr, ptr,
                                                   builder_.getInt32Ty(), builder_.getInt32Ty());
  Value *context =
      program_.type == ProgType::unspec ? (sub_ == 0 ? function_->getArg(0) : as_ptr(1)) : as_ptr(1);
  CallInst *call = builder_.CreateCall(
      f,
      {context, as_ptr(2), builder_.CreateTrunc(as_int(3), builder_.getInt32Ty()), builder_.getInt32(slot)},
      live_state(slot));
  call->addFnAttr(Attribute::NoMerge);
  call->addFnAttr(Attribute::NoUnwind);
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
  write(0, builder_.getInt64(0));
  return Error::success();
}

} // namespace ujit
