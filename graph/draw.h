// Drawings of the call graph, for people (text, dot, SVG) and for programs (JSON).
#pragma once

#include "graph/call_graph.h"

namespace llvm {
class raw_ostream;
}

namespace ujit {

/// Why the index or map of a dynamic site is not known; empty for other sites. `pipeline` is the one that the
/// graph was built from, here and below.
std::string why_dynamic(const Pipeline &pipeline, const CallGraph &graph, const Site &site);

/// Aligned lines for a terminal: figures, each program with its tail calls, cycles, dead programs, unresolved
/// sites.
void draw_text(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os);

/// Graphviz. Boxes are programs (doubled: entries, grey: not reachable), clusters are cycles, cylinders prog
/// arrays that calls are left to; lines: sealed solid, guarded dashed, dispatched bold, left dotted.
void draw_dot(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os);

/// One object: `summary`, and the arrays `programs`, `tail_calls`, `edges`, `entries`, `cycles` with an
/// object each.
void draw_json(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os);

/// Runs graphviz on draw_dot. Errors (unsupported): graphviz is not installed, or it fails or takes over a
/// minute.
Error write_svg(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os);

} // namespace ujit
