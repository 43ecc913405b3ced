// The steps of make_plan, in the order in which they run; each states what holds behind it. Private to
// graph/.
#pragma once

#include "graph/digraph.h"
#include "graph/plan.h"

namespace ujit {

struct Planner {
  const CallGraph &graph;
  const PlanOptions &options;
  LinkPlan plan;
  std::vector<bool> keep_out_of_line; ///< by site: an override forbids inlining

  /// Each site has its alternatives, `direct` where they can be fused.
  void choose_alternatives();
  /// A call that returns never calls a program that can come back to it: the machine stack of direct calls is
  /// bounded. (Through the arrays the count bounds it, as in the kernel.)
  void break_returning_cycles();
  /// No fused program leaves from a subprogram unless the target can do that; programs have the roles dead,
  /// unfused or function.
  Error choose_fused();
  /// Every program that a call can leave to has a chain copy, where no original can take the call; in chain
  /// mode it is a function. Slots can be refilled from outside, so that includes programs which nobody
  /// reaches now.
  void choose_chain_copies();
  /// Bounds of the count are known; programs carry it and sites check it where they must.
  void place_counts();
  /// It is known which programs are sinks.
  void find_sinks();
  /// Alternatives are inlined, cloned or direct; roles are final.
  void choose_copies();
  /// Functions are packed into partitions.
  void partition();

  bool fused(ProgId p) const {
    return plan[p].role == PlannedProgram::function || plan[p].role == PlannedProgram::inlined;
  }
  uint64_t cost_of(ProgId p) const { return std::max<uint64_t>(1, graph.summaries[index(p)].ir_insns); }
  /// Programs that are called by alternatives of `site` which are not fall_through or leave; sorted, once
  /// each.
  static std::vector<ProgId> called(const PlannedSite &site) { return ujit::called(site); }
  static bool may_leave(const PlannedSite &site) { return ujit::may_leave(site); }
  /// False where every call of the site is known to fall through.
  static bool may_call(const PlannedSite &site);
  /// Calls between fused programs.
  Digraph fused_graph() const;
  std::vector<uint32_t> entry_nodes() const;
};

} // namespace ujit
