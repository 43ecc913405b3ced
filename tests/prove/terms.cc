#include "tests/prove/terms.h"

namespace ujit::prove {

using z3::expr, z3::ite;

/// Constants stay exact: there the solver's own rewriting is what finds `x / 8` equal to a shift.
bool Terms::is_opaque(const expr &divisor) const { return opaque_ && !divisor.simplify().is_numeral(); }

expr Terms::apply(const char *name, const expr &a, const expr &b) {
  used_opaque_ = true;
  z3::sort s = a.get_sort();
  std::string full = name + std::to_string(s.bv_size());
  return context.function(full.c_str(), s, s, s)(a, b);
}

expr Terms::mul(const expr &a, const expr &b) {
  if (!is_opaque(a) || !is_opaque(b))
    return a * b;
  expr x = a.simplify(), y = b.simplify(); // commutative: in the order of the terms' numbers
  return x.id() < y.id() ? apply("mul", x, y) : apply("mul", y, x);
}

expr Terms::division(const char *name, const expr &a, const expr &b, const Cases &cases, bool is_signed) {
  unsigned width = b.get_sort().bv_size();
  expr zero = number(0, width);
  expr result = apply(name, a, b);
  if (is_signed) // of numbers that are not negative
    facts_ = facts_ && implies(a >= zero && b > zero, result >= zero && result <= a);
  else
    facts_ = facts_ && implies(b != zero, z3::ule(result, a));
  return ite(a == zero, zero,
             ite(b == number(1, width), cases.by_one,
                 ite(b == minus_one(width), cases.by_minus_one, ite(a == b, cases.by_itself, result))));
}

expr Terms::udiv(const expr &a, const expr &b) {
  if (!is_opaque(b))
    return z3::udiv(a, b);
  unsigned width = b.get_sort().bv_size();
  expr zero = number(0, width), one = number(1, width);
  return division("udiv", a, b, {a, ite(a == minus_one(width), one, zero), one}, false);
}

expr Terms::urem(const expr &a, const expr &b) {
  if (!is_opaque(b))
    return z3::urem(a, b);
  unsigned width = b.get_sort().bv_size();
  expr zero = number(0, width);
  return division("urem", a, b, {zero, ite(a == minus_one(width), zero, a), zero}, false);
}

expr Terms::sdiv(const expr &a, const expr &b) {
  return is_opaque(b) ? division("sdiv", a, b, {a, -a, number(1, b.get_sort().bv_size())}, true) : a / b;
}

expr Terms::srem(const expr &a, const expr &b) {
  if (!is_opaque(b))
    return z3::srem(a, b);
  // Of the sign of the dividend; a negative divisor makes no difference to that.
  unsigned width = b.get_sort().bv_size();
  expr zero = number(0, width);
  expr result = division("srem", a, b, {zero, zero, zero}, true);
  facts_ = facts_ && implies(a >= zero && b != zero, result >= zero && result <= a);
  return result;
}

expr Terms::fresh(const std::string &prefix, const z3::sort &sort) {
  return expr(context, Z3_mk_fresh_const(context, prefix.c_str(), sort));
}

} // namespace ujit::prove
