// What becomes of one tail-call site:
//
//        count spent? ──────────────────────────────────────────► behind the call
//             │
//        which alternative (index, or the program in the slot)
//         ├── known target, guarded: slot == the fused program? ── no ──► leave
//         │        └── yes: frame ends, musttail call; or the same call marked for inlining
//         ├── known to be empty ────────────────────────────────► behind the call
//         └── anything else: leave
//        leave: index in range? slot filled? ── no ─────────────► behind the call
//             └── frame ends, musttail call through the slot
//                 kernel target: state into the leave frame, return to the stub, which makes the call
//
// Slots are read with volatile loads, once for each decision: what was compared is what is called.
#include "lto/expand.h"

#include "lto/optimise.h"
#include "translator/leave_state.h"
#include "translator/lower.h"

#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <map>

namespace ujit {

using namespace llvm;

static constexpr const char inline_mark[] = "ujit-inline";
void mark_for_inlining(CallBase &call) { call.addFnAttr(Attribute::get(call.getContext(), inline_mark)); }
bool is_marked_for_inlining(const CallBase &call) { return call.hasFnAttr(inline_mark); }

namespace {

class SiteExpander {
public:
  SiteExpander(const FuseInput &in, ProgId p, CopyKind kind, bool main, Function &f, CallInst *marker)
      : in_(in), program_(p), kind_(kind), main_(main), f_(f), marker_(marker), b_(f.getContext()),
        map_(marker->getArgOperand(1)), index_(marker->getArgOperand(2)) {}

  Error run() {
    const uint32_t insn = uint32_t(cast<ConstantInt>(marker_->getArgOperand(3))->getZExtValue());
    const Summary &summary = in_.graph.summaries[ujit::index(program_)];
    auto it = std::lower_bound(summary.sites.begin(), summary.sites.end(), insn,
                               [](const TailCallSite &s, uint32_t i) { return s.insn < i; });
    if (it == summary.sites.end() || it->insn != insn) {
      // What cannot be reached from the program's start may still be in its resume function, which knows
      // less.
      if (kind_ == CopyKind::resumed) {
        marker_->eraseFromParent();
        return Error::success();
      }
      return fail(internal_error("tail call without a summary").at(insn));
    }
    insn_ = insn;
    site_summary_ = &*it;
    plan_ = in_.plan.sites_of(program_)[size_t(it - summary.sites.begin())];
    if (kind_ == CopyKind::resumed)
      plan_ = resumed_site(*in_.leave, plan_);
    const bool chain = kind_ == CopyKind::chain;
    if (chain) {
      plan_.alternatives.clear();
      plan_.select = Select::none;
      plan_.otherwise = PlannedSite::leave;
      plan_.check_count = true;
    }
    counted_ = chain || in_.plan[program_].counted;

    BasicBlock *head = head_ = marker_->getParent();
    behind_ = head->splitBasicBlock(marker_, "behind");
    head->getTerminator()->eraseFromParent();
    b_.SetInsertPoint(head);
    b_.SetCurrentDebugLocation(marker_->getDebugLoc());
    if (Error e = expand())
      return e;
    marker_->eraseFromParent();
    return Error::success();
  }

private:
  Error fail(LinkError e) {
    return e.in_file(in_.program(program_).object).in_program(in_.program(program_).name).error();
  }

  BasicBlock *block(const Twine &name) {
    BasicBlock *bb = BasicBlock::Create(f_.getContext(), name, &f_);
    bb->moveBefore(behind_);
    return bb;
  }

  Value *symbol(const Twine &name) { return f_.getParent()->getOrInsertGlobal(name.str(), b_.getInt8Ty()); }
  Value *map_symbol(MapId m) { return symbol("ujit.map." + Twine(ujit::index(m))); }
  Value *slots_of(MapId m) { return symbol("ujit.values." + Twine(ujit::index(m))); }
  Value *program_symbol_of(ProgId p) {
    return symbol("ujit.program." + Twine(ujit::index(in_.plan[p].origin)));
  }

  Value *load_slot(MapId m, Value *index) {
    Value *offset = b_.CreateMul(b_.CreateZExt(index, b_.getInt64Ty()), b_.getInt64(8));
    return b_.CreateAlignedLoad(b_.getPtrTy(), b_.CreateGEP(b_.getInt8Ty(), slots_of(m), offset), Align(8),
                                true);
  }

  // --- the count ---

  Value *count_argument() { return f_.getArg(main_ ? 2 : 1); }
  Value *count_cell() { return b_.CreateIntToPtr(count_argument(), b_.getPtrTy()); }
  /// Where failed calls count, the count of one run of a function changes: it is a variable, or the cell.
  Value *count_variable() {
    if (in_.plan.count_cell)
      return count_cell();
    for (Instruction &i : f_.getEntryBlock())
      if (i.hasMetadata("ujit.count"))
        return &i;
    IRBuilder<> b(&f_.getEntryBlock(), f_.getEntryBlock().begin());
    AllocaInst *variable = b.CreateAlloca(b.getInt64Ty());
    variable->setMetadata("ujit.count", MDNode::get(f_.getContext(), {}));
    b.CreateAlignedStore(count_argument(), variable, Align(8));
    return variable;
  }
  bool count_in_memory() const { return in_.plan.count_cell || (in_.plan.count_failed && counted_); }
  Value *count() {
    return count_in_memory() ? (Value *)b_.CreateAlignedLoad(b_.getInt64Ty(), count_variable(), Align(8))
                             : count_argument();
  }
  /// The slot is empty: the call has failed.
  BasicBlock *failed() {
    if (!in_.plan.count_failed || !counted_)
      return behind_;
    BasicBlock *bb = block("failed");
    IRBuilder<>::InsertPointGuard guard(b_);
    b_.SetInsertPoint(bb);
    Value *variable = count_variable();
    b_.CreateAlignedStore(b_.CreateAdd(count(), b_.getInt64(1)), variable, Align(8));
    b_.CreateBr(behind_);
    return bb;
  }
  /// The count argument of a committed call.
  Value *next_count() {
    if (!counted_)
      return in_.plan.count_cell ? count_argument() : PoisonValue::get(b_.getInt64Ty());
    if (!in_.plan.count_cell)
      return b_.CreateAdd(count(), b_.getInt64(1));
    Value *variable = count_cell();
    b_.CreateAlignedStore(b_.CreateAdd(count(), b_.getInt64(1)), variable, Align(8));
    return count_argument();
  }

  // --- committing ---

  void end_frame() {
    for (Instruction &i : f_.getEntryBlock())
      if (auto *a = dyn_cast<AllocaInst>(&i); a && !a->hasMetadata("ujit.count"))
        b_.CreateLifetimeEnd(a, b_.getInt64(*a->getAllocationSize(f_.getDataLayout())));
  }

  /// `whole_result`: the callee returns 64 bits, for callers in subprograms, where this program returns 32.
  void call_and_return(Value *callee, bool inlined, bool rare, bool whole_result = false) {
    Value *instance = f_.getArg(main_ ? 1 : 0);
    Value *next = next_count();
    if (main_)
      end_frame();
    SmallVector<Value *, 4> arguments{marker_->getArgOperand(0), instance, next};
    if (in_.leave) // what is called from a subprogram never leaves
      arguments.push_back(main_ ? (Value *)f_.getArg(3) : PoisonValue::get(b_.getPtrTy()));
    CallInst *call = b_.CreateCall(program_type(f_.getContext(), in_.leave != nullptr), callee, arguments);
    call->setCallingConv(CallingConv::PreserveNone);
    call->addFnAttr(Attribute::NoUnwind);
    if (inlined)
      mark_for_inlining(*call);
    if (rare)
      call->addFnAttr(Attribute::Cold);
    if (main_ && !whole_result) {
      call->setTailCallKind(CallInst::TCK_MustTail);
      b_.CreateRet(call);
    } else {
      b_.CreateRet(whole_result ? b_.CreateAnd(call, 0xffffffff) : (Value *)call);
    }
  }

  Function *function_for(ProgId to, bool inlined) {
    const std::string name = inlined ? in_.body_symbol(to) : in_.function_symbol(to);
    if (Function *f = f_.getParent()->getFunction(name))
      return f;
    Function *f = Function::Create(program_type(f_.getContext(), in_.leave != nullptr),
                                   GlobalValue::ExternalLinkage, name, f_.getParent());
    f->setVisibility(GlobalValue::HiddenVisibility);
    f->setCallingConv(CallingConv::PreserveNone);
    return f;
  }

  /// One copy or call for each target, however many slots lead to it.
  BasicBlock *committed(const PlannedEdge &alternative) {
    bool inlined = alternative.treatment != Treatment::direct;
    BasicBlock *&bb = commits_[*alternative.edge.to];
    if (bb)
      return bb;
    bb = block("commit");
    IRBuilder<>::InsertPointGuard guard(b_);
    b_.SetInsertPoint(bb);
    const bool whole_result = in_.leave && main_ &&
                              in_.leave->whole_result[ujit::index(*alternative.edge.to)] &&
                              !in_.leave->whole_result[ujit::index(program_)];
    call_and_return(function_for(*alternative.edge.to, inlined), inlined, in_.plan[*alternative.edge.to].sink,
                    whole_result);
    return bb;
  }

  // --- leaving ---

  /// Where some target is known, it is what the slot holds.
  bool leaving_is_rare() const { return in_.plan.hot_paths && !plan_.alternatives.empty(); }

  /// The call of whatever the slot holds.
  void leave_to(MapId m, Value *object) {
    if (!in_.leave)
      return call_and_return(b_.CreateAlignedLoad(b_.getPtrTy(), object, Align(8)), false, leaving_is_rare());
    const uint64_t code = uint64_t(1) << 63 | uint64_t(in_.leave->number_of(m)) << 48;
    Value *here = b_.getInt64(code);
    if (!saved_)
      save_state();
    code_->addIncoming(here, b_.GetInsertBlock());
    b_.CreateBr(saved_);
  }

  /// Out of the image: what is alive behind the call goes into the frame, the stub makes the call.
  void save_state() {
    saved_ = block("save");
    IRBuilder<>::InsertPointGuard guard(b_);
    b_.SetInsertPoint(saved_);
    code_ = b_.CreatePHI(b_.getInt64Ty(), 2);
    Value *frame = f_.getArg(3);
    auto field = [&](uint64_t offset) { return b_.CreateConstGEP1_64(b_.getInt8Ty(), frame, offset); };
    if (std::optional<OperandBundleUse> live = marker_->getOperandBundle(live_bundle))
      for (size_t i = 0; i + 1 < live->Inputs.size(); i += 2) {
        const uint64_t offset = cast<ConstantInt>(live->Inputs[i])->getZExtValue();
        Value *target = field(offset);
        b_.CreateAlignedStore(sink(live->Inputs[i + 1]), target, Align(1));
      }
    if (counted_) {
      Value *count = this->count();
      if (in_.plan.count_failed) // it will have failed when it comes back
        count = b_.CreateAdd(count, b_.getInt64(1));
      Value *target = field(leave_count_offset);
      b_.CreateAlignedStore(b_.CreateTrunc(count, b_.getInt32Ty()), target, Align(4));
    }
    const uint64_t point = uint64_t(in_.leave->point_of(program_, insn_)) << 32;
    Value *code = b_.CreateOr(code_, b_.CreateOr(b_.CreateZExt(index_, b_.getInt64Ty()), point));
    b_.CreateRet(code);
  }

  /// A load of stack bytes that only the saving needs is done there; nothing in between writes memory.
  Value *sink(Value *v) {
    auto *i = dyn_cast<Instruction>(v);
    if (!i || i->getParent() != head_ || !i->hasNUses(1) || !(isa<FreezeInst>(i) || isa<LoadInst>(i)))
      return v;
    if (auto *load = dyn_cast<LoadInst>(i)) {
      if (!load->isSimple())
        return v;
      for (const Instruction *n = i->getNextNode(); n; n = n->getNextNode())
        if (n->mayWriteToMemory() && !(isa<LoadInst>(n) && cast<LoadInst>(n)->isVolatile()))
          return v;
    } else {
      sink(i->getOperand(0));
    }
    i->moveBefore(*saved_, b_.GetInsertPoint());
    return i;
  }

  /// The call as the kernel makes it: range, slot, count, indirect jump.
  void leave_through(MapId m) {
    const Map &map = in_.pipeline[m];
    BasicBlock *in_range = block("leave"), *filled = block("filled");
    b_.CreateCondBr(b_.CreateICmpULT(index_, b_.getInt32(map.max_entries)), in_range, behind_);
    b_.SetInsertPoint(in_range);
    Value *object = load_slot(m, index_);
    b_.CreateCondBr(b_.CreateIsNull(object), failed(), filled);
    b_.SetInsertPoint(filled);
    leave_to(m, object);
  }

  std::vector<MapId> maps_of_site() {
    std::vector<MapId> maps;
    for (const TailCallSite::Target &t : site_summary_->targets)
      if (t.map)
        maps.push_back(*t.map);
    std::sort(maps.begin(), maps.end());
    maps.erase(std::unique(maps.begin(), maps.end()), maps.end());
    return maps;
  }

  Error leave() {
    if (leave_) {
      b_.CreateBr(leave_);
      return Error::success();
    }
    std::vector<MapId> maps = maps_of_site();
    bool unknown = std::any_of(site_summary_->targets.begin(), site_summary_->targets.end(),
                               [](auto &t) { return !t.map; });
    if (unknown || maps.empty())
      return fail(unsupported("the prog array of this tail call is not known at link time")
                      .at(insn_)
                      .with_hint("prog arrays inside of map-in-map cannot be followed"));
    leave_ = block("leaving");
    b_.CreateBr(leave_);
    IRBuilder<>::InsertPointGuard guard(b_);
    b_.SetInsertPoint(leave_);
    for (size_t i = 0; i + 1 < maps.size(); ++i) {
      BasicBlock *here = block("map"), *next = block("next");
      b_.CreateCondBr(b_.CreateICmpEQ(map_, map_symbol(maps[i])), here, next);
      b_.SetInsertPoint(here);
      leave_through(maps[i]);
      b_.SetInsertPoint(next);
    }
    leave_through(maps.back());
    return Error::success();
  }

  // --- choosing ---

  Error alternative(const PlannedEdge &a) {
    switch (a.treatment) {
    case Treatment::fall_through:
      b_.CreateBr(a.edge.slot < in_.pipeline[a.edge.map].max_entries ? failed() : behind_);
      return Error::success();
    case Treatment::leave: return leave();
    case Treatment::direct:
    case Treatment::inlined:
    case Treatment::cloned: break;
    }
    if (!a.guard) {
      b_.CreateBr(committed(a));
      return Error::success();
    }
    BasicBlock *differs = block("differs");
    Value *object = load_slot(a.edge.map, b_.getInt32(a.edge.slot));
    b_.CreateCondBr(b_.CreateICmpEQ(object, program_symbol_of(*a.edge.to)), committed(a), differs);
    b_.SetInsertPoint(differs);
    return leave();
  }

  Error otherwise() {
    if (plan_.otherwise == PlannedSite::leave)
      return leave();
    b_.CreateBr(behind_); // `nothing`: cannot be reached, and this is the code that is never wrong
    return Error::success();
  }

  /// What a run has shown of a choice. A way that was never taken keeps a weight of 1.
  static void weigh(SwitchInst &choice, std::span<const uint64_t> calls) {
    const uint64_t most = *std::max_element(calls.begin(), calls.end());
    if (most == 0)
      return;
    std::vector<uint32_t> weights;
    for (uint64_t n : calls)
      weights.push_back(uint32_t(n / (most / INT32_MAX + 1)) + 1);
    choice.setMetadata(LLVMContext::MD_prof, MDBuilder(choice.getContext()).createBranchWeights(weights));
  }

  Error select_by_index() {
    std::vector<MapId> maps = maps_of_site();
    for (size_t i = 0; i < maps.size(); ++i) {
      BasicBlock *next_map = nullptr;
      if (maps.size() > 1) {
        BasicBlock *here = block("map");
        next_map = block("next");
        b_.CreateCondBr(b_.CreateICmpEQ(map_, map_symbol(maps[i])), here, next_map);
        b_.SetInsertPoint(here);
      }
      BasicBlock *other = block("other");
      SwitchInst *choice = b_.CreateSwitch(index_, other);
      std::vector<uint64_t> calls{0}; // in the order of the successors
      for (const PlannedEdge &a : plan_.alternatives) {
        if (a.edge.map != maps[i])
          continue;
        calls.push_back(a.edge.calls);
        BasicBlock *bb = block("slot" + Twine(a.edge.slot));
        choice->addCase(b_.getInt32(a.edge.slot), bb);
        b_.SetInsertPoint(bb);
        if (Error e = alternative(a))
          return e;
      }
      weigh(*choice, calls);
      b_.SetInsertPoint(other);
      if (Error e = otherwise())
        return e;
      if (!next_map)
        return Error::success();
      b_.SetInsertPoint(next_map);
    }
    return otherwise();
  }

  Error select_by_program() {
    std::vector<MapId> maps = maps_of_site();
    for (size_t i = 0; i < maps.size(); ++i) {
      BasicBlock *next_map = nullptr;
      if (maps.size() > 1) {
        BasicBlock *here = block("map");
        next_map = block("next");
        b_.CreateCondBr(b_.CreateICmpEQ(map_, map_symbol(maps[i])), here, next_map);
        b_.SetInsertPoint(here);
      }
      BasicBlock *in_range = block("range");
      b_.CreateCondBr(b_.CreateICmpULT(index_, b_.getInt32(in_.pipeline[maps[i]].max_entries)), in_range,
                      behind_);
      b_.SetInsertPoint(in_range);
      Value *object = load_slot(maps[i], index_);
      std::vector<PlannedEdge> likely_first = plan_.alternatives;
      std::stable_sort(
          likely_first.begin(), likely_first.end(),
          [](const PlannedEdge &a, const PlannedEdge &b) { return a.edge.calls > b.edge.calls; });
      for (const PlannedEdge &a : likely_first) {
        BasicBlock *next = block("next");
        b_.CreateCondBr(b_.CreateICmpEQ(object, program_symbol_of(*a.edge.to)), committed(a), next);
        b_.SetInsertPoint(next);
      }
      // Nobody that we know: empty, or a program that came later. The slot that was compared is the one
      // called.
      BasicBlock *filled = block("filled");
      b_.CreateCondBr(b_.CreateIsNull(object), failed(), filled);
      b_.SetInsertPoint(filled);
      leave_to(maps[i], object);
      if (!next_map)
        return Error::success();
      b_.SetInsertPoint(next_map);
    }
    return otherwise();
  }

  Error expand() {
    if (plan_.check_count && counted_) {
      BasicBlock *go = block("counted");
      b_.CreateCondBr(b_.CreateICmpUGE(count(), b_.getInt64(in_.plan.max_tail_calls)), behind_, go);
      b_.SetInsertPoint(go);
    }
    if (plan_.alternatives.empty())
      return otherwise();
    switch (plan_.select) {
    case Select::none: return alternative(plan_.alternatives[0]);
    case Select::index: return select_by_index();
    case Select::program: return select_by_program();
    }
    return Error::success();
  }

  const FuseInput &in_;
  ProgId program_;
  CopyKind kind_;
  bool main_, counted_ = false;
  Function &f_;
  CallInst *marker_;
  IRBuilder<> b_;
  Value *map_, *index_;
  BasicBlock *head_ = nullptr, *behind_ = nullptr, *leave_ = nullptr, *saved_ = nullptr;
  PHINode *code_ = nullptr;
  PlannedSite plan_;
  const TailCallSite *site_summary_ = nullptr;
  uint32_t insn_ = 0;
  std::map<ProgId, BasicBlock *> commits_;
};

} // namespace

Error expand_tail_calls(const FuseInput &input, ProgId p, CopyKind kind, bool main, Function &f) {
  std::vector<CallInst *> markers;
  for (BasicBlock &b : f)
    for (Instruction &i : b)
      if (auto *c = dyn_cast<CallInst>(&i);
          c && c->getCalledFunction() && c->getCalledFunction()->getName() == "ujit.tail_call")
        markers.push_back(c);
  for (CallInst *m : markers)
    if (Error e =
            SiteExpander(input, p, input.plan.mode == PlanOptions::chain ? CopyKind::chain : kind, main, f, m)
                .run())
      return e;
  return Error::success();
}

} // namespace ujit
