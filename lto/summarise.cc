// What is known of a tail call's map and index is read off the IR after simplification: most indices are
// constants by then, some a choice between a few, and some are loaded from a place that the program itself
// has not written since it was entered (skb->cb, a per-CPU scratch slot). The last kind is what the
// planning phase resolves over the graph.
#include "lto/summarise.h"

#include "lto/analyses.h"

#include "translator/helper.h"
#include "translator/instance.h"
#include "translator/lower.h"

#include "llvm/Analysis/AliasAnalysis.h"
#include "llvm/Analysis/ConstantFolding.h"
#include "llvm/Analysis/MemorySSA.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/CFG.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Operator.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/KnownBits.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <map>
#include <set>

namespace ujit {

using namespace llvm;

namespace {

bool is_tail_call(const CallInst &call) {
  return call.getCalledFunction() && call.getCalledFunction()->getName() == "ujit.tail_call";
}

std::vector<CallInst *> tail_calls(Function &f) {
  std::vector<CallInst *> calls;
  for (Instruction &i : instructions(f))
    if (auto *c = dyn_cast<CallInst>(&i); c && is_tail_call(*c))
      calls.push_back(c);
  return calls;
}

uint32_t site_slot(const CallInst *call) {
  return uint32_t(cast<ConstantInt>(call->getArgOperand(3))->getZExtValue());
}

/// N of "@<prefix>N".
std::optional<uint32_t> symbol_number(const Value *v, StringRef prefix) {
  auto *g = dyn_cast<GlobalVariable>(v);
  StringRef name = g ? g->getName() : "";
  uint32_t n;
  if (!name.consume_front(prefix) || name.getAsInteger(10, n))
    return std::nullopt;
  return n;
}

class FunctionSummary {
public:
  FunctionSummary(const Pipeline &pipeline, const std::vector<bool> &scratch, Function &f,
                  FunctionAnalysisManager &fam)
      : pipeline_(pipeline), scratch_(scratch), f_(f), fam_(fam) {}

  std::vector<TailCallSite::Target> targets(CallInst *call) {
    std::vector<TailCallSite::Target> out;
    expand(call->getArgOperand(1), call->getArgOperand(2), 0, out);
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  AbstractValue state_at(CallInst *call, const StateSlot &slot) {
    MemorySSA &mssa = fam_.getResult<MemorySSAAnalysis>(f_).getMSSA();
    return left_by(mssa.getMemoryAccess(call)->getDefiningAccess(), slot, 0);
  }

  void finish() { // the addresses made for queries
    for (Instruction *i : reverse(made_))
      i->eraseFromParent();
    made_.clear();
  }

private:
  /// Pairs maps and indices that LLVM merged: phi with phi of the same block, select with select of the same
  /// condition.
  void expand(Value *map, Value *index, unsigned depth, std::vector<TailCallSite::Target> &out) {
    if (auto n = symbol_number(map, "ujit.map.")) {
      out.push_back({MapId(*n), value(index, 0)});
      return;
    }
    if (depth < 4) {
      if (auto *phi = dyn_cast<PHINode>(map)) {
        auto *other = dyn_cast<PHINode>(index);
        for (unsigned i = 0; i < phi->getNumIncomingValues(); ++i)
          expand(phi->getIncomingValue(i),
                 other && other->getParent() == phi->getParent()
                     ? other->getIncomingValueForBlock(phi->getIncomingBlock(i))
                     : index,
                 depth + 1, out);
        return;
      }
      if (auto *select = dyn_cast<SelectInst>(map)) {
        auto *other = dyn_cast<SelectInst>(index);
        bool same = other && other->getCondition() == select->getCondition();
        expand(select->getTrueValue(), same ? other->getTrueValue() : index, depth + 1, out);
        expand(select->getFalseValue(), same ? other->getFalseValue() : index, depth + 1, out);
        return;
      }
    }
    out.push_back({std::nullopt, value(index, 0)});
  }

  /// What a slot holds behind an access to memory.
  AbstractValue left_by(MemoryAccess *access, const StateSlot &slot, unsigned depth) {
    AbstractValue r;
    Value *address = address_of(slot);
    if (!address || depth > 6)
      return r;
    MemorySSA &mssa = fam_.getResult<MemorySSAAnalysis>(f_).getMSSA();
    AAMDNodes tags;
    tags.TBAA = slot.region == StateSlot::context
                    ? context_tag(f_.getContext())
                    : values_tag(f_.getContext(), pipeline_[slot.map],
                                 index(slot.map) < scratch_.size() && scratch_[index(slot.map)]);
    MemoryAccess *writer = mssa.getWalker()->getClobberingMemoryAccess(
        access, MemoryLocation(address, LocationSize::precise(slot.size), tags));
    if (mssa.isLiveOnEntryDef(writer)) {
      r.kind = AbstractValue::entry;
      r.slot = slot;
      return r;
    }
    if (auto *phi = dyn_cast<MemoryPhi>(writer)) {
      r = left_by(phi->getIncomingValue(0), slot, depth + 1);
      for (unsigned i = 1; i < phi->getNumIncomingValues() && r.kind != AbstractValue::unknown; ++i)
        r = join(r, left_by(phi->getIncomingValue(i), slot, depth + 1));
      return r;
    }
    auto *def = cast<MemoryDef>(writer);
    if (auto *call = dyn_cast<CallInst>(def->getMemoryInst()); call && is_tail_call(*call))
      return left_by(def->getDefiningAccess(), slot, depth); // it failed, and did nothing
    auto *store = dyn_cast<StoreInst>(def->getMemoryInst());
    if (!store)
      return r;
    Value *stored = store->getValueOperand();
    const std::optional<StateSlot> written = slot_of(store->getPointerOperand(), stored->getType());
    if (written == slot)
      return value(stored, depth + 1);
    if (!written || written->region != slot.region || written->map != slot.map ||
        slot.offset < written->offset || slot.offset + slot.size > written->offset + written->size)
      return r;
    return bits_of(stored, 8 * (slot.offset - written->offset), 8 * slot.size, depth + 1);
  }

  /// Some bits of a value: of one that was put together from parts, those of the part.
  AbstractValue bits_of(Value *v, unsigned first, unsigned count, unsigned depth) {
    AbstractValue r;
    const KnownBits known = computeKnownBits(v, f_.getDataLayout());
    if (known.Zero.extractBits(count, first) == ~known.One.extractBits(count, first)) {
      r.kind = AbstractValue::constants;
      r.values = {known.One.extractBitsAsZExtValue(count, first)};
      return r;
    }
    r = value(v, depth);
    if (r.kind != AbstractValue::constants)
      return {};
    for (uint64_t &x : r.values)
      x = x >> first & maskTrailingOnes<uint64_t>(count);
    normalise(r);
    return r;
  }

  /// A load from read-only data whose address is one of a few.
  AbstractValue constant_at(Value *pointer, APInt offset, Type *type, unsigned depth) {
    AbstractValue r;
    const DataLayout &layout = f_.getDataLayout();
    Value *base = pointer->stripAndAccumulateConstantOffsets(layout, offset, true);
    if (auto *global = dyn_cast<GlobalVariable>(base)) {
      auto *c = global->isConstant() && global->hasInitializer()
                    ? dyn_cast_or_null<ConstantInt>(
                          ConstantFoldLoadFromConst(global->getInitializer(), type, offset, layout))
                    : nullptr;
      return c ? value(c, depth) : r;
    }
    if (depth > 6)
      return r;
    if (auto *select = dyn_cast<SelectInst>(base))
      return join(constant_at(select->getTrueValue(), offset, type, depth + 1),
                  constant_at(select->getFalseValue(), offset, type, depth + 1));
    auto *phi = dyn_cast<PHINode>(base);
    if (!phi || phi->getNumIncomingValues() > 16)
      return r;
    r = constant_at(phi->getIncomingValue(0), offset, type, depth + 2);
    for (unsigned i = 1; i < phi->getNumIncomingValues(); ++i)
      r = join(r, constant_at(phi->getIncomingValue(i), offset, type, depth + 2));
    return r;
  }

  AbstractValue value(Value *v, unsigned depth) {
    AbstractValue r;
    if (auto *c = dyn_cast<ConstantInt>(v)) {
      r.kind = AbstractValue::constants;
      r.values = {c->getZExtValue()};
      return r;
    }
    if (depth > 6)
      return r;
    if (auto *cast = dyn_cast<CastInst>(v); cast && (isa<ZExtInst>(cast) || isa<TruncInst>(cast))) {
      r = value(cast->getOperand(0), depth + 1);
      uint64_t mask = maskTrailingOnes<uint64_t>(cast->getType()->getIntegerBitWidth());
      if (r.kind == AbstractValue::constants) {
        for (uint64_t &x : r.values)
          x &= mask;
        normalise(r);
      } else if (r.kind == AbstractValue::entry && cast->getType()->getIntegerBitWidth() < r.slot.size * 8u) {
        r = {};
      }
      return r;
    }
    if (auto *freeze = dyn_cast<FreezeInst>(v))
      return value(freeze->getOperand(0), depth + 1);
    if (auto *select = dyn_cast<SelectInst>(v))
      return join(value(select->getTrueValue(), depth + 1), value(select->getFalseValue(), depth + 1));
    if (auto *phi = dyn_cast<PHINode>(v)) {
      if (phi->getNumIncomingValues() > 16)
        return r;
      r = value(phi->getIncomingValue(0), depth + 2);
      for (unsigned i = 1; i < phi->getNumIncomingValues(); ++i)
        r = join(r, value(phi->getIncomingValue(i), depth + 2));
      return r;
    }
    if (auto *load = dyn_cast<LoadInst>(v)) {
      auto slot = slot_of(load->getPointerOperand(), load->getType());
      MemorySSA &mssa = fam_.getResult<MemorySSAAnalysis>(f_).getMSSA();
      if (slot)
        return left_by(mssa.getMemoryAccess(load)->getDefiningAccess(), *slot, depth);
      return constant_at(load->getPointerOperand(), APInt(64, 0), load->getType(), depth);
    }
    return r;
  }

  static void normalise(AbstractValue &v) {
    std::sort(v.values.begin(), v.values.end());
    v.values.erase(std::unique(v.values.begin(), v.values.end()), v.values.end());
    if (v.values.size() > AbstractValue::max_constants)
      v = {};
  }

  static AbstractValue join(AbstractValue a, const AbstractValue &b) {
    if (a == b)
      return a;
    if (a.kind != AbstractValue::constants || b.kind != AbstractValue::constants)
      return {};
    a.values.insert(a.values.end(), b.values.begin(), b.values.end());
    normalise(a);
    return a;
  }

  /// The state slot that an access of `type` at `pointer` covers.
  std::optional<StateSlot> slot_of(Value *pointer, Type *type) {
    APInt offset(64, 0);
    Value *base = pointer->stripAndAccumulateConstantOffsets(f_.getDataLayout(), offset, true);
    uint64_t size = f_.getDataLayout().getTypeStoreSize(type);
    if (!type->isIntegerTy() || size > 8 || offset.isNegative() || offset.getActiveBits() > 31)
      return std::nullopt;
    StateSlot s;
    s.offset = uint32_t(offset.getZExtValue());
    s.size = uint8_t(size);
    if (base == f_.getArg(0) && f_.getCallingConv() == CallingConv::PreserveNone) {
      s.region = StateSlot::context;
      return s;
    }
    const auto element = percpu_element(base);
    if (!element)
      return std::nullopt;
    s.region = StateSlot::scratch;
    s.map = element->first;
    s.offset += element->second * uint32_t(array_stride(pipeline_[s.map].value_size));
    return s;
  }

  /// The per-CPU array and the number of the element that begins at a symbol.
  std::optional<std::pair<MapId, uint32_t>> percpu_element(const Value *base) {
    if (!pipeline_.kernel) {
      auto map = symbol_number(base, "ujit.values.");
      return map && pipeline_.maps[*map].type == MapType::percpu_array
                 ? std::optional(std::pair(MapId(*map), 0u))
                 : std::nullopt;
    }
    StringRef name = isa<GlobalVariable>(base) ? base->getName() : "";
    uint32_t map, element;
    if (!name.consume_front("ujit.percpu.") || name.consumeInteger(10, map) || !name.consume_front(".") ||
        name.getAsInteger(10, element))
      return std::nullopt;
    return std::pair(MapId(map), element);
  }

  Value *address_of(const StateSlot &slot) {
    Value *base = nullptr;
    uint32_t offset = slot.offset;
    if (slot.region == StateSlot::context) {
      if (f_.getCallingConv() != CallingConv::PreserveNone)
        return nullptr; // a subprogram does not know its context
      base = f_.getArg(0);
    } else {
      std::string name = "ujit.values." + std::to_string(index(slot.map));
      if (pipeline_.kernel) {
        const auto stride = uint32_t(array_stride(pipeline_[slot.map].value_size));
        name = formatv("ujit.percpu.{0}.{1}", index(slot.map), offset / stride);
        offset %= stride;
      }
      base = f_.getParent()->getOrInsertGlobal(name, Type::getInt8Ty(f_.getContext()));
    }
    auto *gep = GetElementPtrInst::Create(Type::getInt8Ty(f_.getContext()), base,
                                          {ConstantInt::get(Type::getInt64Ty(f_.getContext()), offset)}, "",
                                          f_.getEntryBlock().getFirstNonPHIOrDbgOrAlloca());
    made_.push_back(gep);
    return gep;
  }

  const Pipeline &pipeline_;
  const std::vector<bool> &scratch_;
  Function &f_;
  FunctionAnalysisManager &fam_;
  std::vector<Instruction *> made_;
};

} // namespace

/// The end of the last value that the call saves when it leaves.
static uint32_t leave_bytes(const CallInst &call) {
  uint32_t bytes = 8; // count and resume point
  if (std::optional<OperandBundleUse> live = call.getOperandBundle(live_bundle))
    for (size_t i = 0; i + 1 < live->Inputs.size(); i += 2)
      bytes = std::max(bytes, uint32_t(cast<ConstantInt>(live->Inputs[i])->getZExtValue()) + 8);
  return bytes / 8 * 8;
}

/// Whether control can come back to the block.
static bool in_cycle(const BasicBlock &block) {
  SmallVector<const BasicBlock *> work(successors(&block));
  SmallPtrSet<const BasicBlock *, 32> seen(work.begin(), work.end());
  while (!work.empty()) {
    const BasicBlock *b = work.pop_back_val();
    if (b == &block)
      return true;
    for (const BasicBlock *s : successors(b))
      if (seen.insert(s).second)
        work.push_back(s);
  }
  return false;
}

Summary summarise(const Pipeline &pipeline, const std::vector<bool> &scratch, ProgId id, Module &module,
                  TargetMachine &tm) {
  const Program &program = pipeline[id];
  Summary s;
  s.program = id;
  s.name = program.name;
  s.type = program.type;
  s.bytecode_insns = uint32_t(program.insns.size());
  std::set<uint32_t> helpers;
  std::map<uint32_t, TailCallSite> sites;
  Analyses analyses(tm, module.getContext());
  for (Function &f : module) {
    if (f.isDeclaration()) {
      if (const Helper *h = f.use_empty() ? nullptr : find_helper(std::string_view(f.getName())))
        helpers.insert(h->id);
      continue;
    }
    s.ir_insns += f.getInstructionCount();
    for (const Instruction &i : instructions(f))
      if (auto *a = dyn_cast<AllocaInst>(&i))
        s.stack_bytes += uint32_t(a->getAllocationSize(f.getDataLayout())->getFixedValue());
    std::vector<CallInst *> calls = tail_calls(f);
    if (calls.empty())
      continue;
    helpers.insert(helper_tail_call);
    FunctionSummary summary(pipeline, scratch, f, analyses.functions);
    std::map<uint32_t, unsigned> calls_of_slot;
    for (CallInst *call : calls)
      ++calls_of_slot[site_slot(call)];
    for (CallInst *call : calls) {
      uint32_t slot = site_slot(call);
      TailCallSite &site = sites[slot];
      site.insn = slot;
      site.subprogram = uint32_t(subprogram_at(program, slot));
      site.leave_bytes = std::max(site.leave_bytes, leave_bytes(*call));
      if (call->getOperandBundle(live_bundle))
        site.repeats |= calls_of_slot[slot] > 1 || in_cycle(*call->getParent());
      if (const LineInfo *line = line_at(program, slot))
        site.source = formatv("{0}:{1}", sys::path::filename(line->file), line->line).str();
      for (TailCallSite::Target &t : summary.targets(call))
        if (std::find(site.targets.begin(), site.targets.end(), t) == site.targets.end())
          site.targets.push_back(std::move(t));
    }
    summary.finish();
  }
  s.helpers.assign(helpers.begin(), helpers.end());
  for (auto &[slot, site] : sites) {
    std::sort(site.targets.begin(), site.targets.end());
    s.sites.push_back(std::move(site));
  }
  return s;
}

void collect_index_slots(const Summary &summary, std::vector<StateSlot> &slots) {
  for (const TailCallSite &site : summary.sites)
    for (const TailCallSite::Target &t : site.targets)
      if (t.index.kind == AbstractValue::entry)
        slots.push_back(t.index.slot);
}

void collect_copied_slots(const Summary &summary, std::vector<StateSlot> &slots) {
  for (const TailCallSite &site : summary.sites)
    for (const auto &[slot, value] : site.state)
      if (value.kind == AbstractValue::entry)
        slots.push_back(value.slot);
}

void summarise_state(const Pipeline &pipeline, const std::vector<bool> &scratch, Module &module,
                     TargetMachine &tm, std::span<const StateSlot> slots, Summary &summary) {
  Analyses analyses(tm, module.getContext());
  for (Function &f : module) {
    if (f.isDeclaration())
      continue;
    FunctionSummary values(pipeline, scratch, f, analyses.functions);
    std::map<uint32_t, std::vector<CallInst *>> calls;
    for (CallInst *c : tail_calls(f))
      calls[site_slot(c)].push_back(c);
    for (TailCallSite &site : summary.sites) {
      auto it = calls.find(site.insn);
      if (it == calls.end() || it->second.size() != 1)
        continue; // a site that was duplicated stays unknown
      for (const StateSlot &slot : slots)
        if (AbstractValue v = values.state_at(it->second[0], slot); v.kind != AbstractValue::unknown)
          site.state.push_back({slot, std::move(v)});
      std::sort(site.state.begin(), site.state.end());
    }
    values.finish();
  }
}

} // namespace ujit
