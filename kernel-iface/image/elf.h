// The ELF that images are made of: a checked view of a relocatable x86-64 object, and the writer of one.
// Every byte of structure is checked in read_elf(), so that code behind it can index freely.
#pragma once

#include "translator/error.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Object/ELFTypes.h"

#include <cstdint>
#include <span>
#include <vector>

namespace ujit {

using Elf = llvm::object::ELF64LE;

struct ImageElfSection {
  llvm::StringRef name;
  uint32_t type = 0;
  uint64_t flags = 0;
  uint64_t offset = 0;              ///< in the file
  uint64_t size = 0;                ///< larger than `contents` only for SHT_NOBITS
  uint64_t align = 1;               ///< a power of two
  uint32_t link = 0, info = 0;      ///< section numbers, in range where they are ones
  llvm::ArrayRef<uint8_t> contents; ///< empty for SHT_NOBITS
  llvm::ArrayRef<Elf::Rela>
      relocations; ///< that apply to this section; symbol numbers and offsets are in range
};

struct ImageElfSymbol {
  llvm::StringRef name;
  uint8_t binding = 0, type = 0, visibility = 0;
  uint16_t section = 0; ///< section number in range, SHN_UNDEF or SHN_ABS
  uint64_t value = 0;   ///< at most the section's size
  uint64_t size = 0;    ///< [value, value + size) lies in the section
  bool defined() const { return section != 0; }
};

/// Points into the bytes that it was read from.
struct ElfObject {
  std::vector<ImageElfSection> sections; ///< by section number; [0] is null
  std::vector<ImageElfSymbol> symbols;   ///< by symbol number; [0] is null

  /// Number of the first section of that name, or 0.
  uint32_t find_section(llvm::StringRef name) const;
};

/// Errors (input): whatever is not a well-formed relocatable x86-64 object with RELA relocations.
Expected<ElfObject> read_elf(std::span<const uint8_t> bytes);

/// Bytes that a relocation of this type patches; 0: not one of those that images may have. Those are
/// R_X86_64_PC32, PLT32, 64, 32, 32S, GOTPCREL, GOTPCRELX, REX_GOTPCRELX and PC64.
unsigned relocation_size(uint32_t type);

inline bool is_debug_section(llvm::StringRef name) { return name.starts_with(".debug_"); }

struct ElfOutputSection {
  std::string name;
  uint32_t type = 0;
  uint64_t flags = 0;
  uint64_t align = 1;
  uint64_t entry_size = 0;
  uint32_t link = 0, info = 0;
  std::vector<uint8_t> contents{};
  uint64_t nobits_size = 0; ///< SHT_NOBITS: the size, `contents` is empty
};

/// A relocatable object of these sections, which get the numbers 1, 2, ... in this order, as do their bytes
/// in the file; `.shstrtab` is added behind section `names_after`. The section header table is last.
std::vector<uint8_t> write_elf(std::vector<ElfOutputSection> sections, size_t names_after);

/// Sections with SHA-256 sums: one over all that is loaded or describes it, one over the debug information,
/// so that it can be stripped. They find damage; they are no signature.
inline constexpr llvm::StringLiteral checksum_section = ".ujit.checksum",
                                     debug_checksum_section = ".debug_checksum";

/// A checksum section to be filled in by write_checksums().
ElfOutputSection make_checksum(llvm::StringRef name);

/// Fills in the checksum sections of a finished object.
void write_checksums(std::vector<uint8_t> &bytes);

/// Errors (input): the section is missing, or its sum is not that of the object.
Error check_checksum(const ElfObject &object, llvm::StringRef name);

/// True for debug sections and their relocations.
bool is_debug_part(const ElfObject &object, const ImageElfSection &section);

/// The bytes of a plain value, appended.
template <class T>
void append_bytes(std::vector<uint8_t> &out, const T &value) {
  auto *p = reinterpret_cast<const uint8_t *>(&value);
  out.insert(out.end(), p, p + sizeof(T));
}

} // namespace ujit
