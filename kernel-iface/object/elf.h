// The parts of an ELF file that an eBPF loader looks at, as plain values. libelf finds the tables; each
// offset and size is checked here once, so that nobody behind this header needs to.
#pragma once

#include "translator/error.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ujit {

struct ElfSection {
  std::string name;
  uint32_t type = 0;  ///< SHT_*
  uint64_t flags = 0; ///< SHF_*
  uint64_t size = 0;  ///< in memory; for SHT_NOBITS `bytes` is empty all the same
  std::span<const uint8_t> bytes;

  bool is_code() const;  ///< instructions: PROGBITS, executable, not empty
  bool is_zeros() const; ///< SHT_NOBITS
};

struct ElfSymbol {
  std::string name; ///< of a section symbol: the section's name
  uint64_t value = 0;
  uint64_t size = 0;
  uint8_t type = 0;     ///< STT_*
  uint8_t bind = 0;     ///< STB_*
  uint32_t section = 0; ///< index into ElfFile::sections; 0: not defined in this file
};

struct ElfRelocation {
  uint64_t offset = 0; ///< bytes from the start of the section that it patches; inside of it
  uint32_t type = 0;   ///< R_BPF_*
  uint32_t symbol = 0; ///< index into ElfFile::symbols
};

/// R_BPF_*: what the relocation patches. ABS64 stands in data; clang 12 and older wrote type 1 there.
constexpr uint32_t r_bpf_none = 0, r_bpf_64_64 = 1, r_bpf_64_abs64 = 2, r_bpf_64_abs32 = 3,
                   r_bpf_64_nodyld32 = 4, r_bpf_64_32 = 10;

struct ElfFile {
  std::unique_ptr<std::vector<uint8_t>> image; ///< private copy; what the sections' `bytes` point into
  std::vector<ElfSection> sections;            ///< by ELF section index; [0] is the null section
  std::vector<ElfSymbol> symbols;              ///< by symbol index
  std::vector<std::vector<ElfRelocation>> relocations; ///< by patched section, sorted by offset

  /// First section of that name, or null.
  const ElfSection *find_section(std::string_view name) const;
};

/// Reads a 64-bit little-endian relocatable eBPF file. Errors (without a file name): not such a file,
/// or tables that reach beyond it.
Expected<ElfFile> parse_elf(std::span<const uint8_t> bytes);

} // namespace ujit
