// The functions in an object's code sections, each with its relocations applied.
#pragma once

#include "kernel-iface/object/map_defs.h"
#include "kernel-iface/object/object.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ujit {

/// A function and what it needs. Instructions stay in the section's array (CodeSection::insns).
struct Function {
  std::string name;
  uint32_t section = 0; ///< ELF index
  uint32_t start = 0;   ///< slots [start, end) in the section
  uint32_t end = 0;
  bool global = false;
  bool called = false;   ///< target of a bpf2bpf call or its address is taken
  uint32_t btf_func = 0; ///< 0: none

  /// Calls and function addresses: slot relative to `start`, index of the target function. Sorted by slot.
  struct Reference {
    uint32_t insn = 0;
    uint32_t target = 0;
  };
  std::vector<Reference> references;

  struct Inlined {
    uint32_t insn = 0; ///< relative to `start`
    MapId map{};
    uint32_t offset = 0;
    uint32_t size = 0;
  };
  std::vector<Inlined> inlined;

  /// Why it cannot be had; LinkError::insn is relative to `start`.
  std::optional<LinkError> refusal;
};

struct Code {
  std::map<uint32_t, std::vector<Insn>>
      insns; ///< by ELF section; map references are canonical, calls still as in the file
  std::vector<Function> functions; ///< sorted by (section, start)

  /// The function that starts at a slot, or none.
  std::optional<uint32_t> function_at(uint32_t section, uint64_t slot) const;
};

/// Errors: symbols and sections that contradict each other. Problems of one function go to its `refusal`.
Expected<Code> read_code(const ElfFile &elf, const Btf &btf,
                         const std::map<std::string, BtfExtSection> &btf_ext, const MapDefs &defs,
                         const ObjectOptions &options);

} // namespace ujit
