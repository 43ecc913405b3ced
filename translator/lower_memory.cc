// Loads, stores and atomics. docs/memory-model.md is the law here. In short:
//
//   stack        plain: nobody else sees it; `freeze` where bytes may never have been written
//   context      plain: belongs to this run of the pipeline; pointer fields widen (context.h)
//   packet       plain; one load instruction yields one value (`freeze`), as others may write the buffer
//   map values   `unordered` where natural alignment is proven, so never torn; else loads as of packets,
//   stores `volatile` scratch      plain, by the manifest's word; loads frozen, so that a wrong word never
//   splits a value frozen data  constants
#include "translator/lowering.h"

#include "translator/context.h"

#include "llvm/IR/MDBuilder.h"
#include "llvm/Support/FormatVariadic.h"

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

// --- Alias domains -----------------------------------------------------------------------------------

ProgramLowering::Domain ProgramLowering::domain_of(const Provenance &p) const {
  switch (p.kind) {
  case Kind::context: return Domain::context;
  case Kind::packet:
  case Kind::packet_end: return Domain::packet;
  case Kind::map_value: {
    if (p.id == Provenance::any_map)
      return Domain::maps;
    // An inner map may be any allocation of its shape; a map that is not one of those is only itself.
    if (pipeline.maps[p.id].is_template)
      return Domain::maps;
    return is_scratch(p.id) ? Domain::scratch : Domain::one_map;
  }
  default: return Domain::none;
  }
}

/// Siblings under `parent`, which is under the root or the root itself (empty).
static MDNode *access_tag(LLVMContext &context, StringRef name, StringRef parent) {
  MDBuilder md(context);
  MDNode *above = md.createTBAARoot("ujit");
  if (!parent.empty())
    above = md.createTBAAScalarTypeNode(parent, above);
  MDNode *type = md.createTBAAScalarTypeNode(name, above);
  return md.createTBAAStructTagNode(type, type, 0);
}

MDNode *context_tag(LLVMContext &context) { return access_tag(context, "context", "io"); }
MDNode *packet_tag(LLVMContext &context) { return access_tag(context, "packet", "io"); }
MDNode *values_tag(LLVMContext &context, const Map &map, bool scratch) {
  // No helper that touches "the maps" touches a scratch map.
  return scratch ? access_tag(context, "scratch " + map.name, "")
                 : access_tag(context, "map " + map.name, "maps");
}

MDNode *ProgramLowering::domain_tag(Domain domain, uint32_t map) {
  if (!options.alias_domains)
    return nullptr;
  switch (domain) {
  case Domain::none: return nullptr;
  case Domain::io: return access_tag(context(), "io", "");
  case Domain::context: return context_tag(context());
  case Domain::packet: return packet_tag(context());
  case Domain::maps: return access_tag(context(), "maps", "");
  case Domain::scratch:
  case Domain::one_map: return values_tag(context(), pipeline.maps[map], domain == Domain::scratch);
  }
  return nullptr;
}

// --- Accesses ----------------------------------------------------------------------------------------

Expected<Lowering::Access> Lowering::access(uint32_t slot, unsigned base, int64_t offset, unsigned bits,
                                            bool write) {
  const Provenance &p = state_.regs[base];
  const unsigned size = bits / 8;
  Access a;
  auto at = [&](int64_t off) {
    Value *v = as_ptr(base);
    return off ? builder_.CreateConstGEP1_64(builder_.getInt8Ty(), v, uint64_t(off)) : v;
  };
  switch (p.kind) {
  case Kind::stack:
    a.one_value = may_be_unset(p, offset);
    if (p.exact) {
      a.address = stack_address(p.offset + offset);
      a.aligned = (p.offset + offset) % int64_t(size) == 0;
    } else {
      a.address = at(offset);
    }
    return a;
  case Kind::context: {
    if (!p.exact)
      return fail(unsupported("context access at a variable offset").at(slot));
    if (p_.pipeline.kernel)
      return kernel_context_access(slot, base, offset, bits, write);
    int64_t off = p.offset + offset;
    if (!context_fields(program_.type).empty()) {
      const ContextField *f = context_field(program_.type, off, size);
      if (!f)
        return fail(input_error(formatv("no context field at offset {0}, size {1}", off, size)).at(slot));
      if (f->kind != FieldKind::scalar)
        return fail(input_error(formatv("context field {0} is a pointer and cannot be {1}", f->name,
                                        write ? "written" : "read in parts"))
                        .at(slot));
      if (write && !f->writable)
        return fail(input_error(formatv("context field {0} cannot be written", f->name)).at(slot));
    }
    a.address = at(off - p.offset);
    a.aligned = off % int64_t(size) == 0;
    a.tag = p_.domain_tag(ProgramLowering::Domain::context);
    return a;
  }
  case Kind::packet: a.one_value = true; break;
  case Kind::map_value: {
    const Map *map = p.id == Provenance::any_map ? nullptr : &p_.pipeline.maps[p.id];
    if (write && map && map->frozen)
      return fail(input_error(formatv("map {0} is read-only", map->name)).at(slot));
    a.shared = !(map && p_.is_scratch(p.id));
    a.one_value = true;
    a.invariant = map && map->frozen && map->is_data();
    // Values begin at a multiple of 8, except behind the prefix of a trie, which any inner map may be.
    if (p.aligned && p.exact) {
      a.alignment = MinAlign(8, uint64_t(p.offset + offset));
      a.aligned = a.alignment >= size;
    }
    break;
  }
  case Kind::outer_stack: a.one_value = true; break;
  case Kind::kernel:
  case Kind::memory:
    a.one_value = true;
    a.shared = program_.type != ProgType::unspec; // there it is the caller's own memory
    break;
  case Kind::scalar:
  case Kind::mixed:
    a.shared = bool(p_.pipeline.kernel); // the verifier knows more than we do (ProgramFacts::unknown_access)
    if (program_.type != ProgType::unspec && !p_.pipeline.kernel)
      return fail(
          unsupported(formatv("r{0} is dereferenced, but where it points to cannot be followed", base))
              .at(slot)
              .note(p.kind == Kind::mixed
                        ? "it is a pointer of one kind on one path and something else on another"
                        : "it was loaded from memory, or computed")
              .with_hint("pointers are followed through registers and 8-byte spills to the stack"));
    a.one_value = true;
    break;
  case Kind::packet_end:
  case Kind::map_object:
  case Kind::function:
  case Kind::unset:
    return fail(input_error(formatv("r{0} does not point to memory that can be accessed", base)).at(slot));
  }
  a.address = at(offset);
  a.tag = p_.domain_tag(p_.domain_of(p), p.id);
  return a;
}

Value *Lowering::load(const Access &a, Type *type) {
  const uint64_t bytes = function_->getDataLayout().getTypeStoreSize(type);
  LoadInst *l = builder_.CreateAlignedLoad(type, a.address, a.aligned ? Align(bytes) : Align(1));
  l->setMetadata(LLVMContext::MD_tbaa, a.tag);
  if (a.invariant)
    l->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(p_.context(), {}));
  else if (a.shared && a.aligned)
    l->setAtomic(AtomicOrdering::Unordered);
  else if (a.one_value)
    return builder_.CreateFreeze(l);
  return l;
}

bool Lowering::may_be_unset(const Provenance &base, int64_t offset) const {
  if (base.kind == Kind::outer_stack || base.kind == Kind::memory || base.kind == Kind::mixed)
    return true;
  if (base.kind != Kind::stack)
    return false;
  return frame_.whole || !base.exact || frame_.objects[frame_.object_at(base.offset + offset)].unset;
}

void Lowering::store(const Access &a, Value *value) {
  const uint64_t bytes = function_->getDataLayout().getTypeStoreSize(value->getType());
  StoreInst *s = builder_.CreateAlignedStore(value, a.address,
                                             a.aligned ? Align(std::max(bytes, a.alignment)) : Align(1));
  s->setMetadata(LLVMContext::MD_tbaa, a.tag);
  if (a.shared && a.aligned)
    s->setAtomic(AtomicOrdering::Unordered);
  else if (a.shared)
    s->setVolatile(
        true); // an unaligned atomic would become a call; this is not split, repeated or joined either
}

/// A load from read-only data at a known offset: a constant, or a bound constant of the instance.
Value *Lowering::frozen_load(const Provenance &base, int64_t offset, unsigned bits) {
  if (base.kind != Kind::map_value || !base.exact || base.id == Provenance::any_map ||
      !p_.options.fold_config)
    return nullptr;
  const Map &map = p_.pipeline.maps[base.id];
  const int64_t start = base.offset + offset, end = start + bits / 8;
  if (!map.frozen || start < 0 || end > int64_t(map.contents.size()))
    return nullptr;
  for (size_t k = 0; k < map.bound.size(); ++k) {
    const BoundConstant &c = map.bound[k];
    if (end <= c.offset || start >= int64_t(c.offset + c.size))
      continue;
    if (start < c.offset || end > int64_t(c.offset + c.size) || c.size > 8)
      return nullptr; // straddles: read the memory
    Value *v = builder_.CreateAlignedLoad(
        i64(), p_.symbol("ujit.bound." + Twine(base.id) + "." + Twine(k), i64()), Align(8));
    cast<LoadInst>(v)->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(p_.context(), {}));
    v = builder_.CreateLShr(v, uint64_t(start - c.offset) * 8);
    return builder_.CreateTrunc(v, int_of(bits));
  }
  uint64_t v = 0;
  for (int64_t i = end - 1; i >= start; --i)
    v = v << 8 | map.contents[size_t(i)];
  return ConstantInt::get(int_of(bits), v);
}

Error Lowering::lower_load(uint32_t slot, const Insn &insn, const InsnRow &row) {
  const Provenance base = state_.regs[insn.src];
  // A pointer field of the context: wider than in the UAPI struct, and elsewhere.
  if (base.kind == Kind::context && base.exact && !p_.pipeline.kernel) {
    int64_t off = base.offset + insn.offset;
    const ContextField *f = context_field(program_.type, off, row.bits / 8);
    if (f && f->kind != FieldKind::scalar && off == f->offset && row.bits / 8 == f->size &&
        row.op == Op::load) {
      Value *address = builder_.CreateConstGEP1_64(builder_.getInt8Ty(), as_ptr(insn.src),
                                                   uint64_t(f->target - base.offset));
      LoadInst *l = builder_.CreateAlignedLoad(builder_.getPtrTy(), address, Align(8));
      l->setMetadata(LLVMContext::MD_tbaa, p_.domain_tag(ProgramLowering::Domain::context));
      write(insn.dst, l);
      return Error::success();
    }
  }
  Value *v = frozen_load(base, insn.offset, row.bits);
  if (!v) {
    Expected<Access> a = access(slot, insn.src, insn.offset, row.bits, false);
    if (!a)
      return a.takeError();
    // A spilled pointer comes back as one, and so do those in kernel structs.
    Provenance spilled = Provenance::number();
    if (p_.pipeline.kernel && (base.kind == Kind::context || base.kind == Kind::kernel)) {
      State after = state_;
      step(p_.pipeline, program_, slot, after, Provenance::number());
      spilled = after.regs[insn.dst];
    } else if (row.bits == 64 && base.exact && base.kind == Kind::stack)
      spilled = state_.frame.load(base.offset + insn.offset);
    else if (row.bits == 64 && base.exact && base.kind == Kind::outer_stack)
      spilled = state_.outer.load(base.offset + insn.offset);
    if (is_recomputed(spilled)) {
      write(insn.dst, nullptr);
      return Error::success();
    }
    if (has_pointer_form(spilled)) {
      write(insn.dst, load(*a, builder_.getPtrTy()));
      return Error::success();
    }
    if (row.op == Op::load_acquire) {
      if (Error e = check_atomic(slot, base, insn.offset, row.bits))
        return e;
      LoadInst *l = builder_.CreateAlignedLoad(int_of(row.bits), a->address, Align(row.bits / 8));
      l->setAtomic(AtomicOrdering::Acquire);
      v = l;
    } else {
      v = load(*a, int_of(row.bits));
    }
  }
  write(insn.dst, row.op == Op::load_sx ? builder_.CreateSExt(v, i64()) : builder_.CreateZExt(v, i64()));
  return Error::success();
}

Error Lowering::lower_store(uint32_t slot, const Insn &insn, const InsnRow &row) {
  Expected<Access> a = access(slot, insn.dst, insn.offset, row.bits, true);
  if (!a)
    return a.takeError();
  Value *v;
  if (row.source == Operand::imm)
    v = ConstantInt::get(int_of(row.bits), uint64_t(int64_t(insn.imm)), true);
  else if (row.bits == 64 && has_pointer_form(state_.regs[insn.src]) && !a->shared)
    v = as_ptr(insn.src);
  else
    v = builder_.CreateTrunc(as_int(insn.src), int_of(row.bits));
  if (row.op == Op::store_release) {
    if (Error e = check_atomic(slot, state_.regs[insn.dst], insn.offset, row.bits))
      return e;
    StoreInst *s = builder_.CreateAlignedStore(v, a->address, Align(row.bits / 8));
    s->setAtomic(AtomicOrdering::Release);
  } else {
    store(*a, v);
  }
  return Error::success();
}

static bool may_be_in_trie(const Pipeline &pipeline, const Provenance &p) {
  return !(p.kind == Kind::map_value && p.aligned) &&
         std::ranges::any_of(pipeline.maps, [](const Map &m) { return m.type == MapType::lpm_trie; });
}

/// Atomics are naturally aligned and never on context or packet: the verifier checks both, alignment strictly
/// here, also where it does not for plain accesses.
Error Lowering::check_atomic(uint32_t slot, const Provenance &base, int64_t offset, unsigned bits) {
  if (program_.type != ProgType::unspec && (base.kind == Kind::context || base.kind == Kind::packet))
    return fail(
        input_error(formatv("atomic access to the {0}", base.kind == Kind::packet ? "packet" : "context"))
            .at(slot));
  const bool in_frame = base.kind == Kind::stack || base.kind == Kind::outer_stack;
  if (p_.pipeline.kernel && !in_frame && may_be_in_trie(p_.pipeline, base))
    return fail(unsupported("atomic access to what may be a value of an lpm_trie, which need not be aligned")
                    .at(slot));
  if (base.exact && (base.offset + offset) % int64_t(bits / 8) &&
      (base.kind == Kind::stack || base.kind == Kind::outer_stack || base.kind == Kind::map_value))
    return fail(input_error(formatv("atomic access of {0} bytes is not aligned", bits / 8)).at(slot));
  return Error::success();
}

/// With the old value returned they are fully ordered, otherwise relaxed (Linux kernel memory model,
/// atomic_t.txt).
Error Lowering::lower_atomic(uint32_t slot, const Insn &insn, const InsnRow &row) {
  Expected<Access> a = access(slot, insn.dst, insn.offset, row.bits, true);
  if (!a)
    return a.takeError();
  if (Error e = check_atomic(slot, state_.regs[insn.dst], insn.offset, row.bits))
    return e;
  Type *type = int_of(row.bits);
  MaybeAlign align(row.bits / 8);
  auto narrow = [&](unsigned reg) { return builder_.CreateTrunc(as_int(reg), type); };
  if (row.op == Op::atomic_cmpxchg) {
    Value *r = builder_.CreateAtomicCmpXchg(a->address, narrow(0), narrow(insn.src), align,
                                            AtomicOrdering::SequentiallyConsistent,
                                            AtomicOrdering::SequentiallyConsistent);
    write(0, builder_.CreateZExt(builder_.CreateExtractValue(r, 0), i64()));
    return Error::success();
  }
  AtomicRMWInst::BinOp op = row.op == Op::atomic_add   ? AtomicRMWInst::Add
                            : row.op == Op::atomic_or  ? AtomicRMWInst::Or
                            : row.op == Op::atomic_and ? AtomicRMWInst::And
                            : row.op == Op::atomic_xor ? AtomicRMWInst::Xor
                                                       : AtomicRMWInst::Xchg;
  Value *old = builder_.CreateAtomicRMW(op, a->address, narrow(insn.src), align,
                                        row.fetch ? AtomicOrdering::SequentiallyConsistent
                                                  : AtomicOrdering::Monotonic);
  if (row.fetch)
    write(insn.src, builder_.CreateZExt(old, i64()));
  return Error::success();
}

/// ld_abs and ld_ind read the packet in network byte order; outside of it the program ends and returns 0.
Error Lowering::lower_load_packet(uint32_t slot, const Insn &insn, const InsnRow &row) {
  if (sub_ != 0)
    return fail(unsupported("packet loads by offset (ld_abs, ld_ind) in a subprogram").at(slot));
  Value *offset = builder_.getInt32(uint32_t(insn.imm));
  if (row.op == Op::ld_ind)
    offset = builder_.CreateAdd(builder_.CreateTrunc(as_int(insn.src), builder_.getInt32Ty()), offset);
  FunctionCallee f = p_.module.getOrInsertFunction("ujit_load_packet", i64(), builder_.getPtrTy(),
                                                   builder_.getInt32Ty(), builder_.getInt32Ty());
  CallInst *v = builder_.CreateCall(f, {as_ptr(6), offset, builder_.getInt32(row.bits / 8)});
  v->addFnAttr(Attribute::NoUnwind);
  BasicBlock *outside = BasicBlock::Create(p_.context(), "", function_);
  BasicBlock *inside = BasicBlock::Create(p_.context(), "", function_);
  builder_.CreateCondBr(builder_.CreateICmpSLT(v, builder_.getInt64(0)), outside, inside);
  builder_.SetInsertPoint(outside);
  builder_.CreateRet(builder_.getInt64(0));
  builder_.SetInsertPoint(inside);
  for (unsigned r = 1; r <= 5; ++r)
    write(r, nullptr);
  write(0, v);
  return Error::success();
}

} // namespace ujit
