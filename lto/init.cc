#include "lto/init.h"

#include "kernel-iface/linux/attach.h"
#include "kernel-iface/linux/capture.h"

#include "lto/manifest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <set>

namespace ujit {

namespace {

using llvm::formatv;

bool sees_packets(ProgType type) {
  return type == ProgType::xdp || type == ProgType::sched_cls || type == ProgType::sched_act ||
         type == ProgType::socket_filter || type == ProgType::cgroup_skb;
}

/// The value that a variable of at most eight bytes has in the object.
uint64_t value_of(const Object &o, const Variable &v) {
  const std::vector<uint8_t> &contents = o.maps[index(v.map)].contents;
  uint64_t value = 0;
  for (uint32_t i = v.size; i-- > 0;)
    value = value << 8 | (v.offset + i < contents.size() ? contents[v.offset + i] : 0);
  return value;
}

void print_constants(llvm::raw_ostream &os, const Object &o) {
  std::vector<const Variable *> constants;
  for (const Variable &v : o.variables)
    if (o.maps[index(v.map)].frozen && v.size <= 8)
      constants.push_back(&v);
  if (constants.empty())
    return;
  os << "    # Read-only data is compiled in as the object has it. Name what your loader sets: `fold` "
        "compiles the\n"
        "    # value in, and dead code falls out; `bind` leaves it to each instance.\n"
        "    # constants:\n";
  for (const Variable *v : constants)
    os << formatv("    #   - {{ name: {0}, fold: {1:x} }  # {2} byte{3}\n", yaml_quoted(v->name),
                  value_of(o, *v), v->size, v->size == 1 ? "" : "s");
}

void print_types(llvm::raw_ostream &os, const Object &o) {
  std::set<std::string> sections;
  for (const Program &p : o.programs)
    if (p.type == ProgType::unspec)
      sections.insert(p.section);
  if (sections.empty())
    return;
  os << "    # These sections do not say what type their programs have. Uncomment and correct:\n    # "
        "types:\n";
  for (const std::string &s : sections)
    os << formatv("    #   - {{ section: {0}, type: sched_cls }\n", yaml_quoted(s));
}

void print_prog_array(llvm::raw_ostream &os, const Object &o, size_t map,
                      const std::vector<std::string> &loose) {
  const Map &m = o.maps[map];
  std::vector<std::string> known;
  for (const ObjectSlot &s : o.slots)
    if (index(s.map) == map)
      known.push_back(formatv("{0}: {1}", s.slot, s.program));
  os << formatv("  - map: {0}\n    edges: guarded  # sealed, if nothing changes the slots at run time\n",
                yaml_quoted(m.name));
  if (!known.empty()) {
    os << formatv("    # {0} of {1} slots are named by the object: {2}\n", known.size(), m.max_entries,
                  llvm::join(llvm::ArrayRef(known).take_front(8), ", ") + (known.size() > 8 ? ", ..." : ""));
    return;
  }
  os << formatv("    # None of its {0} slots is named by the object: a loader fills them. Say how:\n",
                m.max_entries);
  os << formatv("    # slots: [ {{ slot: 0, program: {0} } ]\n",
                loose.empty() ? "NAME" : yaml_quoted(loose.front()));
}

} // namespace

std::string first_manifest(std::span<const Object> objects, const std::string &name) {
  std::set<std::string> in_slots;
  for (const Object &o : objects)
    for (const ObjectSlot &s : o.slots)
      in_slots.insert(s.program);
  std::vector<std::string> loose;
  for (const Object &o : objects)
    for (const Program &p : o.programs)
      if (sees_packets(p.type) && !in_slots.contains(p.name))
        loose.push_back(p.name);

  std::string out;
  llvm::raw_string_ostream os(out);
  os << "# A first manifest, written by `ujit-lto init`: correct what is guessed, then `ujit-lto link` it.\n"
     << "# docs/manifest.md explains every key.\nujit-lto: 1\nname: " << yaml_quoted(name)
     << "\n\nobjects:\n";
  for (const Object &o : objects) {
    os << "  - path: " << yaml_quoted(o.path) << '\n';
    print_types(os, o);
    print_constants(os, o);
    for (const RefusedProgram &r : o.refused)
      os << formatv("    # {0} cannot be had from the object: {1}\n", r.name, r.error.message);
  }
  os << "\n# Programs that are attached from outside. Guessed: no prog-array slot names them.\n";
  if (loose.empty())
    os << "# entries: [ NAME ]\n";
  else
    os << "entries: [ " << llvm::join(llvm::map_range(loose, yaml_quoted), ", ") << " ]\n";

  std::set<std::string> printed;
  for (const Object &o : objects)
    for (size_t i = 0; i < o.maps.size(); ++i)
      if (o.maps[i].type == MapType::prog_array && !o.maps[i].is_template &&
          printed.insert(o.maps[i].name).second) {
        if (printed.size() == 1)
          os << "\nprog-arrays:\n";
        print_prog_array(os, o, i, loose);
      }

  std::vector<std::string> per_cpu;
  for (const Object &o : objects)
    for (const Map &m : o.maps)
      if (m.type == MapType::percpu_array && m.max_entries == 1)
        per_cpu.push_back(yaml_quoted(m.name));
  if (!per_cpu.empty())
    os << "\n# Per-CPU arrays that only these programs use, and only while one packet is handled:\n"
       << "# scratch-maps: [ " << llvm::join(per_cpu, ", ") << " ]\n";
  os << "\ntarget: { cpu: native, kernel: running }\n"
     << "\n# Limits that fail the build:\n# gates: { stack: 1024, code-bytes: 65536, unfused-edges: 0 }\n";
  return out;
}

Expected<std::string> running_manifest(const std::string &interface) {
  Expected<std::vector<AttachedProgram>> attached = attached_programs(interface);
  if (!attached)
    return attached.takeError();
  Manifest m;
  for (const AttachedProgram &a : *attached)
    m.attach.push_back({.program = {}, .point = attach_point(interface, a), .place = {}});
  if (m.attach.empty())
    return input_error("no XDP or tc program is attached to " + interface)
        .with_hint("`bpftool net` shows what is attached where")
        .error();
  m.name = interface;
  for (char &c : m.name) // an interface may be called almost anything
    if (!llvm::isAlnum(c) && c != '-' && c != '_')
      c = '-';
  return print_manifest(m);
}

} // namespace ujit
