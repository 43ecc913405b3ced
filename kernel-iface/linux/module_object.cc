#include "kernel-iface/linux/module_object.h"

#include "kernel-iface/image/elf.h"

#include "llvm/BinaryFormat/ELF.h"

namespace ujit {

using namespace llvm::ELF;
using llvm::StringRef;

std::vector<uint8_t> write_module_object(std::vector<ModuleSection> sections,
                                         std::span<const ModuleSymbol> symbols,
                                         const std::map<std::string, std::optional<uint64_t>> &outside) {
  std::vector<uint8_t> table, strings{0};
  uint32_t count = 0;
  auto add = [&](StringRef name, uint8_t binding, uint8_t type, uint16_t in, uint64_t value, uint64_t size) {
    Elf::Sym s{};
    if (!name.empty()) {
      s.st_name = strings.size();
      strings.insert(strings.end(), name.begin(), name.end());
      strings.push_back(0);
    }
    s.setBindingAndType(binding, type);
    s.st_shndx = in;
    s.st_value = value;
    s.st_size = size;
    append_bytes(table, s);
    return count++;
  };
  add("", STB_LOCAL, STT_NOTYPE, SHN_UNDEF, 0, 0);
  for (uint32_t i = 0; i < sections.size(); ++i) // symbol i + 1 is section i
    add("", STB_LOCAL, STT_SECTION, i + 1, 0, 0);
  for (const ModuleSymbol &f : symbols)
    add(f.name, STB_LOCAL, f.type, f.place.section + 1, f.place.offset, f.size);
  const uint32_t first_global = count;
  std::map<std::string, uint32_t> numbers;
  for (const auto &[name, address] : outside)
    numbers[name] = add(name, STB_GLOBAL, STT_NOTYPE, address ? uint16_t(SHN_ABS) : uint16_t(SHN_UNDEF),
                        address.value_or(0), 0);

  std::vector<ElfOutputSection> out;
  for (ModuleSection &s : sections)
    out.push_back({.name = s.name,
                   .type = SHT_PROGBITS,
                   .flags = s.flags,
                   .align = s.align,
                   .contents = std::move(s.contents)});
  uint32_t symbol_table = sections.size() + 1;
  for (const ModuleSection &s : sections)
    symbol_table += !s.relocations.empty();
  for (uint32_t i = 0; i < sections.size(); ++i) {
    if (sections[i].relocations.empty())
      continue;
    ElfOutputSection rela{.name = ".rela" + sections[i].name,
                          .type = SHT_RELA,
                          .flags = SHF_INFO_LINK,
                          .align = 8,
                          .entry_size = sizeof(Elf::Rela),
                          .link = symbol_table,
                          .info = i + 1};
    for (const ModuleRelocation &r : sections[i].relocations) {
      Elf::Rela raw{};
      raw.r_offset = r.offset;
      raw.r_addend = r.addend;
      raw.setSymbolAndType(r.symbol ? numbers.at(*r.symbol) : r.section + 1, r.type, false);
      append_bytes(rela.contents, raw);
    }
    out.push_back(std::move(rela));
  }
  out.push_back({.name = ".symtab",
                 .type = SHT_SYMTAB,
                 .align = 8,
                 .entry_size = sizeof(Elf::Sym),
                 .link = symbol_table + 1,
                 .info = first_global,
                 .contents = std::move(table)});
  out.push_back({.name = ".strtab", .type = SHT_STRTAB, .contents = std::move(strings)});
  const size_t names_after = out.size();
  return write_elf(std::move(out), names_after);
}

} // namespace ujit
