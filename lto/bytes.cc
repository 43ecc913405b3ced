// Compilers split what is not aligned into bytes: a port is two loads, a shift and an or, a copied address
// six loads and six stores. x86-64 needs no alignment. The loads carry `freeze` (docs/memory-model.md), which
// LLVM's own passes do not look through; a wider load is still one load, and what was checked is what is
// used.
//
// A word is read where its first byte was and written where its last byte was; both only if nothing between
// touches the bytes in a way that would show. Fields that are set to constants become words likewise.
#include "lto/passes.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/Operator.h"
#include "llvm/Transforms/Utils/Local.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace ujit {

using namespace llvm;

namespace {

/// Instructions between the first and the last byte of a word.
constexpr unsigned longest_window = 256;

struct Place {
  Value *base = nullptr;
  int64_t offset = 0;
};

Place place_of(Value *pointer, const DataLayout &layout) {
  APInt offset(64, 0);
  Value *base = pointer->stripAndAccumulateConstantOffsets(layout, offset, true);
  return {base, offset.getSExtValue()};
}

/// A load whose value is used once, perhaps behind a freeze.
struct Piece {
  LoadInst *load = nullptr;
  Place at;
  unsigned bytes = 0;
  unsigned shift = 0; ///< in the word
};

LoadInst *load_behind(Value *v) {
  if (auto *f = dyn_cast<FreezeInst>(v)) {
    if (!f->hasOneUse())
      return nullptr;
    v = f->getOperand(0);
  }
  auto *l = dyn_cast<LoadInst>(v);
  if (!l || !l->hasOneUse() || l->isVolatile() || !l->getType()->isIntegerTy())
    return nullptr;
  const unsigned bits = l->getType()->getIntegerBitWidth();
  if (bits != 8 && bits != 16 && bits != 32)
    return nullptr;
  // A byte cannot be torn. Wider atomics stay what they are.
  return l->isAtomic() && (bits != 8 || isStrongerThanUnordered(l->getOrdering())) ? nullptr : l;
}

class Bytes {
public:
  Bytes(Function &f, AAResults &aliases) : f_(f), layout_(f.getDataLayout()), aliases_(aliases) {}

  bool run() {
    bool any = false;
    for (BasicBlock &b : f_) {
      SmallVector<WeakTrackingVH> roots;
      for (Instruction &i : b)
        if (is_join(&i) && !(i.hasOneUse() && is_join(skip_casts(i.user_back()))))
          roots.push_back(&i);
      for (WeakTrackingVH &root : roots)
        if (root)
          any |= join(cast<Instruction>(root));
      any |= copies(b);
      any |= constants(b);
    }
    return any;
  }

private:
  static bool is_join(const Value *v) {
    auto *i = dyn_cast<BinaryOperator>(v);
    return i &&
           (i->getOpcode() == Instruction::Or ||
            (i->getOpcode() == Instruction::Add && i->hasNoUnsignedWrap())) &&
           i->getType()->isIntegerTy() && i->getType()->getIntegerBitWidth() <= 64;
  }
  /// Up from a part of a word to what joins it.
  static const Value *skip_casts(const User *u) {
    for (;;) {
      const bool passes_on = isa<ZExtInst>(u) || (isa<BinaryOperator>(u) &&
                                                  cast<BinaryOperator>(u)->getOpcode() == Instruction::Shl);
      if (!passes_on || !u->hasOneUse())
        return u;
      u = u->user_back();
    }
  }

  /// The bytes that `v` is put together from; false if there is anything else in it. What is shifted beyond
  /// `limit` bits would be lost.
  bool collect(Value *v, unsigned shift, unsigned limit, SmallVectorImpl<Piece> &out, bool root = false) {
    limit = std::min(limit, shift + v->getType()->getIntegerBitWidth());
    if (LoadInst *l = load_behind(v)) {
      const unsigned bits = l->getType()->getIntegerBitWidth();
      if (shift + bits > limit || out.size() == 8)
        return false;
      out.push_back({l, place_of(l->getPointerOperand(), layout_), bits / 8, shift});
      return true;
    }
    auto *i = dyn_cast<Instruction>(v);
    if (!i || !(root || i->hasOneUse()))
      return false;
    if (isa<ZExtInst>(i) || isa<FreezeInst>(i))
      return collect(i->getOperand(0), shift, limit, out);
    if (i->getOpcode() == Instruction::Shl)
      if (auto *by = dyn_cast<ConstantInt>(i->getOperand(1)); by && by->getValue().ult(64))
        return collect(i->getOperand(0), shift + unsigned(by->getZExtValue()), limit, out);
    return is_join(i) && collect(i->getOperand(0), shift, limit, out) &&
           collect(i->getOperand(1), shift, limit, out);
  }

  bool join(Instruction *root) {
    SmallVector<Piece, 8> pieces;
    if (!collect(root, 0, 64, pieces, true) || pieces.size() < 2)
      return false;
    std::ranges::sort(pieces, {}, [](const Piece &p) { return p.at.offset; });
    unsigned bytes = 0, low = 64;
    for (const Piece &p : pieces) {
      if (p.at.base != pieces[0].at.base || p.at.offset != pieces[0].at.offset + bytes)
        return false;
      bytes += p.bytes;
      low = std::min(low, p.shift);
    }
    if (bytes != 2 && bytes != 4 && bytes != 8)
      return false;
    bool little = true, big = true;
    for (const Piece &p : pieces) {
      const unsigned from = unsigned(p.at.offset - pieces[0].at.offset);
      little &= p.shift == low + 8 * from;
      big &= p.bytes == 1 && p.shift == low + 8 * (bytes - from - 1);
    }
    if (!little && !big)
      return false;
    Value *word = load_word(pieces, bytes);
    if (!word)
      return false;
    IRBuilder<> b(root);
    if (big)
      word = b.CreateUnaryIntrinsic(Intrinsic::bswap, word);
    word = b.CreateShl(b.CreateZExtOrTrunc(word, root->getType()), low);
    root->replaceAllUsesWith(word);
    RecursivelyDeleteTriviallyDeadInstructions(root);
    return true;
  }

  template <class T>
  static std::pair<T *, T *> ends(ArrayRef<T *> all) {
    T *first = all[0], *last = all[0];
    for (T *i : all) {
      first = i->comesBefore(first) ? i : first;
      last = last->comesBefore(i) ? i : last;
    }
    return {first, last};
  }

  /// Whether everything from `first` to `last`, which are left out, leaves `location` alone.
  bool is_untouched(Instruction *first, Instruction *last, const MemoryLocation &location, bool reads_count,
                    function_ref<bool(Instruction *)> is_ours) {
    unsigned n = 0;
    for (Instruction *i = first->getNextNode(); i != last; i = i->getNextNode()) {
      if (++n > longest_window || !isGuaranteedToTransferExecutionToSuccessor(i))
        return false;
      if (!i->mayReadOrWriteMemory() || is_ours(i))
        continue;
      const ModRefInfo touched = aliases_.getModRefInfo(i, location);
      if (isModSet(touched) || (reads_count && isRefSet(touched)))
        return false;
    }
    return true;
  }

  MemoryLocation location(Value *pointer, unsigned bytes, const Instruction *like) {
    return MemoryLocation(pointer, LocationSize::precise(bytes), like->getAAMetadata());
  }

  /// A pointer `distance` bytes from that of an access, computed in front of it.
  static Value *address(IRBuilder<> &b, Value *pointer, int64_t distance) {
    return distance ? b.CreateConstGEP1_64(b.getInt8Ty(), pointer, uint64_t(distance)) : pointer;
  }

  /// Pieces by offset, without a gap. Null: something between writes there.
  Value *load_word(ArrayRef<Piece> pieces, unsigned bytes) {
    SmallVector<LoadInst *, 8> loads;
    for (const Piece &p : pieces) {
      if (p.load->getParent() != pieces[0].load->getParent() ||
          p.load->getMetadata(LLVMContext::MD_tbaa) != pieces[0].load->getMetadata(LLVMContext::MD_tbaa))
        return nullptr;
      loads.push_back(p.load);
    }
    auto [first, last] = ends<LoadInst>(loads);
    const Place at = place_of(first->getPointerOperand(), layout_);
    IRBuilder<> b(first);
    Value *pointer = address(b, first->getPointerOperand(), pieces[0].at.offset - at.offset);
    if (first != last && !is_untouched(first, last, location(pointer, bytes, first), false,
                                       [](Instruction *) { return false; })) {
      RecursivelyDeleteTriviallyDeadInstructions(pointer);
      return nullptr;
    }
    LoadInst *word = b.CreateAlignedLoad(b.getIntNTy(bytes * 8), pointer, Align(1));
    word->setMetadata(LLVMContext::MD_tbaa, first->getMetadata(LLVMContext::MD_tbaa));
    return b.CreateFreeze(word);
  }

  // --- Copies ----------------------------------------------------------------------------------------

  struct Copy {
    StoreInst *store;
    Piece piece;
    int64_t to; ///< offset
    unsigned size() const { return piece.bytes; }
  };

  /// Of stores to one place, those that are a word without a gap go to `merge`, which says whether they
  /// became one; the widest words first.
  template <class T>
  static bool merge_runs(std::vector<T> &stores, function_ref<bool(ArrayRef<T>, unsigned bytes)> merge) {
    std::ranges::stable_sort(stores, {}, &T::to);
    bool any = false;
    for (ArrayRef<T> rest = stores; !rest.empty();) {
      size_t taken = 0;
      for (unsigned bytes : {8u, 4u, 2u})
        if (size_t n = run_of(rest, bytes); n > 1 && merge(rest.take_front(n), bytes)) {
          taken = n;
          break;
        }
      any |= taken != 0;
      rest = rest.drop_front(std::max<size_t>(taken, 1));
    }
    return any;
  }

  /// Number of stores at the front that are `bytes` without a gap; 0: none are.
  template <class T>
  static size_t run_of(ArrayRef<T> stores, unsigned bytes) {
    unsigned have = 0;
    for (size_t n = 0; n < stores.size() && stores[n].to == stores[0].to + have; ++n)
      if ((have += stores[n].size()) >= bytes)
        return have == bytes ? n + 1 : 0;
    return 0;
  }

  bool copies(BasicBlock &block) {
    std::map<std::tuple<Value *, Value *, int64_t>, std::vector<Copy>> groups;
    std::vector<std::tuple<Value *, Value *, int64_t>> order;
    for (Instruction &i : block) {
      auto *s = dyn_cast<StoreInst>(&i);
      if (!s || !s->isSimple() || !s->getValueOperand()->getType()->isIntegerTy())
        continue;
      LoadInst *l = load_behind(s->getValueOperand());
      if (!l || l->getParent() != &block)
        continue;
      const Place to = place_of(s->getPointerOperand(), layout_);
      const Place from = place_of(l->getPointerOperand(), layout_);
      const std::tuple key{from.base, to.base, to.offset - from.offset};
      std::vector<Copy> &group = groups[key];
      if (group.empty())
        order.push_back(key);
      group.push_back({s, {l, from, l->getType()->getIntegerBitWidth() / 8, 0}, to.offset});
    }
    bool any = false;
    for (const auto &key : order)
      any |= merge_runs<Copy>(
          groups[key], [&](ArrayRef<Copy> copies, unsigned bytes) { return copy_word(copies, bytes); });
    return any;
  }

  bool copy_word(ArrayRef<Copy> copies, unsigned bytes) {
    SmallVector<StoreInst *, 8> stores;
    SmallVector<Piece, 8> pieces;
    for (const Copy &c : copies) {
      if (c.store->getMetadata(LLVMContext::MD_tbaa) != copies[0].store->getMetadata(LLVMContext::MD_tbaa))
        return false;
      stores.push_back(c.store);
      pieces.push_back(c.piece);
    }
    auto [first, last] = ends<StoreInst>(stores);
    const int64_t distance = copies[0].to - place_of(last->getPointerOperand(), layout_).offset;
    IRBuilder<> b(last);
    Value *pointer = address(b, last->getPointerOperand(), distance);
    auto is_ours = [&](Instruction *i) { return isa<StoreInst>(i) && is_contained(stores, i); };
    Value *word = nullptr;
    if (is_untouched(first, last, location(pointer, bytes, last), true, is_ours))
      word = load_word(pieces, bytes);
    if (!word) {
      RecursivelyDeleteTriviallyDeadInstructions(pointer);
      return false;
    }
    StoreInst *store = b.CreateAlignedStore(word, pointer, Align(1));
    store->setMetadata(LLVMContext::MD_tbaa, last->getMetadata(LLVMContext::MD_tbaa));
    for (StoreInst *s : stores) {
      Value *value = s->getValueOperand();
      s->eraseFromParent();
      RecursivelyDeleteTriviallyDeadInstructions(value);
    }
    return true;
  }

  // --- Constants -------------------------------------------------------------------------------------

  struct Constant {
    StoreInst *store;
    int64_t to; ///< offset
    unsigned bytes;
    uint64_t value;
    unsigned size() const { return bytes; }
  };

  /// Fields of a map's value that are set to constants one by one, mostly to 0, are set by words. They are
  /// atomic, so the code generator, which does so to all others, leaves them alone.
  bool constants(BasicBlock &block) {
    MapVector<Value *, std::vector<Constant>> groups;
    for (Instruction &i : block)
      if (auto *s = dyn_cast<StoreInst>(&i); s && s->isAtomic() && s->isUnordered())
        if (auto *c = dyn_cast<ConstantInt>(s->getValueOperand()); c && c->getBitWidth() <= 32) {
          const Place at = place_of(s->getPointerOperand(), layout_);
          groups[at.base].push_back({s, at.offset, c->getBitWidth() / 8, c->getZExtValue()});
        }
    bool any = false;
    for (auto &[base, group] : groups)
      any |= merge_runs<Constant>(
          group, [&](ArrayRef<Constant> parts, unsigned bytes) { return store_word(parts, bytes); });
    return any;
  }

  bool store_word(ArrayRef<Constant> parts, unsigned bytes) {
    SmallVector<StoreInst *, 8> stores;
    uint64_t word = 0;
    for (const Constant &c : parts) {
      if (c.store->getMetadata(LLVMContext::MD_tbaa) != parts[0].store->getMetadata(LLVMContext::MD_tbaa))
        return false;
      stores.push_back(c.store);
      word |= c.value << 8 * (c.to - parts[0].to);
    }
    if (parts[0].store->getAlign() < bytes || !isInt<32>(int64_t(word))) // an immediate operand
      return false;
    auto [first, last] = ends<StoreInst>(stores);
    IRBuilder<> b(last);
    Value *pointer = address(b, last->getPointerOperand(),
                             parts[0].to - place_of(last->getPointerOperand(), layout_).offset);
    auto is_ours = [&](Instruction *i) { return isa<StoreInst>(i) && is_contained(stores, i); };
    if (!is_untouched(first, last, location(pointer, bytes, last), true, is_ours)) {
      RecursivelyDeleteTriviallyDeadInstructions(pointer);
      return false;
    }
    StoreInst *store = b.CreateAlignedStore(b.getIntN(8 * bytes, word), pointer, Align(bytes));
    store->setAtomic(AtomicOrdering::Unordered);
    store->setMetadata(LLVMContext::MD_tbaa, last->getMetadata(LLVMContext::MD_tbaa));
    for (StoreInst *s : stores)
      s->eraseFromParent();
    return true;
  }

  Function &f_;
  const DataLayout &layout_;
  AAResults &aliases_;
};

} // namespace

bool merge_bytes(Function &f, AAResults &aliases) { return Bytes(f, aliases).run(); }

} // namespace ujit
