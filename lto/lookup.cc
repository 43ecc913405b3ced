// The search of a hash table as the kernel does it, and kernel-iface/embedded/hash_map.cc likewise: jhash of
// the key, the bucket's chain, and where the chain ends with another bucket's mark (a node was recycled under
// our feet) once more from the start. Readers take no lock; in a kernel, programs run inside of RCU. Until
// here a lookup was a call with the effects of the helper, so no pass has seen these loads: they are as many,
// and in the order, as written here.
//
// Nothing of a kernel's table is in the code but the layout of its structs: where the buckets are, how many,
// and the seed come from the instance. The mask behind the hash bounds the index under speculation too.
#include "lto/lookup.h"

#include "lto/fuse.h"
#include "translator/hash_layout.h"
#include "translator/instance.h"
#include "translator/kernel.h"
#include "translator/lower.h"

#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"

#include <bit>

namespace ujit {

using namespace llvm;

namespace {

/// So many lookups of one map are open-coded in a module; a copy is some 80 instructions.
constexpr size_t copies_inline = 4;

class Search {
public:
  /// Inserts where `b` stands, which must be the end of a block without terminator.
  Search(IRBuilder<> &b, const Pipeline &pipeline, uint32_t map)
      : b_(b), map_(pipeline.maps[map]), module_(*b.GetInsertBlock()->getModule()), id_(map),
        in_kernel_(pipeline.kernel), layout_(in_kernel_ ? pipeline.kernel->layout.htab : embedded_hash) {}

  /// Ends in new blocks; the value's address or null is a phi where `b` stands afterwards.
  Value *emit(ArrayRef<Value *> words) {
    Type *i64 = b_.getInt64Ty();
    Value *table = symbol("ujit.values." + Twine(id_));
    const auto [seed, mask] = seed_and_mask(table);
    Value *hash = jhash(words, seed);
    Value *bucket = b_.CreateZExt(b_.CreateAnd(hash, mask), i64);
    Value *offset = b_.CreateMul(bucket, b_.getInt64(layout_.bucket));
    Value *first_at = b_.CreateInBoundsGEP(b_.getInt8Ty(), table, offset);
    BasicBlock *start = block(), *compare = block(), *next = block(), *ended = block(), *found = block(),
               *done = block();
    b_.CreateBr(start);

    // Each load of a link has a test of its own: one for both would be a load of where either is.
    auto go_on = [&](Value *link) {
      b_.CreateCondBr(b_.CreateTrunc(link, b_.getInt1Ty()), ended, compare, rarely());
    };
    b_.SetInsertPoint(start);
    Value *first = chain_load(first_at);
    go_on(first);

    b_.SetInsertPoint(compare);
    PHINode *node = b_.CreatePHI(i64, 2);
    node->addIncoming(first, start);
    Value *pointer = b_.CreateIntToPtr(node, b_.getPtrTy());
    compare_or(word_load(b_.getInt32Ty(), at(pointer, layout_.hash)), hash, next);
    for (uint32_t i = 0; i < words.size(); ++i)
      compare_word(at(pointer, layout_.key + 8 * i), words[i], next,
                   in_kernel_ ? std::min(8u, map_.key_size - 8 * i) : 8);
    b_.CreateBr(found);

    b_.SetInsertPoint(next);
    Value *following = chain_load(at(pointer, layout_.chain));
    go_on(following);
    node->addIncoming(following, next);

    // The mark of the own bucket, without a value that lives through the loop for it: marks are twice the
    // number of the bucket, and 1.
    b_.SetInsertPoint(ended);
    PHINode *last = b_.CreatePHI(i64, 2);
    last->addIncoming(first, start);
    last->addIncoming(following, next);
    Value *marked = b_.CreateMul(b_.CreateLShr(last, 1), b_.getInt64(layout_.bucket));
    b_.CreateCondBr(b_.CreateICmpEQ(marked, offset), done, start, often());

    b_.SetInsertPoint(found);
    if (map_.type == MapType::lru_hash || map_.type == MapType::lru_percpu_hash)
      reference(at(pointer, layout_.referenced));
    // In bounds, so that what is found is known not to be null.
    Value *value =
        b_.CreateConstInBoundsGEP1_64(b_.getInt8Ty(), pointer, layout_.key + array_stride(map_.key_size));
    if (map_.type == MapType::percpu_hash || map_.type == MapType::lru_percpu_hash)
      value = on_this_cpu(value);
    BasicBlock *found_end = b_.GetInsertBlock();
    b_.CreateBr(done);

    b_.SetInsertPoint(done);
    PHINode *result = b_.CreatePHI(b_.getPtrTy(), 2);
    result->addIncoming(ConstantPointerNull::get(b_.getPtrTy()), ended);
    result->addIncoming(value, found_end);
    return result;
  }

private:
  BasicBlock *block() {
    BasicBlock *from = b_.GetInsertBlock();
    return BasicBlock::Create(b_.getContext(), "", from->getParent(), from->getNextNode());
  }
  MDNode *rarely() { return MDBuilder(b_.getContext()).createBranchWeights(1, 32); }
  MDNode *often() { return MDBuilder(b_.getContext()).createBranchWeights(1000, 1); }

  /// Both never change: the table of a map is made with it, and not resized.
  std::pair<Value *, Value *> seed_and_mask(Value *table) {
    Type *i32 = b_.getInt32Ty();
    if (!in_kernel_)
      return {invariant_load(i32, at(table, embedded_hash_seed)),
              b_.getInt32(std::bit_ceil(map_.max_entries) - 1)};
    Value *facts = symbol("ujit.table." + Twine(id_));
    return {invariant_load(i32, facts), invariant_load(i32, at(facts, 4))};
  }

  /// From where an element has its values: all CPUs' side by side in the embedded kernel, a per-CPU address
  /// in a kernel.
  Value *on_this_cpu(Value *values) {
    Type *i64 = b_.getInt64Ty();
    if (in_kernel_) {
      Value *offset = this_cpu_offset(b_);
      Value *address = b_.CreateIntToPtr(b_.CreateAdd(relaxed_load(i64, values), offset), b_.getPtrTy());
      b_.CreateAssumption(b_.CreateIsNotNull(address));
      return address;
    }
    Value *cpu = invariant_load(i64, symbol("ujit.cpu"));
    return b_.CreateInBoundsGEP(b_.getInt8Ty(), values,
                                b_.CreateMul(cpu, b_.getInt64(array_stride(map_.value_size))));
  }

  Value *symbol(const Twine &name) {
    std::string n = name.str();
    if (GlobalVariable *g = module_.getNamedGlobal(n))
      return g;
    return new GlobalVariable(module_, b_.getInt8Ty(), false, GlobalValue::ExternalLinkage, nullptr, n);
  }
  Value *at(Value *base, int64_t offset) {
    return b_.CreateConstGEP1_64(b_.getInt8Ty(), base, uint64_t(offset));
  }
  Value *invariant_load(Type *type, Value *at) {
    LoadInst *l = b_.CreateAlignedLoad(type, at, Align(type->getPrimitiveSizeInBits() / 8));
    l->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(b_.getContext(), {}));
    return l;
  }
  Value *relaxed_load(Type *type, Value *at) {
    LoadInst *l = b_.CreateAlignedLoad(type, at, Align(type->getPrimitiveSizeInBits() / 8));
    l->setAtomic(AtomicOrdering::Monotonic);
    return l;
  }
  /// Of what another CPU may write while it is compared: whole and once, and free to be an operand of the
  /// comparison.
  Value *word_load(Type *type, Value *at) {
    LoadInst *l = b_.CreateAlignedLoad(type, at, Align(type->getPrimitiveSizeInBits() / 8));
    l->setAtomic(AtomicOrdering::Unordered);
    return l;
  }
  Value *chain_load(Value *at) {
    LoadInst *l = b_.CreateAlignedLoad(b_.getInt64Ty(), at, Align(8));
    l->setAtomic(AtomicOrdering::Acquire);
    return l;
  }
  void compare_or(Value *a, Value *b, BasicBlock *otherwise) {
    BasicBlock *equal = block();
    b_.CreateCondBr(b_.CreateICmpEQ(a, b), equal, otherwise, often());
    b_.SetInsertPoint(equal);
  }
  /// Of the last word only `size` bytes are the key; what is behind them in a kernel's element is anything.
  void compare_word(Value *in_table, Value *word, BasicBlock *otherwise, uint32_t size) {
    for (uint32_t done = 0; done < size;) {
      const uint32_t n = std::bit_floor(size - done);
      Type *part = b_.getIntNTy(8 * n);
      Value *wanted = b_.CreateTrunc(b_.CreateLShr(word, 8 * done), part);
      compare_or(word_load(part, at(in_table, done)), wanted, otherwise);
      done += n;
    }
  }
  /// Written only when it changes: other CPUs read the same line.
  void reference(Value *bit) {
    LoadInst *old = b_.CreateAlignedLoad(b_.getInt8Ty(), bit, Align(1));
    old->setAtomic(AtomicOrdering::Monotonic);
    BasicBlock *mark = block(), *marked = block();
    b_.CreateCondBr(b_.CreateICmpEQ(old, b_.getInt8(0)), mark, marked, rarely());
    b_.SetInsertPoint(mark);
    b_.CreateAlignedStore(b_.getInt8(1), bit, Align(1))->setAtomic(AtomicOrdering::Monotonic);
    b_.CreateBr(marked);
    b_.SetInsertPoint(marked);
  }

  Value *rotate(Value *v, unsigned by) {
    return b_.CreateIntrinsic(Intrinsic::fshl, {b_.getInt32Ty()}, {v, v, b_.getInt32(by)});
  }

  /// kernel-iface/embedded/jhash.h, line by line.
  Value *jhash(ArrayRef<Value *> words, Value *seed) {
    const uint32_t size = map_.key_size;
    auto word = [&](uint32_t i) -> Value * { // of 4 bytes
      return b_.CreateTrunc(i % 2 ? b_.CreateLShr(words[i / 2], 32) : words[i / 2], b_.getInt32Ty());
    };
    Value *a = b_.CreateAdd(seed, b_.getInt32(0xdeadbeef + size)), *b = a, *c = a;
    auto take = [&](uint32_t i) { // three words; what is behind the key's end counts as 0
      Value **parts[] = {&a, &b, &c};
      for (uint32_t k = 0; k < 3; ++k)
        if ((i + k) * 4 < size)
          *parts[k] = b_.CreateAdd(*parts[k], word(i + k));
    };
    uint32_t rest = size, i = 0;
    for (; rest > 12; rest -= 12, i += 3) {
      take(i);
      auto mix = [&](Value *&x, Value *&y, Value *&z, unsigned by) {
        Value *turned = rotate(z, by);
        x = b_.CreateXor(b_.CreateSub(x, z), turned);
        z = b_.CreateAdd(z, y);
      };
      mix(a, b, c, 4);
      mix(b, c, a, 6);
      mix(c, a, b, 8);
      mix(a, b, c, 16);
      mix(b, c, a, 19);
      mix(c, a, b, 4);
    }
    take(i);
    auto final = [&](Value *&x, Value *y, unsigned by) {
      Value *turned = rotate(y, by);
      x = b_.CreateSub(b_.CreateXor(x, y), turned);
    };
    final(c, b, 14);
    final(a, c, 11);
    final(b, a, 25);
    final(c, b, 16);
    final(a, c, 4);
    final(b, a, 14);
    final(c, b, 24);
    return c;
  }

  IRBuilder<> &b_;
  const Map &map_;
  Module &module_;
  uint32_t id_;
  bool in_kernel_; ///< or in the embedded one
  HashLayout layout_;
};

void expand_in_place(CallInst *call, const Pipeline &pipeline, uint32_t map) {
  BasicBlock *before = call->getParent();
  BasicBlock *behind = before->splitBasicBlock(call);
  before->getTerminator()->eraseFromParent();
  IRBuilder<> b(before);
  // The compiler's own loads: single_fetch.h counts those of a program's instructions.
  if (const DILocation *l = call->getDebugLoc())
    b.SetCurrentDebugLocation(DILocation::get(l->getContext(), 0, 0, l->getScope(), l->getInlinedAt()));
  SmallVector<Value *> words(drop_begin(call->args()));
  Value *result = Search(b, pipeline, map).emit(words);
  b.CreateBr(behind);
  call->replaceAllUsesWith(result);
  call->eraseFromParent();
}

/// The declaration becomes the function.
void expand_out_of_line(Function &f, const Pipeline &pipeline, uint32_t map) {
  add_code_attributes(f);
  f.setLinkage(GlobalValue::InternalLinkage);
  IRBuilder<> b(BasicBlock::Create(f.getContext(), "entry", &f));
  SmallVector<Value *> words;
  for (Argument &a : drop_begin(f.args()))
    words.push_back(&a);
  b.CreateRet(Search(b, pipeline, map).emit(words));
}

} // namespace

std::vector<Function *> expand_lookups(Module &module, const Pipeline &pipeline) {
  std::vector<Function *> changed;
  for (Function &f : make_early_inc_range(module)) {
    StringRef name = f.getName();
    uint32_t map;
    if (!f.isDeclaration() || !name.consume_front(lookup_prefix) || name.getAsInteger(10, map))
      continue;
    SmallVector<CallInst *> hot;
    size_t others = 0;
    for (User *u : f.users()) {
      auto *call = cast<CallInst>(u);
      const Function &caller = *call->getFunction();
      const bool small = caller.hasFnAttribute(Attribute::Cold) || caller.hasFnAttribute(huge_attribute) ||
                         is_chain_copy(caller);
      if (small)
        ++others;
      else
        hot.push_back(call);
    }
    if (hot.size() <= copies_inline) {
      for (CallInst *call : hot) {
        if (std::find(changed.begin(), changed.end(), call->getFunction()) == changed.end())
          changed.push_back(call->getFunction());
        expand_in_place(call, pipeline, map);
      }
    } else {
      others += hot.size();
    }
    if (others)
      expand_out_of_line(f, pipeline, map);
    else
      f.eraseFromParent();
  }
  return changed;
}

} // namespace ujit
