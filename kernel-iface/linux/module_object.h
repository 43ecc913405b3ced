// The file of a kernel module: sections, references between them and out, and names for tools.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Somewhere in the module: a section by its number from 0, and an offset in it.
struct ModulePlace {
  uint32_t section = 0;
  uint64_t offset = 0;
};

struct ModuleRelocation {
  uint64_t offset = 0;
  uint32_t type = 0;  ///< R_X86_64_*
  int64_t addend = 0; ///< without `symbol`: the offset in `section` is in here
  uint32_t section = 0;
  const std::string *symbol = nullptr; ///< outside of the module
};

struct ModuleSection {
  std::string name;
  uint64_t flags = 0, align = 1;
  std::vector<uint8_t> contents{};
  std::vector<ModuleRelocation> relocations{};
};

/// What tools see by name.
struct ModuleSymbol {
  std::string name;
  ModulePlace place;
  uint64_t size = 0;
  uint8_t type = 0; ///< STT_*
};

/// `outside`: symbols that relocations name, with their addresses, or none where the kernel's loader finds
/// them.
std::vector<uint8_t> write_module_object(std::vector<ModuleSection> sections,
                                         std::span<const ModuleSymbol> symbols,
                                         const std::map<std::string, std::optional<uint64_t>> &outside);

} // namespace ujit
