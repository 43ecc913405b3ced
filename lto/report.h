// What a link did, in figures: for people, for scripts, and for the gates that fail a build.
#pragma once

#include "lto/link.h"
#include "lto/manifest.h"

#include "llvm/Support/JSON.h"

#include <string>
#include <vector>

namespace llvm {
class raw_ostream;
}

namespace ujit {

struct LinkReport {
  std::string name;
  // programs
  uint32_t programs = 0, entries = 0, functions = 0, inlined = 0, unfused = 0, dead = 0;
  uint32_t peeled = 0; ///< programs that are there twice, since they are on a cycle or behind one (peel.cc)
  // tail calls of programs that can be reached
  uint32_t sites = 0, sealed = 0, guarded = 0, dispatched = 0, left = 0; ///< edges by kind
  uint32_t edges_inlined = 0, edges_cloned = 0, edges_direct = 0, edges_fall_through = 0;
  /// Edges that stay unfused: planned to leave, and sites of which no target is known.
  uint32_t unfused_edges = 0;
  std::vector<std::pair<std::string, std::string>> unfused_reasons; ///< program, reason; by program id
  // sizes
  uint64_t bytecode_insns = 0, code_bytes = 0;
  uint32_t partitions = 0, stack_bytes = 0;
  /// Kernel target: prog arrays that calls leave through, points behind them, bytes of the largest leave
  /// frame.
  bool for_kernel = false;
  uint32_t leave_arrays = 0, leave_points = 0, leave_frame_bytes = 0;
  bool counted = false; ///< the tail-call count is kept at run time: a chain may reach the limit
  std::vector<PhaseTime> phases;
  std::vector<std::string> notes;
};

LinkReport make_report(const Pipeline &pipeline, const LinkResult &result, const std::string &name);

/// A dozen lines for a terminal; with `times`, also the wall time of each phase.
void print_report(const LinkReport &report, bool times, llvm::raw_ostream &os);

/// The same as JSON. Without `times` it depends on the input alone.
void print_report_json(const LinkReport &report, bool times, llvm::raw_ostream &os);

/// Errors (input): each gate of the manifest that the report passes, with limit and value.
Error check_gates(const LinkReport &report, const ManifestGates &gates, const std::string &manifest_file);

} // namespace ujit
