// Leaving and coming back: what a tail call saves, and the entry of a program's resume function.
//
// Both sides are told by leave_state.h which registers and stack bytes are alive behind the call. The saving
// side only names the values, as operands of the call's bundle; whoever expands the call stores them if it
// leaves. The resume function is the whole program with other ways in: for each point a block that restores
// registers and stack and goes on behind the call. What no point leads to is unreachable and disappears.
#include "translator/lowering.h"

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

static Type *saved_type(LLVMContext &context, const SavedItem &item) {
  if (item.is_register && item.provenance.is_pointer() && !item.may_be_own_frame)
    return PointerType::get(context, 0);
  return Type::getIntNTy(context, item.size * 8u);
}

Value *Lowering::piece_address(int64_t offset) { return stack_address(offset); }

/// An address in the own frame, which is a single object then, becomes its distance plus 1.
Value *Lowering::to_leave_frame(Value *value, const SavedItem &item) {
  if (!item.may_be_own_frame)
    return value;
  Value *start = builder_.CreatePtrToInt(objects_[0], i64());
  Value *distance = builder_.CreateSub(value, start);
  Value *inside = builder_.CreateICmpULE(distance, builder_.getInt64(uint64_t(frame_.objects[0].size)));
  return builder_.CreateSelect(inside, builder_.CreateAdd(distance, builder_.getInt64(1)), value);
}

Value *Lowering::from_leave_frame(Value *value, const SavedItem &item) {
  if (!item.may_be_own_frame)
    return value;
  Value *distance = builder_.CreateSub(value, builder_.getInt64(1));
  Value *inside = builder_.CreateICmpULE(distance, builder_.getInt64(uint64_t(frame_.objects[0].size)));
  Value *start = builder_.CreatePtrToInt(objects_[0], i64());
  return builder_.CreateSelect(inside, builder_.CreateAdd(distance, start), value);
}

std::vector<OperandBundleDef> Lowering::live_state(uint32_t slot) {
  const LeaveSite *site = sub_ == 0 && p_.options.leaving ? p_.leaving.at(slot) : nullptr;
  if (!site)
    return {};
  std::vector<Value *> inputs;
  for (const SavedItem &item : site->items) {
    Value *value = nullptr;
    if (item.is_register) {
      const unsigned r = unsigned(item.place);
      Type *type = item.provenance.is_pointer() ? (Type *)builder_.getPtrTy() : i64();
      if (registers_in_memory_ && !values_[r] && !is_recomputed(state_.regs[r]))
        value = builder_.CreateAlignedLoad(type, register_memory_[r], Align(8));
      else
        value = convert(values_[r], state_.regs[r], item.provenance);
      if (item.may_be_own_frame && value->getType()->isPointerTy())
        value = builder_.CreatePtrToInt(value, i64());
    } else {
      value = builder_.CreateAlignedLoad(int_of(item.size * 8u), piece_address(item.place), Align(item.size));
      value = builder_.CreateFreeze(value);
    }
    inputs.push_back(builder_.getInt32(item.frame));
    inputs.push_back(to_leave_frame(value, item));
  }
  return {OperandBundleDef(live_bundle, inputs)};
}

/// A register that is not saved because it follows from what it is.
Value *Lowering::known_value(const Provenance &p) {
  switch (p.kind) {
  case Kind::scalar: return builder_.getInt64(uint64_t(p.offset));
  case Kind::context:
    return builder_.CreateConstGEP1_64(builder_.getInt8Ty(), function_->getArg(0), uint64_t(p.offset));
  case Kind::map_object: return p_.map_symbol(p.id);
  case Kind::stack: return registers_in_memory_ ? stack_address(p.offset) : nullptr;
  default: return nullptr;
  }
}

void Lowering::restore(const LeaveSite &site, Value *leave_frame, uint32_t block) {
  const State &state = facts_.entry[block];
  set_location(site.insn);
  auto saved_at = [&](uint32_t offset) {
    return builder_.CreateConstGEP1_64(builder_.getInt8Ty(), leave_frame, offset);
  };
  std::array<Value *, register_count> values{};
  for (unsigned r = 0; r < register_count; ++r)
    if (facts_.cfg.blocks[block].live_in & (1u << r))
      values[r] = known_value(state.regs[r]);
  for (const SavedItem &item : site.items) {
    Value *value =
        builder_.CreateAlignedLoad(saved_type(p_.context(), item), saved_at(item.frame), Align(item.size));
    value = from_leave_frame(value, item);
    if (!item.is_register) {
      builder_.CreateAlignedStore(value, piece_address(item.place), Align(item.size));
      continue;
    }
    if (item.provenance.is_pointer() && !value->getType()->isPointerTy())
      value = builder_.CreateIntToPtr(value, builder_.getPtrTy());
    values[unsigned(item.place)] = value;
  }
  for (auto [slot, address] : site.spilled_addresses)
    builder_.CreateAlignedStore(stack_address(address), stack_address(slot), Align(8));
  if (registers_in_memory_)
    for (unsigned r = 0; r < register_count; ++r)
      if (values[r])
        builder_.CreateAlignedStore(values[r], register_memory_[r], Align(8));
  resumed_[block] = {builder_.GetInsertBlock(), values};
  builder_.CreateBr(first_[block]);
}

void Lowering::resume() {
  Value *leave_frame = function_->getArg(3);
  Value *point = builder_.CreateAlignedLoad(
      builder_.getInt32Ty(),
      builder_.CreateConstGEP1_64(builder_.getInt8Ty(), leave_frame, leave_point_offset), Align(4));
  BasicBlock *unknown = BasicBlock::Create(p_.context(), "unknown", function_);
  SwitchInst *choice = builder_.CreateSwitch(point, unknown);
  builder_.SetInsertPoint(unknown);
  builder_.CreateRet(builder_.getInt64(0));
  for (const ResumePoint &p : p_.options.resume) {
    const LeaveSite *site = p_.leaving.at(p.insn);
    if (!site)
      continue; // the call cannot be reached
    BasicBlock *bb = BasicBlock::Create(p_.context(), "resume", function_);
    choice->addCase(builder_.getInt32(p.number), bb);
    builder_.SetInsertPoint(bb);
    restore(*site, leave_frame, facts_.cfg.block_at(p.insn + 1));
  }
}

} // namespace ujit
