// The graph as JSON: stable keys, everything by name as well as by instruction.
#include "graph/draw.h"

#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

namespace ujit {
namespace {

/// Names come from files and need not be UTF-8.
llvm::json::Value text(std::string_view s) { return llvm::json::fixUTF8(s); }

llvm::json::Value name(const CallGraph &graph, ProgId p) { return text(graph.summaries[index(p)].name); }

uint32_t insn_of(const CallGraph &graph, ProgId p, uint32_t site) {
  return graph.summaries[index(p)].sites[site].insn;
}

void write_summary(const CallGraph &graph, llvm::json::OStream &json) {
  GraphCounts c = count(graph);
  json.attribute("instructions", c.bytecode_insns);
  json.attribute("ir_instructions", c.ir_insns);
  json.attribute("programs", c.programs);
  json.attribute("reachable", c.reachable);
  json.attribute("entries", c.entries);
  json.attribute("sites", c.sites);
  json.attribute("constant", c.constant);
  json.attribute("few", c.few);
  json.attribute("dynamic", c.dynamic);
  json.attribute("solved", c.solved);
  json.attribute("edges", c.edges);
  json.attribute("called", c.called);
  json.attribute("single_caller", c.single_caller);
  json.attribute("misses", c.misses);
  json.attribute("left", c.left);
  json.attribute("cycles", llvm::json::Array(c.cycles));
  json.attribute("depth", c.depth);
  json.attribute("max_tail_calls", graph.depth ? llvm::json::Value(*graph.depth) : nullptr);
}

void write_programs(const Pipeline &pipeline, const CallGraph &graph, llvm::json::OStream &json) {
  std::vector<std::optional<uint32_t>> cycle(graph.summaries.size());
  for (uint32_t i = 0; i < graph.cycles.size(); ++i)
    for (ProgId p : graph.cycles[i].programs)
      cycle[index(p)] = i;
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    auto &summary = graph.summaries[p];
    json.object([&] {
      json.attribute("name", text(summary.name));
      json.attribute("object", text(pipeline.programs[p].object));
      json.attribute("type", text(name_of(summary.type)));
      json.attribute("entry", std::ranges::binary_search(graph.entries, ProgId(p)));
      json.attribute("reachable", bool(graph.reachable[p]));
      json.attribute("instructions", summary.bytecode_insns);
      json.attribute("ir_instructions", summary.ir_insns);
      json.attribute("stack_bytes", summary.stack_bytes);
      json.attribute("helpers", llvm::json::Array(summary.helpers));
      json.attribute("cycle", cycle[p] ? llvm::json::Value(*cycle[p]) : nullptr);
    });
  }
}

void write_tail_calls(const Pipeline &pipeline, const CallGraph &graph, llvm::json::OStream &json) {
  for (auto &site : graph.sites) {
    auto &summary = graph.summaries[index(site.from)].sites[site.site];
    json.object([&] {
      json.attribute("program", name(graph, site.from));
      json.attribute("insn", summary.insn);
      json.attribute("subprogram", summary.subprogram);
      json.attribute("source", text(summary.source));
      json.attribute("index", text(name_of(site.index_class)));
      json.attribute("solved", site.solved);
      json.attributeArray("targets", [&] {
        for (auto &target : site.targets)
          json.object([&] {
            json.attribute("map", target.map ? text(graph.array_of(*target.map)->name) : nullptr);
            json.attribute("indices", target.indices.empty() ? llvm::json::Value(nullptr)
                                                             : llvm::json::Array(target.indices));
          });
      });
      std::string why = why_dynamic(pipeline, graph, site);
      json.attribute("reason", why.empty() ? llvm::json::Value(nullptr) : text(why));
    });
  }
}

void write_edges(const CallGraph &graph, llvm::json::OStream &json) {
  for (auto &edge : graph.edges)
    json.object([&] {
      json.attribute("from", name(graph, edge.from));
      json.attribute("insn", insn_of(graph, edge.from, edge.site));
      json.attribute("map", edge.any_map ? nullptr : text(graph.array_of(edge.map)->name));
      json.attribute("slot", edge.any_slot ? llvm::json::Value(nullptr) : edge.slot);
      json.attribute("to", edge.to ? name(graph, *edge.to) : nullptr);
      json.attribute("kind", text(name_of(edge.kind)));
    });
}

void write_names(const CallGraph &graph, std::span<const ProgId> programs, llvm::json::OStream &json) {
  for (ProgId p : programs)
    json.value(name(graph, p));
}

} // namespace

void draw_json(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os) {
  llvm::json::OStream json(os, 2);
  json.object([&] {
    json.attributeObject("summary", [&] { write_summary(graph, json); });
    json.attributeArray("programs", [&] { write_programs(pipeline, graph, json); });
    json.attributeArray("tail_calls", [&] { write_tail_calls(pipeline, graph, json); });
    json.attributeArray("edges", [&] { write_edges(graph, json); });
    json.attributeArray("entries", [&] {
      for (ProgId entry : graph.entries)
        json.object([&] {
          json.attribute("program", name(graph, entry));
          json.attribute("type", text(name_of(graph.summaries[index(entry)].type)));
          json.attributeArray("reaches", [&] { write_names(graph, graph.reachable_from(entry), json); });
        });
    });
    json.attributeArray("cycles", [&] {
      for (auto &cycle : graph.cycles)
        json.object([&] {
          json.attributeArray("programs", [&] { write_names(graph, cycle.programs, json); });
          json.attribute("reachable", bool(graph.reachable[index(cycle.programs.front())]));
        });
    });
  });
  os << "\n";
}

} // namespace ujit
