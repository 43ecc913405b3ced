// Maps whose slots hold programs or maps.
#pragma once

#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"
#include "translator/instance.h"

#include <optional>

namespace ujit {

/// BPF_MAP_TYPE_PROG_ARRAY. `values()` is the slot table that code of ours reads.
class ProgArrayMap final : public MapObject {
public:
  using MapObject::MapObject;
  bool allocate();

  void *lookup(const void *) override { return nullptr; }
  bool has_contents() const override { return false; }
  MapContents contents() const override { return {}; }
  void *values(uint32_t) override { return memory_.data(); }

  /// Puts a program into a slot, or empties it (null). -E2BIG if there is no such slot.
  long set(uint32_t slot, const ProgramObject *program);
  /// The program in a slot; null if it is empty or there is no such slot.
  const ProgramObject *get(uint32_t slot) const;

private:
  const ProgramObject **slots() const { return reinterpret_cast<const ProgramObject **>(memory_.data()); }
  LazyMemory memory_;
};

/// Array or hash of maps: programs look up inner maps, only the control side changes them. Inner maps are
/// owned by the Kernel.
class MapOfMaps : public MapObject {
public:
  using MapObject::MapObject;
  bool has_contents() const override { return false; }
  MapContents contents() const override { return {}; }
  long control_update(std::span<const uint8_t>, std::span<const std::vector<uint8_t>>, uint64_t) override;

  /// Inserts or replaces an inner map; null removes it. 0 or a negative errno.
  virtual long set_inner(std::span<const uint8_t> key, MapObject *inner) = 0;
  /// All inner maps with their keys, sorted by key.
  virtual std::vector<std::pair<std::vector<uint8_t>, MapObject *>> inner_maps() const = 0;
};

} // namespace ujit
