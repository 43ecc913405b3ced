// What a program stores for the next one is often a constant on each way through it: where the header begins,
// which case it was. Behind the join of the ways, the load finds one of several stores, or a part of a wider
// one, and early CSE knows only those that every way passes, of the same width.
//
// Value numbering by memory dependence would make a phi of any such load. But the value is in memory anyway,
// where an instruction reads it for nothing; as a phi it takes a register, or a stack slot that is written on
// every way, and fused functions have neither to spare. So only constants are carried: a phi of constants
// lets path splitting, jump threading and folding answer what is asked of it, and mostly goes.
#include "lto/passes.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/Analysis/MemorySSAUpdater.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/Instructions.h"

#include <optional>

namespace ujit {

using namespace llvm;

namespace {

constexpr size_t most_joins = 8; ///< between a load and its stores

/// Bytes of context, map values or frame: the same wherever the pointer is used, also around loops.
struct Place {
  const Value *base = nullptr;
  int64_t offset = 0;
  uint64_t size = 0;
};

std::optional<Place> place_of(const Value &pointer, const Type &type, const DataLayout &layout) {
  if (!type.isIntegerTy() || type.getIntegerBitWidth() % 8 != 0)
    return std::nullopt;
  APInt offset(layout.getIndexTypeSizeInBits(pointer.getType()), 0);
  const Value *base = pointer.stripAndAccumulateConstantOffsets(layout, offset, /*AllowNonInbounds=*/true);
  if (!isa<Argument>(base) && !isa<GlobalVariable>(base) && !isa<AllocaInst>(base))
    return std::nullopt;
  return Place{base, offset.getSExtValue(), type.getIntegerBitWidth() / 8};
}

/// Where a load has its value from: the joins above it, and the constants stored before those.
class Origins {
public:
  Origins(LoadInst &load, const Place &place, AAResults &aa, MemorySSA &memory)
      : load_(load), layout_(load.getDataLayout()), place_(place), location_(MemoryLocation::get(&load)),
        aa_(aa), walker_(*memory.getWalker()) {}

  /// Whether each way to the load, which `access` is of, has stored a constant.
  bool find(MemoryAccess *access) {
    first_ = origin(walker_.getClobberingMemoryAccess(access));
    if (!first_.known())
      return false;
    for (size_t i = 0; i < joins_.size(); ++i) {
      if (joins_.size() > most_joins)
        return false;
      for (const Use &way : joins_.begin()[i].first->incoming_values()) {
        auto *before = cast<MemoryAccess>(way);
        if (behind_.contains(before))
          continue;
        BatchAAResults aa(aa_);
        const Origin o = origin(walker_.getClobberingMemoryAccess(before, location_, aa));
        if (!o.known())
          return false;
        behind_[before] = o;
      }
    }
    return true;
  }

  /// The value of the load, once all are found.
  Value *make() {
    for (auto &[join, phi] : joins_) {
      phi = PHINode::Create(load_.getType(), join->getNumIncomingValues());
      phi->insertBefore(join->getBlock()->begin());
      phi->setDebugLoc(load_.getDebugLoc());
    }
    for (auto &[join, phi] : joins_)
      for (unsigned i = 0; i < join->getNumIncomingValues(); ++i)
        phi->addIncoming(value(behind_.lookup(join->getIncomingValue(i))), join->getIncomingBlock(i));
    return value(first_);
  }

private:
  struct Origin {
    MemoryPhi *join = nullptr;
    Constant *constant = nullptr;
    bool known() const { return join || constant; }
  };

  Origin origin(MemoryAccess *clobber) {
    if (auto *join = dyn_cast<MemoryPhi>(clobber)) {
      joins_.insert({join, nullptr});
      return {.join = join};
    }
    auto *store = dyn_cast_or_null<StoreInst>(cast<MemoryDef>(clobber)->getMemoryInst());
    auto *constant = store ? dyn_cast<ConstantInt>(store->getValueOperand()) : nullptr;
    if (!constant || !store->isUnordered() || store->isAtomic() < load_.isAtomic())
      return {};
    const auto stored = place_of(*store->getPointerOperand(), *constant->getType(), layout_);
    if (!stored || stored->base != place_.base || stored->offset > place_.offset ||
        stored->offset + int64_t(stored->size) < place_.offset + int64_t(place_.size))
      return {};
    const APInt bits = constant->getValue().lshr(unsigned(8 * (place_.offset - stored->offset)));
    return {.constant = ConstantInt::get(load_.getType(), bits.trunc(unsigned(8 * place_.size)))};
  }

  Value *value(const Origin &o) const { return o.join ? (Value *)joins_.lookup(o.join) : o.constant; }

  LoadInst &load_;
  const DataLayout &layout_;
  const Place place_;
  const MemoryLocation location_;
  AAResults &aa_;
  MemorySSAWalker &walker_;
  Origin first_;
  MapVector<MemoryPhi *, PHINode *> joins_;
  DenseMap<const Value *, Origin> behind_; ///< by memory access
};

} // namespace

bool carry_constants(Function &f, AAResults &aa, MemorySSA &memory) {
  MemorySSAUpdater updater(&memory);
  bool any = false;
  for (BasicBlock &b : f)
    for (Instruction &i : make_early_inc_range(b)) {
      auto *load = dyn_cast<LoadInst>(&i);
      MemoryAccess *access = load ? memory.getMemoryAccess(load) : nullptr;
      if (!access || !load->isUnordered())
        continue;
      const auto place = place_of(*load->getPointerOperand(), *load->getType(), f.getDataLayout());
      if (!place)
        continue;
      Origins origins(*load, *place, aa, memory);
      if (!origins.find(access))
        continue;
      load->replaceAllUsesWith(origins.make());
      updater.removeMemoryAccess(load);
      load->eraseFromParent();
      any = true;
    }
  return any;
}

} // namespace ujit
