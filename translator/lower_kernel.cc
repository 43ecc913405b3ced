// What only verified form has: kernel structs as context, loads that may fault, per-CPU addresses, and map
// lookups as the kernel's own code does them. Everything here names kernel functions and variables by symbol;
// their addresses come in when an image becomes a module.
//
// A load that may fault (PROBE_MEM) yields 0 where the JIT's code does: for user and vsyscall addresses, and
// when it faults. The JIT emits a compare and an exception table entry; copy_from_kernel_nofault() makes the
// same checks and needs no table in the module, at the price of a call. Such loads are rare on packet paths.
//
// Programs run with migration disabled from the first to the last of a chain, so this CPU's offset does not
// change under a fused function: its loads are invariant.
#include "translator/lowering.h"

#include "translator/instance.h"
#include "translator/kernel.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/ModRef.h"

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

static GlobalVariable *percpu_variable(Module &module, const std::string &name, Type *type) {
  if (GlobalVariable *g = module.getNamedGlobal(name))
    return g;
  auto *g = new GlobalVariable(module, type, false, GlobalValue::ExternalLinkage, nullptr, name, nullptr,
                               GlobalValue::NotThreadLocal, gs_address_space);
  g->setDSOLocal(true); // never through a GOT
  return g;
}

GlobalVariable *ProgramLowering::percpu_symbol(const Twine &name, Type *type) {
  return percpu_variable(module, name.str(), type);
}

Value *this_cpu_offset(IRBuilderBase &b) {
  Type *i64 = b.getInt64Ty();
  Value *variable = percpu_variable(*b.GetInsertBlock()->getModule(), "this_cpu_off", i64);
  LoadInst *l = b.CreateAlignedLoad(i64, variable, Align(8));
  l->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(b.getContext(), {}));
  return l;
}

void Lowering::clobber_call(Value *result) {
  write(0, result);
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
}

// --- Context -----------------------------------------------------------------------------------------

Expected<Lowering::Access> Lowering::kernel_context_access(uint32_t slot, unsigned base, int64_t offset,
                                                           unsigned bits, bool write) {
  const KernelContext *context = p_.pipeline.kernel->layout.context(program_.type);
  const int64_t off = state_.regs[base].offset + offset, size = bits / 8;
  if (!context)
    return fail(
        unsupported(("the context of " + name_of(program_.type) + " programs is not known").str()).at(slot));
  if (off < 0 || off + size > int64_t(context->size))
    return fail(input_error(formatv("context access at offset {0}, size {1}, of a struct of {2} bytes", off,
                                    size, context->size))
                    .at(slot));
  for (const KernelContextMember &m : context->members)
    if (write && m.kind != KernelContextMember::scalar && off < int64_t(m.offset + m.size) &&
        int64_t(m.offset) < off + size)
      return fail(
          unsupported(formatv("write to the pointer at offset {0} of the context", m.offset)).at(slot));
  Access a;
  a.address = builder_.CreateConstGEP1_64(builder_.getInt8Ty(), as_ptr(base), uint64_t(offset));
  a.aligned = off % size == 0;
  a.tag = p_.domain_tag(ProgramLowering::Domain::context);
  return a;
}

// --- Instructions ------------------------------------------------------------------------------------

void Lowering::lower_load_probe(const Insn &insn, const InsnRow &row) {
  Value *address =
      builder_.CreateConstGEP1_64(builder_.getInt8Ty(), as_ptr(insn.src), uint64_t(int64_t(insn.offset)));
  AllocaInst *value;
  {
    IRBuilder<>::InsertPointGuard guard(builder_);
    BasicBlock &entry = function_->getEntryBlock();
    builder_.SetInsertPoint(&entry, entry.begin());
    value = builder_.CreateAlloca(i64(), nullptr, "probed");
  }
  FunctionCallee f = p_.module.getOrInsertFunction("copy_from_kernel_nofault", i64(), builder_.getPtrTy(),
                                                   builder_.getPtrTy(), i64());
  CallInst *failed = builder_.CreateCall(f, {value, address, builder_.getInt64(row.bits / 8)});
  failed->addFnAttr(Attribute::NoUnwind);
  failed->addFnAttr(Attribute::WillReturn);
  failed->addParamAttr(0, Attribute::NoCapture);
  failed->addParamAttr(1, Attribute::ReadOnly);
  failed->setMemoryEffects(MemoryEffects::readOnly() | MemoryEffects::argMemOnly(ModRefInfo::ModRef));
  Value *v = builder_.CreateFreeze(builder_.CreateAlignedLoad(int_of(row.bits), value, Align(8)));
  // It returns a long; of a failed copy the destination may hold anything.
  v = builder_.CreateSelect(builder_.CreateICmpEQ(failed, builder_.getInt64(0)), v,
                            ConstantInt::get(int_of(row.bits), 0));
  write(insn.dst,
        row.op == Op::load_probe_sx ? builder_.CreateSExt(v, i64()) : builder_.CreateZExt(v, i64()));
}

/// The kernel open-codes bpf_get_smp_processor_id() as a load of a per-CPU variable; where we know which
/// one, so do we.
void Lowering::lower_cpu(uint32_t slot, const Insn &insn) {
  if (const KernelCall *variable = program_.kernel_call_at(slot)) {
    GlobalVariable *g = p_.percpu_symbol(variable->symbol, builder_.getInt8Ty());
    Value *address = builder_.CreateConstGEP1_64(builder_.getInt8Ty(), g, variable->offset);
    LoadInst *l = builder_.CreateAlignedLoad(builder_.getInt32Ty(), address, Align(4));
    l->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(p_.context(), {}));
    write(insn.dst, builder_.CreateZExt(l, i64()));
    return;
  }
  CallInst *call = builder_.CreateCall(p_.module.getOrInsertFunction("bpf_get_smp_processor_id", i64()), {});
  call->addFnAttr(Attribute::NoUnwind);
  call->addFnAttr(Attribute::WillReturn);
  call->setMemoryEffects(MemoryEffects::inaccessibleMemOnly(ModRefInfo::Ref));
  write(insn.dst, call);
}

/// A kernel function that is no helper: nothing is known of what it does.
Error Lowering::lower_kernel_call(uint32_t slot) {
  const KernelCall *target = program_.kernel_call_at(slot);
  if (!target)
    return fail(internal_error("call of a kernel function without a name").at(slot));
  std::vector<Value *> args;
  for (unsigned r = 1; r <= 5; ++r)
    if (state_.regs[r].kind == Kind::function)
      return fail(unsupported("kernel function " + target->symbol + " with a callback").at(slot));
  for (unsigned r = 1; r <= 5; ++r)
    args.push_back(state_.regs[r].kind == Kind::unset ? (Value *)builder_.getInt64(0) : as_int(r));
  std::vector<Type *> types(5, i64());
  CallInst *call = builder_.CreateCall(
      p_.module.getOrInsertFunction(target->symbol, FunctionType::get(i64(), types, false)), args);
  call->addFnAttr(Attribute::NoUnwind);
  clobber_call(call);
  return Error::success();
}

Error Lowering::lower_kernel_variable(uint32_t slot, const Insn &insn) {
  const KernelCall *variable = program_.kernel_call_at(slot);
  if (!variable)
    return fail(internal_error("kernel variable without a name").at(slot));
  GlobalVariable *g = p_.symbol(variable->symbol, builder_.getInt8Ty());
  g->setDSOLocal(true);
  write(insn.dst, builder_.CreateConstGEP1_64(builder_.getInt8Ty(), g, variable->offset));
  return Error::success();
}

// --- Lookups -----------------------------------------------------------------------------------------

/// Lookups whose map is known, as the verifier would open-code them. False: it is a call as any other.
bool Lowering::lower_kernel_lookup(uint32_t slot) {
  const Provenance &map = state_.regs[1];
  const bool known =
      map.kind == Kind::map_object && map.id != Provenance::any_map && !p_.pipeline.maps[map.id].is_template;
  const KernelCall *call = program_.kernel_call_at(slot);
  if (!known)
    return false;
  if (has_inline_table(map.id)) {
    lower_table_lookup(map.id);
    return true;
  }
  if (call && call->symbol == hash_lookup_symbol) {
    lower_hash_lookup(map.id);
    return true;
  }
  return false;
}

/// The element that the hash table has, then what the verifier puts behind the call for this type of map.
void Lowering::lower_hash_lookup(uint32_t map) {
  const Map &m = p_.pipeline.maps[map];
  const KernelLayout &layout = p_.pipeline.kernel->layout;
  PointerType *ptr = builder_.getPtrTy();
  FunctionCallee f = p_.module.getOrInsertFunction(hash_lookup_symbol, ptr, ptr, ptr);
  CallInst *element = builder_.CreateCall(f, {as_ptr(1), as_ptr(2)});
  describe_effects(element, *find_helper(helper_map_lookup_elem), find_effects(helper_map_lookup_elem));
  BasicBlock *before = builder_.GetInsertBlock();
  auto block = [&] { return BasicBlock::Create(p_.context(), "", function_); };
  BasicBlock *found = block(), *done = block();
  builder_.CreateCondBr(builder_.CreateIsNull(element), done, found);
  builder_.SetInsertPoint(found);
  auto member = [&](uint64_t offset) {
    return builder_.CreateConstInBoundsGEP1_64(builder_.getInt8Ty(), element, offset);
  };
  if (m.type == MapType::lru_hash) { // written only when it changes: the cache line is shared
    Value *reference = member(layout.htab.referenced);
    LoadInst *old = builder_.CreateAlignedLoad(builder_.getInt8Ty(), reference, Align(1));
    old->setAtomic(AtomicOrdering::Unordered);
    BasicBlock *mark = block(), *marked = block();
    builder_.CreateCondBr(builder_.CreateIsNull(old), mark, marked);
    builder_.SetInsertPoint(mark);
    builder_.CreateAlignedStore(builder_.getInt8(1), reference, Align(1))
        ->setAtomic(AtomicOrdering::Unordered);
    builder_.CreateBr(marked);
    builder_.SetInsertPoint(marked);
    found = marked;
  }
  Value *value = member(layout.htab.key + array_stride(m.key_size));
  if (m.type == MapType::percpu_hash) {
    Value *offset = builder_.CreateAlignedLoad(i64(), value, Align(8));
    value = builder_.CreateIntToPtr(builder_.CreateAdd(offset, this_cpu_offset(builder_)), ptr);
  } else if (m.type == MapType::hash_of_maps) { // replaced at any time: one load
    LoadInst *inner = builder_.CreateAlignedLoad(ptr, value, Align(8));
    inner->setAtomic(AtomicOrdering::Unordered);
    value = inner;
  }
  builder_.CreateBr(done);
  found = builder_.GetInsertBlock();
  builder_.SetInsertPoint(done);
  PHINode *result = builder_.CreatePHI(ptr, 2);
  result->addIncoming(ConstantPointerNull::get(ptr), before);
  result->addIncoming(value, found);
  clobber_call(result);
}

} // namespace ujit
