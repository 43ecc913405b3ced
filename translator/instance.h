// The instance: the read-only table whose pointer every fused function gets. One text serves many
// instances; what differs between them (map addresses, bound constants, programs that guards compare
// with) is in the table and never in the code.
//
// A table belongs to one CPU: `values` of a per-CPU array is that CPU's copy. Slots are 8 bytes.
// The layout is a function of the pipeline alone, so images linked in different ways from one pipeline
// (fused, one by one) work on the same tables and can call each other.
#pragma once

#include "translator/program.h"

#include <cstdint>
#include <vector>

namespace ujit {

struct InstanceSlot {
  enum Kind : uint8_t {
    map,      ///< the map object, as helpers take it
    values,   ///< arrays and data maps: address of element 0; per-CPU arrays: this CPU's element 0;
              ///< prog arrays: the slot table, max_entries pointers to ProgramObject (null: empty);
              ///< hash tables that are searched: the first bucket (translator/hash_layout.h)
    constant, ///< a bound constant, zero-extended
    program,  ///< the ProgramObject of a program: what guards compare a prog-array slot with
    cpu,      ///< number of this table's CPU
    table,    ///< hash tables of a kernel: u32 what jhash starts with, u32 number of buckets - 1
  } kind = map;
  uint32_t id = 0;  ///< MapId or ProgId
  uint32_t sub = 0; ///< constant: index into Map::bound
  friend bool operator==(const InstanceSlot &, const InstanceSlot &) = default;
};

/// What a prog-array slot points to. `entry` has the tail-call convention (see docs/design.md):
/// i64 (ptr context, ptr instance, i64 count), preserve_none without its register shuffling
/// ("preserve_nonecc").
struct ProgramObject {
  const void *entry = nullptr;
  uint32_t id = 0; ///< ProgId
};

/// Bytes from one element of an array map (also per-CPU) to the next.
constexpr uint64_t array_stride(uint32_t value_size) { return (uint64_t(value_size) + 7) & ~uint64_t(7); }

/// Hash maps with values, of all four kinds.
bool is_hash_table(const Map &map);

class InstanceLayout {
public:
  explicit InstanceLayout(const Pipeline &pipeline);
  const std::vector<InstanceSlot> &slots() const { return slots_; }
  /// Byte offset of a slot in the table; the slot must exist.
  uint32_t offset_of(const InstanceSlot &slot) const;

private:
  std::vector<InstanceSlot> slots_; ///< sorted by (kind, id, sub)
};

} // namespace ujit
