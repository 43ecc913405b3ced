// Which edge, optimisation or pass makes a difference? Each question is answered by linking again with
// something left out, and looking whether the difference is still there.
//
// Three searches, independent of each other, since a fault shows on several levels at once:
//   edge          tail-call sites are fused one after the other, in the order of the graph, until it differs
//   optimisation  each is left out alone; of the helpers' effects, those of each helper as well
//   pass          LLVM's passes run one after the other, in the order of the link, until it differs
// What none of them names is in what cannot be left out: translation, expansion, instruction selection.
#pragma once

#include "lto/execute.h"
#include "lto/link.h"

#include "llvm/Support/JSON.h"

#include <optional>

namespace ujit {

struct GuiltyEdge {
  std::string program;
  uint32_t insn = 0;              ///< of the tail call
  std::vector<std::string> calls; ///< what it may call and how: "jmp_table[3] -> leaf, inlined"
  bool inlined = false;           ///< no difference if it is called and not inlined
  bool alone = false;             ///< it differs also if all other tail calls leave
};

struct GuiltyPass {
  std::string pass, function; ///< as LLVM names them; the function by its symbol
  size_t number = 0;          ///< counted from 1 over the whole link on one thread
  size_t of = 0;
};

struct Bisection {
  std::string executor; ///< "unfused" or "fused": which image differs; unfused if both do
  std::string symptom;  ///< its first difference, or how it faults
  std::optional<GuiltyEdge> edge;
  /// Without any one of them it does not differ. If there is none, but it does not differ without all, the
  /// one that makes it differ after those before it in optimisation_names().
  std::vector<std::string> optimisations;
  std::vector<std::string> helpers; ///< if it does not differ without what is known of this helper
  std::optional<GuiltyPass> pass;
  size_t links = 0; ///< that it took
};

/// Compares with the interpreter. Nothing, if nothing differs. Errors: those of the interpreter, and of a
/// link with `options`.
Expected<std::optional<Bisection>> bisect(const Execution &execution, const LinkOptions &options);

/// For a person: a line for what differs, and one for each thing that was named.
void print_bisection(const Bisection &bisection, llvm::raw_ostream &os);
llvm::json::Value json_of(const Bisection &bisection);

} // namespace ujit
