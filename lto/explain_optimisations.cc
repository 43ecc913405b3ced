// What passes do has no single place in the source, so each optimisation is explained by its absence: the
// pipeline is linked again without it, and the code compared. That is a link for each, which large pipelines
// are spared.
#include "lto/explain.h"
#include "lto/image.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

namespace ujit {

Expected<std::vector<OptimisationEffect>>
explain_optimisations(const Pipeline &pipeline, const LinkResult &result, const LinkOptions &options) {
  std::vector<OptimisationEffect> out;
  uint64_t insns = 0;
  for (const Program &p : pipeline.programs)
    insns += p.insns.size();
  const bool large = insns > most_explained_insns;
  Expected<std::vector<uint8_t>> code = strip_debug(result.image.object);
  if (!code)
    return code.takeError();
  for (const OptimisationName &name : optimisation_names()) {
    OptimisationEffect &effect = out.emplace_back();
    effect.name = name.name;
    effect.what = name.what;
    if (std::find(options.disabled.begin(), options.disabled.end(), name.name) != options.disabled.end()) {
      effect.why = "switched off";
      continue;
    }
    if (large) {
      effect.why =
          llvm::formatv("not tried, as {0} instructions are more than {1}: compare with --no-opt {2}", insns,
                        most_explained_insns, name.name);
      continue;
    }
    LinkOptions without = options;
    without.disabled.emplace_back(name.name);
    without.save_temps.clear();
    Expected<LinkResult> other = link(pipeline, without);
    if (!other)
      return other.takeError();
    Expected<std::vector<uint8_t>> other_code = strip_debug(other->image.object);
    if (!other_code)
      return other_code.takeError();
    effect.fired = *other_code != *code;
    effect.bytes = int64_t(other->stats.code_bytes) - int64_t(result.stats.code_bytes);
    effect.ir_insns = int64_t(other->stats.ir_insns) - int64_t(result.stats.ir_insns);
  }
  return out;
}

void print_explanations(const std::vector<OptimisationEffect> &effects, llvm::raw_ostream &os) {
  for (const OptimisationEffect &e : effects) {
    os << "optimisation " << e.name << ": ";
    if (!e.why.empty())
      os << e.why;
    else if (!e.fired)
      os << "nothing to do here";
    else
      os << llvm::formatv("fired: without it {0}{1} bytes and {2}{3} IR instructions", e.bytes > 0 ? "+" : "",
                          e.bytes, e.ir_insns > 0 ? "+" : "", e.ir_insns);
    os << " (" << e.what << ")\n";
  }
}

llvm::json::Value to_json(const std::vector<OptimisationEffect> &effects) {
  llvm::json::Array all;
  for (const OptimisationEffect &e : effects)
    all.push_back(llvm::json::Object{{"name", e.name},
                                     {"fired", e.fired},
                                     {"bytes_without", e.bytes},
                                     {"ir_insns_without", e.ir_insns},
                                     {"why", e.why}});
  return all;
}

} // namespace ujit
