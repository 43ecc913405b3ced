// Three structs have been in use, and the file does not say which:
//   libbpf:      type, key_size, value_size, max_entries, map_flags                               (20 bytes;
//   16 before) samples/bpf: the same, inner_map_idx, numa_node (24 or 28 bytes) iproute2:    type, size_key,
//   size_value, max_elem, flags, id, pinning [, inner_id, inner_idx] (28 or 36 bytes)
// At 28 bytes the object is iproute2's if it has sections named `id/slot`, which only that loader knows.
#include "kernel-iface/object/legacy_maps.h"

#include "kernel-iface/object/slot_section.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <elf.h>

namespace ujit {

using llvm::formatv;

namespace {

struct LegacyMap {
  std::array<uint32_t, 9> words{};
};

enum Word : size_t { type, key_size, value_size, max_entries, map_flags, id, pinning, inner_id, inner_idx };
constexpr size_t samples_inner_index = 5;

bool is_map_of_maps(const Map &m) {
  return m.type == MapType::array_of_maps || m.type == MapType::hash_of_maps;
}

bool has_slot_sections(const ElfFile &elf) {
  return std::any_of(elf.sections.begin(), elf.sections.end(), [](const ElfSection &s) {
    auto slot = parse_slot_section(s.name);
    return s.is_code() && slot && slot->map_id;
  });
}

Error inner_missing(const Map &m) {
  return input_error(formatv("map {0}: the inner map that it names does not exist", m.name).str()).error();
}

/// samples/bpf: the inner map by its number among the legacy maps.
Error link_by_index(MapDefs &out, const std::vector<LegacyMap> &raw) {
  for (size_t i = 0; i < raw.size(); ++i) {
    Map &m = out.maps[i];
    if (!is_map_of_maps(m))
      continue;
    uint32_t inner = raw[i].words[samples_inner_index];
    if (inner >= raw.size() || is_map_of_maps(out.maps[inner]))
      return inner_missing(m);
    m.inner = MapId{inner};
  }
  return Error::success();
}

/// iproute2: an outer map names the id of its inner shape; a map without id whose inner_id names an outer map
/// is put into that map's slot inner_idx.
Error link_by_id(MapDefs &out, const std::vector<LegacyMap> &raw) {
  for (size_t i = 0; i < raw.size(); ++i) {
    MapId self{uint32_t(i)};
    uint32_t named = raw[i].words[inner_id];
    if (!named)
      continue;
    auto other = out.by_legacy_id(named);
    if (!other)
      return inner_missing(out.maps[index(self)]);
    if (is_map_of_maps(out.maps[index(self)])) {
      if (is_map_of_maps(out.maps[index(*other)]))
        return inner_missing(out.maps[index(self)]);
      out.maps[index(self)].inner = *other;
    } else if (!raw[i].words[id] && raw[i].words[inner_idx] != UINT32_MAX) {
      Map &outer = out.maps[index(*other)];
      if (!is_map_of_maps(outer) || (outer.max_entries && raw[i].words[inner_idx] >= outer.max_entries))
        return input_error(formatv("map {0}: cannot be put into slot {1} of map {2}",
                                   out.maps[index(self)].name, raw[i].words[inner_idx], outer.name)
                               .str())
            .error();
      outer.inner_slots.push_back({raw[i].words[inner_idx], self});
    }
  }
  for (Map &m : out.maps)
    std::sort(m.inner_slots.begin(), m.inner_slots.end());
  return Error::success();
}

Error read_section(const ElfFile &elf, uint32_t section, bool slot_sections, MapDefs &out,
                   std::vector<LegacyMap> &raw) {
  const ElfSection &s = elf.sections[section];
  std::vector<const ElfSymbol *> symbols;
  for (const ElfSymbol &symbol : elf.symbols)
    if (symbol.section == section && symbol.type != STT_SECTION && !symbol.name.empty())
      symbols.push_back(&symbol);
  if (symbols.empty())
    return input_error(formatv("section {0} has no symbols", s.name).str()).error();
  std::stable_sort(symbols.begin(), symbols.end(), [](auto *a, auto *b) { return a->value < b->value; });

  for (size_t n = 0; n < symbols.size(); ++n) {
    // Old compilers gave symbols no size: a definition goes on to the next one.
    const ElfSymbol &symbol = *symbols[n];
    uint64_t next = n + 1 < symbols.size() ? symbols[n + 1]->value : s.bytes.size();
    if (symbol.value > s.bytes.size() || next > s.bytes.size())
      return input_error(formatv("map {0} reaches beyond section {1}", symbol.name, s.name).str()).error();
    uint64_t size = symbol.size ? symbol.size : next - symbol.value;
    if (size > s.bytes.size() - symbol.value)
      return input_error(formatv("map {0} reaches beyond section {1}", symbol.name, s.name).str()).error();
    if (size < 16 || size % 4)
      return input_error(formatv("map {0}: its definition has {1} bytes", symbol.name, size).str())
          .with_hint("struct bpf_map_def has 20 bytes, iproute2's struct bpf_elf_map 36")
          .error();
    LegacyMap def;
    const uint8_t *bytes = s.bytes.data() + symbol.value;
    std::memcpy(def.words.data(), bytes, std::min<size_t>(size, sizeof def.words));
    if (std::any_of(bytes + std::min<size_t>(size, sizeof def.words), bytes + size,
                    [](uint8_t b) { return b != 0; }))
      return unsupported(
                 formatv(
                     "map {0}: its definition has {1} bytes, and what is behind the known {2} is not zero",
                     symbol.name, size, sizeof def.words)
                     .str())
          .error();
    bool iproute2 = size == 36 || (size == 28 && slot_sections);
    out.iproute2 = iproute2 && (raw.empty() || out.iproute2);

    Map m;
    m.name = symbol.name;
    m.type = static_cast<MapType>(def.words[type]);
    m.key_size = def.words[key_size];
    m.value_size = def.words[value_size];
    m.max_entries = def.words[max_entries];
    m.flags = def.words[map_flags];
    m.pinned = iproute2 && def.words[pinning] != 0;
    if (m.type == MapType::unspec)
      return input_error(formatv("map {0}: has no type", m.name).str()).error();
    out.add(std::move(m), {section, uint32_t(symbol.value), uint32_t(size)});
    out.legacy_ids.push_back(iproute2 ? def.words[id] : 0);
    raw.push_back(def);
  }
  return Error::success();
}

} // namespace

Error read_legacy_maps(const ElfFile &elf, MapDefs &out) {
  bool slot_sections = has_slot_sections(elf);
  std::vector<LegacyMap> raw; // by MapId: these are the first maps of the object
  for (uint32_t i = 1; i < elf.sections.size(); ++i) {
    const ElfSection &s = elf.sections[i];
    if ((s.name == "maps" || s.name.starts_with("maps/")) && s.type == SHT_PROGBITS && !s.is_code() && s.size)
      if (Error e = read_section(elf, i, slot_sections, out, raw))
        return e;
  }
  return out.iproute2 ? link_by_id(out, raw) : link_by_index(out, raw);
}

} // namespace ujit
