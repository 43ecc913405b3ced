// The plan as text.
#include "graph/plan.h"

#include "llvm/Support/raw_ostream.h"

namespace ujit {
namespace {

std::string_view role_name(PlannedProgram::Role role) {
  switch (role) {
  case PlannedProgram::dead: return "dead";
  case PlannedProgram::unfused: return "unfused";
  case PlannedProgram::function: return "function";
  case PlannedProgram::inlined: return "inlined";
  }
  return "unknown";
}

void print_names(const CallGraph &graph, std::span<const ProgId> programs, llvm::raw_ostream &os) {
  for (ProgId p : programs)
    os << " " << graph.summaries[index(p)].name;
}

void print_site(const CallGraph &graph, const PlannedSite &site, llvm::raw_ostream &os) {
  os << "  insn " << graph.summaries[index(site.from)].sites[site.site].insn << ":";
  if (site.in_subprogram)
    os << " call and return,";
  if (site.check_count)
    os << " counted,";
  if (site.select != Select::none)
    os << " by " << name_of(site.select) << ",";
  for (auto &a : site.alternatives) {
    os << " " << graph.array_of(a.edge.map)->name << "[" << a.edge.slot << "]";
    if (a.edge.to)
      os << " -> " << graph.summaries[index(*a.edge.to)].name;
    os << " " << name_of(a.treatment) << (a.guard ? " if unchanged;" : ";");
  }
  if (site.otherwise != PlannedSite::nothing)
    os << (site.alternatives.empty() ? "" : " otherwise")
       << (site.otherwise == PlannedSite::leave ? " leaves" : " falls through");
  os << "\n";
}

} // namespace

void print_plan(const CallGraph &graph, const LinkPlan &plan, llvm::raw_ostream &os) {
  os << "mode " << (plan.mode == PlanOptions::chain ? "chain" : "fused") << ", " << plan.partitions.size()
     << " partitions" << (plan.has_counter ? ", counter" : "") << (plan.count_cell ? " in a cell" : "")
     << "\n";
  for (size_t i = 0; i < plan.partitions.size(); ++i) {
    auto &partition = plan.partitions[i];
    os << "partition " << i << ": cost " << partition.cost << ", functions";
    print_names(graph, partition.functions, os);
    if (!partition.chain_copies.empty())
      os << ", chain copies";
    print_names(graph, partition.chain_copies, os);
    os << "\n";
  }
  for (uint32_t p = 0; p < plan.programs.size(); ++p) {
    auto &program = plan.programs[p];
    os << "program " << graph.summaries[p].name << ": " << role_name(program.role);
    if (program.entry)
      os << ", entry";
    if (program.needs_chain_copy)
      os << ", chain copy";
    if (program.counted)
      os << ", counted " << program.count_lower << ".." << program.count_upper;
    if (!program.reason.empty())
      os << ": " << program.reason;
    os << "\n";
    if (program.role == PlannedProgram::function || program.role == PlannedProgram::inlined)
      for (auto &site : plan.sites_of(ProgId(p)))
        print_site(graph, site, os);
  }
}

} // namespace ujit
