// Programs and maps in the order in which they are found from the entries: through a program's instructions
// to its maps, through prog arrays by slot to programs. That order, and names made unique along it, depend on
// the code alone, so two loads of one object give equal pipelines.
#include "kernel-iface/linux/canonical.h"

#include "kernel-iface/linux/canonical_program.h"

#include "llvm/Support/FormatVariadic.h"

#include <linux/bpf.h>

#include <algorithm>
#include <set>

namespace ujit {

using llvm::formatv;

namespace {

constexpr size_t absent = ~size_t(0);

bool names_map(const Insn &insn) { return is_wide(insn) && (insn.src == 1 || insn.src == 2); }

class Assembly {
public:
  explicit Assembly(const Capture &capture)
      : capture_(capture), program_of_(capture.programs.size(), absent), seen_(capture.programs.size()),
        map_of_(capture.maps.size(), absent) {}

  Expected<CanonicalPipeline> run() {
    out_.pipeline.kernel = capture_.kernel;
    for (size_t i = 0; i < capture_.entries; i++) {
      reach_program(i);
      if (program_of_[i] == absent)
        return unsupported(out_.unfused.back().reason)
            .in_program(capture_.programs[i].name)
            .note("it is an entry, so nothing can be fused without it")
            .error();
      out_.pipeline.entries.push_back(ProgId(program_of_[i]));
    }
    std::ranges::sort(out_.pipeline.entries);
    const auto twice = std::ranges::unique(out_.pipeline.entries);
    out_.pipeline.entries.erase(twice.begin(), twice.end());
    for (size_t done_programs = 0, done_maps = 0; done_programs < out_.pipeline.programs.size();) {
      reach_maps(out_.pipeline.programs[done_programs], capture_.programs[out_.programs[done_programs]]);
      done_programs++;
      for (; done_maps < out_.maps.size(); done_maps++)
        follow_map(done_maps);
    }
    for (size_t i = 0; i < out_.maps.size(); i++)
      fill_slots(i);
    return std::move(out_);
  }

private:
  void refuse(size_t program, std::string reason) { out_.unfused.push_back({program, std::move(reason)}); }

  void reach_program(size_t i) {
    if (seen_[i])
      return;
    seen_[i] = true;
    const CapturedProgram &captured = capture_.programs[i];
    if (!captured.refused.empty())
      return refuse(i, captured.refused);
    Expected<Program> program = canonical_program(capture_, captured);
    if (!program)
      return refuse(i, llvm::toString(program.takeError()));
    program->name = unique(program_names_, captured.name.empty() ? "program" : captured.name);
    program->subprograms[0].name = program->name;
    program_of_[i] = out_.pipeline.programs.size();
    out_.pipeline.programs.push_back(std::move(*program));
    out_.programs.push_back(i);
  }

  /// Maps by first reference, then those that the program holds without naming them.
  void reach_maps(Program &program, const CapturedProgram &captured) {
    for (uint32_t at = 0; at < program.insns.size(); at += is_wide(program.insns[at]) ? 2 : 1)
      if (Insn &insn = program.insns[at]; names_map(insn))
        insn.imm = int32_t(reach_named(uint32_t(insn.imm)));
    for (uint32_t id : captured.map_ids)
      reach_named(size_t(capture_.map_by_id(id) - capture_.maps.data()));
  }

  size_t reach_named(size_t i) {
    const size_t id = reach_map(i);
    out_.pipeline.maps[id].is_template = false;
    return id;
  }

  size_t reach_map(size_t i) {
    if (map_of_[i] != absent)
      return map_of_[i];
    const CapturedMap &captured = capture_.maps[i];
    Map map;
    map.name = unique(map_names_, captured.name.empty() ? "map" : captured.name);
    map.type = captured.type;
    map.key_size = captured.key_size;
    map.value_size = captured.value_size;
    map.max_entries = captured.max_entries;
    map.flags = captured.flags;
    map.extra = captured.extra;
    map.special_fields = captured.special_fields;
    if (captured.frozen && captured.flags & BPF_F_RDONLY_PROG && !captured.contents.empty()) {
      map.frozen = true;
      map.contents = captured.contents;
    }
    map_of_[i] = out_.maps.size();
    out_.pipeline.maps.push_back(std::move(map));
    out_.maps.push_back(i);
    return map_of_[i];
  }

  void follow_map(size_t id) {
    const CapturedMap &captured = capture_.maps[out_.maps[id]];
    for (auto [slot, program] : captured.prog_slots)
      if (const CapturedProgram *p = capture_.program_by_id(program))
        reach_program(size_t(p - capture_.programs.data()));
    if (captured.inner_id)
      if (const CapturedMap *inner = capture_.map_by_id(*captured.inner_id))
        reach_inner(id, *inner);
  }

  /// An inner map stands for all of its shape. It may be a map that programs name too; then it is that one,
  /// and its values are still reached through others (SAFETY: alias domains).
  void reach_inner(size_t outer, const CapturedMap &inner) {
    const size_t i = size_t(&inner - capture_.maps.data());
    const bool named = map_of_[i] != absent;
    const size_t id = reach_map(i);
    if (!named)
      out_.pipeline.maps[id].is_template = true;
    out_.pipeline.maps[outer].inner = MapId(id);
  }

  void fill_slots(size_t id) {
    for (auto [slot, program] : capture_.maps[out_.maps[id]].prog_slots)
      if (const CapturedProgram *p = capture_.program_by_id(program))
        if (const size_t to = program_of_[size_t(p - capture_.programs.data())]; to != absent)
          out_.pipeline.maps[id].prog_slots.push_back({slot, ProgId(to)});
  }

  static std::string unique(std::set<std::string> &taken, const std::string &name) {
    std::string out = name;
    for (unsigned n = 2; !taken.insert(out).second; n++)
      out = formatv("{0}.{1}", name, n).str();
    return out;
  }

  const Capture &capture_;
  CanonicalPipeline out_;
  std::vector<size_t> program_of_; ///< by index into Capture::programs: ProgId
  std::vector<uint8_t> seen_;
  std::vector<size_t> map_of_; ///< by index into Capture::maps: MapId
  std::set<std::string> program_names_, map_names_;
};

} // namespace

Expected<CanonicalPipeline> canonicalise(const Capture &capture) { return Assembly(capture).run(); }

std::span<const std::string> translation_symbols() {
  static const std::string names[] = {"__htab_map_lookup_elem",
                                      "bpf_get_smp_processor_id",
                                      "bpf_map_lookup_elem",
                                      "bpf_jiffies64",
                                      "copy_from_kernel_nofault",
                                      "cpu_number",
                                      "pcpu_hot",
                                      "this_cpu_off"};
  return names;
}

} // namespace ujit
