// The call graph of a pipeline: which tail call can reach which program. Made from summaries and
// prog-array contents by solving the sites' indices over the whole graph: a program that leaves a
// constant in skb->cb or a scratch slot makes the index constant that its successor loads from there
// (interprocedural constant propagation with jump functions: Callahan, Cooper, Kennedy, Torczon 1986).
#pragma once

#include "graph/summary.h"
#include "translator/error.h"
#include "translator/profile.h"
#include "translator/program.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

enum class EdgeKind : uint8_t {
  sealed,     ///< the slot cannot change: direct call; an empty slot falls through
  guarded,    ///< slot loaded and compared, direct call if it is the program that was fused
  dispatched, ///< index not constant, few known targets
  left,       ///< target outside of the fused set, or unknown: through the prog array
};
std::string_view name_of(EdgeKind kind);

/// How much is known of a site's (map, index) pairs: exactly one; a few; the index is computed at run time
/// or the map is not known.
enum class IndexClass : uint8_t { constant, few, dynamic };
std::string_view name_of(IndexClass c);

/// A dynamic index with more distinct targets than this is left to the prog array.
constexpr size_t max_dispatch_targets = 8;

/// One (site, map, slot). Two kinds of call name no slot: a dynamic index into an array with too many targets
/// to list (or none: `any_slot`), and a map that is not known (`any_map`); their targets are those of
/// `CallGraph::arrays`, which keeps the graph linear in its input where sites times slots is not.
struct Edge {
  ProgId from{};
  uint32_t site = 0;        ///< index into the caller's Summary::sites
  MapId map{};              ///< meaningless with any_map
  uint32_t slot = 0;        ///< meaningless with any_slot
  std::optional<ProgId> to; ///< none: the slot is empty or out of range, the call falls through
  EdgeKind kind = EdgeKind::guarded;
  bool any_slot = false;
  bool any_map = false; ///< implies any_slot
  uint64_t calls = 0;   ///< how often a run took it; CallGraph::runs says of which programs that is known
  auto operator<=>(const Edge &) const = default;
};

struct Site {
  ProgId from{};
  uint32_t site = 0;
  IndexClass index_class = IndexClass::dynamic;
  bool solved = false; ///< the index became known only by solving over the graph
  /// Per target of the summary's site: map and resolved indices, 32 bits each, sorted; empty `indices`:
  /// dynamic.
  struct Target {
    std::optional<MapId> map;
    std::vector<uint64_t> indices;
  };
  std::vector<Target> targets;
};

struct Cycle {
  std::vector<ProgId> programs; ///< one strongly connected component (with an edge inside), sorted
};

/// A prog array as the link sees it.
struct ProgArray {
  MapId map{};
  std::string name;
  uint32_t max_entries = 0;
  EdgeKind edges = EdgeKind::guarded;             ///< sealed, guarded or left
  std::vector<std::pair<uint32_t, ProgId>> slots; ///< sorted by slot
};

struct CallGraph {
  std::vector<Summary> summaries; ///< by ProgId
  std::vector<Site> sites;        ///< sorted by (from, site): as in the summaries
  std::vector<Edge> edges;        ///< sorted by (from, site, map, slot)
  std::vector<ProgArray> arrays;  ///< sorted by map
  std::vector<ProgId> entries;    ///< sorted
  std::vector<Cycle> cycles;      ///< sorted by first program
  std::vector<bool> reachable;    ///< by ProgId, from the entries
  /// By ProgId: how often a run entered the program; none where that is not known. Empty: no profile.
  std::vector<std::optional<uint64_t>> runs;
  uint64_t packets = 0; ///< of that run
  /// Longest chain from an entry, in tail calls; none where a reachable program is on a cycle, or where a
  /// reachable call is left to an array that is not sealed.
  std::optional<uint32_t> depth;
  /// The same over the condensation: a cycle counts as one program, calls that are left to unknown programs
  /// as none.
  uint32_t depth_acyclic = 0;
  uint64_t steps = 0; ///< work done by the solver, in slots and edges looked at

  std::vector<uint32_t> first_site; ///< by ProgId, one more at the end: sites of a program
  std::vector<uint32_t> first_edge; ///< the same for edges

  std::span<const Site> sites_of(ProgId p) const;
  std::span<const Edge> edges_of(ProgId p) const;
  /// How often a run entered the program, if that is known.
  std::optional<uint64_t> runs_of(ProgId p) const {
    return index(p) < runs.size() ? runs[index(p)] : std::nullopt;
  }
  /// The array of that map, or null.
  const ProgArray *array_of(MapId map) const;
  /// Programs that the call may reach: `to`, or the contents of the array(s); sorted, once each.
  std::vector<ProgId> targets_of(const Edge &edge) const;
  /// Programs that can run when `entry` is entered, itself included; sorted. Linear in the graph.
  std::vector<ProgId> reachable_from(ProgId entry) const;
};

/// The figures that describe a graph, over all programs, reachable or not.
struct GraphCounts {
  uint32_t programs = 0, reachable = 0, entries = 0;
  uint32_t sites = 0, constant = 0, few = 0, dynamic = 0; ///< tail-call sites by IndexClass
  uint32_t solved = 0;          ///< sites that only the solution over the graph made constant or few
  uint32_t edges = 0;           ///< distinct (caller, target) pairs; any_slot edges are not expanded
  uint32_t misses = 0;          ///< edges to empty or missing slots
  uint32_t left = 0;            ///< sites with a call that is left to the prog array
  uint32_t called = 0;          ///< programs that are the target of an edge
  uint32_t single_caller = 0;   ///< of these, targets of exactly one program
  std::vector<uint32_t> cycles; ///< programs in each cycle, in the order of CallGraph::cycles
  uint32_t depth = 0;           ///< depth_acyclic: tail calls, a cycle counts as one program
  uint64_t bytecode_insns = 0, ir_insns = 0;
};
GraphCounts count(const CallGraph &graph);

/// What the manifest says about a prog array.
struct ProgArrayPolicy {
  EdgeKind edges = EdgeKind::guarded; ///< sealed, guarded or left (dispatched follows from the index)
};

/// Solves and builds. `summaries` and `policies` by MapId and ProgId; missing policies are guarded. Work is
/// linear in sites and edges (times the small constant lattice height). Errors (input): a tail call through a
/// map that is no prog array; a slot beyond the array, filled twice, or naming a program of another type than
/// its callers.
Expected<CallGraph> build_call_graph(const Pipeline &pipeline, std::vector<Summary> summaries,
                                     const std::vector<ProgArrayPolicy> &policies);

/// Puts what a run showed on the graph: Edge::calls and CallGraph::runs.
void weigh(CallGraph &graph, const Profile &profile);

} // namespace ujit
