// A program is a function in a section of its own kind, and all that it reaches: main first, then subprograms
// in the order in which they are first reached (breadth first), each once. libbpf makes programs of global
// functions only; Cilium has static ones too. A static function is a program if something puts it into a slot
// or nothing calls it.
#include "kernel-iface/object/programs.h"

#include "kernel-iface/object/code.h"
#include "kernel-iface/object/slot_section.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <set>
#include <unordered_map>

namespace ujit {

using llvm::formatv;

namespace {

/// Shared subprograms are copied into each program, so a small file can ask for any amount of code.
constexpr size_t max_total_insns = 16u << 20;

/// A slot that a function is put into.
struct Claim {
  MapId map{};
  uint32_t slot = 0;
  uint32_t function = 0;
};

class Reader {
public:
  Reader(const ElfFile &elf, const Btf &btf, const std::map<std::string, BtfExtSection> &btf_ext,
         const MapDefs &defs, const ObjectOptions &options, Object &object, Code &code)
      : elf_(elf), btf_(btf), btf_ext_(btf_ext), defs_(defs), options_(options), object_(object),
        code_(code) {}

  Error read() {
    only_text_ =
        std::all_of(code_.insns.begin(), code_.insns.end(), [&](auto &s) { return is_text(s.first); });
    if (Error e = claim_by_values())
      return e;
    if (Error e = claim_by_tags())
      return e;
    if (Error e = claim_by_sections())
      return e;
    choose_programs();
    name_programs();
    set_types();
    for (uint32_t f : programs_)
      if (Error e = add_program(f))
        return e;
    return add_slots();
  }

private:
  const std::string &section_name(const Function &f) const { return elf_.sections[f.section].name; }

  /// Functions of .text are subprograms, unless the object has no other code.
  bool in_program_section(const Function &f) const { return only_text_ || !is_text(f.section); }

  bool is_text(uint32_t section) const {
    const std::string &name = elf_.sections[section].name;
    return name == ".text" || name.starts_with(".text.");
  }

  Error claim_by_values() {
    for (const MapDefs::FunctionSlot &s : defs_.function_slots) {
      auto f = s.offset % 8 == 0 ? code_.function_at(s.section, s.offset / 8) : std::nullopt;
      if (!f || !in_program_section(code_.functions[*f]))
        return input_error(formatv("map {0}: slot {1} of `values` names no program of this object",
                                   defs_.maps[index(s.map)].name, s.slot)
                               .str())
            .error();
      claims_.push_back({s.map, s.slot, *f});
    }
    return Error::success();
  }

  Error claim_by_tags() {
    std::unordered_map<uint32_t, uint32_t> by_type;
    std::unordered_map<std::string_view, uint32_t> by_name;
    for (uint32_t i = 0; i < code_.functions.size(); ++i) {
      if (code_.functions[i].btf_func)
        by_type.emplace(code_.functions[i].btf_func, i);
      by_name.emplace(code_.functions[i].name, i);
    }
    for (const BtfType &t : btf_.types()) {
      auto slot = t.kind == BtfKind::decl_tag && t.component == -1 ? parse_slot_tag(t.name) : std::nullopt;
      if (!slot || btf_[t.type].kind != BtfKind::func)
        continue;
      std::optional<uint32_t> f;
      if (auto it = by_type.find(t.type); it != by_type.end())
        f = it->second;
      else if (auto it = by_name.find(btf_[t.type].name); it != by_name.end())
        f = it->second;
      if (!f)
        continue; // declared and tagged, but not compiled into this object
      auto map = defs_.by_name(slot->map);
      if (!map || defs_.maps[index(*map)].type != MapType::prog_array)
        return input_error(formatv("declaration tag `{0}` names no prog array of this object", t.name).str())
            .in_program(code_.functions[*f].name)
            .error();
      claims_.push_back({*map, slot->slot, *f});
    }
    return Error::success();
  }

  /// Sections `map/slot`. iproute2 counts maps by their id, and the section is one program there.
  Error claim_by_sections() {
    for (uint32_t i = 0; i < code_.functions.size(); ++i) {
      const Function &f = code_.functions[i];
      auto slot = parse_slot_section(section_name(f));
      if (!slot || !in_program_section(f) || (!f.global && (f.called || has_global(f.section))))
        continue;
      std::optional<MapId> map = slot->map_id ? defs_.by_legacy_id(*slot->map_id) : defs_.by_name(slot->map);
      if (map && defs_.maps[index(*map)].type == MapType::prog_array) {
        claims_.push_back({*map, slot->slot, i});
        slot_sections_.insert(f.section);
      } else if (slot->map_id && defs_.iproute2) {
        return input_error(formatv("section {0} is for the prog array with id {1}, but no map has that id",
                                   section_name(f), *slot->map_id)
                               .str())
            .in_program(f.name)
            .error();
      }
    }
    return Error::success();
  }

  bool has_global(uint32_t section) {
    if (sections_with_global_.empty()) {
      sections_with_global_.resize(elf_.sections.size());
      for (const Function &f : code_.functions)
        sections_with_global_[f.section] = sections_with_global_[f.section] || f.global;
    }
    return sections_with_global_[section];
  }

  void choose_programs() {
    std::vector<bool> claimed(code_.functions.size());
    for (const Claim &c : claims_)
      claimed[c.function] = true;
    for (uint32_t i = 0; i < code_.functions.size(); ++i) {
      const Function &f = code_.functions[i];
      if (in_program_section(f) && (f.global || claimed[i] || !f.called))
        programs_.push_back(i);
    }
  }

  /// Static functions of linked objects may have the same name.
  void name_programs() {
    std::set<std::string> taken;
    for (uint32_t i : programs_) {
      std::string name = code_.functions[i].name;
      for (int n = 2; !taken.insert(name).second; ++n)
        name = formatv("{0}#{1}", code_.functions[i].name, n).str();
      names_[i] = name;
    }
  }

  void set_types() {
    std::set<ProgType> known;
    std::vector<uint32_t> by_others;
    for (uint32_t i : programs_) {
      const Function &f = code_.functions[i];
      ProgType &type = types_[i];
      if (auto it = options_.types.find(f.name); it != options_.types.end())
        type = it->second;
      else if (auto it = options_.types.find(section_name(f)); it != options_.types.end())
        type = it->second;
      else if (slot_sections_.count(f.section)) {
        by_others.push_back(i);
        continue;
      } else if (type = type_of_section(section_name(f)); type == ProgType::unspec && defs_.iproute2)
        type = ProgType::sched_cls; // what `tc` loads by default
      if (type != ProgType::unspec)
        known.insert(type);
    }
    for (uint32_t i : by_others)
      types_[i] = known.size() == 1 ? *known.begin()
                  : defs_.iproute2  ? ProgType::sched_cls
                                    : ProgType::unspec;
  }

  Error add_program(uint32_t main) {
    std::vector<uint32_t> order{main};
    std::unordered_map<uint32_t, uint32_t> start_of{{main, 0}};
    size_t size = length(main);
    std::optional<LinkError> refusal;
    for (size_t i = 0; i < order.size(); ++i) {
      const Function &f = code_.functions[order[i]];
      if (f.refusal && !refusal) {
        refusal = f.refusal;
        refusal->at(*f.refusal->insn + start_of[order[i]]);
        if (i)
          refusal->note(formatv("in subprogram {0}: insn {1}", f.name, *f.refusal->insn).str());
      }
      for (const Function::Reference &r : f.references)
        if (start_of.emplace(r.target, uint32_t(size)).second) {
          order.push_back(r.target);
          size += length(r.target);
        }
    }
    total_ += size;
    if (total_ > max_total_insns)
      return unsupported(
                 formatv("the programs have more than {0} instructions together", max_total_insns).str())
          .error();

    Program p;
    p.name = names_[main];
    p.object = object_.path;
    p.section = section_name(code_.functions[main]);
    p.type = types_[main];
    if (!refusal) {
      p.insns.reserve(size);
      for (uint32_t f : order)
        append(p, code_.functions[f], start_of);
      refusal = check(p);
    }
    if (refusal) {
      refusal->in_file(object_.path).in_program(p.name);
      object_.refused.push_back({p.name, p.section, p.type, std::move(*refusal)});
      return Error::success();
    }
    for (uint32_t f : order)
      for (const Function::Inlined &v : code_.functions[f].inlined)
        object_.inlined.push_back(
            {uint32_t(object_.programs.size()), start_of[f] + v.insn, v.map, v.offset, v.size});
    object_.programs.push_back(std::move(p));
    return Error::success();
  }

  size_t length(uint32_t f) const { return code_.functions[f].end - code_.functions[f].start; }

  void append(Program &p, const Function &f, const std::unordered_map<uint32_t, uint32_t> &start_of) {
    uint32_t base = p.insns.size();
    const std::vector<Insn> &insns = code_.insns[f.section];
    p.insns.insert(p.insns.end(), insns.begin() + f.start, insns.begin() + f.end);
    p.subprograms.push_back({f.name, base, uint32_t(p.insns.size()), f.btf_func});
    for (const Function::Reference &r :
         f.references) // distances count from the next slot, for calls and addresses
      p.insns[base + r.insn].imm = int32_t(start_of.at(r.target)) - int32_t(base + r.insn + 1);

    auto it = btf_ext_.find(section_name(f));
    if (it == btf_ext_.end())
      return;
    const auto &lines = it->second.lines;
    auto line = std::lower_bound(lines.begin(), lines.end(), f.start,
                                 [](const auto &l, uint32_t insn) { return l.insn < insn; });
    for (; line != lines.end() && line->insn < f.end; ++line)
      p.lines.push_back(
          {base + line->insn - f.start, std::string(line->file), line->line, std::string(line->text)});
  }

  static std::optional<LinkError> check(const Program &p) {
    std::vector<uint32_t> starts;
    for (const Subprogram &s : p.subprograms)
      starts.push_back(s.start);
    std::optional<LinkError> first;
    llvm::handleAllErrors(
        check_program(p.insns, starts),
        [&](const LinkError &e) {
          if (!first)
            first = e;
        },
        [&](const llvm::ErrorInfoBase &e) {
          if (!first)
            first = input_error(e.message());
        });
    return first;
  }

  Error add_slots() {
    std::sort(claims_.begin(), claims_.end(), [](const Claim &a, const Claim &b) {
      return std::tuple(a.map, a.slot, a.function) < std::tuple(b.map, b.slot, b.function);
    });
    const Claim *last = nullptr;
    for (const Claim &c : claims_) {
      const Map &map = object_.maps[index(c.map)];
      if (c.slot >= map.max_entries)
        return input_error(formatv("slot {0} of prog array {1} is out of range (max_entries is {2})", c.slot,
                                   map.name, map.max_entries)
                               .str())
            .in_program(names_[c.function])
            .error();
      if (last && last->map == c.map && last->slot == c.slot) {
        if (last->function == c.function)
          continue;
        return input_error(formatv("slot {0} of prog array {1} is named twice", c.slot, map.name).str())
            .note("by " + names_[last->function])
            .note("by " + names_[c.function])
            .error();
      }
      object_.slots.push_back({c.map, c.slot, names_[c.function]});
      last = &c;
    }
    return Error::success();
  }

  const ElfFile &elf_;
  const Btf &btf_;
  const std::map<std::string, BtfExtSection> &btf_ext_;
  const MapDefs &defs_;
  const ObjectOptions &options_;
  Object &object_;
  Code &code_;

  std::vector<Claim> claims_;
  std::vector<uint32_t> programs_; ///< functions that are programs
  std::map<uint32_t, std::string> names_;
  std::map<uint32_t, ProgType> types_;
  std::set<uint32_t> slot_sections_; ///< ELF sections that are named after a slot
  std::vector<bool> sections_with_global_;
  bool only_text_ = false;
  size_t total_ = 0;
};

} // namespace

Error read_programs(const ElfFile &elf, const Btf &btf, const std::map<std::string, BtfExtSection> &btf_ext,
                    const MapDefs &defs, const ObjectOptions &options, Object &object) {
  auto code = read_code(elf, btf, btf_ext, defs, options);
  if (!code)
    return code.takeError();
  return Reader(elf, btf, btf_ext, defs, options, object, *code).read();
}

} // namespace ujit
