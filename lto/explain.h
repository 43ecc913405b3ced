// Why the image is as it is: for each tail call, lookup and load of configuration what became of it, and
// where that is less than could be, what stands in its way, with the source line.
#pragma once

#include "lto/link.h"

#include "llvm/Support/JSON.h"

namespace ujit {

struct Explanation {
  std::string program, source; ///< source: "lb.c:212", or empty
  uint32_t insn = 0;
  enum Kind : uint8_t { tail_call, lookup, configuration } kind = tail_call;
  bool fired = false; ///< everything that there is was done
  std::string what;   ///< "jmp_tc[1] -> tc_parse_v4: inlined"
  std::string why;    ///< reason; empty where it is plain
};

/// Of all reachable programs, sorted by program and instruction. Linear in the instructions.
std::vector<Explanation> explain(const Pipeline &pipeline, const LinkResult &result,
                                 const LinkOptions &options);

/// What one optimisation gives to the whole image: found by linking without it.
struct OptimisationEffect {
  std::string name, what;          ///< as optimisation_names() has them
  bool fired = false;              ///< without it the code is another
  int64_t bytes = 0, ir_insns = 0; ///< more of these without it
  std::string why;                 ///< why it was not tried: switched off, or the pipeline is too large
};

/// Instructions of a pipeline beyond which optimisations are listed but not tried.
constexpr uint64_t most_explained_insns = 10'000;

/// One link for each. Errors: those of link().
Expected<std::vector<OptimisationEffect>>
explain_optimisations(const Pipeline &pipeline, const LinkResult &result, const LinkOptions &options);

/// One line each: "lb.c:212: xdp_entry: insn 31: ...".
void print_explanations(const std::vector<Explanation> &explanations, llvm::raw_ostream &os);
void print_explanations(const std::vector<OptimisationEffect> &effects, llvm::raw_ostream &os);
llvm::json::Value to_json(const std::vector<Explanation> &explanations);
llvm::json::Value to_json(const std::vector<OptimisationEffect> &effects);

} // namespace ujit
