// What a run over packets showed, put on the edges of the graph: by instruction, prog array and slot, which
// is what an edge is. Calls through slots that no edge names (an index with too many targets to list) count
// for the edge that stands for all of them.
#include "graph/call_graph.h"

#include <algorithm>

namespace ujit {

namespace {

bool is_for(const Edge &edge, const ProgramProfile::Call &call) {
  return !edge.any_slot && edge.map == call.map && edge.slot == call.slot;
}

bool stands_for(const Edge &edge, const ProgramProfile::Call &call) {
  return edge.any_map || (edge.any_slot && edge.map == call.map);
}

} // namespace

void weigh(CallGraph &graph, const Profile &profile) {
  graph.packets = profile.packets;
  graph.runs.assign(graph.summaries.size(), std::nullopt);
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    const ProgramProfile *counts = profile.find(ProgId(p));
    if (!counts)
      continue;
    graph.runs[p] = counts->runs;
    const auto edges =
        std::span(graph.edges).subspan(graph.first_edge[p], graph.first_edge[p + 1] - graph.first_edge[p]);
    for (const ProgramProfile::Call &call : counts->calls) {
      auto of_site = [&](const Edge &e) { return graph.summaries[p].sites[e.site].insn == call.insn; };
      auto edge = std::ranges::find_if(edges, [&](const Edge &e) { return of_site(e) && is_for(e, call); });
      if (edge == edges.end())
        edge = std::ranges::find_if(edges, [&](const Edge &e) { return of_site(e) && stands_for(e, call); });
      if (edge != edges.end())
        edge->calls += call.count;
    }
  }
}

} // namespace ujit
