// A BTF-defined map is a global struct variable in section `.maps` whose members' *types* are the attributes:
// a pointer to an array of N ints says N, a pointer to a type says that type. Only `values` has contents:
// relocations at the variable, each one a slot of a prog array or of a map of maps.
#include "kernel-iface/object/map_defs.h"

#include "kernel-iface/object/legacy_maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <iterator>
#include <unordered_map>

namespace ujit {

using llvm::formatv;

namespace {

constexpr uint32_t flag_rdonly_prog = 1u << 7, flag_mmapable = 1u << 10;

/// Largest data section that becomes a map; a file of a few bytes can ask for any size of .bss.
constexpr uint64_t max_data_size = 64u << 20;

/// What one struct defines, before it has a place among the maps.
struct Definition {
  Map map;
  uint64_t pinning = 0;
  std::optional<uint32_t> values_offset; ///< bytes in the struct
  uint32_t inner_struct = 0;             ///< BTF id of the inner maps' struct; 0: none
};

/// The number that a member's type stands for: __uint() is a pointer to an array of that many ints, __ulong()
/// an enum with one value.
std::optional<uint64_t> number_of(const Btf &btf, uint32_t type) {
  auto id = btf.strip(type);
  if (!id)
    return std::nullopt;
  const BtfType &t = btf[*id];
  if ((t.kind == BtfKind::enum_ || t.kind == BtfKind::enum64) && t.items.size() == 1)
    return t.items[0].value;
  if (t.kind != BtfKind::ptr)
    return std::nullopt;
  auto pointee = btf.strip(t.type);
  if (!pointee || btf[*pointee].kind != BtfKind::array)
    return std::nullopt;
  return btf[*pointee].count;
}

/// Size of what a member points to.
std::optional<uint32_t> pointee_size(const Btf &btf, uint32_t type) {
  auto id = btf.strip(type);
  if (!id || btf[*id].kind != BtfKind::ptr)
    return std::nullopt;
  return btf.size_of(btf[*id].type);
}

/// Whether a value of this type holds what the kernel keeps apart from its bytes (enum btf_field_type). Any
/// pointer counts: those with a tag are the kernel's.
bool holds_special_fields(const Btf &btf, uint32_t type, unsigned depth = 0) {
  constexpr unsigned deepest = 16;
  static constexpr std::string_view kept_apart[] = {
      "bpf_spin_lock", "bpf_res_spin_lock", "bpf_timer",   "bpf_wq",      "bpf_task_work",
      "bpf_list_head", "bpf_list_node",     "bpf_rb_root", "bpf_rb_node", "bpf_refcount"};
  auto id = btf.strip(type);
  if (!id || depth > deepest)
    return true;
  const BtfType &t = btf[*id];
  switch (t.kind) {
  case BtfKind::ptr: return true;
  case BtfKind::array: return holds_special_fields(btf, t.type, depth + 1);
  case BtfKind::struct_:
  case BtfKind::union_:
    return std::ranges::find(kept_apart, t.name) != std::end(kept_apart) ||
           std::ranges::any_of(
               t.items, [&](const BtfItem &m) { return holds_special_fields(btf, m.type, depth + 1); });
  default: return false;
  }
}

/// `values`: an array of pointers to functions, or to the struct that defines the inner maps.
Error read_values(const Btf &btf, const BtfItem &member, Definition &def) {
  auto bad = [&] {
    return input_error(formatv("map {0}: `values` is not an array of maps or programs", def.map.name).str())
        .error();
  };
  auto array = btf.strip(member.type);
  if (!array || btf[*array].kind != BtfKind::array)
    return bad();
  auto pointer = btf.strip(btf[*array].type);
  if (!pointer || btf[*pointer].kind != BtfKind::ptr)
    return bad();
  auto target = btf.strip(btf[*pointer].type);
  if (!target)
    return bad();
  if (btf[*target].kind == BtfKind::struct_)
    def.inner_struct = *target;
  else if (btf[*target].kind != BtfKind::func_proto && *target != 0)
    return bad();
  def.values_offset = member.offset / 8;
  return Error::success();
}

Expected<Definition> read_definition(const Btf &btf, uint32_t type, std::string name) {
  Definition def;
  def.map.name = std::move(name);
  auto id = btf.strip(type);
  if (!id || btf[*id].kind != BtfKind::struct_)
    return input_error(formatv("map {0}: its type is not a struct", def.map.name).str()).error();
  bool has_key_type = false, has_value_type = false;
  for (const BtfItem &m : btf[*id].items) {
    auto bad = [&](const char *what) {
      return input_error(formatv("map {0}: attribute `{1}` {2}", def.map.name, m.name, what).str()).error();
    };
    if (m.name == "key" || m.name == "value") {
      auto size = pointee_size(btf, m.type);
      if (!size)
        return bad("is not a pointer to a type with a size");
      uint32_t &field = m.name == "key" ? def.map.key_size : def.map.value_size;
      bool &typed = m.name == "key" ? has_key_type : has_value_type;
      if (field && field != *size)
        return bad("contradicts the size that is given as well");
      field = *size;
      typed = true;
      if (m.name == "value")
        def.map.special_fields = holds_special_fields(btf, btf[*btf.strip(m.type)].type);
      continue;
    }
    if (m.name == "values") {
      if (Error e = read_values(btf, m, def))
        return e;
      continue;
    }
    auto n = number_of(btf, m.type);
    if (m.name == "type" || m.name == "key_size" || m.name == "value_size" || m.name == "max_entries" ||
        m.name == "map_flags" || m.name == "numa_node" || m.name == "pinning" || m.name == "map_extra") {
      if (!n)
        return bad("is not written with __uint() or __ulong()");
      if (*n > UINT32_MAX && m.name != "map_extra")
        return bad("does not fit into 32 bits");
    } else {
      return unsupported(formatv("map {0}: attribute `{1}` is not known", def.map.name, m.name).str())
          .with_hint(
              "known are type, key, key_size, value, value_size, max_entries, map_flags, numa_node, pinning, "
              "map_extra and values")
          .error();
    }
    if (m.name == "type")
      def.map.type = static_cast<MapType>(*n);
    else if (m.name == "max_entries")
      def.map.max_entries = *n;
    else if (m.name == "map_flags")
      def.map.flags = *n;
    else if (m.name == "pinning")
      def.pinning = *n;
    else if (m.name == "map_extra")
      def.map.extra = *n;
    else if (m.name == "key_size") {
      if (has_key_type && def.map.key_size != *n)
        return bad("contradicts the type that is given as well");
      def.map.key_size = *n;
    } else if (m.name == "value_size") {
      if (has_value_type && def.map.value_size != *n)
        return bad("contradicts the type that is given as well");
      def.map.value_size = *n;
    }
    // numa_node says where the kernel allocates; it has no other meaning.
  }
  if (def.map.type == MapType::unspec)
    return input_error(formatv("map {0}: has no type", def.map.name).str()).error();
  if (def.inner_struct && def.map.type != MapType::array_of_maps && def.map.type != MapType::hash_of_maps)
    return input_error(formatv("map {0}: has inner maps, but is no map of maps", def.map.name).str()).error();
  if (def.values_offset && !def.inner_struct && def.map.type != MapType::prog_array)
    return input_error(formatv("map {0}: has programs as values, but is no prog array", def.map.name).str())
        .error();
  if (def.values_offset && def.map.value_size == 0)
    def.map.value_size = 4;
  return def;
}

Error apply_pinning(Definition &def, MapId id, MapDefs &out) {
  constexpr uint64_t none = 0, by_name = 1, replace = 16; // the last one is Cilium's
  if (def.pinning != none && def.pinning != by_name && def.pinning != replace)
    return unsupported(formatv("map {0}: pinning {1} is not known", def.map.name, def.pinning).str())
        .with_hint("known are 0 (none), 1 (by name) and 16 (by name, replacing)")
        .error();
  def.map.pinned = def.pinning != none;
  if (def.pinning == replace)
    out.replaced.insert(id);
  return Error::success();
}

class BtfMaps {
public:
  BtfMaps(const ElfFile &elf, const Btf &btf, MapDefs &out) : elf_(elf), btf_(btf), out_(out) {}

  Error read() {
    for (uint32_t s = 1; s < elf_.sections.size(); ++s)
      if (elf_.sections[s].name == ".maps" && !elf_.sections[s].bytes.empty())
        if (Error e = read_section(s))
          return e;
    return Error::success();
  }

private:
  Error read_section(uint32_t section) {
    uint32_t datasec = btf_.find(BtfKind::datasec, ".maps");
    if (!datasec)
      return input_error("section .maps has no BTF").with_hint("compile with -g").error();
    std::vector<Definition> defs;
    size_t first = out_.maps.size();
    std::unordered_map<std::string_view, const ElfSymbol *> symbols;
    for (const ElfSymbol &s : elf_.symbols)
      if (s.section == section && s.type != STT_SECTION)
        symbols.emplace(s.name, &s);
    for (const BtfItem &item : btf_[datasec].items) {
      const BtfType &var = btf_[item.type];
      if (var.kind != BtfKind::var)
        return input_error("section .BTF is damaged: .maps holds what is no variable").error();
      auto def = read_definition(btf_, var.type, std::string(var.name));
      if (!def)
        return def.takeError();
      auto place = find_place(section, item.size, symbols[var.name], var);
      if (!place)
        return place.takeError();
      MapId id{uint32_t(out_.maps.size())};
      if (Error e = apply_pinning(*def, id, out_))
        return e;
      out_.add(def->map, *place);
      defs.push_back(std::move(*def));
    }
    for (size_t i = 0; i < defs.size(); ++i)
      if (defs[i].inner_struct)
        if (Error e = add_template(first + i, defs[i].inner_struct))
          return e;
    return read_slots(section, first, defs);
  }

  /// The compiler leaves variable offsets in BTF to the linker; the symbol table has them.
  Expected<MapDefs::Place> find_place(uint32_t section, uint32_t size, const ElfSymbol *symbol,
                                      const BtfType &var) {
    if (!symbol)
      return input_error(formatv("map {0} has no symbol", var.name).str()).error();
    if (symbol->value > elf_.sections[section].size || size > elf_.sections[section].size - symbol->value)
      return input_error(formatv("map {0} reaches beyond section .maps", var.name).str()).error();
    return MapDefs::Place{section, uint32_t(symbol->value), size};
  }

  Error add_template(size_t outer, uint32_t inner_struct) {
    auto def = read_definition(btf_, inner_struct, out_.maps[outer].name + ".inner");
    if (!def)
      return def.takeError();
    if (def->values_offset)
      return input_error(formatv("map {0}: maps of maps of maps do not exist", out_.maps[outer].name).str())
          .error();
    if (def->pinning)
      return input_error(
                 formatv("map {0}: an inner map cannot be pinned by its definition", out_.maps[outer].name)
                     .str())
          .error();
    def->map.is_template = true;
    out_.maps[outer].inner = MapId{uint32_t(out_.maps.size())};
    out_.add(std::move(def->map), {});
    return Error::success();
  }

  Error read_slots(uint32_t section, size_t first, const std::vector<Definition> &defs) {
    for (const ElfRelocation &r : elf_.relocations[section]) {
      const ElfSymbol &symbol = elf_.symbols[r.symbol];
      auto outer = out_.at(section, r.offset);
      if (!outer || index(*outer) < first || index(*outer) >= first + defs.size())
        return input_error(formatv("section .maps: relocation at byte {0} belongs to no map", r.offset).str())
            .error();
      Map &map = out_.maps[index(*outer)];
      const Definition &def = defs[index(*outer) - first];
      uint64_t base = uint64_t(out_.places[index(*outer)].offset) + def.values_offset.value_or(0);
      if (!def.values_offset || r.offset < base || (r.offset - base) % 8)
        return input_error(
                   formatv("map {0}: relocation at byte {1} is not in its `values`", map.name, r.offset)
                       .str())
            .error();
      if (r.type != r_bpf_64_abs64 && r.type != r_bpf_64_64)
        return unsupported(formatv("map {0}: relocation type {1} in `values`", map.name, r.type).str())
            .error();
      uint64_t slot = (r.offset - base) / 8;
      if (slot >= map.max_entries && map.max_entries)
        return input_error(formatv("map {0}: slot {1} of `values` is out of range (max_entries is {2})",
                                   map.name, slot, map.max_entries)
                               .str())
            .error();
      uint64_t offset = symbol.value + addend_at(elf_.sections[section], r.offset);
      if (map.type == MapType::prog_array) {
        out_.function_slots.push_back({*outer, uint32_t(slot), symbol.section, offset});
        continue;
      }
      auto inner = out_.at(symbol.section, offset);
      if (!inner || out_.places[index(*inner)].offset != offset)
        return input_error(formatv("map {0}: slot {1} of `values` names {2}, which is no map", map.name, slot,
                                   symbol.name)
                               .str())
            .error();
      map.inner_slots.push_back({uint32_t(slot), *inner});
    }
    for (size_t i = first; i < out_.maps.size(); ++i)
      std::sort(out_.maps[i].inner_slots.begin(), out_.maps[i].inner_slots.end());
    return Error::success();
  }

  const ElfFile &elf_;
  const Btf &btf_;
  MapDefs &out_;
};

bool begins(const std::string &name, std::string_view prefix) {
  return name == prefix ||
         (name.size() > prefix.size() && name.starts_with(prefix) && name[prefix.size()] == '.');
}

Error read_data_maps(const ElfFile &elf, MapDefs &out) {
  std::vector<bool> has_global(elf.sections.size());
  for (const ElfSymbol &symbol : elf.symbols)
    if (symbol.type == STT_OBJECT && symbol.bind != STB_LOCAL)
      has_global[symbol.section] = true;
  for (uint32_t i = 1; i < elf.sections.size(); ++i) {
    const ElfSection &s = elf.sections[i];
    bool constant = begins(s.name, ".rodata");
    if (!(constant || begins(s.name, ".data") || begins(s.name, ".bss")) || s.size == 0 ||
        (s.type != SHT_PROGBITS && s.type != SHT_NOBITS))
      continue;
    if (s.size > max_data_size)
      return unsupported(
                 formatv("section {0} of {1} bytes is larger than {2} bytes", s.name, s.size, max_data_size)
                     .str())
          .error();
    Map map;
    map.name = s.name;
    map.type = MapType::array;
    map.key_size = 4;
    map.value_size = s.size;
    map.max_entries = 1;
    map.frozen = constant;
    map.flags = constant ? flag_rdonly_prog : 0;
    // As libbpf: what has a variable that user space may know by name can be mapped.
    if (has_global[i])
      map.flags |= flag_mmapable;
    map.contents.assign(s.bytes.begin(), s.bytes.end());
    map.contents.resize(s.size);
    out.add(std::move(map), {i, 0, uint32_t(s.size)});
  }
  return Error::success();
}

} // namespace

uint64_t addend_at(const ElfSection &section, uint64_t offset) {
  uint64_t v = 0;
  if (offset <= section.bytes.size() && section.bytes.size() - offset >= 8)
    std::memcpy(&v, section.bytes.data() + offset, 8);
  return v;
}

void MapDefs::add(Map map, Place place) {
  MapId id{uint32_t(maps.size())};
  maps.push_back(std::move(map));
  places.push_back(place);
  if (place.section)
    by_place_[{place.section, place.offset}] = id;
}

std::optional<MapId> MapDefs::at(uint32_t section, uint64_t offset) const {
  auto next = by_place_.upper_bound({section, offset});
  if (next == by_place_.begin())
    return std::nullopt;
  auto [place, id] = *std::prev(next);
  if (place.first != section || offset - place.second >= places[index(id)].size)
    return std::nullopt;
  return id;
}

std::optional<MapId> MapDefs::by_legacy_id(uint32_t id) const {
  for (uint32_t i = 0; id && i < legacy_ids.size(); ++i)
    if (legacy_ids[i] == id)
      return MapId{i};
  return std::nullopt;
}

std::optional<MapId> MapDefs::by_name(std::string_view name) const {
  for (uint32_t i = 0; i < maps.size(); ++i)
    if (!maps[i].is_template && !maps[i].is_data() && maps[i].name == name)
      return MapId{i};
  return std::nullopt;
}

Expected<MapDefs> read_map_defs(const ElfFile &elf, const Btf &btf) {
  MapDefs out;
  if (Error e = read_legacy_maps(elf, out))
    return e;
  size_t legacy = out.maps.size();
  if (Error e = BtfMaps(elf, btf, out).read())
    return e;
  out.iproute2 = out.iproute2 && out.maps.size() == legacy;
  if (Error e = read_data_maps(elf, out))
    return e;
  out.legacy_ids.resize(out.maps.size());
  return out;
}

} // namespace ujit
