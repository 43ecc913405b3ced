// The last step before code generation: maps, programs and bound constants, until here symbols with all that
// the optimiser knows of symbols (they differ, they are not null), become loads from the instance.
#include "lto/fuse.h"

#include "translator/lower.h"

#include "llvm/Analysis/LoopInfo.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/ReplaceConstant.h"

namespace ujit {

using namespace llvm;

namespace {

struct Symbol {
  InstanceSlot slot;
  bool is_address = false; ///< the slot's own address is meant (the program loads from it), not what it holds
  /// The slot leads to a table of offsets from this CPU's base, and the one of this number gives the address.
  std::optional<uint32_t> element = {};
};

std::optional<Symbol> parse_symbol(StringRef name) {
  auto number = [](StringRef s, uint32_t &n) { return !s.getAsInteger(10, n); };
  Symbol s;
  if (!name.consume_front("ujit."))
    return std::nullopt;
  if (name == "cpu") {
    s.slot.kind = InstanceSlot::cpu;
    s.is_address = true;
    return s;
  }
  auto [kind, rest] = name.split('.');
  if (kind == "bound") {
    auto [map, constant] = rest.split('.');
    s.slot.kind = InstanceSlot::constant;
    s.is_address = true;
    return number(map, s.slot.id) && number(constant, s.slot.sub) ? std::optional(s) : std::nullopt;
  }
  if (kind == "map")
    s.slot.kind = InstanceSlot::map;
  else if (kind == "values")
    s.slot.kind = InstanceSlot::values;
  else if (kind == "percpu") {
    s.slot.kind = InstanceSlot::values;
    auto [map, element] = rest.split('.');
    return number(map, s.slot.id) && number(element, s.element.emplace()) ? std::optional(s) : std::nullopt;
  } else if (kind == "table") {
    s.slot.kind = InstanceSlot::table;
    s.is_address = true;
  } else if (kind == "program")
    s.slot.kind = InstanceSlot::program;
  else
    return std::nullopt;
  return number(rest, s.slot.id) ? std::optional(s) : std::nullopt;
}

/// Programs and entries have (context, instance, ...), subprograms (instance, ...).
Argument *instance_of(Function &f) { return f.getArg(f.getCallingConv() == CallingConv::Fast ? 0 : 1); }

/// The address on this CPU whose offset is at `offset_at`, which does not change.
Value *this_cpu_address(IRBuilder<> &b, Value *offset_at) {
  LoadInst *offset = b.CreateAlignedLoad(b.getInt64Ty(), offset_at, Align(8));
  offset->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(b.getContext(), {}));
  return b.CreateIntToPtr(b.CreateAdd(offset, this_cpu_offset(b)), b.getPtrTy());
}

/// The instance never changes, so that its loads stand in front of all loops that their use is in.
class Placement {
public:
  Instruction *in_front_of_loops(Instruction *use) {
    Function &f = *use->getFunction();
    std::unique_ptr<Loops> &loops = known_[&f];
    if (!loops)
      loops = std::make_unique<Loops>(f);
    BasicBlock *at = use->getParent();
    for (Loop *l = loops->loops.getLoopFor(at); l; l = loops->loops.getLoopFor(at))
      at = loops->tree.getNode(l->getHeader())->getIDom()->getBlock();
    return at == use->getParent() ? use : at->getTerminator();
  }

private:
  struct Loops {
    explicit Loops(Function &f) : tree(f), loops(tree) {}
    DominatorTree tree;
    LoopInfo loops;
  };
  DenseMap<Function *, std::unique_ptr<Loops>> known_;
};

} // namespace

void bind_instance(Module &module, const InstanceLayout &layout) {
  SmallVector<std::pair<GlobalVariable *, Symbol>> symbols;
  for (GlobalVariable &g : module.globals())
    if (auto s = parse_symbol(g.getName()))
      symbols.push_back({&g, *s});
  MDNode *none = MDNode::get(module.getContext(), {});
  Placement placement;
  for (auto &[global, symbol] : symbols) {
    convertUsersOfConstantsToInstructions(global);
    while (!global->use_empty()) {
      Use &use = *global->use_begin();
      auto *user = cast<Instruction>(use.getUser());
      Instruction *at = user;
      if (auto *phi = dyn_cast<PHINode>(user))
        at = phi->getIncomingBlock(use)->getTerminator();
      if (!at->getFunction()->hasFnAttribute(huge_attribute))
        at = placement.in_front_of_loops(at);
      IRBuilder<> b(at);
      // The compiler's own loads: single_fetch.h counts those of a program's instructions.
      if (const DILocation *l = at->getDebugLoc())
        b.SetCurrentDebugLocation(DILocation::get(l->getContext(), 0, 0, l->getScope(), l->getInlinedAt()));
      Value *v = b.CreateConstInBoundsGEP1_64(b.getInt8Ty(), instance_of(*at->getFunction()),
                                              layout.offset_of(symbol.slot));
      if (!symbol.is_address) {
        LoadInst *l = b.CreateAlignedLoad(b.getPtrTy(), v, Align(8));
        l->setMetadata(LLVMContext::MD_invariant_load, none);
        l->setMetadata(LLVMContext::MD_nonnull, none);
        v = l;
      }
      if (symbol.element)
        v = this_cpu_address(b, b.CreateConstInBoundsGEP1_64(b.getInt64Ty(), v, *symbol.element));
      if (auto *phi = dyn_cast<PHINode>(user)) { // one block may come in several times, with one value
        BasicBlock *from = phi->getIncomingBlock(use);
        for (unsigned i = 0; i < phi->getNumIncomingValues(); ++i)
          if (phi->getIncomingBlock(i) == from && phi->getIncomingValue(i) == global)
            phi->setIncomingValue(i, v);
      } else {
        use.set(v);
      }
    }
    global->eraseFromParent();
  }
}

} // namespace ujit
