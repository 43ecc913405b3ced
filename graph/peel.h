// Peeling cycles: see peel.cc.
#pragma once

#include "graph/call_graph.h"

namespace ujit {

/// The graph with a second copy of every program that a cycle can come back to or reach from there, behind
/// all others; `Summary::program` says of whom, and the name ends with `again_suffix`. Calls that close a
/// cycle, and calls of copies, lead to copies. Without cycles, or if the copies cost more than `growth_ir` IR
/// instructions: nothing. Linear in the graph.
std::optional<CallGraph> peel_cycles(const CallGraph &graph, uint64_t growth_ir);

constexpr const char again_suffix[] = ".again";

} // namespace ujit
