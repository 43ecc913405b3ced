// Arithmetic. No operation has a case that is undefined in LLVM: divisors are guarded before the division,
// shift counts masked, and nothing carries nsw, nuw or inbounds, as the bytecode promises none of that.
#include "translator/lowering.h"

#include "llvm/IR/IntrinsicInst.h"

namespace ujit {

using namespace llvm;
using Kind = Provenance::Kind;

/// `a op b` in the width of the operands (i32 or i64).
Value *Lowering::alu(Op op, Value *a, Value *b) {
  Type *type = a->getType();
  auto number = [&](uint64_t v) { return ConstantInt::get(type, v); };
  auto shift_count = [&] { return builder_.CreateAnd(b, number(type->getIntegerBitWidth() - 1)); };
  auto is_zero = [&] { return builder_.CreateICmpEQ(b, number(0)); };
  auto divisor = [&] { return builder_.CreateSelect(is_zero(), number(1), b); };
  // Signed division by -1 is a negation: INT_MIN / -1 stays INT_MIN, and its remainder is 0.
  auto is_minus_one = [&] { return builder_.CreateICmpEQ(b, ConstantInt::getAllOnesValue(type)); };
  auto signed_divisor = [&] {
    Value *minus_one = is_minus_one();
    return builder_.CreateSelect(builder_.CreateOr(is_zero(), minus_one), number(1), b);
  };
  switch (op) {
  case Op::add: return builder_.CreateAdd(a, b);
  case Op::sub: return builder_.CreateSub(a, b);
  case Op::mul: return builder_.CreateMul(a, b);
  case Op::or_: return builder_.CreateOr(a, b);
  case Op::and_: return builder_.CreateAnd(a, b);
  case Op::xor_: return builder_.CreateXor(a, b);
  case Op::lsh: return builder_.CreateShl(a, shift_count());
  case Op::rsh: return builder_.CreateLShr(a, shift_count());
  case Op::arsh: return builder_.CreateAShr(a, shift_count());
  case Op::neg: return builder_.CreateNeg(a);
  case Op::div: {
    Value *q = builder_.CreateUDiv(a, divisor());
    return builder_.CreateSelect(is_zero(), number(0), q);
  }
  case Op::mod: {
    Value *r = builder_.CreateURem(a, divisor());
    return builder_.CreateSelect(is_zero(), a, r);
  }
  case Op::sdiv: {
    Value *q = builder_.CreateSDiv(a, signed_divisor());
    Value *negated = builder_.CreateNeg(a);
    q = builder_.CreateSelect(is_minus_one(), negated, q);
    return builder_.CreateSelect(is_zero(), number(0), q);
  }
  case Op::smod: {
    Value *r = builder_.CreateSRem(a, signed_divisor());
    return builder_.CreateSelect(is_zero(), a, r); // by -1: a % 1 is 0 as well
  }
  default: llvm_unreachable("not a two-operand instruction");
  }
}

void Lowering::lower_alu(const Insn &insn, const InsnRow &row) {
  if (row.width == 64) {
    Value *b = row.source == Operand::none ? nullptr : operand(insn, row);
    write(insn.dst, alu(row.op, as_int(insn.dst), b));
  } else {
    Value *b = row.source == Operand::none ? nullptr : operand32(insn, row);
    write32(insn.dst, alu(row.op, builder_.CreateTrunc(as_int(insn.dst), builder_.getInt32Ty()), b));
  }
}

/// 64-bit additions move pointers: they become address arithmetic from the pointer's own base.
void Lowering::lower_add_sub(const Insn &insn, const InsnRow &row) {
  const Provenance &d = state_.regs[insn.dst];
  Provenance s = row.source == Operand::reg ? state_.regs[insn.src] : Provenance::constant(insn.imm);
  bool d_ptr = d.is_pointer(), s_ptr = s.is_pointer();
  if (row.width == 64 && d_ptr && s.kind == Kind::scalar) {
    if (is_recomputed(d) && s.is_constant())
      return write(insn.dst, nullptr); // the new offset is all there is to it
    Value *n = operand(insn, row);
    if (row.op == Op::sub)
      n = builder_.CreateNeg(n);
    return write(insn.dst, builder_.CreateGEP(builder_.getInt8Ty(), as_ptr(insn.dst), n));
  }
  if (row.width == 64 && row.op == Op::add && d.kind == Kind::scalar && s_ptr) {
    if (is_recomputed(s) && d.is_constant())
      return write(insn.dst, nullptr);
    return write(insn.dst, builder_.CreateGEP(builder_.getInt8Ty(), as_ptr(insn.src), as_int(insn.dst)));
  }
  lower_alu(insn, row);
}

void Lowering::lower_mov(const Insn &insn, const InsnRow &row) {
  if (row.op == Op::movsx) {
    Value *v = builder_.CreateTrunc(as_int(insn.src), int_of(row.bits));
    if (row.width == 64)
      write(insn.dst, builder_.CreateSExt(v, i64()));
    else
      write32(insn.dst, builder_.CreateSExt(v, builder_.getInt32Ty()));
  } else if (row.width == 32) {
    write32(insn.dst, operand32(insn, row));
  } else if (row.source == Operand::reg) {
    write(insn.dst, values_[insn.src]);
  } else {
    write(insn.dst, operand(insn, row));
  }
}

void Lowering::lower_byte_order(const Insn &insn, const InsnRow &row) {
  Value *v = builder_.CreateTrunc(as_int(insn.dst), int_of(row.bits));
  if (row.op != Op::to_le) // the targets are little-endian
    v = builder_.CreateUnaryIntrinsic(Intrinsic::bswap, v);
  write(insn.dst, builder_.CreateZExt(v, i64()));
}

Value *Lowering::condition(const Insn &insn, const InsnRow &row) {
  const Provenance &d = state_.regs[insn.dst];
  bool against_zero = row.source == Operand::imm && insn.imm == 0;
  bool pointers = row.width == 64 && d.is_pointer() &&
                  (against_zero || (row.source == Operand::reg && state_.regs[insn.src].is_pointer()));
  Value *a, *b;
  if (pointers && row.op != Op::jset) {
    a = as_ptr(insn.dst);
    b = against_zero ? ConstantPointerNull::get(builder_.getPtrTy()) : as_ptr(insn.src);
  } else if (row.width == 64) {
    a = as_int(insn.dst);
    b = operand(insn, row);
  } else {
    a = builder_.CreateTrunc(as_int(insn.dst), builder_.getInt32Ty());
    b = operand32(insn, row);
  }
  auto compare = [&](CmpInst::Predicate p) { return builder_.CreateICmp(p, a, b); };
  switch (row.op) {
  case Op::jeq: return compare(CmpInst::ICMP_EQ);
  case Op::jne: return compare(CmpInst::ICMP_NE);
  case Op::jgt: return compare(CmpInst::ICMP_UGT);
  case Op::jge: return compare(CmpInst::ICMP_UGE);
  case Op::jlt: return compare(CmpInst::ICMP_ULT);
  case Op::jle: return compare(CmpInst::ICMP_ULE);
  case Op::jsgt: return compare(CmpInst::ICMP_SGT);
  case Op::jsge: return compare(CmpInst::ICMP_SGE);
  case Op::jslt: return compare(CmpInst::ICMP_SLT);
  case Op::jsle: return compare(CmpInst::ICMP_SLE);
  case Op::jset: return builder_.CreateICmpNE(builder_.CreateAnd(a, b), ConstantInt::get(a->getType(), 0));
  default: llvm_unreachable("not a conditional jump");
  }
}

} // namespace ujit
