#include "lto/manifest.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/YAMLParser.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

namespace ujit {

namespace {

using llvm::formatv;

void print_names(llvm::raw_ostream &os, const char *key, const std::vector<NamedPlace> &names) {
  if (names.empty())
    return;
  os << key << ": [ ";
  llvm::interleaveComma(names, os, [&](const NamedPlace &n) { os << yaml_quoted(n.name); });
  os << " ]\n";
}

void print_object(llvm::raw_ostream &os, const ManifestObject &o) {
  os << "  - path: " << yaml_quoted(o.path) << '\n';
  if (!o.constants.empty())
    os << "    constants:\n";
  for (const ManifestConstant &c : o.constants) {
    os << "      - { name: " << yaml_quoted(c.name) << ", " << (c.bind ? "bind: " : "fold: ");
    if (c.bytes.empty())
      os << formatv("{0:x}", c.bind ? *c.bind : c.fold.value_or(0));
    else
      os << "[ "
         << llvm::join(llvm::map_range(c.bytes, [](uint8_t b) { return formatv("{0:x}", b).str(); }), ", ")
         << " ]";
    os << " }\n";
  }
  print_names(os, "    value-sections", o.value_sections);
  if (!o.types.empty())
    os << "    types:\n";
  for (const ManifestType &t : o.types)
    os << formatv("      - {{ section: {0}, type: {1} }\n", yaml_quoted(t.section), name_of(t.type));
}

void print_prog_array(llvm::raw_ostream &os, const ManifestProgArray &a) {
  os << formatv("  - map: {0}\n    edges: {1}\n", yaml_quoted(a.map),
                a.edges == EdgeKind::sealed ? "sealed" : "guarded");
  if (!a.slots.empty())
    os << "    slots:\n";
  for (const ManifestSlot &s : a.slots)
    os << formatv("      - {{ slot: {0}, program: {1} }\n", s.slot, yaml_quoted(s.program));
}

void print_attach(llvm::raw_ostream &os, const ManifestAttach &a) {
  os << "  - { ";
  if (!a.program.empty())
    os << "program: " << yaml_quoted(a.program) << ", ";
  const AttachPoint &p = a.point;
  if (p.hook == HookKind::slot) {
    os << formatv("map: {0}, slot: {1} }\n", yaml_quoted(p.interface), p.slot);
    return;
  }
  os << formatv("interface: {0}, hook: {1}", yaml_quoted(p.interface), name_of(p.hook));
  if (p.priority)
    os << ", priority: " << p.priority;
  if (p.handle)
    os << ", handle: " << p.handle;
  os << " }\n";
}

void print_route(llvm::raw_ostream &os, const ManifestRoute &r) {
  os << "  - { prefix: " << yaml_quoted(r.prefix) << ", ifindex: " << r.route.ifindex
     << ", dmac: " << yaml_quoted(r.dmac) << ", smac: " << yaml_quoted(r.smac);
  if (!r.gateway.empty())
    os << ", gateway: " << yaml_quoted(r.gateway);
  os << ", mtu: " << r.route.mtu << " }\n";
}

} // namespace

std::string yaml_quoted(std::string_view text) {
  const bool plain = !text.empty() && !llvm::isDigit(text[0]) && text[0] != '-' &&
                     std::all_of(text.begin(), text.end(), [](char c) {
                       return llvm::isAlnum(c) || c == '_' || c == '.' || c == '-' || c == '/';
                     });
  return plain ? std::string(text) : '"' + llvm::yaml::escape(text) + '"';
}

std::string print_manifest(const Manifest &m) {
  std::string out;
  llvm::raw_string_ostream os(out);
  os << "ujit-lto: 1\nname: " << yaml_quoted(m.name) << "\n";
  if (!m.objects.empty())
    os << "objects:\n";
  for (const ManifestObject &o : m.objects)
    print_object(os, o);
  if (!m.attach.empty())
    os << "attach:\n";
  for (const ManifestAttach &a : m.attach)
    print_attach(os, a);
  print_names(os, "entries", m.entries);
  if (!m.prog_arrays.empty())
    os << "prog-arrays:\n";
  for (const ManifestProgArray &a : m.prog_arrays)
    print_prog_array(os, a);
  print_names(os, "scratch-maps", m.scratch_maps);
  if (!m.maps.empty())
    os << "maps:\n";
  for (const ManifestMap &map : m.maps)
    os << formatv("  - {{ map: {0}, max-entries: {1} }\n", yaml_quoted(map.map), map.max_entries);
  if (m.fuse != Fuse::measured)
    os << "fuse: " << name_of(m.fuse) << '\n';
  os << formatv("target: {{ cpu: {0}, kernel: {1} }\n", yaml_quoted(m.cpu), yaml_quoted(m.kernel));
  std::vector<std::string> gates;
  auto gate = [&](const char *name, const std::optional<uint64_t> &limit) {
    if (limit)
      gates.push_back(formatv("{0}: {1}", name, *limit));
  };
  gate("stack", m.gates.stack);
  gate("code-bytes", m.gates.code_bytes);
  gate("unfused-edges", m.gates.unfused_edges);
  if (!gates.empty())
    os << "gates: { " << llvm::join(gates, ", ") << " }\n";
  if (!m.fib.empty())
    os << "fib:\n";
  for (const ManifestRoute &r : m.fib)
    print_route(os, r);
  if (!m.seed.empty())
    os << "seed: " << yaml_quoted(m.seed) << '\n';
  return out;
}

} // namespace ujit
