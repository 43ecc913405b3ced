// Map definitions of an object: BTF-defined ones in `.maps`, legacy structs in `maps`, and one array map for
// each data section.
#pragma once

#include "kernel-iface/object/btf.h"
#include "kernel-iface/object/elf.h"
#include "translator/program.h"

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace ujit {

struct MapDefs {
  std::vector<Map> maps; ///< MapIds are indices into it; inner templates are among them
  std::set<MapId> replaced;

  /// Bytes of the file that define a map, by MapId. Templates have section 0.
  struct Place {
    uint32_t section = 0;
    uint32_t offset = 0;
    uint32_t size = 0;
  };
  std::vector<Place> places;

  /// iproute2's id of a map, by MapId; 0: none.
  std::vector<uint32_t> legacy_ids;

  /// Prog-array slots from `.values`; the function is given by its place.
  struct FunctionSlot {
    MapId map{};
    uint32_t slot = 0;
    uint32_t section = 0;
    uint64_t offset = 0; ///< bytes in the section
  };
  std::vector<FunctionSlot> function_slots;

  /// All maps that are not data are written as iproute2's struct bpf_elf_map (and there are some): the object
  /// was made for its loader and follows its conventions.
  bool iproute2 = false;

  void add(Map map, Place place);

  /// The map at a place in the file; data maps hold every place of their section.
  std::optional<MapId> at(uint32_t section, uint64_t offset) const;
  /// By iproute2's id.
  std::optional<MapId> by_legacy_id(uint32_t id) const;
  std::optional<MapId> by_name(std::string_view name) const;

private:
  std::map<std::pair<uint32_t, uint64_t>, MapId> by_place_; ///< (section, offset of the first byte)
};

/// Errors: definitions that are damaged, contradict themselves, or have attributes that are not known.
Expected<MapDefs> read_map_defs(const ElfFile &elf, const Btf &btf);

/// The 8 bytes at `offset` of a section: a relocation's addend in data. Zero if they are not all there.
uint64_t addend_at(const ElfSection &section, uint64_t offset);

} // namespace ujit
