// Hand-made pipelines of summaries for the tests of graph/: no code, only what planning sees.
#pragma once

#include "graph/call_graph.h"

#include "llvm/Support/raw_ostream.h"

#include <gtest/gtest.h>

namespace ujit::test {

inline AbstractValue constant(std::vector<uint64_t> values) {
  return {AbstractValue::constants, std::move(values), {}};
}
inline AbstractValue at_entry(StateSlot slot) { return {AbstractValue::entry, {}, slot}; }
inline AbstractValue run_time() { return {}; }
/// skb->cb[n]
inline StateSlot cb(uint32_t n) { return {StateSlot::context, MapId{}, 48 + 4 * n, 4}; }

struct Builder {
  Pipeline pipeline;
  std::vector<Summary> summaries;
  std::vector<ProgArrayPolicy> policies;

  MapId map(std::string name, MapType type, uint32_t max_entries = 1) {
    Map map;
    map.name = std::move(name);
    map.type = type;
    map.max_entries = max_entries;
    pipeline.maps.push_back(map);
    policies.emplace_back();
    return MapId(pipeline.maps.size() - 1);
  }
  MapId array(std::string name, EdgeKind edges = EdgeKind::sealed, uint32_t max_entries = 16) {
    MapId id = map(std::move(name), MapType::prog_array, max_entries);
    policies.back().edges = edges;
    return id;
  }
  void fill(MapId array, uint32_t slot, ProgId program) {
    pipeline.maps[index(array)].prog_slots.emplace_back(slot, program);
  }
  ProgId program(std::string name, uint32_t ir_insns = 100, ProgType type = ProgType::xdp) {
    Program program;
    program.name = name;
    program.object = "test.o";
    program.type = type;
    pipeline.programs.push_back(program);
    Summary summary;
    summary.program = ProgId(summaries.size());
    summary.name = std::move(name);
    summary.type = type;
    summary.ir_insns = summary.bytecode_insns = ir_insns;
    summaries.push_back(summary);
    return summary.program;
  }
  ProgId entry(std::string name, uint32_t ir_insns = 100) {
    pipeline.entries.push_back(program(std::move(name), ir_insns));
    return pipeline.entries.back();
  }
  TailCallSite &call(ProgId from, std::optional<MapId> map, AbstractValue index_value) {
    auto &sites = summaries[index(from)].sites;
    TailCallSite site;
    site.insn = 10 * (sites.size() + 1);
    site.targets = {{map, std::move(index_value)}};
    sites.push_back(site);
    return sites.back();
  }
  /// Puts `to` into the next free slot of `map` and calls it.
  TailCallSite &call(ProgId from, MapId map, ProgId to) {
    auto &slots = pipeline.maps[index(map)].prog_slots;
    for (auto &[slot, program] : slots)
      if (program == to)
        return call(from, map, constant({slot}));
    uint32_t slot = slots.empty() ? 0 : slots.back().first + 1;
    fill(map, slot, to);
    return call(from, map, constant({slot}));
  }

  CallGraph graph() const {
    auto graph = build_call_graph(pipeline, summaries, policies);
    if (graph)
      return *graph;
    ADD_FAILURE() << llvm::toString(graph.takeError());
    std::abort();
  }
  std::string error() const {
    auto graph = build_call_graph(pipeline, summaries, policies);
    return graph ? "" : llvm::toString(graph.takeError());
  }
};

} // namespace ujit::test
