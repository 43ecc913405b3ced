// The call graph of a pipeline: which tail call can reach which program. Made from summaries and
// prog-array contents by solving the sites' indices over the whole graph: a program that leaves a
// constant in skb->cb or a scratch slot makes the index constant that its successor loads from there
// (interprocedural constant propagation with jump functions: Callahan, Cooper, Kennedy, Torczon 1986).
#pragma once

#include "graph/summary.h"
#include "translator/program.h"

#include <iosfwd>
#include <optional>
#include <vector>

namespace ujit {

enum class EdgeKind : uint8_t {
  sealed,     ///< the slot cannot change: direct call; an empty slot falls through
  guarded,    ///< slot loaded and compared, direct call if it is the program that was fused
  dispatched, ///< index not constant, few known targets
  left,       ///< target outside of the fused set, or unknown: through the prog array
};
std::string_view name_of(EdgeKind kind);

/// How the index of a site was found.
enum class IndexClass : uint8_t { constant, few, dynamic };
std::string_view name_of(IndexClass c);

struct Edge {
  ProgId from{};
  uint32_t site = 0; ///< index into the caller's Summary::sites
  MapId map{};
  uint32_t slot = 0;
  std::optional<ProgId> to; ///< none: the slot is empty or out of range, the call falls through
  EdgeKind kind = EdgeKind::guarded;
  auto operator<=>(const Edge &) const = default;
};

struct Site {
  ProgId from{};
  uint32_t site = 0;
  IndexClass index_class = IndexClass::dynamic;
  bool solved = false; ///< the index became known only by solving over the graph
  /// Per target of the summary's site: map and resolved indices; empty `indices`: dynamic.
  struct Target { std::optional<MapId> map; std::vector<uint64_t> indices; };
  std::vector<Target> targets;
};

struct Cycle {
  std::vector<ProgId> programs; ///< one strongly connected component (with an edge inside), sorted
};

struct CallGraph {
  std::vector<Summary> summaries; ///< by ProgId
  std::vector<Site> sites;        ///< sorted by (from, site)
  std::vector<Edge> edges;        ///< sorted; one per (site, map, slot)
  std::vector<ProgId> entries;
  std::vector<Cycle> cycles;
  std::vector<bool> reachable;    ///< by ProgId, from the entries
  /// Longest chain of tail calls from an entry; none where a cycle can be reached or a call is left.
  std::optional<uint32_t> depth;  ///< longest chain in the condensation (a cycle counts once) is depth_acyclic
  uint32_t depth_acyclic = 0;
};

/// What the manifest says about a prog array.
struct ProgArrayPolicy {
  EdgeKind edges = EdgeKind::guarded; ///< sealed or guarded (dispatched follows from the index)
};

/// Solves and builds. `policies` by MapId, missing ones are guarded. Work is linear in sites and edges (times the small constant lattice height).
/// Errors: a slot that names a program of another type than its callers.
Expected<CallGraph> build_call_graph(const Pipeline &pipeline, std::vector<Summary> summaries,
                                     const std::vector<ProgArrayPolicy> &policies);

} // namespace ujit
