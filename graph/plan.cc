// What becomes of each tail call: which targets are known well enough to be called directly, which programs
// cannot be fused, and where the tail-call count must be kept. Copies and partitions follow in inline.cc.
//
// The count. A tail call fails once `max_tail_calls` have been made. `count_upper` bounds the calls made when
// a program is entered: the longest path from an entry, or the limit itself where a cycle comes before. A
// site checks the count only if that bound reaches the limit, and a program carries it only if it, or a
// program behind it, checks it or hands it on when it leaves. A tail call from a subprogram returns there
// with the count moved on by an amount that depends on the run, so all calls of such a program are taken to
// be at the limit.
#include "graph/peel.h"
#include "graph/planner.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <deque>

namespace ujit {
namespace {

bool is_call(Treatment t) {
  return t == Treatment::inlined || t == Treatment::cloned || t == Treatment::direct;
}

PlannedEdge planned(const Edge &edge) {
  if (!edge.to)
    return {edge, edge.kind == EdgeKind::sealed ? Treatment::fall_through : Treatment::leave, false};
  return {edge, edge.kind == EdgeKind::left ? Treatment::leave : Treatment::direct,
          edge.kind == EdgeKind::guarded};
}

void leave_only(PlannedSite &site) {
  site.alternatives.clear();
  site.select = Select::none;
  site.otherwise = PlannedSite::leave;
}

/// A site all of whose alternatives leave does so without asking. A selection by program knows no
/// alternatives that leave: that is what happens to any other program.
void simplify(PlannedSite &site) {
  if (site.select == Select::program)
    std::erase_if(site.alternatives, [](auto &a) { return !is_call(a.treatment); });
  bool all_leave =
      std::ranges::all_of(site.alternatives, [](auto &a) { return a.treatment == Treatment::leave; });
  if (all_leave && (site.otherwise == PlannedSite::leave || !site.alternatives.empty()))
    leave_only(site);
  if (site.alternatives.empty())
    site.select = Select::none;
}

void choose_dynamic(const CallGraph &graph, const Site &site, PlannedSite &planned) {
  bool all_sealed = true, left = false;
  for (auto &target : site.targets)
    if (target.indices.empty()) {
      left |= !target.map;
      all_sealed &= target.map && graph.array_of(*target.map)->edges == EdgeKind::sealed;
    }
  for (auto &edge : graph.edges_of(site.from))
    left |= edge.site == site.site && edge.any_slot && edge.kind == EdgeKind::left;
  planned.select = all_sealed || left ? Select::index : Select::program;
  planned.otherwise = all_sealed && !left ? PlannedSite::fall_through : PlannedSite::leave;
  if (planned.select != Select::program)
    return;
  std::vector<PlannedEdge> once;
  for (PlannedEdge &a : planned.alternatives) {
    if (!a.edge.to)
      continue;
    a.guard = false;
    auto same = std::ranges::find_if(once, [&](const PlannedEdge &b) { return b.edge.to == a.edge.to; });
    if (same == once.end())
      once.push_back(a);
    else
      same->edge.calls += a.edge.calls;
  }
  planned.alternatives = std::move(once);
}

template <class Sites>
std::vector<uint32_t> first_sites(const Sites &summaries) {
  std::vector<uint32_t> first{0};
  for (auto &summary : summaries)
    first.push_back(first.back() + summary.sites.size());
  return first;
}

} // namespace

std::string_view name_of(Treatment treatment) {
  switch (treatment) {
  case Treatment::fall_through: return "falls through";
  case Treatment::inlined: return "inlined";
  case Treatment::cloned: return "cloned";
  case Treatment::direct: return "direct";
  case Treatment::leave: return "leaves";
  }
  return "unknown";
}

std::string_view name_of(Select select) {
  switch (select) {
  case Select::none: return "none";
  case Select::index: return "index";
  case Select::program: return "program";
  }
  return "unknown";
}

std::span<const PlannedSite> LinkPlan::sites_of(ProgId p) const {
  return std::span(sites).subspan(first_site[index(p)], first_site[index(p) + 1] - first_site[index(p)]);
}

std::string planned_name(const Pipeline &pipeline, const LinkPlan &plan, ProgId p) {
  return pipeline[plan[p].origin].name + (plan.is_copy(p) ? again_suffix : "");
}

std::vector<ProgId> called(const PlannedSite &site) {
  std::vector<ProgId> result;
  for (auto &a : site.alternatives)
    if (is_call(a.treatment))
      result.push_back(*a.edge.to);
  std::ranges::sort(result);
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

bool may_leave(const PlannedSite &site) {
  return site.otherwise == PlannedSite::leave || std::ranges::any_of(site.alternatives, [](auto &a) {
           return a.guard || a.treatment == Treatment::leave;
         });
}

bool Planner::may_call(const PlannedSite &site) {
  return may_leave(site) ||
         std::ranges::any_of(site.alternatives, [](auto &a) { return is_call(a.treatment); });
}

Digraph Planner::fused_graph() const {
  Digraph result;
  std::vector<uint32_t> to;
  for (uint32_t p = 0; p < plan.programs.size(); ++p) {
    to.clear();
    for (auto &site : plan.sites_of(ProgId(p)))
      for (ProgId target : called(site))
        to.push_back(index(target));
    result.add_node(to);
  }
  return result;
}

std::vector<uint32_t> Planner::entry_nodes() const {
  std::vector<uint32_t> result;
  for (ProgId entry : plan.entries)
    result.push_back(index(entry));
  return result;
}

void Planner::choose_alternatives() {
  plan.mode = options.mode;
  plan.max_tail_calls = options.max_tail_calls;
  plan.count_failed = options.count_failed;
  plan.inline_entries = options.inline_entries;
  plan.hot_paths = options.hot_paths;
  for (const Summary &s : graph.summaries)
    plan.programs.emplace_back().origin = s.program;
  plan.first_site = first_sites(graph.summaries);
  keep_out_of_line.resize(graph.sites.size());
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    auto edges = graph.edges_of(ProgId(p));
    auto next = edges.begin();
    for (auto &site : graph.sites_of(ProgId(p))) {
      PlannedSite result{.from = site.from, .site = site.site, .alternatives = {}};
      result.in_subprogram = graph.summaries[p].sites[site.site].subprogram != 0;
      for (; next != edges.end() && next->site == site.site; ++next)
        if (!next->any_slot)
          result.alternatives.push_back(planned(*next));
      if (site.index_class == IndexClass::dynamic) {
        choose_dynamic(graph, site, result);
      } else if (site.solved || result.alternatives.size() > 1) {
        // What was solved rests on memory that this program does not own (user space can write scratch maps),
        // so the index is still compared; after inlining the comparison usually folds.
        result.select = Select::index;
        result.otherwise = site.solved ? PlannedSite::leave : PlannedSite::nothing;
      }
      if (options.mode == PlanOptions::chain)
        leave_only(result);
      simplify(result);
      plan.sites.push_back(std::move(result));
    }
  }
  for (auto &o : options.overrides) {
    if (index(o.from) >= plan.programs.size() || o.site >= graph.sites_of(o.from).size())
      continue;
    uint32_t row = plan.first_site[index(o.from)] + o.site;
    keep_out_of_line[row] = o.at_most != Treatment::inlined && o.at_most != Treatment::cloned;
    if (o.at_most == Treatment::leave)
      leave_only(plan.sites[row]);
  }
}

void Planner::break_returning_cycles() {
  const Digraph calls = fused_graph();
  const Components components = strong_components(calls);
  for (auto &site : plan.sites) {
    if (!site.in_subprogram || !components.cyclic[components.of[index(site.from)]])
      continue;
    for (auto &a : site.alternatives)
      if (is_call(a.treatment) && components.of[index(*a.edge.to)] == components.of[index(site.from)]) {
        a.treatment = Treatment::leave;
        a.guard = false;
      }
    simplify(site);
  }
}

/// Why the calls of `p` that leave could not come back, or an empty string.
static std::string refuse_leaving(const Planner &planner, ProgId p) {
  const PlanOptions &options = planner.options;
  const auto sites = planner.plan.sites_of(p);
  if (options.leave_frame_limit == 0 || std::ranges::none_of(sites, Planner::may_leave))
    return {};
  for (const PlannedSite &site : sites) {
    const TailCallSite &summary = planner.graph.summaries[index(p)].sites[site.site];
    if (!site.in_subprogram && summary.leave_bytes > options.leave_frame_limit)
      return llvm::formatv("leaving at instruction {0} takes a frame of {1} bytes, the limit is {2}",
                           summary.insn, summary.leave_bytes, options.leave_frame_limit);
    if (Planner::may_leave(site) &&
        (summary.targets.empty() ||
         std::ranges::any_of(summary.targets, [](const TailCallSite::Target &t) { return !t.map; })))
      return llvm::formatv("the prog array of the tail call at instruction {0} is not known", summary.insn);
  }
  return {};
}

Error Planner::choose_fused() {
  std::vector<std::vector<uint32_t>> callers(plan.programs.size()); // sites, by target
  const bool stub = options.mode == PlanOptions::fused && !options.leave_from_subprogram;
  // Two facts spread from callee to caller: "stays unfused" makes the call leave, and "can leave" forbids
  // calls from subprograms, where the way out would end in the caller.
  std::deque<std::pair<ProgId, bool>> work; // program, refused
  std::vector<bool> refused(plan.programs.size()), leaves(plan.programs.size());
  auto refuse = [&](ProgId p, std::string reason) {
    if (refused[index(p)] || !graph.reachable[index(p)])
      return;
    refused[index(p)] = true;
    plan.programs[index(p)].reason = std::move(reason);
    work.emplace_back(p, true);
  };
  auto look_at = [&](const PlannedSite &site, bool can_leave) {
    if (!stub || !can_leave)
      return;
    if (site.in_subprogram)
      refuse(site.from, may_leave(site)
                            ? "a tail call inside a subprogram is not sealed"
                            : "a tail call inside a subprogram leads to a program whose calls can leave");
    else if (!leaves[index(site.from)]) {
      leaves[index(site.from)] = true;
      work.emplace_back(site.from, false);
    }
  };
  for (uint32_t row = 0; row < plan.sites.size(); ++row)
    for (ProgId target : called(plan.sites[row]))
      callers[index(target)].push_back(row);
  for (auto &site : plan.sites)
    look_at(site, may_leave(site));
  if (options.mode == PlanOptions::fused)
    for (const auto &[p, reason] : options.unfused)
      refuse(p, reason);
  for (uint32_t p = 0; p < plan.programs.size(); ++p)
    if (std::string reason = refuse_leaving(*this, ProgId(p)); !reason.empty())
      refuse(ProgId(p), std::move(reason));
  for (; !work.empty(); work.pop_front()) {
    auto [p, is_refused] = work.front();
    for (uint32_t row : callers[index(p)]) {
      auto &site = plan.sites[row];
      if (!is_refused) {
        look_at(site, !refused[index(p)]);
        continue;
      }
      for (auto &a : site.alternatives)
        if (a.edge.to == p) {
          a.treatment = Treatment::leave;
          a.guard = false;
        }
      simplify(site);
      look_at(site, true);
      if (std::string reason = refuse_leaving(*this, site.from); !reason.empty())
        refuse(site.from, std::move(reason));
    }
  }

  for (ProgId entry : graph.entries) {
    plan.programs[index(entry)].entry = true;
    if (!refused[index(entry)])
      plan.entries.push_back(entry);
    else if (!options.target_left_is_supported)
      return unsupported("entry cannot be fused: " + plan[entry].reason)
          .in_program(graph.summaries[index(entry)].name)
          .with_hint("seal the prog array in the manifest, or move the tail call to the main function")
          .error();
  }
  auto fused = reachable_nodes(fused_graph(), entry_nodes());
  for (uint32_t p = 0; p < plan.programs.size(); ++p) {
    auto &program = plan.programs[p];
    bool chain = options.mode == PlanOptions::chain;
    if (!graph.reachable[p]) {
      program.role = PlannedProgram::dead;
      plan.dead.push_back(ProgId(p));
    } else if (fused[p] || chain) {
      program.role = PlannedProgram::function;
      continue;
    } else {
      program.role = PlannedProgram::unfused;
      if (program.reason.empty())
        program.reason = "reached only by calls that leave";
    }
    for (uint32_t row = plan.first_site[p]; row < plan.first_site[p + 1]; ++row)
      leave_only(plan.sites[row]);
  }
  return Error::success();
}

void Planner::choose_chain_copies() {
  const bool chain = options.mode == PlanOptions::chain;
  if (!chain && options.target_left_is_supported)
    return;
  // A chain copy makes all of its calls through the arrays, whose slots can be refilled: whole arrays are
  // needed.
  std::vector<bool> seen(graph.arrays.size());
  std::vector<ProgId> work;
  auto need_array = [&](const ProgArray &array) {
    if (auto done = seen[&array - graph.arrays.data()]; done)
      return;
    seen[&array - graph.arrays.data()] = true;
    for (auto &[slot, program] : array.slots)
      if (!std::exchange(plan.programs[index(program)].needs_chain_copy, true))
        work.push_back(program);
  };
  auto need_targets = [&](ProgId p, uint32_t site) {
    for (auto &target : graph.sites_of(p)[site].targets)
      if (target.map)
        need_array(*graph.array_of(*target.map));
      else
        std::ranges::for_each(graph.arrays, need_array);
  };
  for (auto &site : plan.sites)
    if (fused(site.from) && may_leave(site))
      need_targets(site.from, site.site);
  while (!work.empty()) {
    ProgId p = work.back();
    work.pop_back();
    for (uint32_t site = 0; site < graph.sites_of(p).size(); ++site)
      need_targets(p, site);
  }
  if (chain)
    for (auto &program : plan.programs)
      if (std::exchange(program.needs_chain_copy, false) && program.role == PlannedProgram::dead) {
        program.role = PlannedProgram::function; // every function is such a copy
        std::erase(plan.dead, ProgId(&program - plan.programs.data()));
      }
}

void Planner::place_counts() {
  const uint32_t limit = options.max_tail_calls;
  const Digraph calls = fused_graph();
  const Components components = strong_components(calls);
  const bool chain = options.mode == PlanOptions::chain;

  // A component is finished before those it calls.
  for (uint32_t c = components.members.size(); c-- > 0;)
    for (uint32_t node : components.members[c]) {
      auto &program = plan.programs[node];
      if (!fused(ProgId(node)))
        continue;
      if (components.cyclic[c] || chain)
        program.count_upper = limit;
      bool returns = std::ranges::any_of(plan.sites_of(ProgId(node)),
                                         [](auto &s) { return s.in_subprogram && may_call(s); });
      // Where failed calls count, those before the last one may each have added one.
      uint64_t failed = 0;
      if (options.count_failed)
        for (auto &site : plan.sites_of(ProgId(node)))
          if (may_call(site) || !site.alternatives.empty())
            failed += graph.summaries[node].sites[site.site].repeats ? limit : 1;
      uint32_t leaving = returns ? limit : uint32_t(std::min<uint64_t>(limit, program.count_upper + failed));
      for (uint32_t to : calls[node])
        plan.programs[to].count_upper = std::max(plan.programs[to].count_upper, std::min(limit, leaving + 1));
      for (uint32_t row = plan.first_site[node]; row < plan.first_site[node + 1]; ++row)
        plan.sites[row].check_count = leaving >= limit && may_call(plan.sites[row]);
    }

  std::vector<uint32_t> distance(plan.programs.size(), limit);
  std::deque<uint32_t> near;
  for (uint32_t entry : entry_nodes()) {
    distance[entry] = 0;
    near.push_back(entry);
  }
  for (; !near.empty(); near.pop_front())
    for (uint32_t to : calls[near.front()])
      if (distance[to] > distance[near.front()] + 1) {
        distance[to] = distance[near.front()] + 1;
        near.push_back(to);
      }

  std::vector<std::vector<uint32_t>> callers(plan.programs.size());
  std::vector<uint32_t> work;
  auto carry = [&](uint32_t node) {
    if (!std::exchange(plan.programs[node].counted, true))
      work.push_back(node);
  };
  for (uint32_t node = 0; node < plan.programs.size(); ++node) {
    if (!fused(ProgId(node)))
      continue;
    plan.programs[node].count_lower = chain ? 0 : distance[node];
    for (uint32_t to : calls[node])
      callers[to].push_back(node);
    for (auto &site : plan.sites_of(ProgId(node)))
      if (site.check_count || (options.count_across_leave && may_leave(site)))
        carry(node);
  }
  auto carry_to_callers = [&] {
    while (!work.empty()) {
      uint32_t node = work.back();
      work.pop_back();
      for (uint32_t caller : callers[node])
        carry(caller);
    }
  };
  carry_to_callers();
  // A call that left and failed goes on in the copy, with the count as it was.
  if (options.leave_frame_limit > 0)
    for (auto &program : plan.programs)
      if (program.counted && std::ranges::any_of(plan.sites_of(program.origin), may_leave))
        carry(index(program.origin));
  carry_to_callers();
  for (uint32_t node = 0; node < plan.programs.size(); ++node) {
    const PlannedProgram &program = plan.programs[node];
    plan.has_counter |= program.counted;
    for (auto &site : plan.sites_of(ProgId(node))) // a chain copy counts all of its calls
      plan.count_cell |=
          site.in_subprogram && (program.needs_chain_copy || (program.counted && may_call(site)));
  }
}

void Planner::find_sinks() {
  constexpr uint32_t least_calls = 8, least_share = 4; // sites; a quarter of all
  std::vector<uint32_t> calls(plan.programs.size());
  uint32_t all = 0;
  for (auto &site : plan.sites)
    if (fused(site.from)) {
      ++all;
      for (ProgId target : called(site))
        ++calls[index(target)];
    }
  for (uint32_t p = 0; p < calls.size(); ++p)
    plan.programs[p].sink = options.hot_paths && calls[p] >= least_calls && calls[p] * least_share >= all;
}

Expected<LinkPlan> make_plan(const CallGraph &graph, const PlanOptions &options) {
  Planner planner{graph, options, {}, {}};
  planner.choose_alternatives();
  planner.break_returning_cycles();
  if (auto e = planner.choose_fused())
    return e;
  planner.choose_chain_copies();
  planner.place_counts();
  planner.find_sinks();
  planner.choose_copies();
  planner.partition();
  return std::move(planner.plan);
}

} // namespace ujit
