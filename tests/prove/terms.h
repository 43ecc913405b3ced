// Terms that the specification and the semantics of LLVM IR share: multiplication and division.
//
// Two circuits of a 64-bit divider are out of reach for a bit-blasting solver, although both sides of our
// proofs nearly always divide the same numbers. In opaque mode these operations are therefore uninterpreted
// functions but for simple cases: whatever holds for every function holds for the real one, so a proof is a
// proof. A counterexample may be an artefact of the abstraction, and is looked for again in exact mode.
#pragma once

#include <z3++.h>

#include <string>

namespace ujit::prove {

class Terms {
public:
  Terms(z3::context &context, bool opaque)
      : context(context), facts_(context.bool_val(true)), opaque_(opaque) {}

  z3::context &context;

  z3::expr mul(const z3::expr &a, const z3::expr &b);
  // Division as LLVM and SMT-LIB have it, rounding toward zero. Divisor 0 is for the caller to exclude.
  z3::expr udiv(const z3::expr &a, const z3::expr &b);
  z3::expr urem(const z3::expr &a, const z3::expr &b);
  z3::expr sdiv(const z3::expr &a, const z3::expr &b);
  z3::expr srem(const z3::expr &a, const z3::expr &b);

  z3::expr number(uint64_t value, unsigned width) { return context.bv_val(value, width); }
  z3::expr smallest(unsigned width) { return z3::shl(number(1, width), int(width - 1)); } ///< INT_MIN
  z3::expr minus_one(unsigned width) { return ~number(0, width); }
  z3::expr fresh(const std::string &prefix, const z3::sort &sort);
  /// A value of unknown content, one for each name.
  z3::expr variable(const std::string &name, unsigned width) { return context.bv_const(name.c_str(), width); }

  /// Some operation was left uninterpreted, so a counterexample may be none.
  bool used_opaque() const { return used_opaque_; }
  /// What is true of the real operations and was left out of the uninterpreted ones: bounds of their results.
  const z3::expr &facts() const { return facts_; }

private:
  bool is_opaque(const z3::expr &divisor) const;
  /// An uninterpreted quotient or remainder with its simple cases: dividend 0, divisors 1 and -1 (all bits
  /// set) and the dividend itself.
  struct Cases {
    z3::expr by_one, by_minus_one, by_itself;
  };
  z3::expr division(const char *name, const z3::expr &a, const z3::expr &b, const Cases &cases,
                    bool is_signed);
  z3::expr apply(const char *name, const z3::expr &a, const z3::expr &b);

  z3::expr facts_;
  bool opaque_;
  bool used_opaque_ = false;
};

} // namespace ujit::prove
