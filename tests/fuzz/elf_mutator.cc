// How ELF files are mutated. They are mostly code or debug information, and what is interesting is not: half
// of the mutations therefore stay inside one section, so that type information, relocations, symbols and map
// definitions get as many as code does, and the tables that lead there stay whole.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <elf.h>
#include <random>
#include <span>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

/// The bytes of the sections, as far as they can be found.
std::vector<std::span<uint8_t>> sections_of(std::span<uint8_t> file) {
  std::vector<std::span<uint8_t>> out;
  Elf64_Ehdr header;
  if (file.size() < sizeof header)
    return out;
  std::memcpy(&header, file.data(), sizeof header);
  for (uint64_t i = 0; i < header.e_shnum; i++) {
    Elf64_Shdr section;
    const uint64_t at = header.e_shoff + i * sizeof section;
    if (at > file.size() || file.size() - at < sizeof section)
      break;
    std::memcpy(&section, file.data() + at, sizeof section);
    if (section.sh_type != SHT_NOBITS && section.sh_size != 0 && section.sh_offset < file.size() &&
        section.sh_size <= file.size() - section.sh_offset)
      out.push_back(file.subspan(section.sh_offset, section.sh_size));
  }
  return out;
}

} // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  const auto sections = sections_of({data, size});
  if (sections.empty() || random() % 2 == 0)
    return LLVMFuzzerMutate(data, size, max_size);
  const std::span<uint8_t> section = sections[random() % sections.size()];
  std::vector<uint8_t> changed(section.begin(), section.end());
  changed.resize(LLVMFuzzerMutate(changed.data(), changed.size(), changed.size()));
  std::ranges::copy(changed, section.begin());
  return size;
}
