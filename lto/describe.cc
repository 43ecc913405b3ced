#include "lto/describe.h"

#include "lto/digest.h"
#include "lto/fuse.h"
#include "lto/optimise.h"
#include "translator/helper.h"
#include "translator/lower.h"

#include <set>

namespace ujit {

using namespace llvm;

static void describe_leaving(const Pipeline &pipeline, const LinkResult &result, ImageInfo &info,
                             std::set<std::string> &symbols) {
  for (StringRef s : kernel_support())
    symbols.insert(s.str());
  for (const ImageProgram &p : info.programs)
    for (const KernelCall &call : pipeline[*pipeline.find_program(p.name)].kernel_calls)
      symbols.insert(call.symbol);
  // A resume function knows less than its program, so it may have calls that folded away there.
  for (ProgId p : result.leave.resumed)
    for (const Insn &insn : pipeline[result.plan[p].origin].insns)
      if (const InsnRow *row = find_row(insn); row && row->op == Op::call_helper)
        if (const Helper *helper = find_helper(uint32_t(insn.imm)); helper && helper->id != helper_tail_call)
          symbols.insert(std::string(helper->name));
  ImageLeave &leave = info.leave.emplace();
  leave.frame_bytes = result.leave.frame_bytes;
  for (MapId m : result.leave.prog_arrays)
    leave.prog_arrays.push_back(pipeline[m].name);
  for (const LeavePlan::Point &p : result.leave.points)
    leave.points.push_back({pipeline[result.plan[p.program].origin].name, p.insn, p.frame_bytes});
}

ImageInfo describe_image(const Pipeline &pipeline, const LinkOptions &options, const InstanceLayout &layout,
                         const LinkResult &result) {
  const LinkPlan &plan = result.plan;
  ImageInfo info;
  info.name = options.name;
  Expected<TargetCpu> cpu = resolve_cpu(options.cpu, options.target == LinkTarget::kernel);
  info.target = "x86_64-unknown-linux-gnu " + (cpu ? cpu->name + " " + cpu->features : std::string());
  if (!cpu)
    consumeError(cpu.takeError());
  info.form = pipeline.kernel ? "verified" : "object";
  std::set<std::string> helpers;
  if (!pipeline.kernel)
    helpers = {"ujit_load_packet", "ujit_call_helper"};
  for (const Program &p : pipeline.programs) {
    ProgId id{uint32_t(&p - pipeline.programs.data())};
    const PlannedProgram &planned = plan[id];
    if (planned.role == PlannedProgram::dead && !planned.needs_chain_copy)
      continue;
    for (uint32_t h : result.graph.summaries[index(id)].helpers)
      if (h != helper_tail_call)
        helpers.insert(std::string(find_helper(h)->name));
    if (planned.entry && planned.role == PlannedProgram::function)
      info.entries.push_back({p.name, entry_symbol(p), p.type});
    ImageProgram described{p.name,   program_digest(pipeline, id), "",
                           p.object, uint32_t(p.insns.size()),     p.lines};
    if (plan.mode == PlanOptions::chain)
      described.symbol = program_symbol(p);
    else if (planned.needs_chain_copy)
      described.symbol = chain_symbol(p);
    info.programs.push_back(std::move(described));
  }
  for (const InstanceSlot &slot : layout.slots()) {
    ImageSlot s{slot, "cpu"};
    if (slot.kind == InstanceSlot::program)
      s.name = pipeline.programs[slot.id].name;
    else if (slot.kind == InstanceSlot::constant)
      s.name = pipeline.maps[slot.id].name + ":" + pipeline.maps[slot.id].bound[slot.sub].name;
    else if (slot.kind != InstanceSlot::cpu)
      s.name = pipeline.maps[slot.id].name;
    info.instance.push_back(std::move(s));
  }
  for (const PlannedSite &site : plan.sites)
    for (const PlannedEdge &a : site.alternatives)
      info.edges.push_back(
          {planned_name(pipeline, plan, site.from), a.edge.to ? planned_name(pipeline, plan, *a.edge.to) : "",
           pipeline[a.edge.map].name, std::string(name_of(a.edge.kind)), std::string(name_of(a.treatment)),
           result.planned_graph().summaries[index(site.from)].sites[site.site].insn, int64_t(a.edge.slot)});
  if (result.for_kernel)
    describe_leaving(pipeline, result, info, helpers);
  info.helpers.assign(helpers.begin(), helpers.end());
  return info;
}

} // namespace ujit
