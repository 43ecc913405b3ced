// Builds the call graph: checks the prog arrays, solves the indices, lists one edge for each (site, map,
// slot), and derives what follows from the edges: reachability, cycles, depth.
//
// For these a call that is left to a prog array goes through a node of its own for that array (and a call
// through an unknown map through a node that stands for any array). So n such calls on an array with m
// programs cost n + m.
#include "graph/call_graph.h"

#include "graph/digraph.h"
#include "graph/solve.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <set>

namespace ujit {
namespace {

/// A dynamic index into an array with more filled slots than this is left to the array even if they name few
/// programs.
constexpr size_t max_dispatch_slots = 64;

Error check_slots(const Pipeline &pipeline, const ProgArray &array) {
  for (size_t i = 0; i < array.slots.size(); ++i) {
    auto [slot, program] = array.slots[i];
    if (slot >= array.max_entries)
      return input_error(llvm::formatv("slot {0} of prog array '{1}' is beyond its {2} entries", slot,
                                       array.name, array.max_entries))
          .error();
    if (index(program) >= pipeline.programs.size())
      return internal_error(llvm::formatv("slot {0} of prog array '{1}' names no program", slot, array.name))
          .error();
    if (i > 0 && array.slots[i - 1].first == slot)
      return input_error(llvm::formatv("slot {0} of prog array '{1}' is filled twice: by '{2}' and by '{3}'",
                                       slot, array.name, pipeline[array.slots[i - 1].second].name,
                                       pipeline[program].name))
          .with_hint("the manifest can say which one it holds: prog-arrays: " + array.name + ": slots")
          .error();
  }
  return Error::success();
}

Expected<std::vector<ProgArray>> prog_arrays(const Pipeline &pipeline,
                                             const std::vector<ProgArrayPolicy> &policies) {
  std::vector<ProgArray> arrays;
  std::vector<Error> errors;
  for (uint32_t m = 0; m < pipeline.maps.size(); ++m) {
    auto &map = pipeline.maps[m];
    if (map.type != MapType::prog_array || map.is_template)
      continue;
    ProgArray array{MapId(m), map.name, map.max_entries, EdgeKind::guarded, map.prog_slots};
    if (m < policies.size() && policies[m].edges != EdgeKind::dispatched)
      array.edges = policies[m].edges;
    std::ranges::stable_sort(array.slots, {}, [](auto &s) { return s.first; });
    if (auto e = check_slots(pipeline, array))
      errors.push_back(std::move(e));
    arrays.push_back(std::move(array));
  }
  if (!errors.empty())
    return join_sorted(std::move(errors));
  return arrays;
}

Error check_summaries(const Pipeline &pipeline, const CallGraph &graph) {
  if (graph.summaries.size() != pipeline.programs.size())
    return internal_error("there is not one summary for each program").error();
  std::vector<Error> errors;
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    auto &summary = graph.summaries[p];
    if (summary.program != ProgId(p))
      return internal_error("summaries are not in the order of programs").error();
    for (auto &site : summary.sites)
      for (auto &target : site.targets)
        if (target.map && !graph.array_of(*target.map)) {
          if (index(*target.map) >= pipeline.maps.size())
            return internal_error("a tail call names a map that does not exist")
                .in_program(summary.name)
                .error();
          auto &map = pipeline[*target.map];
          errors.push_back(
              input_error(llvm::formatv("tail call through map '{0}', which is a {1} and not a prog_array",
                                        map.name, name_of(map.type)))
                  .in_file(pipeline.programs[p].object)
                  .in_program(summary.name)
                  .at(site.insn)
                  .error());
        }
  }
  for (ProgId entry : graph.entries)
    if (index(entry) >= graph.summaries.size())
      return internal_error("an entry names no program").error();
  return errors.empty() ? Error::success() : join_sorted(std::move(errors));
}

/// Distinct programs in the arrays that dynamic targets of the site name; none where they are too many to
/// list.
std::optional<size_t> dispatch_targets(const CallGraph &graph, const Site &site) {
  std::set<ProgId> programs;
  for (auto &target : site.targets) {
    if (!target.map)
      return std::nullopt;
    auto &array = *graph.array_of(*target.map);
    if (!target.indices.empty())
      continue;
    if (array.edges == EdgeKind::left || array.slots.size() > max_dispatch_slots)
      return std::nullopt;
    for (auto &[slot, program] : array.slots)
      programs.insert(program);
    if (programs.size() > max_dispatch_targets)
      return std::nullopt;
  }
  return programs.size();
}

std::vector<Edge> edges_of_site(const CallGraph &graph, const Site &site) {
  std::vector<Edge> edges;
  auto few = dispatch_targets(graph, site);
  for (auto &target : site.targets) {
    Edge edge{.from = site.from, .site = site.site, .to = std::nullopt, .kind = EdgeKind::left};
    if (!target.map) {
      edge.any_map = edge.any_slot = true;
      edges.push_back(edge);
      continue;
    }
    edge.map = *target.map;
    auto &array = *graph.array_of(*target.map);
    for (uint64_t i : target.indices) {
      auto slot = std::ranges::lower_bound(array.slots, i, {}, [](auto &s) { return s.first; });
      edge.slot = i;
      edge.kind =
          i < array.max_entries ? array.edges : EdgeKind::sealed; // the size of an array never changes
      edge.to = std::nullopt;
      if (slot != array.slots.end() && slot->first == i)
        edge.to = slot->second;
      edges.push_back(edge);
    }
    if (!target.indices.empty())
      continue;
    if (few && !array.slots.empty()) {
      edge.kind = EdgeKind::dispatched;
      for (auto &[slot, program] : array.slots) {
        edge.slot = slot;
        edge.to = program;
        edges.push_back(edge);
      }
    } else {
      bool never = array.edges == EdgeKind::sealed && array.slots.empty();
      edge.kind = never ? EdgeKind::sealed : EdgeKind::left;
      edge.any_slot = true;
      edges.push_back(edge);
    }
  }
  std::ranges::sort(edges);
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  return edges;
}

/// The kernel refuses a program in an array whose users have another type. One representative of each type
/// stands for an array's contents.
Error check_types(const Pipeline &pipeline, const CallGraph &graph) {
  std::vector<std::vector<std::pair<uint32_t, ProgId>>> types; // by array: a slot of each type
  for (auto &array : graph.arrays) {
    auto &kinds = types.emplace_back();
    for (auto &slot : array.slots)
      if (std::ranges::none_of(
              kinds, [&](auto &k) { return pipeline[k.second].type == pipeline[slot.second].type; }))
        kinds.push_back(slot);
  }
  std::vector<Error> errors;
  auto check = [&](const Edge &edge, const ProgArray &array, uint32_t slot, ProgId to) {
    auto &caller = graph.summaries[index(edge.from)];
    auto &callee = graph.summaries[index(to)];
    if (caller.type == callee.type || caller.type == ProgType::unspec || callee.type == ProgType::unspec)
      return;
    errors.push_back(
        input_error(llvm::formatv("program '{0}' has type {1}, but its tail call through {2}[{3}] reaches "
                                  "'{4}' of type {5}",
                                  caller.name, name_of(caller.type), array.name, slot, callee.name,
                                  name_of(callee.type)))
            .in_file(pipeline[edge.from].object)
            .in_program(caller.name)
            .at(caller.sites[edge.site].insn)
            .with_hint(
                "all programs of a prog array have one type; set it in the manifest if the section name "
                "misleads")
            .error());
  };
  for (auto &edge : graph.edges)
    if (edge.to)
      check(edge, *graph.array_of(edge.map), edge.slot, *edge.to);
    else if (edge.any_slot && !edge.any_map) {
      auto &array = *graph.array_of(edge.map);
      for (auto &[slot, program] : types[&array - graph.arrays.data()])
        check(edge, array, slot, program);
    }
  return errors.empty() ? Error::success() : join_sorted(std::move(errors));
}

/// Nodes: programs, then arrays, then "any array".
Digraph flow_of(const CallGraph &graph) {
  const uint32_t first_array = graph.summaries.size(), any = first_array + graph.arrays.size();
  Digraph flow;
  std::vector<uint32_t> to;
  for (uint32_t p = 0; p < first_array; ++p) {
    to.clear();
    for (auto &edge : graph.edges_of(ProgId(p)))
      if (edge.to)
        to.push_back(index(*edge.to));
      else if (edge.any_slot)
        to.push_back(edge.any_map ? any : first_array + (graph.array_of(edge.map) - graph.arrays.data()));
    flow.add_node(to);
  }
  for (auto &array : graph.arrays) {
    to.clear();
    for (auto &[slot, program] : array.slots)
      to.push_back(index(program));
    flow.add_node(to);
  }
  to.clear();
  for (uint32_t array = first_array; array < any; ++array)
    to.push_back(array);
  flow.add_node(to);
  return flow;
}

std::vector<uint32_t> nodes(std::span<const ProgId> programs) {
  std::vector<uint32_t> result;
  for (ProgId p : programs)
    result.push_back(index(p));
  return result;
}

/// Longest path in tail calls from the entries over the condensation.
uint32_t longest_chain(const CallGraph &graph, const Digraph &flow, const Components &components) {
  std::vector<std::optional<uint32_t>> depth(components.members.size());
  for (ProgId entry : graph.entries)
    depth[components.of[index(entry)]] = 0;
  uint32_t longest = 0;
  for (uint32_t c = depth.size(); c-- > 0;) { // callers have higher numbers
    if (!depth[c])
      continue;
    longest = std::max(longest, *depth[c]);
    for (uint32_t node : components.members[c])
      for (uint32_t successor : flow[node]) {
        uint32_t to = components.of[successor];
        uint32_t calls = successor < graph.summaries.size() ? 1 : 0;
        if (to != c)
          depth[to] = std::max(depth[to].value_or(0), *depth[c] + calls);
      }
  }
  return longest;
}

void derive(CallGraph &graph) {
  Digraph flow = flow_of(graph);
  Components components = strong_components(flow);
  graph.reachable = reachable_nodes(flow, nodes(graph.entries));
  graph.reachable.resize(graph.summaries.size());
  graph.depth_acyclic = longest_chain(graph, flow, components);
  bool bounded = true;
  for (uint32_t c = 0; c < components.members.size(); ++c) {
    if (!components.cyclic[c])
      continue;
    Cycle cycle;
    for (uint32_t node : components.members[c])
      if (node < graph.summaries.size())
        cycle.programs.push_back(ProgId(node));
    bounded &= !graph.reachable[index(cycle.programs.front())];
    graph.cycles.push_back(std::move(cycle));
  }
  std::ranges::sort(graph.cycles, {}, &Cycle::programs);
  for (auto &edge : graph.edges)
    if (edge.kind == EdgeKind::left && graph.reachable[index(edge.from)])
      bounded &= !edge.any_map && graph.array_of(edge.map)->edges == EdgeKind::sealed;
  if (bounded)
    graph.depth = graph.depth_acyclic;
}

template <class Rows>
std::vector<uint32_t> first_rows(const Rows &rows, size_t programs) {
  std::vector<uint32_t> first(programs + 1);
  for (auto &row : rows)
    ++first[index(row.from) + 1];
  for (size_t p = 0; p < programs; ++p)
    first[p + 1] += first[p];
  return first;
}

} // namespace

std::string_view name_of(EdgeKind kind) {
  switch (kind) {
  case EdgeKind::sealed: return "sealed";
  case EdgeKind::guarded: return "guarded";
  case EdgeKind::dispatched: return "dispatched";
  case EdgeKind::left: return "left";
  }
  return "unknown";
}

std::string_view name_of(IndexClass c) {
  switch (c) {
  case IndexClass::constant: return "constant";
  case IndexClass::few: return "few";
  case IndexClass::dynamic: return "dynamic";
  }
  return "unknown";
}

std::span<const Site> CallGraph::sites_of(ProgId p) const {
  return std::span(sites).subspan(first_site[index(p)], first_site[index(p) + 1] - first_site[index(p)]);
}

std::span<const Edge> CallGraph::edges_of(ProgId p) const {
  return std::span(edges).subspan(first_edge[index(p)], first_edge[index(p) + 1] - first_edge[index(p)]);
}

const ProgArray *CallGraph::array_of(MapId map) const {
  auto array = std::ranges::lower_bound(arrays, map, {}, &ProgArray::map);
  return array != arrays.end() && array->map == map ? &*array : nullptr;
}

std::vector<ProgId> CallGraph::targets_of(const Edge &edge) const {
  std::vector<ProgId> result;
  if (edge.to)
    result.push_back(*edge.to);
  else if (edge.any_slot)
    for (auto &array : arrays)
      if (edge.any_map || array.map == edge.map)
        for (auto &[slot, program] : array.slots)
          result.push_back(program);
  std::ranges::sort(result);
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

std::vector<ProgId> CallGraph::reachable_from(ProgId entry) const {
  auto seen = reachable_nodes(flow_of(*this), std::array{index(entry)});
  std::vector<ProgId> result;
  for (uint32_t p = 0; p < summaries.size(); ++p)
    if (seen[p])
      result.push_back(ProgId(p));
  return result;
}

GraphCounts count(const CallGraph &graph) {
  GraphCounts counts;
  counts.programs = graph.summaries.size();
  counts.reachable = std::ranges::count(graph.reachable, true);
  counts.entries = graph.entries.size();
  counts.sites = graph.sites.size();
  for (auto &site : graph.sites) {
    ++(site.index_class == IndexClass::constant ? counts.constant
       : site.index_class == IndexClass::few    ? counts.few
                                                : counts.dynamic);
    counts.solved += site.solved && site.index_class != IndexClass::dynamic;
  }
  std::vector<std::pair<ProgId, ProgId>> pairs; // (target, caller)
  std::pair<ProgId, uint32_t> last_left{ProgId(~0u), 0};
  for (auto &edge : graph.edges) {
    if (edge.to)
      pairs.emplace_back(*edge.to, edge.from);
    else
      counts.misses += !edge.any_slot;
    if (std::pair site{edge.from, edge.site}; edge.kind == EdgeKind::left && site != last_left) {
      ++counts.left;
      last_left = site;
    }
  }
  std::ranges::sort(pairs);
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  counts.edges = pairs.size();
  for (size_t i = 0, next; i < pairs.size(); i = next) {
    for (next = i; next < pairs.size() && pairs[next].first == pairs[i].first;)
      ++next;
    ++counts.called;
    counts.single_caller += next - i == 1;
  }
  for (auto &cycle : graph.cycles)
    counts.cycles.push_back(cycle.programs.size());
  counts.depth = graph.entries.empty() ? 0 : graph.depth_acyclic + 1;
  for (auto &summary : graph.summaries) {
    counts.bytecode_insns += summary.bytecode_insns;
    counts.ir_insns += summary.ir_insns;
  }
  return counts;
}

Expected<CallGraph> build_call_graph(const Pipeline &pipeline, std::vector<Summary> summaries,
                                     const std::vector<ProgArrayPolicy> &policies) {
  CallGraph graph;
  graph.summaries = std::move(summaries);
  graph.entries = pipeline.entries;
  std::ranges::sort(graph.entries);
  graph.entries.erase(std::unique(graph.entries.begin(), graph.entries.end()), graph.entries.end());
  auto arrays = prog_arrays(pipeline, policies);
  if (!arrays)
    return arrays.takeError();
  graph.arrays = std::move(*arrays);
  if (auto e = check_summaries(pipeline, graph))
    return e;

  auto solution = solve_indices(graph);
  graph.sites = std::move(solution.sites);
  graph.steps = solution.steps;
  for (auto &site : graph.sites)
    std::ranges::move(edges_of_site(graph, site), std::back_inserter(graph.edges));
  graph.first_site = first_rows(graph.sites, graph.summaries.size());
  graph.first_edge = first_rows(graph.edges, graph.summaries.size());
  graph.steps += graph.edges.size();
  if (auto e = check_types(pipeline, graph))
    return e;
  derive(graph);
  return graph;
}

} // namespace ujit
