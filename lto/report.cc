#include "lto/report.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace {

using llvm::formatv;

void count_programs(const Pipeline &pipeline, const LinkPlan &plan, LinkReport &r) {
  r.programs = uint32_t(pipeline.programs.size());
  r.peeled = uint32_t(plan.programs.size() - pipeline.programs.size());
  r.entries = uint32_t(plan.entries.size());
  for (size_t i = 0; i < pipeline.programs.size(); ++i)
    switch (plan.programs[i].role) {
    case PlannedProgram::dead: ++r.dead; break;
    case PlannedProgram::function: ++r.functions; break;
    case PlannedProgram::inlined: ++r.inlined; break;
    case PlannedProgram::unfused:
      ++r.unfused;
      r.unfused_reasons.emplace_back(pipeline.programs[i].name, plan.programs[i].reason);
      break;
    }
}

void count_edges(const LinkPlan &plan, LinkReport &r) {
  for (const PlannedSite &site : plan.sites) {
    const PlannedProgram::Role role = plan[site.from].role;
    if (role == PlannedProgram::dead || role == PlannedProgram::unfused || plan.is_copy(site.from))
      continue;
    ++r.sites;
    if (site.alternatives.empty() && site.otherwise == PlannedSite::leave)
      ++r.unfused_edges;
    for (const PlannedEdge &e : site.alternatives) {
      switch (e.edge.kind) {
      case EdgeKind::sealed: ++r.sealed; break;
      case EdgeKind::guarded: ++r.guarded; break;
      case EdgeKind::dispatched: ++r.dispatched; break;
      case EdgeKind::left: ++r.left; break;
      }
      switch (e.treatment) {
      case Treatment::fall_through: ++r.edges_fall_through; break;
      case Treatment::inlined: ++r.edges_inlined; break;
      case Treatment::cloned: ++r.edges_cloned; break;
      case Treatment::direct: ++r.edges_direct; break;
      case Treatment::leave: ++r.unfused_edges; break;
      }
    }
  }
}

} // namespace

LinkReport make_report(const Pipeline &pipeline, const LinkResult &result, const std::string &name) {
  LinkReport r;
  r.name = name;
  count_programs(pipeline, result.plan, r);
  count_edges(result.plan, r);
  r.bytecode_insns = result.stats.bytecode_insns;
  r.code_bytes = result.stats.code_bytes;
  r.partitions = result.stats.partitions;
  r.stack_bytes = result.stats.max_stack_bytes;
  r.counted = result.plan.has_counter;
  r.for_kernel = result.for_kernel;
  r.leave_arrays = uint32_t(result.leave.prog_arrays.size());
  r.leave_points = uint32_t(result.leave.points.size());
  r.leave_frame_bytes = result.leave.frame_bytes;
  r.phases = result.stats.phases;
  r.notes = result.stats.notes;
  return r;
}

void print_report(const LinkReport &r, bool times, llvm::raw_ostream &os) {
  const double ratio = r.bytecode_insns ? double(r.code_bytes) / double(8 * r.bytecode_insns) : 0;
  os << formatv("{0}: {1} programs, {2} entries\n", r.name, r.programs, r.entries);
  os << formatv("  programs    {0} inlined, {1} out of line, {2} unfused, {3} dead\n", r.inlined, r.functions,
                r.unfused, r.dead);
  if (r.peeled)
    os << formatv("  cycles      first pass apart: {0} programs are there twice\n", r.peeled);
  os << formatv("  tail calls  {0} sites: {1} sealed, {2} guarded, {3} dispatched, {4} left\n", r.sites,
                r.sealed, r.guarded, r.dispatched, r.left);
  os << formatv("  edges       {0} inlined, {1} cloned, {2} direct, {3} fall through, {4} unfused\n",
                r.edges_inlined, r.edges_cloned, r.edges_direct, r.edges_fall_through, r.unfused_edges);
  os << formatv("  code        {0} bytes for {1} bytes of bytecode ({2:F2}x), {3} partition{4}\n",
                r.code_bytes, 8 * r.bytecode_insns, ratio, r.partitions, r.partitions == 1 ? "" : "s");
  os << formatv("  stack       {0} bytes at most; tail-call count {1}\n", r.stack_bytes,
                r.counted ? "kept" : "not needed");
  if (r.for_kernel)
    os << formatv("  leaving     {0} points through {1} prog array{2}, frame of {3} bytes\n", r.leave_points,
                  r.leave_arrays, r.leave_arrays == 1 ? "" : "s", r.leave_frame_bytes);
  if (times) {
    double total = 0;
    os << "  time       ";
    for (const PhaseTime &p : r.phases) {
      os << formatv(" {0} {1:F1} ms,", p.name, p.seconds * 1e3);
      total += p.seconds;
    }
    os << formatv(" together {0:F1} ms\n", total * 1e3);
  }
  for (const auto &[program, reason] : r.unfused_reasons)
    os << formatv("  note: {0} stays unfused: {1}\n", program, reason);
  for (const std::string &note : r.notes)
    os << "  note: " << note << '\n';
}

void print_report_json(const LinkReport &r, bool times, llvm::raw_ostream &os) {
  llvm::json::OStream json(os, 2);
  json.object([&] {
    json.attribute("name", r.name);
    json.attributeObject("programs", [&] {
      json.attribute("all", r.programs);
      json.attribute("entries", r.entries);
      json.attribute("inlined", r.inlined);
      json.attribute("functions", r.functions);
      json.attribute("unfused", r.unfused);
      json.attribute("dead", r.dead);
      json.attribute("peeled", r.peeled);
    });
    json.attributeObject("tail_calls", [&] {
      json.attribute("sites", r.sites);
      json.attribute("sealed", r.sealed);
      json.attribute("guarded", r.guarded);
      json.attribute("dispatched", r.dispatched);
      json.attribute("left", r.left);
    });
    json.attributeObject("edges", [&] {
      json.attribute("inlined", r.edges_inlined);
      json.attribute("cloned", r.edges_cloned);
      json.attribute("direct", r.edges_direct);
      json.attribute("fall_through", r.edges_fall_through);
      json.attribute("unfused", r.unfused_edges);
    });
    json.attribute("bytecode_insns", int64_t(r.bytecode_insns));
    json.attribute("code_bytes", int64_t(r.code_bytes));
    json.attribute("partitions", r.partitions);
    json.attribute("stack_bytes", r.stack_bytes);
    json.attribute("tail_call_count", r.counted);
    if (r.for_kernel)
      json.attributeObject("leaving", [&] {
        json.attribute("prog_arrays", r.leave_arrays);
        json.attribute("points", r.leave_points);
        json.attribute("frame_bytes", r.leave_frame_bytes);
      });
    json.attributeArray("unfused", [&] {
      for (const auto &[program, reason] : r.unfused_reasons)
        json.object([&] {
          json.attribute("program", program);
          json.attribute("reason", reason);
        });
    });
    json.attributeArray("notes", [&] {
      for (const std::string &note : r.notes)
        json.value(note);
    });
    if (times)
      json.attributeObject("seconds", [&] {
        for (const PhaseTime &p : r.phases)
          json.attribute(p.name, p.seconds);
      });
  });
  os << '\n';
}

Error check_gates(const LinkReport &r, const ManifestGates &gates, const std::string &manifest_file) {
  Error out = Error::success();
  auto gate = [&](const char *name, uint64_t value, const std::optional<uint64_t> &limit) {
    if (limit && value > *limit)
      out = llvm::joinErrors(std::move(out), input_error(formatv("gate {0} is passed: {1}, the limit is {2}",
                                                                 name, value, *limit))
                                                 .in_file(manifest_file)
                                                 .error());
  };
  gate("stack", r.stack_bytes, gates.stack);
  gate("code-bytes", r.code_bytes, gates.code_bytes);
  gate("unfused-edges", r.unfused_edges, gates.unfused_edges);
  return out;
}

} // namespace ujit
