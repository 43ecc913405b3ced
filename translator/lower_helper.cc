// Helpers of the embedded kernel that are a few instructions once their sizes are known: bpf_csum_diff and
// bpf_skb_load_bytes. They compute what kernel-iface/embedded/helpers_checksum.cc and helpers_packet.cc
// compute, bit by bit. What is gained is not so much the call: a header on the stack which is only summed
// up, or bytes which are only compared, never are in memory.
#include "translator/context.h"
#include "translator/lowering.h"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

namespace {

/// What becomes code, in bytes.
constexpr uint64_t longest_sum = 64, longest_copy = 64;

std::optional<uint64_t> constant(Value *v) {
  auto *c = dyn_cast<ConstantInt>(v);
  return c ? std::optional(c->getZExtValue() & 0xffffffff) : std::nullopt;
}

} // namespace

bool Lowering::lower_small_helper(uint32_t slot, const Helper &helper) {
  if (!p_.options.inline_helpers)
    return false;
  if (helper.name == "bpf_csum_diff")
    return lower_checksum_difference(slot);
  return helper.name == "bpf_skb_load_bytes" && lower_packet_copy(slot);
}

/// The 32-bit words at a register's address, the last one filled up with zeros, added up in 64 bits. Null:
/// they cannot be read from here.
Value *Lowering::sum_words(uint32_t slot, unsigned reg, uint64_t size) {
  Value *sum = builder_.getInt64(0);
  for (uint64_t at = 0; at < size;) {
    const unsigned bytes = unsigned(std::bit_floor(std::min<uint64_t>(size - at, 4)));
    Value *part = frozen_load(state_.regs[reg], int64_t(at), bytes * 8);
    if (!part) {
      Expected<Access> a = access(slot, reg, int64_t(at), bytes * 8, false);
      if (!a) {
        consumeError(a.takeError());
        return nullptr;
      }
      part = load(*a, int_of(bytes * 8));
    }
    sum = builder_.CreateAdd(sum, builder_.CreateShl(builder_.CreateZExt(part, i64()), at % 4 * 8));
    at += bytes;
  }
  return sum;
}

/// bpf_csum_diff(from, from_size, to, to_size, seed). A sum of words in 64 bits, folded once, is what adding
/// them one by one with end-around carry gives: 0 only if all are, else the same from 1 to 0xffffffff.
bool Lowering::lower_checksum_difference(uint32_t slot) {
  const std::optional<uint64_t> old_size = constant(as_int(2)), new_size = constant(as_int(4));
  if (!old_size || !new_size || *old_size + *new_size > longest_sum)
    return false;
  Type *i32 = builder_.getInt32Ty();
  auto fold = [&](Value *sum) {
    Value *low = builder_.CreateTrunc(sum, i32);
    Value *once = builder_.CreateAdd(low, builder_.CreateTrunc(builder_.CreateLShr(sum, 32), i32));
    return builder_.CreateAdd(once, builder_.CreateZExt(builder_.CreateICmpULT(once, low), i32));
  };
  auto wide = [&](Value *v) { return builder_.CreateZExt(v, i64()); };
  Value *old_sum = sum_words(slot, 1, *old_size),
        *new_sum = old_sum ? sum_words(slot, 3, *new_size) : nullptr;
  if (!new_sum)
    return false;
  Value *seed = builder_.CreateTrunc(as_int(5), i32), *sum = seed;
  if (*new_size)
    sum = fold(builder_.CreateAdd(wide(seed), new_sum));
  if (*old_size && *new_size) {
    Value *without = wide(builder_.CreateNot(fold(old_sum)));
    sum = fold(builder_.CreateAdd(wide(sum), without));
  } else if (*old_size)
    sum = builder_.CreateNot(fold(builder_.CreateAdd(wide(builder_.CreateNot(seed)), old_sum)));
  Value *turned = builder_.CreateIntrinsic(Intrinsic::fshl, {i32}, {sum, sum, builder_.getInt32(16)});
  clobber_call(wide(builder_.CreateLShr(builder_.CreateAdd(sum, turned), 16)));
  return true;
}

/// bpf_skb_load_bytes(skb, offset, to, size), to the own frame. Bytes that are not there read as 0.
bool Lowering::lower_packet_copy(uint32_t slot) {
  const std::optional<uint64_t> size = constant(as_int(4));
  const Provenance &skb = state_.regs[1];
  if (!size || *size == 0 || *size > longest_copy || state_.regs[3].kind != Kind::stack ||
      !state_.regs[3].exact || skb.kind != Kind::context || !skb.exact || skb.offset != 0)
    return false;
  auto pointer_field = [&](FieldKind kind) -> Value * {
    for (const ContextField &f : context_fields(program_.type))
      if (f.kind == kind) {
        LoadInst *l = builder_.CreateAlignedLoad(
            builder_.getPtrTy(), builder_.CreateConstGEP1_64(builder_.getInt8Ty(), as_ptr(1), f.target),
            Align(8));
        l->setMetadata(LLVMContext::MD_tbaa, p_.domain_tag(ProgramLowering::Domain::context));
        return l;
      }
    return nullptr;
  };
  Value *data = pointer_field(FieldKind::packet), *end = pointer_field(FieldKind::packet_end);
  if (!data || !end)
    return false;
  std::vector<std::pair<Access, unsigned>> parts; // and bytes of each
  for (uint64_t at = 0; at < *size;) {
    const unsigned bytes = unsigned(std::bit_floor(std::min<uint64_t>(*size - at, 8)));
    Expected<Access> a = access(slot, 3, int64_t(at), bytes * 8, true);
    if (!a) {
      consumeError(a.takeError());
      return false;
    }
    parts.push_back({*a, bytes});
    at += bytes;
  }
  Value *offset = builder_.CreateZExt(builder_.CreateTrunc(as_int(2), builder_.getInt32Ty()), i64());
  Value *start = builder_.CreatePtrToInt(data, i64());
  Value *have = builder_.CreateSub(builder_.CreatePtrToInt(end, i64()), start);
  Value *inside = builder_.CreateICmpULE(builder_.CreateAdd(offset, builder_.getInt64(*size)), have);
  auto block = [&](const char *name) { return BasicBlock::Create(p_.context(), name, function_); };
  BasicBlock *copy = block("copy"), *clear = block("clear"), *done = block("copied");
  builder_.CreateCondBr(inside, copy, clear);

  builder_.SetInsertPoint(copy);
  Access from;
  from.one_value = true;
  from.tag = p_.domain_tag(ProgramLowering::Domain::packet);
  from.address = builder_.CreateGEP(builder_.getInt8Ty(), data, offset);
  for (const auto &[to, bytes] : parts) {
    store(to, load(from, int_of(bytes * 8)));
    from.address = builder_.CreateConstGEP1_64(builder_.getInt8Ty(), from.address, bytes);
  }
  builder_.CreateBr(done);

  builder_.SetInsertPoint(clear);
  for (const auto &[to, bytes] : parts)
    store(to, ConstantInt::get(int_of(bytes * 8), 0));
  builder_.CreateBr(done);

  builder_.SetInsertPoint(done);
  PHINode *result = builder_.CreatePHI(i64(), 2);
  result->addIncoming(builder_.getInt64(0), copy);
  result->addIncoming(builder_.getInt64(uint64_t(-EFAULT)), clear);
  clobber_call(result);
  return true;
}

} // namespace ujit
