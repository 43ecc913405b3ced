// Which programs are functions, which live only inside of others, and how functions are packed into
// partitions.
//
// Programs are taken in reverse postorder of a depth-first search from the entries, callers first. A program
// that is called from one site joins the function of its caller; since that site is how the search found it,
// the edge cannot close a cycle. A small program that is called from several sites is copied into each,
// together with the small programs below it, unless it is on a cycle. Everything else, such as a drop
// notifier with thirty callers, is a function. Each choice depends on sizes alone, and on sums that were
// fixed before: the whole is linear and deterministic.
//
// Where a run has been measured, what it never did is not copied and not inlined, so that the code which runs
// stays together, and what it did often may be copied up to a larger size.
#include "graph/planner.h"

#include <algorithm>

namespace ujit {
namespace {

struct Copies {
  Planner &planner;
  LinkPlan &plan = planner.plan;
  const PlanOptions &options = planner.options;

  struct Unit {
    uint64_t cost = 0;
    uint32_t stack = 0;
  };
  struct Node {
    std::vector<uint32_t> callers; ///< sites
    uint64_t clone_cost = 0;       ///< with what is cloned into it; 0: not small enough, or on a cycle
    uint32_t clone_stack = 0;
    uint32_t unit = 0;   ///< program whose function it is part of
    uint32_t depth = 0;  ///< of inlining in its unit
    bool cloned = false; ///< some copy of it is a clone
    bool function = false;
  };
  std::vector<Node> nodes{plan.programs.size()};
  std::vector<Unit> units{plan.programs.size()}; ///< by ProgId of the function

  /// Calls a packet from that site to the program, where that was measured.
  std::optional<double> frequency(uint32_t row, uint32_t target) const {
    const PlannedSite &site = plan.sites[row];
    if (!planner.graph.runs_of(site.from))
      return std::nullopt;
    uint64_t calls = 0;
    for (auto &a : site.alternatives)
      if (a.edge.to == ProgId(target))
        calls += a.edge.calls;
    return double(calls) / double(std::max<uint64_t>(1, planner.graph.packets));
  }
  bool never_taken(uint32_t row, uint32_t target) const { return frequency(row, target) == 0.0; }
  /// How much more than by its size alone a program may be copied.
  uint32_t worth(uint32_t p) const {
    constexpr double often = 0.05;
    constexpr uint32_t factor = 4;
    return std::ranges::any_of(nodes[p].callers, [&](uint32_t row) { return frequency(row, p) >= often; })
               ? factor
               : 1;
  }

  bool may_inline_at(uint32_t row) const {
    return !plan.sites[row].in_subprogram && !planner.keep_out_of_line[row];
  }
  uint32_t stack_of(uint32_t p) const { return planner.graph.summaries[p].stack_bytes; }

  void treat(uint32_t row, uint32_t target, Treatment treatment) {
    for (auto &a : plan.sites[row].alternatives)
      if (a.edge.to == ProgId(target) && a.treatment != Treatment::leave)
        a.treatment = treatment;
  }

  bool fits(const Unit &unit, uint64_t cost, uint32_t stack) const {
    return unit.cost + cost <= options.max_function_ir && std::max(unit.stack, stack) <= options.stack_budget;
  }

  void join(uint32_t unit, uint64_t cost, uint32_t stack) {
    units[unit].cost += cost;
    units[unit].stack = std::max(units[unit].stack, stack);
  }

  /// Callees come first, so theirs are known.
  void find_small(uint32_t p, bool on_cycle) {
    if (on_cycle || plan.programs[p].entry)
      return;
    uint64_t cost = planner.cost_of(ProgId(p));
    uint32_t stack = stack_of(p);
    const uint64_t limit = uint64_t(options.clone_limit_ir) * worth(p);
    for (uint32_t row = plan.first_site[p]; row < plan.first_site[p + 1] && cost <= limit; ++row)
      if (may_inline_at(row))
        for (ProgId callee : Planner::called(plan.sites[row])) {
          cost += nodes[index(callee)].clone_cost;
          stack = std::max(stack, nodes[index(callee)].clone_stack);
        }
    if (cost <= limit && stack <= options.stack_budget) {
      nodes[p].clone_cost = cost;
      nodes[p].clone_stack = stack;
    }
  }

  /// Callers come first, except those that call back along a cycle.
  void place(uint32_t p) {
    Node &node = nodes[p];
    node.unit = p;
    if (join_caller(p))
      return;
    const auto called =
        size_t(std::ranges::count_if(node.callers, [&](uint32_t row) { return !never_taken(row, p); }));
    const size_t more =
        called - (called == node.callers.size()); // copies beside the one that is there anyway
    bool clone = node.clone_cost != 0 && node.callers.size() > 1 &&
                 node.clone_cost * more <= uint64_t(options.clone_growth_ir) * worth(p);
    for (uint32_t row : node.callers) {
      const Node &caller = nodes[index(plan.sites[row].from)];
      bool inside_clone = caller.cloned && node.clone_cost != 0;
      if (!may_inline_at(row) || never_taken(row, p) || !(inside_clone || (clone && !caller.cloned)) ||
          (!caller.cloned && !fits(units[caller.unit], node.clone_cost, node.clone_stack))) {
        node.function = true;
        continue;
      }
      treat(row, p, Treatment::cloned);
      node.cloned = true;
      if (!caller.cloned)
        join(caller.unit, node.clone_cost, node.clone_stack);
    }
    node.function |= plan.programs[p].entry;
    if (node.function)
      join(p, node.cloned ? node.clone_cost : planner.cost_of(ProgId(p)), stack_of(p));
    plan.programs[p].role = node.function ? PlannedProgram::function : PlannedProgram::inlined;
  }

  bool join_caller(uint32_t p) {
    Node &node = nodes[p];
    if (!options.inline_single_caller || node.callers.size() != 1 || plan.programs[p].entry)
      return false;
    uint32_t row = node.callers.front();
    const Node &caller = nodes[index(plan.sites[row].from)];
    uint64_t cost = planner.cost_of(ProgId(p));
    if (!may_inline_at(row) || never_taken(row, p) || caller.cloned ||
        caller.depth >= options.max_tail_calls || !fits(units[caller.unit], cost, stack_of(p)))
      return false;
    treat(row, p, Treatment::inlined);
    node.unit = caller.unit;
    node.depth = caller.depth + 1;
    join(node.unit, cost, stack_of(p));
    plan.programs[p].role = PlannedProgram::inlined;
    return true;
  }
};

/// Programs whose IR the function of `p` needs, itself included; one entry a copy.
std::vector<ProgId> copies_in(const LinkPlan &plan, ProgId p) {
  std::vector<ProgId> members{p};
  for (size_t i = 0; i < members.size(); ++i)
    for (auto &site : plan.sites_of(members[i])) {
      std::vector<ProgId> inner; // alternatives with one target share one copy
      for (auto &a : site.alternatives)
        if (a.treatment == Treatment::inlined || a.treatment == Treatment::cloned)
          inner.push_back(*a.edge.to);
      std::ranges::sort(inner);
      inner.erase(std::unique(inner.begin(), inner.end()), inner.end());
      members.insert(members.end(), inner.begin(), inner.end());
    }
  return members;
}

} // namespace

void Planner::choose_copies() {
  Copies copies{*this};
  for (uint32_t row = 0; row < plan.sites.size(); ++row)
    if (fused(plan.sites[row].from))
      for (ProgId target : called(plan.sites[row]))
        copies.nodes[index(target)].callers.push_back(row);
  const Digraph calls = fused_graph();
  const Components components = strong_components(calls);
  const auto order = reverse_postorder(calls, entry_nodes());
  for (size_t i = order.size(); i-- > 0;)
    copies.find_small(order[i], components.cyclic[components.of[order[i]]]);
  for (uint32_t p : order)
    copies.place(p);
}

void Planner::partition() {
  std::vector<ProgId> functions;
  if (options.mode == PlanOptions::chain) {
    for (uint32_t p = 0; p < plan.programs.size(); ++p)
      if (plan.programs[p].role == PlannedProgram::function)
        functions.push_back(ProgId(p));
  } else {
    for (uint32_t p : reverse_postorder(fused_graph(), entry_nodes()))
      if (plan.programs[p].role == PlannedProgram::function)
        functions.push_back(ProgId(p));
  }

  auto partition_for = [&](uint64_t cost) -> Partition & {
    if (plan.partitions.empty() || plan.partitions.back().cost + cost > options.partition_cost)
      plan.partitions.emplace_back();
    plan.partitions.back().cost += cost;
    return plan.partitions.back();
  };
  for (ProgId p : functions) {
    auto members = copies_in(plan, p);
    uint64_t cost = 0;
    for (ProgId member : members)
      cost += cost_of(member);
    auto &partition = partition_for(cost);
    partition.functions.push_back(p);
    partition.members.insert(partition.members.end(), members.begin(), members.end());
  }
  for (uint32_t p = 0; p < plan.programs.size(); ++p)
    if (plan.programs[p].needs_chain_copy) {
      auto &partition = partition_for(cost_of(ProgId(p)));
      partition.chain_copies.push_back(ProgId(p));
      partition.members.push_back(ProgId(p));
    }
  for (auto &partition : plan.partitions) {
    std::ranges::sort(partition.members);
    partition.members.erase(std::unique(partition.members.begin(), partition.members.end()),
                            partition.members.end());
  }
}

} // namespace ujit
