// The helpers with which tc programs change packets make sure, each time, that the bytes are in the linear
// part and that nobody else has them: pulled, copied, the packet's end computed again. For a linear packet
// that is not cloned none of it does anything, and what is left is a store, or a few additions for a
// checksum. That is what is put in front of the call here:
//
//     bytes end before data_end, skb not cloned,         no
//     checksum kept by us and not by the device   ────────────► call
//                │ yes                                            │
//           load, add, store; 0                                   │
//                └──────────────────► result ◄────────────────────┘
//
// The conditions are those under which the helper's body (net/core/filter.c) touches nothing but those bytes;
// data_end is the end of the linear part, as it is for the program's own accesses. Arguments that decide what
// a helper does (lengths, flags) have to be constants, or bits of them known; else it stays a call.
//
// It runs in front of the passes over memory, which then see that what was stored is what is loaded, and that
// behind the same condition the same way is taken again.
#include "lto/skb_helpers.h"

#include "translator/lower.h"

#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/Module.h"

#include <bit>

namespace ujit {

using namespace llvm;

namespace {

/// Longest copy that is made in place.
constexpr uint64_t longest_copy = 32;

/// Of the helpers' flags (linux/bpf.h).
constexpr uint64_t header_field = 0xf, pseudo_header = 0x10, mark_mangled = 0x20;

class Expansion {
public:
  Expansion(CallInst *call, const SkbLayout &layout)
      : call_(call), layout_(layout), data_layout_(call->getModule()->getDataLayout()), b_(call) {
    // The compiler's own accesses: single_fetch.h counts those of a program's instructions.
    if (const DILocation *l = call->getDebugLoc())
      b_.SetCurrentDebugLocation(DILocation::get(l->getContext(), 0, 0, l->getScope(), l->getInlinedAt()));
  }

  bool run() {
    const StringRef name = call_->getCalledFunction()->getName();
    if (name == "bpf_skb_pull_data")
      return pull_data();
    if (name == "bpf_skb_load_bytes")
      return load_bytes();
    if (name == "bpf_skb_store_bytes")
      return store_bytes();
    if (name == "bpf_l3_csum_replace")
      return replace_checksum(false);
    if (name == "bpf_l4_csum_replace")
      return replace_checksum(true);
    return false;
  }

private:
  Value *arg(unsigned i) { return call_->getArgOperand(i); }
  std::optional<uint64_t> constant(unsigned i) {
    if (auto *c = dyn_cast<ConstantInt>(arg(i)))
      return c->getZExtValue();
    return std::nullopt;
  }
  Type *integer(unsigned bytes) { return b_.getIntNTy(8 * bytes); }

  // --- conditions: each ends a block that goes to the call where it does not hold ---

  BasicBlock *block() { return BasicBlock::Create(b_.getContext(), "", slow_->getParent(), slow_); }
  void begin() {
    BasicBlock *before = call_->getParent();
    slow_ = before->splitBasicBlock(call_);
    done_ = slow_->splitBasicBlock(call_->getNextNode());
    before->getTerminator()->eraseFromParent();
    result_ = PHINode::Create(call_->getType(), 3, "", done_->begin());
    call_->replaceAllUsesWith(result_);
    result_->addIncoming(call_, slow_);
    b_.SetInsertPoint(before);
  }
  void require(Value *condition) {
    BasicBlock *next = block();
    b_.CreateCondBr(condition, next, slow_, MDBuilder(b_.getContext()).createBranchWeights(1000, 1));
    b_.SetInsertPoint(next);
  }
  void finish() {
    result_->addIncoming(ConstantInt::get(call_->getType(), 0), b_.GetInsertBlock());
    b_.CreateBr(done_);
  }

  Value *context_at(uint32_t offset) { return b_.CreateConstGEP1_64(b_.getInt8Ty(), arg(0), offset); }
  Value *context_load(Type *type, uint32_t offset) {
    LoadInst *l = b_.CreateAlignedLoad(type, context_at(offset), Align(type->isPointerTy() ? 8 : 1));
    l->setMetadata(LLVMContext::MD_tbaa, context_tag());
    return l;
  }
  void require_clear(SkbLayout::Bit bit) {
    if (!bit.mask)
      return;
    Value *byte = context_load(b_.getInt8Ty(), bit.at);
    require(b_.CreateICmpEQ(b_.CreateAnd(byte, bit.mask), b_.getInt8(0)));
  }
  void require_writable() {
    require_clear(layout_.cloned);
    require_clear(layout_.unreadable); // of some kernels' helpers an error, of others not
  }

  /// Where `length` bytes at `offset` (of which helpers take 32 bits) lie, in the linear part.
  Value *require_linear(Value *offset, Value *length) {
    Value *data = context_load(b_.getPtrTy(), layout_.data);
    Value *end = context_load(b_.getPtrTy(), layout_.data_end);
    Value *at = b_.CreateGEP(b_.getInt8Ty(), data, low32(offset));
    require(b_.CreateICmpULE(b_.CreateGEP(b_.getInt8Ty(), at, low32(length)), end));
    return at;
  }
  Value *low32(Value *v) { return b_.CreateAnd(v, b_.getInt64(UINT32_MAX)); }

  // --- memory ---

  /// The tags that the translator gives accesses of programs, or none if it gives none.
  MDNode *context_tag() {
    return call_->getMetadata(LLVMContext::MD_tbaa) ? ujit::context_tag(b_.getContext()) : nullptr;
  }
  MDNode *packet_tag() {
    return call_->getMetadata(LLVMContext::MD_tbaa) ? ujit::packet_tag(b_.getContext()) : nullptr;
  }
  /// One value, though others may write there.
  Value *load(Value *at, unsigned bytes, MDNode *tag) {
    LoadInst *l = b_.CreateAlignedLoad(integer(bytes), at, Align(1));
    l->setMetadata(LLVMContext::MD_tbaa, tag);
    return b_.CreateFreeze(l);
  }
  void store(Value *value, Value *at, MDNode *tag) {
    b_.CreateAlignedStore(value, at, Align(1))->setMetadata(LLVMContext::MD_tbaa, tag);
  }
  template <class F>
  void for_each_word(uint64_t length, F f) {
    for (uint64_t at = 0; at < length;) {
      const uint64_t n = std::min<uint64_t>(8, std::bit_floor(length - at));
      f(at, unsigned(n));
      at += n;
    }
  }
  Value *at(Value *base, uint64_t offset) { return b_.CreateConstGEP1_64(b_.getInt8Ty(), base, offset); }
  void copy(Value *to, MDNode *to_tag, Value *from, MDNode *from_tag, uint64_t length) {
    for_each_word(length, [&](uint64_t i, unsigned n) {
      Value *target = at(to, i);
      store(load(at(from, i), n, from_tag), target, to_tag);
    });
  }

  /// A buffer in the frame would have to stay in memory for the sake of the call: that gets one of its own.
  void own_buffer(unsigned argument, uint64_t length, bool in, bool out) {
    Value *buffer = arg(argument);
    if (!isa<AllocaInst>(getUnderlyingObject(buffer)))
      return;
    const DebugLoc ours = b_.getCurrentDebugLocation();
    BasicBlock &entry = call_->getFunction()->getEntryBlock();
    b_.SetInsertPoint(&entry, entry.begin());
    AllocaInst *own = b_.CreateAlloca(ArrayType::get(b_.getInt8Ty(), length));
    own->setAlignment(Align(8));
    b_.SetInsertPoint(slow_, call_->getIterator());
    b_.SetCurrentDebugLocation(ours);
    b_.CreateLifetimeStart(own, b_.getInt64(length));
    if (in)
      copy(own, nullptr, buffer, nullptr, length);
    call_->setArgOperand(argument, own);
    b_.SetInsertPoint(slow_, std::next(call_->getIterator()));
    b_.SetCurrentDebugLocation(ours);
    if (out)
      copy(buffer, nullptr, own, nullptr, length);
    b_.CreateLifetimeEnd(own, b_.getInt64(length));
  }

  // --- helpers ---

  bool pull_data() { // 0: all that is linear
    begin();
    if (constant(1) != 0)
      require_linear(b_.getInt64(0), arg(1));
    require_writable();
    finish();
    return true;
  }

  bool load_bytes() {
    const std::optional<uint64_t> length = constant(3);
    if (!length || *length == 0 || *length > longest_copy)
      return false;
    begin();
    Value *from = require_linear(arg(1), arg(3));
    copy(arg(2), nullptr, from, packet_tag(), *length);
    finish();
    own_buffer(2, *length, false, true);
    return true;
  }

  bool store_bytes() {
    const std::optional<uint64_t> length = constant(3), flags = constant(4);
    if (!length || *length == 0 || *length > longest_copy || flags != 0)
      return false;
    begin();
    Value *to = require_linear(arg(1), arg(3));
    require_writable();
    copy(to, packet_tag(), arg(2), nullptr, *length);
    finish();
    own_buffer(2, *length, true, false);
    return true;
  }

  /// bpf_l3_csum_replace(), bpf_l4_csum_replace(): (skb, offset, from, to, flags).
  bool replace_checksum(bool l4) {
    const KnownBits flags = computeKnownBits(arg(4), data_layout_);
    const uint64_t unknown = ~(flags.Zero | flags.One).getZExtValue(), set = flags.One.getZExtValue();
    const uint64_t may = unknown | set, size = set & header_field;
    const uint64_t taken = l4 ? header_field | pseudo_header | mark_mangled : header_field;
    if (may & ~taken || unknown & header_field || !(size == 0 || size == 2 || size == 4))
      return false;
    if (size == 0 && constant(2) != 0)
      return false;
    begin();
    require(b_.CreateICmpEQ(b_.CreateAnd(arg(1), b_.getInt64(0xffff0001)), b_.getInt64(0)));
    Value *sum_at = require_linear(arg(1), b_.getInt64(2));
    require_writable();
    if (l4) // otherwise its checksum is part of it, or is to be computed by the device
      require_clear(layout_.summed);
    Value *old = load(sum_at, 2, packet_tag());
    Value *mangled = nullptr;
    if (may & mark_mangled)
      mangled = b_.CreateICmpNE(b_.CreateAnd(arg(4), mark_mangled), b_.getInt64(0));
    if (mangled) { // 0: no checksum, and none is made
      BasicBlock *change = block();
      result_->addIncoming(ConstantInt::get(call_->getType(), 0), b_.GetInsertBlock());
      b_.CreateCondBr(b_.CreateAnd(mangled, b_.CreateICmpEQ(old, b_.getInt16(0))), done_, change);
      b_.SetInsertPoint(change);
    }
    Value *fresh = size == 2 && !l4 ? replaced_half(old) : replaced(old, size);
    if (mangled)
      fresh = b_.CreateSelect(b_.CreateAnd(mangled, b_.CreateICmpEQ(fresh, b_.getInt16(0))),
                              b_.getInt16(0xffff), fresh);
    store(fresh, sum_at, packet_tag());
    finish();
    return true;
  }

  // Sums with end-around carry: 0 only if all is 0, else the one number from 1 up that is congruent. So the
  // order of additions does not matter, nor how many bits there are in between.

  Value *low(Value *v, unsigned bits) { return b_.CreateTrunc(v, b_.getIntNTy(bits)); }
  Value *add32(Value *a, Value *b) {
    Value *pair = b_.CreateIntrinsic(Intrinsic::uadd_with_overflow, {b_.getInt32Ty()}, {a, b});
    Value *carry = b_.CreateZExt(b_.CreateExtractValue(pair, 1), b_.getInt32Ty());
    return b_.CreateAdd(b_.CreateExtractValue(pair, 0), carry);
  }
  /// The upper half of the sum with its own rotation has both halves and their carry.
  Value *fold_and_invert(Value *sum) {
    Value *turned = b_.CreateIntrinsic(Intrinsic::fshl, {b_.getInt32Ty()}, {sum, sum, b_.getInt32(16)});
    return low(b_.CreateLShr(b_.CreateNot(b_.CreateAdd(sum, turned)), 16), 16);
  }

  /// csum_replace4(), and csum_replace_by_diff() for size 0.
  Value *replaced(Value *old, uint64_t size) {
    auto field = [&](unsigned i) { // 2 bytes are widened with zeros
      return size == 2 ? b_.CreateZExt(low(arg(i), 16), b_.getInt32Ty()) : low(arg(i), 32);
    };
    Value *sum = b_.CreateNot(b_.CreateZExt(old, b_.getInt32Ty()));
    if (size != 0)
      sum = add32(sum, b_.CreateNot(field(2)));
    return fold_and_invert(add32(sum, field(3)));
  }

  /// csum_replace2(), which has 16 bits throughout.
  Value *replaced_half(Value *old) {
    auto wide = [&](Value *v) { return b_.CreateZExt(v, b_.getInt32Ty()); };
    Value *without = wide(b_.CreateNot(low(arg(2), 16)));
    Value *sum = b_.CreateAdd(wide(b_.CreateNot(old)), without);
    return fold_and_invert(b_.CreateAdd(sum, wide(low(arg(3), 16))));
  }

  CallInst *call_;
  const SkbLayout &layout_;
  const DataLayout &data_layout_;
  IRBuilder<> b_;
  BasicBlock *slow_ = nullptr, *done_ = nullptr;
  PHINode *result_ = nullptr;
};

} // namespace

bool expand_skb_helpers(Function &function, const SkbLayout &layout) {
  SmallVector<CallInst *> calls;
  for (BasicBlock &b : function)
    for (Instruction &i : b)
      if (auto *call = dyn_cast<CallInst>(&i); call && call->getCalledFunction())
        calls.push_back(call);
  bool changed = false;
  for (CallInst *call : calls)
    changed |= Expansion(call, layout).run();
  return changed;
}

} // namespace ujit
