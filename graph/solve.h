// Solving the indices of tail calls over the whole graph; see solve.cc.
#pragma once

#include "graph/call_graph.h"

namespace ujit {

/// More slots than this are not followed; each beyond counts as unknown. Keeps the work linear for hostile
/// input.
constexpr size_t max_followed_slots = 64;

struct Solution {
  std::vector<Site> sites; ///< sorted by (from, site)
  uint64_t steps = 0;
};

/// Needs `summaries`, `arrays` and `entries` of the graph.
Solution solve_indices(const CallGraph &graph);

} // namespace ujit
