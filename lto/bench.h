// The benchmark of a pipeline: what the kernel's JIT makes of it, the same chain compiled by us, the fused
// image, the fused image without each of its optimisations, and C, side by side in one run.
#pragma once

#include "lto/bench_jit.h"
#include "lto/bench_measure.h"
#include "lto/link.h"
#include "lto/profile.h"

#include "llvm/Support/JSON.h"

namespace ujit {

/// C code of the same source (see PlainCode).
struct PlainObject {
  std::string name; ///< of its row
  std::vector<uint8_t> object;
};

struct BenchOptions {
  uint32_t placements = 32;
  uint32_t ablation_placements = 8; ///< of the rows without each optimisation, if that is fewer
  MeasureOptions measure;
  bool kernel_jit = true;                ///< replay the running kernel's own code too, where bpf() is allowed
  bool fidelity = false;                 ///< compare with BPF_PROG_TEST_RUN too, where it is allowed
  bool mitigations = true;               ///< measure all codes with return thunks as well
  bool ablations = true;                 ///< rows without each optimisation
  const Profile *profile = nullptr;      ///< adds the rows that a verdict needs: linked with it
  const Pipeline *one_program = nullptr; ///< the same source as one program; its maps have the same names
  std::optional<JitCode> chain_code, one_code; ///< instead of the running kernel's
  std::vector<PlainObject> plain;
};

enum class BenchForm : uint8_t {
  jit_chain, ///< the kernel's code
  jit_one,   ///< the kernel's code of the same source as one program
  chain,     ///< our code, one program at a time
  fused,
  profiled,    ///< fused, with a profile
  not_inlined, ///< the same, with nothing inlined
  without,     ///< fused, without one optimisation
  plain,       ///< C
};

std::string_view name_of(BenchForm form);

struct BenchRow {
  BenchForm form{};
  std::string name, what;
  std::string left_out; ///< not empty: why there is nothing to measure
  Measured measured;    ///< returns are plain
  Measured mitigated;   ///< returns go through thunks; empty if not asked for
  uint64_t code_bytes = 0;
  double link_seconds = 0; ///< wall time of one link

  const Measured &under(bool mitigations) const { return mitigations ? mitigated : measured; }
  double median_ns(bool mitigations) const; ///< over placements; 0 if not measured
  double best_ns(bool mitigations) const;   ///< at the best placement
};

struct BenchResult {
  std::string name, entry;
  size_t packets = 0;
  uint32_t placements = 0, ablation_placements = 0, rounds = 0;
  bool mitigations = false;
  double harness_ns = 0;
  std::optional<Verdict> verdict; ///< where BenchOptions::profile is
  std::vector<BenchRow> rows;     ///< by form
  std::string jit_source;         ///< which kernel's code, and from where
  std::string fidelity;           ///< the chain against BPF_PROG_TEST_RUN; empty if not asked for

  const BenchRow *find(BenchForm form) const; ///< the first that was measured, or null
  /// What speeds are against: the kernel's code, or where there is none our chain.
  const BenchRow &baseline() const;
  double speedup(const BenchRow &row, bool mitigations) const;         ///< median against median
  double speedup_of_best(const BenchRow &row, bool mitigations) const; ///< median against the baseline's best
};

/// Links, compares and measures. A row whose code does anything else than the chain is left out and says
/// where it differs. Errors: those of link() and the executors for the chain or the fused image.
Expected<BenchResult> bench(const Execution &execution, const LinkOptions &options,
                            const BenchOptions &bench_options);

/// Which form is the best, of a result that has the rows for it. Times count from eight placements on, by
/// their lower quartile, which other work of the machine hardly reaches.
std::optional<Verdict> verdict_of(const BenchResult &result, bool mitigations);

void print_bench(const BenchResult &result, llvm::raw_ostream &os);
void print_bench_markdown(const BenchResult &result, llvm::raw_ostream &os);
/// One JSON object.
void print_bench_json(const BenchResult &result, llvm::json::OStream &json);

} // namespace ujit
