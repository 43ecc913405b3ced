#include "tests/prove/ir_semantics.h"

#include "llvm/ADT/PostOrderIterator.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/Operator.h"
#include "llvm/Support/raw_ostream.h"

#include <map>
#include <optional>

namespace ujit::prove {
namespace {

using namespace llvm;
using z3::expr, z3::ite;

struct Bits {
  expr value, poison;
};

class Evaluation {
public:
  Evaluation(const Function &function, const std::vector<expr> &arguments, Terms &terms)
      : function_(function), terms_(terms), never_(terms.context.bool_val(false)), undefined_(never_) {
    for (const Argument &a : function.args())
      if (a.getType()->isIntegerTy())
        values_.insert({&a, {arguments[a.getArgNo()], never_}});
  }

  Expected<Meaning> run();

private:
  Error refuse(const Value &what) {
    std::string text;
    raw_string_ostream os(text);
    os << "not modelled:";
    what.print(os);
    return createStringError(text);
  }

  Expected<Bits> value(const Value *v);
  Expected<Bits> instruction(const Instruction &i);
  Expected<Bits> binary(const BinaryOperator &i, const Bits &a, const Bits &b);
  Expected<Bits> cast(const CastInst &i, const Bits &a);
  Expected<Bits> intrinsic(const IntrinsicInst &i);
  Expected<Bits> phi(const PHINode &i);
  expr compare(CmpInst::Predicate predicate, const expr &a, const expr &b);
  Error terminator(const Instruction &i);

  expr bit(const Bits &b) { return b.value == terms_.number(1, 1); }
  expr as_bits(const expr &condition) { return ite(condition, terms_.number(1, 1), terms_.number(0, 1)); }
  /// Undefined behaviour if `condition` holds where we are.
  void undefined_if(const expr &condition) { undefined_ = undefined_ || (here_.value() && condition); }
  void go(const BasicBlock *to, const expr &condition);

  const Function &function_;
  Terms &terms_;
  expr never_;
  expr undefined_;
  std::map<const Value *, Bits> values_;
  std::map<std::pair<const BasicBlock *, const BasicBlock *>, expr> edges_; ///< when an edge is taken
  const BasicBlock *block_ = nullptr;
  std::optional<expr> here_; ///< when block_ is reached
  std::optional<Bits> result_;
};

unsigned width(const Value &v) { return v.getType()->getIntegerBitWidth(); }

Expected<Bits> Evaluation::value(const Value *v) {
  if (auto it = values_.find(v); it != values_.end())
    return it->second;
  if (!v->getType()->isIntegerTy())
    return refuse(*v);
  if (auto *c = dyn_cast<ConstantInt>(v)) {
    SmallString<64> digits;
    c->getValue().toStringUnsigned(digits);
    return Bits{terms_.context.bv_val(digits.c_str(), width(*v)), never_};
  }
  if (isa<PoisonValue>(v))
    return Bits{terms_.number(0, width(*v)), terms_.context.bool_val(true)};
  return refuse(*v); // undef (a new choice at every use), constant expressions, values of a loop
}

Expected<Bits> Evaluation::binary(const BinaryOperator &i, const Bits &a, const Bits &b) {
  const expr &x = a.value, &y = b.value;
  unsigned w = width(i);
  expr zero = terms_.number(0, w);
  expr poison = a.poison || b.poison;
  auto *wraps = dyn_cast<OverflowingBinaryOperator>(&i);
  bool nsw = wraps && wraps->hasNoSignedWrap(), nuw = wraps && wraps->hasNoUnsignedWrap();
  auto *exact_op = dyn_cast<PossiblyExactOperator>(&i);
  bool exact = exact_op && exact_op->isExact();

  auto division = [&](bool is_signed) {
    undefined_if(b.poison || y == zero);
    if (is_signed) // a poison dividend may be INT_MIN
      undefined_if((a.poison || x == terms_.smallest(w)) && y == terms_.minus_one(w));
  };
  /// One more bit holds every sum and difference.
  auto overflows = [&](auto widen, auto operation) {
    return operation(widen(x, 1), widen(y, 1)) != widen(operation(x, y), 1);
  };
  auto with_flags = [&](auto operation) {
    if (nsw)
      poison = poison || overflows([](const expr &e, unsigned n) { return z3::sext(e, n); }, operation);
    if (nuw)
      poison = poison || overflows([](const expr &e, unsigned n) { return z3::zext(e, n); }, operation);
    return Bits{operation(x, y), poison};
  };
  auto shift = [&](const expr &shifted, auto undo) {
    poison = poison || z3::uge(y, terms_.number(w, w));
    if (exact)
      poison = poison || undo(shifted) != x;
    return Bits{shifted, poison};
  };

  switch (i.getOpcode()) {
  case Instruction::Add: return with_flags([](const expr &p, const expr &q) { return p + q; });
  case Instruction::Sub: return with_flags([](const expr &p, const expr &q) { return p - q; });
  case Instruction::Mul:
    if (nsw)
      poison = poison || !z3::bvmul_no_overflow(x, y, true) || !z3::bvmul_no_underflow(x, y);
    if (nuw)
      poison = poison || !z3::bvmul_no_overflow(x, y, false);
    return Bits{terms_.mul(x, y), poison};
  case Instruction::UDiv: {
    division(false);
    expr q = terms_.udiv(x, y);
    return Bits{q, exact ? poison || terms_.urem(x, y) != zero : poison};
  }
  case Instruction::SDiv: {
    division(true);
    expr q = terms_.sdiv(x, y);
    return Bits{q, exact ? poison || terms_.srem(x, y) != zero : poison};
  }
  case Instruction::URem: division(false); return Bits{terms_.urem(x, y), poison};
  case Instruction::SRem: division(true); return Bits{terms_.srem(x, y), poison};
  case Instruction::Shl: {
    expr shifted = z3::shl(x, y);
    if (nsw)
      poison = poison || z3::ashr(shifted, y) != x;
    if (nuw)
      poison = poison || z3::lshr(shifted, y) != x;
    return shift(shifted, [&](const expr &) { return x; });
  }
  case Instruction::LShr: return shift(z3::lshr(x, y), [&](const expr &s) { return z3::shl(s, y); });
  case Instruction::AShr: return shift(z3::ashr(x, y), [&](const expr &s) { return z3::shl(s, y); });
  case Instruction::And: return Bits{x & y, poison};
  case Instruction::Or:
    if (llvm::cast<PossiblyDisjointInst>(i).isDisjoint())
      poison = poison || (x & y) != zero;
    return Bits{x | y, poison};
  case Instruction::Xor: return Bits{x ^ y, poison};
  default: return refuse(i);
  }
}

Expected<Bits> Evaluation::cast(const CastInst &i, const Bits &a) {
  if (!i.getSrcTy()->isIntegerTy() || !i.getDestTy()->isIntegerTy())
    return refuse(i);
  unsigned from = i.getSrcTy()->getIntegerBitWidth(), to = i.getDestTy()->getIntegerBitWidth();
  expr poison = a.poison;
  switch (i.getOpcode()) {
  case Instruction::ZExt:
    if (i.hasNonNeg())
      poison = poison || a.value < terms_.number(0, from);
    return Bits{z3::zext(a.value, to - from), poison};
  case Instruction::SExt: return Bits{z3::sext(a.value, to - from), poison};
  case Instruction::Trunc: {
    expr v = a.value.extract(to - 1, 0);
    auto &t = llvm::cast<TruncInst>(i);
    if (t.hasNoUnsignedWrap())
      poison = poison || z3::zext(v, from - to) != a.value;
    if (t.hasNoSignedWrap())
      poison = poison || z3::sext(v, from - to) != a.value;
    return Bits{v, poison};
  }
  default: return refuse(i);
  }
}

expr Evaluation::compare(CmpInst::Predicate predicate, const expr &a, const expr &b) {
  switch (predicate) {
  case CmpInst::ICMP_EQ: return a == b;
  case CmpInst::ICMP_NE: return a != b;
  case CmpInst::ICMP_UGT: return z3::ugt(a, b);
  case CmpInst::ICMP_UGE: return z3::uge(a, b);
  case CmpInst::ICMP_ULT: return z3::ult(a, b);
  case CmpInst::ICMP_ULE: return z3::ule(a, b);
  case CmpInst::ICMP_SGT: return z3::sgt(a, b);
  case CmpInst::ICMP_SGE: return z3::sge(a, b);
  case CmpInst::ICMP_SLT: return z3::slt(a, b);
  case CmpInst::ICMP_SLE: return z3::sle(a, b);
  default: llvm_unreachable("not an integer comparison");
  }
}

Expected<Bits> Evaluation::intrinsic(const IntrinsicInst &i) {
  if (!i.getType()->isIntegerTy() || i.hasRetAttr(Attribute::Range) || i.hasRetAttr(Attribute::NoUndef))
    return refuse(i);
  std::vector<Bits> args;
  for (const Use &u : i.args()) {
    Expected<Bits> a = value(u);
    if (!a)
      return a.takeError();
    args.push_back(*a);
  }
  unsigned w = width(i);
  const expr &x = args[0].value;
  expr poison = args[0].poison;
  for (size_t k = 1; k < args.size(); ++k)
    poison = poison || args[k].poison;
  auto pick = [&](CmpInst::Predicate p) {
    return Bits{ite(compare(p, x, args[1].value), x, args[1].value), poison};
  };

  switch (i.getIntrinsicID()) {
  case Intrinsic::bswap: {
    expr v = x.extract(7, 0);
    for (unsigned b = 8; b < w; b += 8)
      v = z3::concat(v, x.extract(b + 7, b));
    return Bits{v, poison};
  }
  case Intrinsic::umin: return pick(CmpInst::ICMP_ULT);
  case Intrinsic::umax: return pick(CmpInst::ICMP_UGT);
  case Intrinsic::smin: return pick(CmpInst::ICMP_SLT);
  case Intrinsic::smax: return pick(CmpInst::ICMP_SGT);
  case Intrinsic::abs: // args[1]: INT_MIN is poison
    return Bits{ite(x < terms_.number(0, w), -x, x), poison || (bit(args[1]) && x == terms_.smallest(w))};
  case Intrinsic::fshl:
  case Intrinsic::fshr: { // the double word, shifted by the count modulo the width
    expr count = z3::zext(z3::urem(args[2].value, terms_.number(w, w)), w);
    expr both = z3::concat(x, args[1].value);
    return Bits{i.getIntrinsicID() == Intrinsic::fshl ? z3::shl(both, count).extract(2 * w - 1, w)
                                                      : z3::lshr(both, count).extract(w - 1, 0),
                poison};
  }
  default: return refuse(i);
  }
}

Expected<Bits> Evaluation::phi(const PHINode &i) {
  std::optional<Bits> result;
  for (unsigned k = 0; k < i.getNumIncomingValues(); ++k) {
    auto edge = edges_.find({i.getIncomingBlock(k), block_});
    if (edge == edges_.end())
      continue; // from an unreachable block
    Expected<Bits> in = value(i.getIncomingValue(k));
    if (!in)
      return in.takeError();
    result = result ? Bits{ite(edge->second, in->value, result->value),
                           ite(edge->second, in->poison, result->poison)}
                    : *in;
  }
  if (!result)
    return refuse(i);
  return *result;
}

Expected<Bits> Evaluation::instruction(const Instruction &i) {
  if (auto *p = dyn_cast<PHINode>(&i); p && i.getType()->isIntegerTy())
    return phi(*p);
  if (auto *call = dyn_cast<IntrinsicInst>(&i))
    return intrinsic(*call);
  if (!i.getType()->isIntegerTy() || !(isa<BinaryOperator, CastInst, ICmpInst, SelectInst, FreezeInst>(i)))
    return refuse(i);
  std::vector<Bits> ops;
  for (const Use &u : i.operands()) {
    Expected<Bits> v = value(u);
    if (!v)
      return v.takeError();
    ops.push_back(*v);
  }
  if (auto *b = dyn_cast<BinaryOperator>(&i))
    return binary(*b, ops[0], ops[1]);
  if (auto *c = dyn_cast<CastInst>(&i))
    return cast(*c, ops[0]);
  if (auto *c = dyn_cast<ICmpInst>(&i))
    return Bits{as_bits(compare(c->getPredicate(), ops[0].value, ops[1].value)),
                ops[0].poison || ops[1].poison};
  if (isa<SelectInst>(i)) // only the chosen arm's poison counts
    return Bits{ite(bit(ops[0]), ops[1].value, ops[2].value),
                ops[0].poison || ite(bit(ops[0]), ops[1].poison, ops[2].poison)};
  return Bits{ite(ops[0].poison, terms_.fresh("frozen", ops[0].value.get_sort()), ops[0].value),
              never_}; // freeze
}

void Evaluation::go(const BasicBlock *to, const expr &condition) {
  auto [edge, added] = edges_.insert({{block_, to}, *here_ && condition});
  if (!added)
    edge->second = edge->second || (*here_ && condition);
}

Error Evaluation::terminator(const Instruction &i) {
  expr always = terms_.context.bool_val(true);
  if (auto *r = dyn_cast<ReturnInst>(&i); r && r->getReturnValue()) {
    Expected<Bits> v = value(r->getReturnValue());
    if (!v)
      return v.takeError();
    result_ =
        result_ ? Bits{ite(*here_, v->value, result_->value), ite(*here_, v->poison, result_->poison)} : *v;
    return Error::success();
  }
  if (isa<UnreachableInst>(i)) {
    undefined_if(always);
    return Error::success();
  }
  if (auto *b = dyn_cast<BranchInst>(&i)) {
    if (b->isUnconditional()) {
      go(b->getSuccessor(0), always);
      return Error::success();
    }
    Expected<Bits> c = value(b->getCondition());
    if (!c)
      return c.takeError();
    undefined_if(c->poison);
    go(b->getSuccessor(0), bit(*c));
    go(b->getSuccessor(1), !bit(*c));
    return Error::success();
  }
  if (auto *s = dyn_cast<SwitchInst>(&i)) {
    Expected<Bits> c = value(s->getCondition());
    if (!c)
      return c.takeError();
    undefined_if(c->poison);
    expr other = always;
    for (const auto &entry : s->cases()) {
      Expected<Bits> v = value(entry.getCaseValue());
      if (!v)
        return v.takeError();
      go(entry.getCaseSuccessor(), c->value == v->value);
      other = other && c->value != v->value;
    }
    go(s->getDefaultDest(), other);
    return Error::success();
  }
  return refuse(i);
}

Expected<Meaning> Evaluation::run() {
  if (function_.hasRetAttribute(Attribute::Range))
    return createStringError("not modelled: a range of the returned value");
  ReversePostOrderTraversal<const Function *> order(&function_);
  SmallPtrSet<const BasicBlock *, 8> visited;
  for (const BasicBlock *b : order) {
    block_ = b;
    here_ = b->isEntryBlock() ? terms_.context.bool_val(true) : never_;
    for (const auto &[edge, condition] : edges_)
      if (edge.second == b)
        here_ = *here_ || condition;
    for (const Instruction &i : *b) {
      if (i.isDebugOrPseudoInst())
        continue;
      if (i.isTerminator()) {
        if (Error e = terminator(i))
          return e;
        for (const BasicBlock *to : successors(b))
          if (to == b || visited.count(to))
            return createStringError("not modelled: a loop");
        visited.insert(b);
        continue;
      }
      Expected<Bits> v = instruction(i);
      if (!v)
        return v.takeError();
      values_.insert({&i, *v});
    }
  }
  if (!result_)
    return createStringError("not modelled: a function that never returns");
  return Meaning{result_->value, result_->poison, undefined_};
}

} // namespace

Expected<Meaning> meaning_of(const Function &function, const std::vector<expr> &arguments, Terms &terms) {
  return Evaluation(function, arguments, terms).run();
}

} // namespace ujit::prove
