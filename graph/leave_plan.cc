#include "graph/leave_plan.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <functional>

namespace ujit {

constexpr size_t most_points = 0xffff, most_prog_arrays = 0x7fff; // kernel-iface/linux/stub.h

static bool is_call(Treatment t) {
  return t == Treatment::inlined || t == Treatment::cloned || t == Treatment::direct;
}

static bool is_fused(const PlannedProgram &p) {
  return p.role == PlannedProgram::function || p.role == PlannedProgram::inlined;
}

uint32_t LeavePlan::number_of(MapId prog_array) const {
  auto it = std::ranges::lower_bound(prog_arrays, prog_array);
  return uint32_t(it - prog_arrays.begin());
}

uint32_t LeavePlan::point_of(ProgId program, uint32_t insn) const {
  program = goes_on_as[index(program)];
  auto it = std::ranges::lower_bound(points, std::pair(program, insn), {},
                                     [](const Point &p) { return std::pair(p.program, p.insn); });
  return it != points.end() && it->program == program && it->insn == insn ? uint32_t(it - points.begin()) + 1
                                                                          : 0;
}

std::vector<bool> called_functions(const LinkPlan &plan) {
  if (plan.mode == PlanOptions::chain)
    return std::vector<bool>(plan.programs.size(), true);
  std::vector<bool> called(plan.programs.size());
  for (const PlannedSite &site : plan.sites)
    for (const PlannedEdge &a : site.alternatives)
      if (a.treatment == Treatment::direct)
        called[index(*a.edge.to)] = true;
  if (!plan.inline_entries)
    for (ProgId entry : plan.entries)
      called[index(entry)] = true;
  return called;
}

PlannedSite resumed_site(const LeavePlan &leave, PlannedSite site) {
  for (PlannedEdge &a : site.alternatives)
    if (is_call(a.treatment)) {
      const bool exists = leave.has_function[index(*a.edge.to)];
      a.treatment = exists ? Treatment::direct : Treatment::leave;
      a.guard &= exists;
    }
  if (site.select == Select::program) // knows no alternatives that leave
    std::erase_if(site.alternatives, [](const PlannedEdge &a) { return !is_call(a.treatment); });
  return site;
}

/// Programs that a call from a subprogram may end in.
static std::vector<bool> find_whole_results(const LinkPlan &plan) {
  std::vector<bool> whole(plan.programs.size());
  std::vector<ProgId> work;
  auto add = [&](const PlannedSite &site) {
    for (ProgId p : called(site))
      if (!whole[index(p)]) {
        whole[index(p)] = true;
        work.push_back(p);
      }
  };
  for (const PlannedSite &site : plan.sites)
    if (site.in_subprogram && is_fused(plan[site.from]))
      add(site);
  while (!work.empty()) {
    const ProgId p = work.back();
    work.pop_back();
    for (const PlannedSite &site : plan.sites_of(p))
      add(site);
  }
  return whole;
}

Expected<LeavePlan> plan_leaving(const CallGraph &graph, const LinkPlan &plan) {
  LeavePlan leave;
  leave.whole_result = find_whole_results(plan);
  const std::vector<bool> called = called_functions(plan);
  for (const PlannedProgram &p : plan.programs)
    leave.has_function.push_back(p.role == PlannedProgram::function &&
                                 (!p.entry || called[size_t(&p - plan.programs.data())]));
  for (uint32_t p = 0; p < plan.programs.size(); ++p) {
    leave.goes_on_as.push_back(ProgId(p));
    if (plan.is_copy(ProgId(p)) && is_fused(plan[ProgId(p)]))
      leave.goes_on_as[index(plan[ProgId(p)].origin)] = ProgId(p);
  }
  for (uint32_t p = 0; p < plan.programs.size(); ++p) {
    if (!is_fused(plan[ProgId(p)]) || std::ranges::none_of(plan.sites_of(ProgId(p)), may_leave))
      continue;
    const ProgId resumed = leave.goes_on_as[p];
    leave.resumed.push_back(resumed);
    for (const PlannedSite &site : plan.sites_of(ProgId(p))) {
      const TailCallSite &summary = graph.summaries[p].sites[site.site];
      const PlannedSite &behind = plan.sites_of(resumed)[site.site];
      if (site.in_subprogram || (!may_leave(site) && !may_leave(resumed_site(leave, behind))))
        continue;
      leave.points.push_back({resumed, summary.insn, summary.leave_bytes});
      leave.frame_bytes = std::max(leave.frame_bytes, summary.leave_bytes);
      for (const TailCallSite::Target &t : summary.targets)
        if (t.map)
          leave.prog_arrays.push_back(*t.map);
    }
  }
  auto sort_once_each = [](auto &list, auto key) {
    std::ranges::sort(list, {}, key);
    list.erase(std::unique(list.begin(), list.end()), list.end());
  };
  sort_once_each(leave.resumed, std::identity());
  sort_once_each(leave.prog_arrays, std::identity());
  sort_once_each(leave.points, [](const LeavePlan::Point &p) { return std::pair(p.program, p.insn); });
  if (leave.points.size() > most_points || leave.prog_arrays.size() > most_prog_arrays)
    return unsupported(
               llvm::formatv("{0} calls through {1} prog arrays can leave the image, at most {2} and {3} "
                             "can be numbered",
                             leave.points.size(), leave.prog_arrays.size(), most_points, most_prog_arrays))
        .with_hint("seal prog arrays in the manifest, or link fewer entries at a time")
        .error();
  return leave;
}

} // namespace ujit
