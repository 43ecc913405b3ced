// Recirculation makes cycles: a packet comes back to the first program once a tunnel header is off. What is
// on a cycle, or behind it, runs with a tail-call count that only run time knows, so each of its calls counts
// and compares, and what was stored before the cycle is lost at its head. But most packets go round at most
// once.
//
// So the first pass is taken out of the cycle, as a compiler peels a loop: the programs as they are become
// that pass, which has no cycles any more, and the calls that closed one lead to copies of the programs,
// which have them still. The depth of the first pass is bounded, so nothing in it compares a count (plan.cc),
// its programs are inlined like any others (inline.cc), and only what leads to the copies carries the count
// along.
//
//        entry ─► a ─► b ─► c           entry ─► a ─► b ─► c
//                 ▲    │                              │
//                 └────┘                              └──► a' ─► b' ─► c'
//                                                          ▲     │
//                                                          └─────┘
//
// A call closes a cycle if it leads against the reverse postorder of a depth-first search from the entries.
// Without these calls the graph has no cycle; and since the search met every program by other calls, each is
// still reached in the first pass.
#include "graph/peel.h"

#include "graph/digraph.h"

#include <algorithm>

namespace ujit {

namespace {

Digraph edge_graph(const CallGraph &graph) {
  Digraph result;
  std::vector<uint32_t> to;
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    to.clear();
    for (const Edge &e : graph.edges_of(ProgId(p)))
      if (e.to)
        to.push_back(index(*e.to));
    std::ranges::sort(to);
    to.erase(std::unique(to.begin(), to.end()), to.end());
    result.add_node(to);
  }
  return result;
}

} // namespace

std::optional<CallGraph> peel_cycles(const CallGraph &graph, uint64_t growth_ir) {
  const uint32_t programs = graph.summaries.size();
  const Digraph calls = edge_graph(graph);
  std::vector<uint32_t> roots, place(programs), back;
  for (ProgId entry : graph.entries)
    roots.push_back(index(entry));
  const std::vector<uint32_t> order = reverse_postorder(calls, roots);
  for (uint32_t i = 0; i < order.size(); ++i)
    place[order[i]] = i;
  for (uint32_t from : order)
    for (uint32_t to : calls[from])
      if (place[to] <= place[from])
        back.push_back(to);
  if (back.empty())
    return std::nullopt;

  const std::vector<bool> copied = reachable_nodes(calls, back);
  CallGraph peeled = graph;
  std::vector<ProgId> copy(programs);
  uint64_t cost = 0;
  for (uint32_t p = 0; p < programs; ++p) {
    copy[p] = ProgId(p);
    if (!copied[p])
      continue;
    copy[p] = ProgId(peeled.summaries.size());
    cost += graph.summaries[p].ir_insns;
    peeled.summaries.push_back(graph.summaries[p]);
    peeled.summaries.back().program = ProgId(p);
    peeled.summaries.back().name += again_suffix;
    peeled.reachable.push_back(true);
    if (!graph.runs.empty())
      peeled.runs.push_back(std::nullopt); // a run counts all passes as one
  }
  if (cost > growth_ir)
    return std::nullopt;
  for (uint32_t from : order)
    for (uint32_t row = graph.first_edge[from]; row < graph.first_edge[from + 1]; ++row)
      if (std::optional<ProgId> &to = peeled.edges[row].to; to && place[index(*to)] <= place[from])
        to = copy[index(*to)];
  for (Cycle &cycle : peeled.cycles)
    for (ProgId &p : cycle.programs)
      p = copy[index(p)];
  for (uint32_t p = 0; p < programs; ++p) {
    if (!copied[p])
      continue;
    for (Site site : graph.sites_of(ProgId(p))) {
      site.from = copy[p];
      peeled.sites.push_back(std::move(site));
    }
    for (Edge e : graph.edges_of(ProgId(p))) {
      e.from = copy[p];
      if (e.to)
        e.to = copy[index(*e.to)];
      peeled.edges.push_back(e);
    }
    peeled.first_site.push_back(peeled.sites.size());
    peeled.first_edge.push_back(peeled.edges.size());
  }
  return peeled;
}

} // namespace ujit
