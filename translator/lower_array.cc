// Elements of arrays and per-CPU arrays: lookups are address arithmetic, and updates are stores.
//
// An update of an element is what array_map_update_elem() (kernel/bpf/arraymap.c) and array_map.cc do: all
// elements exist from the map's creation on, so nothing is inserted and no lock is taken; flags and index are
// looked at, and value_size bytes are copied, of a per-CPU array into this CPU's element. The kernel copies
// with memcpy(), which promises readers nothing about what is torn; words of 8 bytes, as they are stored
// here, tear less. What a copy leaves alone (locks, timers, kernel pointers) and what takes a lock
// (BPF_F_LOCK) stays a call, as does a value that is too long to be worth the code.
//
// That a value is stored and not handed to somebody makes it visible to the optimiser: the later lookup of
// the same element is the same address, and what is loaded there is what was put in (docs/memory-model.md,
// M28).
#include "translator/instance.h"
#include "translator/lowering.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <linux/bpf.h>

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

/// Longest value that is copied in place, in bytes.
constexpr uint32_t longest_update = 128;

/// Whether elements of the map are where they can be computed from the index.
bool Lowering::is_plain_array(uint32_t map) const {
  const Map &m = p_.pipeline.maps[map];
  return (m.type == MapType::array || m.type == MapType::percpu_array) && !m.is_template && m.key_size == 4;
}

/// Verified form: `values` of such a map is a table of per-CPU pointers.
bool Lowering::has_element_table(uint32_t map) const {
  const Map &m = p_.pipeline.maps[map];
  return p_.pipeline.kernel && m.type == MapType::percpu_array && m.max_entries != 1;
}

/// The key of a lookup or update: one load, one value.
Value *Lowering::array_index() {
  const Provenance key = state_.regs[2];
  LoadInst *l = builder_.CreateAlignedLoad(builder_.getInt32Ty(), as_ptr(2), Align(1));
  l->setMetadata(LLVMContext::MD_tbaa, p_.domain_tag(p_.domain_of(key), key.id));
  return key.kind == Kind::stack && !may_be_unset(key, 0) ? (Value *)l : builder_.CreateFreeze(l);
}

/// Address of the element, never null, for an index that is in range where this is used.
Value *Lowering::array_element(uint32_t map, Value *index) {
  const Map &m = p_.pipeline.maps[map];
  Value *wide = builder_.CreateZExt(index, i64());
  if (has_element_table(map)) {
    Value *at = builder_.CreateInBoundsGEP(i64(), p_.values_symbol(map), wide);
    LoadInst *offset = builder_.CreateAlignedLoad(i64(), at, Align(8));
    offset->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(p_.context(), {}));
    Value *element =
        builder_.CreateIntToPtr(builder_.CreateAdd(offset, this_cpu_offset(builder_)), builder_.getPtrTy());
    // All elements exist from the map's creation on.
    builder_.CreateAssumption(builder_.CreateIsNotNull(element));
    return element;
  }
  if (p_.pipeline.kernel && m.type == MapType::percpu_array) // one object, whose address the binding computes
    return p_.symbol("ujit.percpu." + Twine(map) + ".0", builder_.getInt8Ty());
  // In bounds wherever it is chosen, so never null: the program's own check of the result folds into the
  // range check.
  Value *distance = builder_.CreateMul(wide, builder_.getInt64(array_stride(m.value_size)));
  return builder_.CreateInBoundsGEP(builder_.getInt8Ty(), p_.values_symbol(map), distance);
}

void Lowering::lower_array_lookup(uint32_t map) {
  Value *index = array_index();
  Value *inside = builder_.CreateICmpULT(index, builder_.getInt32(p_.pipeline.maps[map].max_entries));
  Value *null = ConstantPointerNull::get(builder_.getPtrTy());
  if (!has_element_table(map))
    return clobber_call(builder_.CreateSelect(inside, array_element(map, index), null));
  BasicBlock *before = builder_.GetInsertBlock();
  BasicBlock *found = BasicBlock::Create(p_.context(), "", function_),
             *done = BasicBlock::Create(p_.context(), "", function_);
  builder_.CreateCondBr(inside, found, done);
  builder_.SetInsertPoint(found);
  Value *element = array_element(map, index);
  builder_.CreateBr(done);
  builder_.SetInsertPoint(done);
  PHINode *result = builder_.CreatePHI(builder_.getPtrTy(), 2);
  result->addIncoming(null, before);
  result->addIncoming(element, found);
  clobber_call(result);
}

/// bpf_map_update_elem(map, key, value, flags). False: it stays a call.
bool Lowering::lower_array_update(uint32_t slot, uint32_t map) {
  const Map &m = p_.pipeline.maps[map];
  auto *known = dyn_cast<ConstantInt>(as_int(4));
  if (!p_.options.inline_updates || !is_plain_array(map) || m.special_fields ||
      m.value_size > longest_update || !known)
    return false;
  const uint64_t flags = known->getZExtValue();
  const bool invalid = (flags & ~uint64_t(BPF_F_LOCK)) > BPF_EXIST;
  if (!invalid && flags & BPF_F_LOCK)
    return false;
  auto error = [&](int number) { return builder_.getInt64(uint64_t(-number)); };
  if (invalid) {
    clobber_call(error(EINVAL));
    return true;
  }
  auto inside = [&](Value *index) { return builder_.CreateICmpULT(index, builder_.getInt32(m.max_entries)); };
  if (flags == BPF_NOEXIST) {
    clobber_call(builder_.CreateSelect(inside(array_index()), error(EEXIST), error(E2BIG)));
    return true;
  }
  struct Part {
    Access from;
    unsigned bits;
    uint64_t at;
    Value *known = nullptr;
  };
  std::vector<Part> parts;
  for (uint64_t at = 0; at < m.value_size;) {
    const unsigned bits = 8 * unsigned(std::bit_floor(std::min<uint64_t>(m.value_size - at, 8)));
    Part part{{}, bits, at, frozen_load(state_.regs[3], int64_t(at), bits)};
    if (!part.known) {
      Expected<Access> from = access(slot, 3, int64_t(at), bits, false);
      if (!from) { // not readable from here
        consumeError(from.takeError());
        return false;
      }
      part.from = *from;
    }
    parts.push_back(part);
    at += bits / 8;
  }
  Value *index = array_index();
  BasicBlock *before = builder_.GetInsertBlock();
  BasicBlock *copy = BasicBlock::Create(p_.context(), "update", function_),
             *done = BasicBlock::Create(p_.context(), "updated", function_);
  builder_.CreateCondBr(inside(index), copy, done);
  builder_.SetInsertPoint(copy);
  Provenance element = Provenance::pointer(Kind::map_value);
  element.id = map;
  Access to;
  to.tag = p_.domain_tag(p_.domain_of(element), map);
  to.shared = !p_.is_scratch(map);
  to.aligned = true; // elements begin at a multiple of 8
  Value *start = array_element(map, index);
  for (const Part &part : parts) {
    to.address = builder_.CreateConstInBoundsGEP1_64(builder_.getInt8Ty(), start, part.at);
    store(to, part.known ? part.known : load(part.from, int_of(part.bits)));
  }
  builder_.CreateBr(done);
  builder_.SetInsertPoint(done);
  PHINode *result = builder_.CreatePHI(i64(), 2);
  result->addIncoming(error(E2BIG), before);
  result->addIncoming(builder_.getInt64(0), copy);
  clobber_call(result);
  return true;
}

} // namespace ujit
