// Merges objects into one pipeline: names made unique, maps shared where they are pinned by name, prog arrays
// filled, config constants set, entries chosen.
#pragma once

#include "kernel-iface/object/object.h"

#include <map>
#include <string>
#include <vector>

namespace ujit {

/// What the manifest puts into a slot. It wins over what objects say.
struct SlotAssignment {
  std::string map;
  uint32_t slot = 0;
  std::string program;
};

/// A value for a variable in a data section.
struct ConstantSetting {
  std::string variable; ///< symbol name; Cilium's prefix `__config_` may be left out
  enum Mode : uint8_t {
    fold, ///< the linker may compile it in
    bind, ///< differs by instance; at most 8 bytes
  } mode = fold;
  uint64_t value = 0; ///< sign- or zero-extended
  std::vector<uint8_t>
      bytes; ///< instead of `value`: all bytes of the variable (addresses, structs); fold only
};

struct GatherRequest {
  std::vector<Object> objects;
  std::vector<SlotAssignment> slots;
  /// Names. Empty: all programs of a network hook's type that no slot names.
  std::vector<std::string> entries;
  /// By Object::path.
  std::map<std::string, std::vector<ConstantSetting>> constants;
};

/// Makes the pipeline. Programs and maps are in the order of objects. Maps of the same name and shape that
/// are pinned by name are one; other names that are used more than once get the prefix "STEM:", STEM being
/// the object's file name without extensions; data maps are always "STEM.rodata" and the like. Slots and
/// entries may use the short name where only one thing has it. Errors: what is not found (with the nearest
/// name that exists), a slot that is named twice or out of range, programs of different types in one prog
/// array, a value that does not fit, a refused program that an entry reaches, no entry.
Expected<Pipeline> gather(GatherRequest request);

} // namespace ujit
