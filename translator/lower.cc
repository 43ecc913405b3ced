// Walks a program's blocks in reverse post-order and builds SSA form directly: a block with one predecessor
// takes over its registers, every other one gets a phi for each register that is live on entry. What a
// register is in the IR follows from its provenance at that point: an address in our own frame is not a
// value at all but recomputed where it is used, other pointers are `ptr`, everything else is i64.
#include "translator/lowering.h"

#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Transforms/Utils/Local.h"

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

std::string program_symbol(const Program &program) { return "ujit." + program.name; }

std::string resume_symbol(const Program &program) { return "ujit-resume." + program.name; }

std::string subprogram_symbol(const Program &program, const Subprogram &sub) {
  return "ujit." + program.name + "." + sub.name;
}

void add_code_attributes(Function &f) {
  f.addFnAttr(Attribute::NoUnwind);
  f.addFnAttr(Attribute::NoImplicitFloat);
  f.addFnAttr(Attribute::NoRedZone);
  f.addFnAttr("no-builtins");
}

void set_target(Module &module) {
  module.setTargetTriple("x86_64-unknown-linux-gnu");
  module.setDataLayout("e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128");
}

// --- Registers ---------------------------------------------------------------------------------------

Value *Lowering::stack_address(int64_t offset) {
  size_t o = frame_.object_at(offset);
  return builder_.CreateConstGEP1_64(builder_.getInt8Ty(), objects_[o],
                                     uint64_t(offset - frame_.objects[o].start));
}

Value *Lowering::to_int(Value *value, const Provenance &p) {
  if (is_recomputed(p))
    return builder_.CreatePtrToInt(stack_address(p.offset), i64());
  if (!value)
    return builder_.getInt64(0);
  return value->getType()->isPointerTy() ? builder_.CreatePtrToInt(value, i64()) : value;
}

Value *Lowering::to_ptr(Value *value, const Provenance &p) {
  if (is_recomputed(p))
    return stack_address(p.offset);
  PointerType *ptr = builder_.getPtrTy();
  if (!value)
    return ConstantPointerNull::get(ptr);
  if (value->getType()->isPointerTy())
    return value;
  if (auto *c = dyn_cast<ConstantInt>(value); c && c->isZero())
    return ConstantPointerNull::get(ptr);
  return builder_.CreateIntToPtr(value, ptr);
}

Value *Lowering::convert(Value *value, const Provenance &from, const Provenance &to) {
  if (is_recomputed(to) || to.kind == Kind::unset)
    return nullptr;
  return has_pointer_form(to) ? to_ptr(value, from) : to_int(value, from);
}

Value *Lowering::operand(const Insn &insn, const InsnRow &row) {
  return row.source == Operand::reg ? as_int(insn.src) : builder_.getInt64(uint64_t(int64_t(insn.imm)));
}

Value *Lowering::operand32(const Insn &insn, const InsnRow &row) {
  return row.source == Operand::reg ? builder_.CreateTrunc(as_int(insn.src), builder_.getInt32Ty())
                                    : builder_.getInt32(uint32_t(insn.imm));
}

void Lowering::write32(unsigned reg, Value *value) { write(reg, builder_.CreateZExt(value, i64())); }

// --- Blocks ------------------------------------------------------------------------------------------

Lowering::Lowering(ProgramLowering &program, uint32_t subprogram, const FrameLayout &frame)
    : p_(program), program_(program.program), sub_(subprogram), facts_(program.facts.subprograms[subprogram]),
      frame_(frame), function_(program.functions[subprogram]), builder_(program.context()),
      registers_in_memory_(function_->hasFnAttribute(huge_attribute)) {}

Error Lowering::fail(LinkError e) { return e.in_file(program_.object).in_program(program_.name).error(); }

void Lowering::set_location(uint32_t slot) {
  if (scope_)
    builder_.SetCurrentDebugLocation(DILocation::get(p_.context(), slot + 1, 0, scope_));
}

void Lowering::enter_function() {
  const Subprogram &sub = program_.subprograms[sub_];
  if (p_.debug) {
    DISubroutineType *type = p_.debug->createSubroutineType(p_.debug->getOrCreateTypeArray({}));
    std::string name = sub_ == 0 ? program_.name : program_.name + "." + sub.name;
    scope_ = p_.debug->createFunction(p_.debug_file, name, function_->getName(), p_.debug_file, sub.start + 1,
                                      type, sub.start + 1, DINode::FlagZero, DISubprogram::SPFlagDefinition);
    function_->setSubprogram(scope_);
  }
  BasicBlock *entry = BasicBlock::Create(p_.context(), "entry", function_);
  builder_.SetInsertPoint(entry);
  set_location(sub.start);
  for (const StackObject &o : frame_.objects) {
    Type *type = ArrayType::get(builder_.getInt8Ty(), uint64_t(o.size));
    AllocaInst *a = builder_.CreateAlloca(type, nullptr, "fp" + Twine(o.start));
    a->setAlignment(Align(8));
    objects_.push_back(a);
  }
  for (AllocaInst *a : objects_)
    builder_.CreateLifetimeStart(a, builder_.getInt64(*a->getAllocationSize(function_->getDataLayout())));
  for (size_t i = 0; i < objects_.size(); ++i)
    for (int32_t b = 0; frame_.objects[i].zeroed && b < frame_.objects[i].size; b += 8)
      builder_.CreateAlignedStore(builder_.getInt64(0),
                                  builder_.CreateConstGEP1_64(builder_.getInt8Ty(), objects_[i], uint64_t(b)),
                                  Align(8));

  if (registers_in_memory_)
    for (unsigned r = 0; r < register_count; ++r)
      register_memory_[r] = builder_.CreateAlloca(i64(), nullptr, "r" + Twine(r));

  const State &start = facts_.entry[0];
  unsigned arg = 0;
  if (sub_ == 0) {
    values_[1] = function_->getArg(0);
    instance_ = function_->getArg(1);
    count_ = function_->getArg(2);
    if (program_.type == ProgType::unspec) { // MemoryContext
      values_[1] = builder_.CreateAlignedLoad(builder_.getPtrTy(), function_->getArg(0), Align(8));
      Value *length = builder_.CreateConstInBoundsGEP1_64(builder_.getInt8Ty(), function_->getArg(0), 8);
      values_[2] = builder_.CreateAlignedLoad(i64(), length, Align(8));
    }
  } else {
    instance_ = function_->getArg(arg++);
    count_ = function_->getArg(arg++);
    for (unsigned r = 1; r <= 5; ++r)
      if (start.regs[r].kind != Kind::unset)
        values_[r] = function_->getArg(arg++);
  }
  for (uint32_t b = 0; b < facts_.cfg.blocks.size(); ++b)
    first_.push_back(nullptr);
  for (uint32_t b : facts_.cfg.order)
    first_[b] = BasicBlock::Create(p_.context(), "", function_);
  last_.resize(first_.size());
  done_.resize(first_.size());
  if (registers_in_memory_) {
    for (unsigned r = 1; r <= 5; ++r)
      if (values_[r])
        builder_.CreateAlignedStore(values_[r], register_memory_[r], Align(8));
  } else {
    out_.resize(first_.size());
  }
  if (is_resume())
    return resume();
  builder_.CreateBr(first_[0]);
}

void Lowering::enter_block(uint32_t b) {
  const Block &block = facts_.cfg.blocks[b];
  const State &entry = facts_.entry[b];
  builder_.SetInsertPoint(first_[b]);
  set_location(block.first);
  state_ = entry;
  if (registers_in_memory_)
    return load_registers(b);
  if (b == 0 && block.predecessors.empty())
    return; // values_ are the arguments
  auto resumed = resumed_.find(b);
  if (b != 0 && block.predecessors.size() == 1 && done_[block.predecessors[0]] && resumed == resumed_.end()) {
    const Out &pred = out_[block.predecessors[0]];
    for (unsigned r = 0; r < register_count; ++r)
      values_[r] = block.live_in & (1u << r) ? convert(pred.values[r], pred.regs[r], entry.regs[r]) : nullptr;
    return;
  }
  // A loop back to the first instruction: the arguments come in through the entry block.
  std::array<Value *, register_count> arguments = values_;
  for (unsigned r = 0; r < register_count; ++r) {
    values_[r] = nullptr;
    const Provenance &p = entry.regs[r];
    if (!(block.live_in & (1u << r)) || is_recomputed(p) || p.kind == Kind::unset || p.kind == Kind::function)
      continue;
    PHINode *phi = PHINode::Create(has_pointer_form(p) ? (Type *)builder_.getPtrTy() : i64(),
                                   unsigned(block.predecessors.size()), "r" + Twine(r));
    phi->insertBefore(*first_[b], first_[b]->getFirstNonPHIIt());
    values_[r] = phi;
    phis_.push_back({phi, b, r});
    if (resumed != resumed_.end())
      phi->addIncoming(resumed->second.second[r], resumed->second.first);
    if (b == 0 && !is_resume()) {
      IRBuilder<>::InsertPointGuard guard(builder_);
      BasicBlock *start = &function_->getEntryBlock();
      builder_.SetInsertPoint(start->getTerminator());
      Provenance from;
      from.kind = arguments[r] && arguments[r]->getType()->isPointerTy() ? Kind::memory : Kind::scalar;
      phi->addIncoming(convert(arguments[r], from, p), start);
    }
  }
}

/// Registers that the block reads; one that only passes through stays where it is.
void Lowering::load_registers(uint32_t b) {
  const Block &block = facts_.cfg.blocks[b];
  const State &entry = facts_.entry[b];
  for (unsigned r = 0; r < register_count; ++r) {
    values_[r] = nullptr;
    const Provenance &p = entry.regs[r];
    if (block.reads & (1u << r) && !is_recomputed(p) && p.kind != Kind::unset && p.kind != Kind::function)
      values_[r] = builder_.CreateAlignedLoad(has_pointer_form(p) ? (Type *)builder_.getPtrTy() : i64(),
                                              register_memory_[r], Align(8));
  }
}

/// Registers that the block has written and something behind it reads.
void Lowering::store_registers(uint32_t b) {
  const Block &block = facts_.cfg.blocks[b];
  const State &entry = facts_.entry[b];
  uint16_t needed = 0;
  for (uint32_t s : block.successors)
    needed |= facts_.cfg.blocks[s].live_in;
  for (unsigned r = 0; r < register_count; ++r) {
    if (r == 10)
      continue;
    bool is_new = (block.writes | block.reads) & (1u << r) || is_recomputed(entry.regs[r]);
    if (!(needed & (1u << r)) || !is_new)
      continue;
    Value *v = is_recomputed(state_.regs[r]) ? stack_address(state_.regs[r].offset) : values_[r];
    if (v && !(isa<LoadInst>(v) && cast<LoadInst>(v)->getPointerOperand() == register_memory_[r]))
      builder_.CreateAlignedStore(v, register_memory_[r], Align(8));
  }
}

void Lowering::finish_phis() {
  for (const Pending &pending : phis_) {
    const Provenance &to = facts_.entry[pending.block].regs[pending.reg];
    for (uint32_t pred : facts_.cfg.blocks[pending.block].predecessors) {
      const Out &out = out_[pred];
      builder_.SetInsertPoint(last_[pred]->getTerminator());
      pending.phi->addIncoming(convert(out.values[pending.reg], out.regs[pending.reg], to), last_[pred]);
    }
  }
}

Error Lowering::lower_block(uint32_t b) {
  enter_block(b);
  const Block &block = facts_.cfg.blocks[b];
  for (uint32_t i = block.first; i < block.end; i += is_wide(program_.insns[i]) ? 2 : 1) {
    const Insn &insn = program_.insns[i];
    const InsnRow &row = *find_row(insn);
    set_location(i);
    if (row.op == Op::ja || row.op == Op::exit || is_conditional(row.op)) {
      if (Error e = lower_branch(b, insn, row))
        return e;
    } else {
      if (Error e = lower_insn(i, insn, row))
        return e;
      Provenance result = Provenance::number();
      if (row.op == Op::call_local)
        result = p_.facts.subprograms[subprogram_at(program_, uint32_t(call_target(i, insn)))].result;
      if (result.kind == Kind::unset)
        result = Provenance::number();
      step(p_.pipeline, program_, i, state_, result);
    }
  }
  last_[b] = builder_.GetInsertBlock();
  if (!last_[b]->getTerminator())
    builder_.CreateBr(first_[block.successors[0]]);
  if (registers_in_memory_) {
    builder_.SetInsertPoint(last_[b]->getTerminator());
    store_registers(b);
  } else {
    out_[b] = {values_, state_.regs};
  }
  done_[b] = 1;
  return Error::success();
}

Error Lowering::run() {
  enter_function();
  for (uint32_t b : facts_.cfg.order)
    if (Error e = lower_block(b))
      return e;
  finish_phis();
  if (is_resume())
    removeUnreachableBlocks(*function_);
  return Error::success();
}

/// What a run has shown of the branch, else what its kind says. A way that was never taken keeps a weight of
/// 1: it is unlikely, not impossible.
MDNode *Lowering::branch_weights(uint32_t slot, const Insn &insn, const InsnRow &row) {
  const ProgramProfile::Branch *counts = p_.profile ? p_.profile->branch_at(slot) : nullptr;
  if (!counts)
    return likely_way(insn, row);
  const uint64_t scale = std::max(counts->taken, counts->passed) / INT32_MAX + 1;
  return MDBuilder(p_.context())
      .createBranchWeights(uint32_t(counts->taken / scale) + 1, uint32_t(counts->passed / scale) + 1);
}

Error Lowering::lower_branch(uint32_t b, const Insn &insn, const InsnRow &row) {
  const Block &block = facts_.cfg.blocks[b];
  if (row.op == Op::exit) {
    builder_.CreateRet(as_int(0));
  } else if (row.op == Op::may_goto) {
    return fail(unsupported("may_goto needs the verifier's rewriting and is not supported in object form")
                    .at(block.last));
  } else if (block.successors.size() == 1) {
    builder_.CreateBr(first_[block.successors[0]]);
  } else {
    builder_.CreateCondBr(condition(insn, row), first_[block.successors[1]], first_[block.successors[0]],
                          branch_weights(block.last, insn, row));
  }
  return Error::success();
}

/// Packets are as long as they should be; of other branches nothing is known.
MDNode *Lowering::likely_way(const Insn &insn, const InsnRow &row) {
  if (!p_.options.branch_hints || row.source != Operand::reg)
    return nullptr;
  const Kind d = state_.regs[insn.dst].kind, s = state_.regs[insn.src].kind;
  const bool end_right = d == Kind::packet && s == Kind::packet_end;
  if (!end_right && !(d == Kind::packet_end && s == Kind::packet))
    return nullptr;
  const bool greater = row.op == Op::jgt || row.op == Op::jge;
  if (!greater && row.op != Op::jlt && row.op != Op::jle)
    return nullptr;
  const bool too_short = greater == end_right; // if taken
  return MDBuilder(p_.context()).createBranchWeights(too_short ? 1 : 2000, too_short ? 2000 : 1);
}

// The instructions, one line each; what the names mean is in lower_alu.cc, lower_memory.cc and lower_call.cc.
Error Lowering::lower_insn(uint32_t slot, const Insn &insn, const InsnRow &row) {
  switch (row.op) {
  case Op::add:
  case Op::sub: return lower_add_sub(insn, row), Error::success();
  case Op::mul:
  case Op::div:
  case Op::sdiv:
  case Op::mod:
  case Op::smod:
  case Op::or_:
  case Op::and_:
  case Op::xor_:
  case Op::lsh:
  case Op::rsh:
  case Op::arsh:
  case Op::neg: return lower_alu(insn, row), Error::success();
  case Op::mov:
  case Op::movsx: return lower_mov(insn, row), Error::success();
  case Op::to_le:
  case Op::to_be:
  case Op::bswap: return lower_byte_order(insn, row), Error::success();
  case Op::load:
  case Op::load_sx:
  case Op::load_acquire: return lower_load(slot, insn, row);
  case Op::load_probe:
  case Op::load_probe_sx: return lower_load_probe(insn, row), Error::success();
  case Op::cpu: return lower_cpu(slot, insn), Error::success();
  case Op::store:
  case Op::store_release: return lower_store(slot, insn, row);
  case Op::atomic_add:
  case Op::atomic_or:
  case Op::atomic_and:
  case Op::atomic_xor:
  case Op::atomic_xchg:
  case Op::atomic_cmpxchg: return lower_atomic(slot, insn, row);
  case Op::ld_abs:
  case Op::ld_ind: return lower_load_packet(slot, insn, row);
  case Op::ld_imm64:
  case Op::ld_map:
  case Op::ld_map_value:
  case Op::ld_btf_id:
  case Op::ld_func:
  case Op::ld_map_idx:
  case Op::ld_map_idx_value: return lower_ld_imm64(slot, insn, row);
  case Op::call_helper: return lower_helper(slot, insn);
  case Op::call_local: return lower_local_call(slot, insn);
  case Op::callx: return lower_callx(slot, insn);
  case Op::call_kfunc:
    if (p_.pipeline.kernel)
      return lower_kernel_call(slot);
    return fail(unsupported(formatv("kernel function #{0} cannot be called in object form", insn.imm))
                    .at(slot)
                    .with_hint("kernel functions are known only once a kernel has loaded the program"));
  case Op::ja:
  case Op::jeq:
  case Op::jne:
  case Op::jgt:
  case Op::jge:
  case Op::jlt:
  case Op::jle:
  case Op::jsgt:
  case Op::jsge:
  case Op::jslt:
  case Op::jsle:
  case Op::jset:
  case Op::may_goto:
  case Op::exit: break;
  }
  llvm_unreachable("branches are lowered with their block");
}

// --- Program -----------------------------------------------------------------------------------------

GlobalVariable *ProgramLowering::symbol(const Twine &name, Type *type) {
  std::string n = name.str();
  if (GlobalVariable *g = module.getNamedGlobal(n))
    return g;
  return new GlobalVariable(module, type, false, GlobalValue::ExternalLinkage, nullptr, n);
}

Value *ProgramLowering::map_symbol(uint32_t map) {
  return symbol("ujit.map." + Twine(map), Type::getInt8Ty(context()));
}

Value *ProgramLowering::values_symbol(uint32_t map) {
  const Map &m = pipeline.maps[map];
  if (!m.frozen || !m.is_data() || !m.bound.empty() || !options.fold_config)
    return symbol("ujit.values." + Twine(map), Type::getInt8Ty(context()));
  std::string name = ("ujit.const." + Twine(map)).str();
  if (GlobalVariable *g = module.getNamedGlobal(name))
    return g;
  Constant *data = ConstantDataArray::get(context(), ArrayRef<uint8_t>(m.contents));
  auto *g = new GlobalVariable(module, data->getType(), true, GlobalValue::PrivateLinkage, data, name);
  g->setAlignment(Align(8));
  return g;
}

/// Functions with more are huge too (register_memory_limit): loops within loops, and what passes know of
/// those grows with the square of their number.
constexpr size_t jumps_back_limit = 1'000;

static size_t jumps_back(const Program &program, const Subprogram &sub) {
  size_t n = 0;
  for (uint32_t i = sub.start; i < sub.end; i += is_wide(program.insns[i]) ? 2 : 1)
    if (const InsnRow *row = find_row(program.insns[i]);
        row && (row->op == Op::ja || is_conditional(row->op)))
      n += jump_target(i, program.insns[i], *row) <= i;
  return n;
}

static Function *declare_program(ProgramLowering &p, uint32_t s) {
  const Subprogram &sub = p.program.subprograms[s];
  Type *i64 = Type::getInt64Ty(p.context());
  Type *ptr = PointerType::get(p.context(), 0);
  std::vector<Type *> params;
  if (s == 0) {
    params = {ptr, ptr, i64};
    if (p.options.leaving)
      params.push_back(ptr);
  } else {
    params = {ptr, i64};
    const State &entry = p.facts.subprograms[s].entry[0];
    for (unsigned r = 1; r <= 5; ++r)
      if (entry.regs[r].kind != Kind::unset)
        params.push_back(entry.regs[r].is_pointer() ? ptr : i64);
  }
  Function *f = Function::Create(FunctionType::get(i64, params, false),
                                 s == 0 ? GlobalValue::ExternalLinkage : GlobalValue::InternalLinkage,
                                 s != 0                     ? subprogram_symbol(p.program, sub)
                                 : p.options.resume.empty() ? program_symbol(p.program)
                                                            : resume_symbol(p.program),
                                 p.module);
  if (s == 0) {
    f->setVisibility(GlobalValue::HiddenVisibility);
    f->setCallingConv(CallingConv::PreserveNone);
  } else {
    f->setCallingConv(CallingConv::Fast);
  }
  add_code_attributes(*f);
  if (!p.options.resume.empty())
    f->addFnAttr(Attribute::Cold);
  if (p.program.insns.size() > register_memory_limit || jumps_back(p.program, sub) > jumps_back_limit)
    f->addFnAttr(huge_attribute);
  return f;
}

/// Everything behind this takes the bytecode to be well-formed.
static Error check(const Program &program, Form form) {
  std::vector<uint32_t> starts;
  for (size_t s = 0; s < program.subprograms.size(); ++s) {
    const Subprogram &sub = program.subprograms[s];
    const uint32_t begin = s ? program.subprograms[s - 1].end : 0;
    if (sub.start != begin || sub.end <= sub.start || sub.end > program.insns.size())
      return input_error("subprogram " + sub.name + " is empty or does not follow the one before")
          .at(sub.start)
          .error();
    starts.push_back(sub.start);
  }
  if (starts.empty() || program.subprograms.back().end != program.insns.size())
    return input_error("instructions behind the last subprogram").error();
  if (Error e = check_program(program.insns, starts, ImmediateRules::standard, form))
    return e;
  for (uint32_t i = 0; i < program.insns.size(); i += is_wide(program.insns[i]) ? 2 : 1) {
    const Op op = find_row(program.insns[i])->op;
    if ((op == Op::call_local || op == Op::ld_func) && call_target(i, program.insns[i]) == 0)
      return unsupported("a program's first function cannot be called: it would call itself").at(i).error();
  }
  return Error::success();
}

Expected<std::unique_ptr<Module>> translate(const Pipeline &pipeline, ProgId id, LLVMContext &context,
                                            const TranslateOptions &options) {
  const Program &program = pipeline[id];
  if (Error e = check(program, pipeline.kernel ? Form::verified : Form::object))
    return with_place(std::move(e), program.object, program.name);
  Expected<ProgramFacts> facts = analyse_provenance(pipeline, program, options.leaving);
  if (!facts)
    return facts.takeError();
  auto module = std::make_unique<Module>(program.name, context);
  set_target(*module);
  ProgramLowering p{pipeline, program, options, *facts, *module, {}};
  if (options.profile)
    p.profile = options.profile->find(id);
  if (options.leaving)
    p.leaving = analyse_leaving(pipeline, program, *facts);

  std::optional<DIBuilder> debug;
  if (options.debug_info) {
    module->addModuleFlag(Module::Warning, "Debug Info Version", DEBUG_METADATA_VERSION);
    module->addModuleFlag(Module::Warning, "Dwarf Version", 5);
    debug.emplace(*module);
    p.debug = &*debug;
    p.debug_file = debug->createFile(program.object.empty() ? "bpf" : program.object, "");
    debug->createCompileUnit(dwarf::DW_LANG_C, p.debug_file, "ujit-lto", true, "", 0, "",
                             DICompileUnit::LineTablesOnly, 0, false,
                             true); // as for profiling: functions have names also where nothing was inlined
  }
  for (uint32_t s = 0; s < program.subprograms.size(); ++s)
    p.functions.push_back(facts->reached[s] ? declare_program(p, s) : nullptr);
  for (uint32_t s = 0; s < program.subprograms.size(); ++s) {
    if (!facts->reached[s])
      continue;
    Expected<FrameLayout> frame = layout_frame(pipeline, program, *facts, s, s == 0 && p.leaving.whole_frame);
    if (!frame)
      return frame.takeError();
    if (Error e = Lowering(p, s, *frame).run())
      return e;
  }
  if (debug)
    debug->finalize();
#ifndef NDEBUG
  std::string broken;
  raw_string_ostream os(broken);
  if (verifyModule(*module, &os))
    return internal_error("translation made invalid IR: " + broken)
        .in_file(program.object)
        .in_program(program.name)
        .error();
#endif
  return module;
}

} // namespace ujit
