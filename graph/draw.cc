// Text and graphviz drawings. All figures come from count(), so that every form shows the same.
#include "graph/draw.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

namespace ujit {
namespace {

std::string slot_name(const Pipeline &pipeline, const StateSlot &slot) {
  if (slot.region == StateSlot::context)
    return llvm::formatv("context+{0} ({1} bytes)", slot.offset, slot.size);
  std::string map = index(slot.map) < pipeline.maps.size() ? pipeline[slot.map].name : "?";
  return llvm::formatv("{0}+{1} ({2} bytes)", map, slot.offset, slot.size);
}

/// `jmp[3]`, `jmp[*]` or `?[*]`.
std::string place(const CallGraph &graph, const Edge &edge) {
  if (edge.any_map)
    return "?[*]";
  std::string map = graph.array_of(edge.map)->name;
  return edge.any_slot ? map + "[*]" : llvm::formatv("{0}[{1}]", map, edge.slot).str();
}

std::string target_text(const CallGraph &graph, const Edge &edge) {
  if (edge.to)
    return graph.summaries[index(*edge.to)].name;
  if (edge.any_map)
    return "any prog array";
  auto &array = *graph.array_of(edge.map);
  if (edge.any_slot)
    return array.slots.empty() ? "(array is empty)"
                               : llvm::formatv("any of {0} slots", array.slots.size()).str();
  return edge.slot < array.max_entries ? "(empty slot)" : "(out of range)";
}

std::string figures(const GraphCounts &c, const CallGraph &graph) {
  std::string cycles =
      c.cycles.empty()
          ? "none"
          : llvm::join(llvm::map_range(c.cycles, [](uint32_t n) { return std::to_string(n); }), " + ");
  std::string depth = std::to_string(c.depth) + (c.depth == 1 ? " program, " : " programs, ");
  if (graph.depth)
    depth += llvm::formatv("at most {0} tail calls", *graph.depth);
  else
    depth += "number of tail calls not bounded";
  return llvm::formatv(
      "{0} instructions in {1} programs ({2} reachable from {3} entries)\n"
      "{4} tail-call sites: {5} constant, {6} few, {7} dynamic index; {8} solved over the graph\n"
      "{9} edges ({10} of {11} called programs have one caller), {12} misses, {13} sites left to a prog "
      "array\n"
      "cycles: {14}\ndepth: {15}\n",
      c.bytecode_insns, c.programs, c.reachable, c.entries, c.sites, c.constant, c.few, c.dynamic, c.solved,
      c.edges, c.single_caller, c.called, c.misses, c.left, cycles, depth);
}

struct Line {
  std::string insn, where, kind, target, note;
};

void print_aligned(const std::vector<Line> &lines, llvm::raw_ostream &os) {
  size_t where = 0, kind = 0, target = 0;
  for (auto &line : lines) {
    where = std::max(where, line.where.size());
    kind = std::max(kind, line.kind.size());
    target = std::max(target, line.target.size());
  }
  for (auto &line : lines) {
    std::string text;
    llvm::raw_string_ostream row(text);
    row << "  insn " << llvm::right_justify(line.insn, 6) << "  " << llvm::left_justify(line.where, where)
        << "  " << llvm::left_justify(line.kind, kind) << "  -> " << llvm::left_justify(line.target, target)
        << "  " << line.note;
    os << llvm::StringRef(text).rtrim() << "\n";
  }
}

std::vector<Line> lines_of(const CallGraph &graph, ProgId p) {
  std::vector<Line> lines;
  auto &summary = graph.summaries[index(p)];
  for (auto &edge : graph.edges_of(p)) {
    auto &site = summary.sites[edge.site];
    auto &solved = graph.sites_of(p)[edge.site];
    std::string note = site.source;
    if (site.subprogram != 0)
      note += llvm::formatv("{0}in subprogram {1}", note.empty() ? "" : ", ", site.subprogram);
    if (solved.solved && !edge.any_slot)
      note += note.empty() ? "solved" : ", solved";
    lines.push_back({std::to_string(site.insn), place(graph, edge), std::string(name_of(edge.kind)),
                     target_text(graph, edge), note});
  }
  return lines;
}

/// The inside of a quoted graphviz string.
std::string escaped(llvm::StringRef text) {
  std::string result;
  for (unsigned char c : text)
    if (c == '"' || c == '\\')
      result += {'\\', char(c)};
    else if (c == '\n')
      result += "\\n";
    else if (c < 0x20 || c >= 0x7f)
      result += llvm::formatv("\\\\x{0}", llvm::utohexstr(c, true, 2)).str();
    else
      result += char(c);
  return result;
}

llvm::StringRef style_of(EdgeKind kind) {
  switch (kind) {
  case EdgeKind::sealed: return "solid";
  case EdgeKind::guarded: return "dashed";
  case EdgeKind::dispatched: return "bold";
  case EdgeKind::left: return "dotted";
  }
  return "solid";
}

void draw_program(const CallGraph &graph, ProgId p, llvm::StringRef indent, llvm::raw_ostream &os) {
  auto &summary = graph.summaries[index(p)];
  bool entry = std::ranges::binary_search(graph.entries, p);
  os << indent << "p" << index(p) << " [label=\"" << escaped(summary.name) << "\\n"
     << summary.bytecode_insns << " insns, " << summary.ir_insns << " IR\"";
  if (entry)
    os << ", peripheries=2";
  if (!graph.reachable[index(p)])
    os << ", color=gray60, fontcolor=gray60";
  os << "];\n";
}

void draw_edges(const CallGraph &graph, llvm::raw_ostream &os) {
  std::vector<bool> array_drawn(graph.arrays.size());
  std::vector<bool> miss_drawn(graph.summaries.size());
  bool any_drawn = false;
  for (auto &edge : graph.edges) {
    std::string to;
    if (edge.to) {
      to = llvm::formatv("p{0}", index(*edge.to));
    } else if (edge.any_map) {
      to = "any";
      any_drawn = true;
    } else if (edge.any_slot) {
      auto row = graph.array_of(edge.map) - graph.arrays.data();
      to = llvm::formatv("a{0}", row);
      array_drawn[row] = true;
    } else {
      to = llvm::formatv("miss{0}", index(edge.from));
      if (!miss_drawn[index(edge.from)])
        os << "  " << to << " [shape=point];\n";
      miss_drawn[index(edge.from)] = true;
    }
    os << "  p" << index(edge.from) << " -> " << to << " [style=" << style_of(edge.kind) << ", label=\""
       << escaped(place(graph, edge)) << "\"];\n";
  }
  if (any_drawn)
    os << "  any [label=\"any prog array\", shape=cylinder];\n";
  for (size_t row = 0; row < graph.arrays.size(); ++row) {
    if (!array_drawn[row] && !any_drawn)
      continue;
    auto &array = graph.arrays[row];
    os << "  a" << row << " [label=\"" << escaped(array.name) << "\", shape=cylinder];\n";
    if (any_drawn)
      os << "  any -> a" << row << " [style=dotted];\n";
    for (auto &[slot, program] : array.slots)
      os << "  a" << row << " -> p" << index(program) << " [style=dotted, label=\"" << slot << "\"];\n";
  }
}

/// A file that is gone when the scope ends.
struct TemporaryFile {
  llvm::SmallString<128> path;
  llvm::FileRemover remover;
  int fd = -1;

  std::error_code create(llvm::StringRef suffix) {
    auto error = llvm::sys::fs::createTemporaryFile("ujit-graph", suffix, fd, path);
    if (!error)
      remover.setFile(path);
    return error;
  }
};

} // namespace

std::string why_dynamic(const Pipeline &pipeline, const CallGraph &graph, const Site &site) {
  if (site.index_class != IndexClass::dynamic)
    return {};
  auto &targets = graph.summaries[index(site.from)].sites[site.site].targets;
  for (size_t i = 0; i < site.targets.size(); ++i) {
    if (!site.targets[i].map)
      return "the map is not known";
    if (!site.targets[i].indices.empty())
      continue;
    if (targets[i].index.kind != AbstractValue::entry)
      return "the index is computed at run time";
    std::string slot = slot_name(pipeline, targets[i].index.slot);
    if (!graph.reachable[index(site.from)])
      return "the index is loaded from " + slot + ", and no caller is known";
    if (std::ranges::binary_search(graph.entries, site.from))
      return "the index is loaded from " + slot + ", which is unknown as the program is an entry";
    return "the index is loaded from " + slot + ", which not all callers leave constant";
  }
  return {};
}

void draw_text(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os) {
  os << figures(count(graph), graph);
  for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
    auto &summary = graph.summaries[p];
    bool entry = std::ranges::binary_search(graph.entries, ProgId(p));
    os << "\n"
       << summary.name << "  " << name_of(summary.type) << (entry ? ", entry" : "")
       << (graph.reachable[p] ? "" : ", not reachable") << ", " << summary.bytecode_insns << " instructions, "
       << summary.ir_insns << " IR, stack " << summary.stack_bytes << "\n";
    print_aligned(lines_of(graph, ProgId(p)), os);
  }
  if (!graph.cycles.empty())
    os << "\ncycles\n";
  for (auto &cycle : graph.cycles) {
    os << " ";
    for (ProgId p : cycle.programs)
      os << " " << graph.summaries[index(p)].name;
    os << "\n";
  }
  bool heading = false;
  for (auto &site : graph.sites) {
    std::string why = why_dynamic(pipeline, graph, site);
    if (why.empty())
      continue;
    if (!std::exchange(heading, true))
      os << "\nunresolved\n";
    auto &summary = graph.summaries[index(site.from)];
    os << "  " << summary.name << ": insn " << summary.sites[site.site].insn << ": " << why << "\n";
  }
}

void draw_dot(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os) {
  os << "digraph tail_calls {\n"
        "  node [shape=box, fontname=\"Helvetica\", fontsize=10];\n"
        "  edge [fontname=\"Helvetica\", fontsize=8];\n";
  std::vector<bool> drawn(graph.summaries.size());
  for (size_t i = 0; i < graph.cycles.size(); ++i) {
    os << "  subgraph cluster_" << i << " {\n    label=\"cycle of " << graph.cycles[i].programs.size()
       << "\"; color=firebrick;\n";
    for (ProgId p : graph.cycles[i].programs) {
      draw_program(graph, p, "    ", os);
      drawn[index(p)] = true;
    }
    os << "  }\n";
  }
  for (uint32_t p = 0; p < graph.summaries.size(); ++p)
    if (!drawn[p])
      draw_program(graph, ProgId(p), "  ", os);
  draw_edges(graph, os);
  os << "}\n";
}

Error write_svg(const Pipeline &pipeline, const CallGraph &graph, llvm::raw_ostream &os) {
  auto dot = llvm::sys::findProgramByName("dot");
  if (!dot)
    return unsupported("graphviz is needed to draw SVG, and its program 'dot' is not in PATH")
        .with_hint("install the package graphviz, or use --format=dot")
        .error();
  TemporaryFile input, output, messages;
  for (auto [file, suffix] : {std::pair(&input, "dot"), {&output, "svg"}, {&messages, "txt"}})
    if (auto error = file->create(suffix))
      return input_error("cannot create a temporary file: " + error.message()).error();
  {
    llvm::raw_fd_ostream file(input.fd, true);
    draw_dot(pipeline, graph, file);
    file.close();
    if (auto error = file.error()) {
      file.clear_error();
      return input_error("cannot write a temporary file: " + error.message())
          .in_file(input.path.str().str())
          .error();
    }
  }
  llvm::sys::Process::SafelyCloseFileDescriptor(output.fd);
  llvm::sys::Process::SafelyCloseFileDescriptor(messages.fd);
  llvm::StringRef arguments[] = {*dot, "-Tsvg", "-o", output.path, input.path};
  std::optional<llvm::StringRef> redirects[] = {llvm::StringRef(), llvm::StringRef(), messages.path.str()};
  std::string why;
  if (int code = llvm::sys::ExecuteAndWait(*dot, arguments, std::nullopt, redirects, 60, 0, &why);
      code != 0) {
    auto error = unsupported(
        llvm::formatv("graphviz failed ({0})", why.empty() ? "exit code " + std::to_string(code) : why));
    if (auto text = llvm::MemoryBuffer::getFile(messages.path); text && (*text)->getBufferSize() > 0)
      error.note((*text)->getBuffer().take_front(500).split('\n').first.str());
    return error.with_hint("--format=dot gives its input").error();
  }
  auto svg = llvm::MemoryBuffer::getFile(output.path);
  if (!svg)
    return internal_error("graphviz wrote no output: " + svg.getError().message()).error();
  os << (*svg)->getBuffer();
  return Error::success();
}

} // namespace ujit
