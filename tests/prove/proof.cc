#include "tests/prove/proof.h"

#include "tests/prove/ir_semantics.h"

#include "llvm/Support/FormatVariadic.h"

namespace ujit::prove {
namespace {

using z3::expr;

constexpr unsigned timeout_ms = 20'000; ///< for one query; reaching it is a failure

std::string hex(const z3::model &model, const expr &value) {
  uint64_t number = 0;
  expr v = model.eval(value, true);
  return v.is_numeral_u64(number) ? llvm::formatv("{0:x}", number).str() : v.to_string();
}

struct Question {
  std::vector<expr> registers;
  Meaning ir;
  expr expected;
  expr wrong;  ///< the IR and the specification disagree
  bool opaque; ///< a model of `wrong` may be an artefact
};

/// The registers that make a difference, in one line.
std::string counterexample(const z3::model &model, const Question &q) {
  std::string text;
  for (unsigned r = 1; r <= 5; ++r)
    if (model.has_interp(q.registers[r].decl()))
      text += llvm::formatv("r{0} = {1}, ", r, hex(model, q.registers[r])).str();
  auto holds = [&](const expr &condition) { return model.eval(condition, true).is_true(); };
  std::string got = holds(q.ir.undefined) ? "undefined behaviour"
                    : holds(q.ir.poison)  ? "poison"
                                          : hex(model, q.ir.value);
  return text + "the IR gives " + got + ", the standard " + hex(model, q.expected);
}

llvm::Expected<Question> ask(z3::context &context, const llvm::Function &function,
                             std::span<const Encoded> code, bool opaque) {
  Terms terms(context, opaque);
  std::vector<expr> registers, arguments;
  for (unsigned r = 0; r <= 10; ++r)
    registers.push_back(terms.variable((r >= 1 && r <= 5 ? "r" : "unset_r") + std::to_string(r), 64));
  arguments = {terms.variable("instance", 64), terms.variable("count", 64)};
  arguments.insert(arguments.end(), registers.begin() + 1, registers.begin() + 6);

  std::optional<expr> expected = result_of(code, registers, terms);
  if (!expected)
    return llvm::createStringError("the specification does not describe it");
  llvm::Expected<Meaning> ir = meaning_of(function, arguments, terms);
  if (!ir)
    return ir.takeError();
  expr wrong = (ir->undefined || ir->poison || ir->value != *expected) && terms.facts();
  return Question{registers, *ir, *expected, wrong.simplify(), terms.used_opaque()};
}

Verdict answer(z3::solver &solver, const Question &q) {
  switch (solver.check()) {
  case z3::unsat: return {Verdict::proved, ""};
  case z3::sat: return {Verdict::refuted, counterexample(solver.get_model(), q)};
  case z3::unknown: break;
  }
  return {Verdict::undecided, "solver: " + solver.reason_unknown()};
}

z3::solver solver_for(const Question &q) {
  z3::solver solver(q.wrong.ctx());
  z3::params params(q.wrong.ctx());
  params.set("timeout", timeout_ms);
  solver.set(params);
  solver.add(q.wrong);
  return solver;
}

} // namespace

Verdict prove(z3::context &context, const llvm::Function &function, std::span<const Encoded> code) {
  llvm::Expected<Question> opaque = ask(context, function, code, true);
  if (!opaque)
    return {Verdict::undecided, llvm::toString(opaque.takeError())};
  if (opaque->wrong.is_false())
    return {Verdict::proved, ""};
  z3::solver abstract = solver_for(*opaque);
  Verdict v = answer(abstract, *opaque);
  if (v.kind == Verdict::proved || !opaque->opaque)
    return v;

  // The registers that make the abstraction fail often make the real operations fail too; only then search.
  Question exact = llvm::cantFail(ask(context, function, code, false));
  if (v.kind == Verdict::refuted) {
    z3::model model = abstract.get_model();
    z3::solver same = solver_for(exact);
    for (const expr &r : exact.registers)
      same.add(r == model.eval(r, true));
    if (Verdict real = answer(same, exact); real.kind == Verdict::refuted)
      return real;
  }
  z3::solver solver =
      solver_for(exact); // not by push and pop, which would choose a slower, incremental solver
  return answer(solver, exact);
}

} // namespace ujit::prove
