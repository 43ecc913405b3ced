// The benchmark of a pipeline: the chain as the kernel runs it, the fused image, and the fused image without
// each of its optimisations, side by side in one run.
#pragma once

#include "lto/bench_measure.h"
#include "lto/link.h"

#include "llvm/Support/JSON.h"

namespace ujit {

struct BenchOptions {
  uint32_t placements = 32;
  MeasureOptions measure;
  bool kernel_jit = true; ///< replay the running kernel's own code too, where bpf() is allowed
};

struct BenchRow {
  std::string name, what;
  std::string left_out; ///< not empty: why there is nothing to measure
  Measured measured;
  uint64_t code_bytes = 0;
  double link_seconds = 0; ///< wall time of one link

  double median_ns() const; ///< over placements
  double best_ns() const;   ///< at the best placement
};

struct BenchResult {
  std::string name, entry;
  size_t packets = 0;
  uint32_t placements = 0, rounds = 0;
  double harness_ns = 0;
  std::vector<BenchRow> rows; ///< the chain first, then fused, fused without ..., the kernel's code
  bool jit_had_thunks =
      false; ///< the kernel's code went through mitigation thunks, which the replay leaves out

  const BenchRow &chain() const { return rows[0]; }
  const BenchRow &fused() const { return rows[1]; }
  double speedup(const BenchRow &row) const; ///< of median times, against the chain
};

/// Links, compares and measures. A row whose code does anything else than the chain is left out and says
/// where it differs. Errors: those of link() and the executors for the chain or the fused image.
Expected<BenchResult> bench(const Execution &execution, const LinkOptions &options,
                            const BenchOptions &bench_options);

void print_bench(const BenchResult &result, llvm::raw_ostream &os);
void print_bench_markdown(const BenchResult &result, llvm::raw_ostream &os);
/// One JSON object.
void print_bench_json(const BenchResult &result, llvm::json::OStream &json);

} // namespace ujit
