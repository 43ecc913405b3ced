#include "kernel-iface/object/elf.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <gelf.h>
#include <libelf.h>

namespace ujit {

using llvm::formatv;

#ifndef EM_BPF
constexpr unsigned EM_BPF = 247;
#endif

bool ElfSection::is_code() const {
  return type == SHT_PROGBITS && (flags & SHF_EXECINSTR) && (flags & SHF_ALLOC) && size != 0;
}

bool ElfSection::is_zeros() const { return type == SHT_NOBITS; }

const ElfSection *ElfFile::find_section(std::string_view name) const {
  for (const ElfSection &s : sections)
    if (s.name == name)
      return &s;
  return nullptr;
}

namespace {

/// Beyond that, section numbers need an extra table (SHN_XINDEX).
constexpr size_t max_sections = SHN_LORESERVE - 1;

struct ElfCloser {
  void operator()(Elf *e) const { elf_end(e); }
};

Error check_header(Elf *elf) {
  GElf_Ehdr header;
  if (elf_kind(elf) != ELF_K_ELF || !gelf_getehdr(elf, &header))
    return input_error("not an ELF file").error();
  if (header.e_ident[EI_CLASS] != ELFCLASS64)
    return unsupported("32-bit ELF file; eBPF objects are 64-bit").error();
  if (header.e_ident[EI_DATA] != ELFDATA2LSB)
    return unsupported("big-endian object").with_hint("compile with -target bpfel").error();
  // LLVM before 4.0 left the machine empty.
  if (header.e_machine != EM_BPF && header.e_machine != EM_NONE)
    return unsupported(formatv("ELF machine {0} is not eBPF ({1})", header.e_machine, unsigned(EM_BPF)).str())
        .with_hint("compile with clang -target bpf")
        .error();
  if (header.e_type != ET_REL)
    return unsupported(formatv("ELF type {0} is not a relocatable object", header.e_type).str()).error();
  return Error::success();
}

Error read_sections(Elf *elf, ElfFile &file) {
  // libelf takes a section table that reaches beyond the end for none.
  GElf_Ehdr header;
  if (!gelf_getehdr(elf, &header) || header.e_shoff == 0 || header.e_shentsize != sizeof(Elf64_Shdr) ||
      header.e_shoff > file.image->size() ||
      (file.image->size() - header.e_shoff) / sizeof(Elf64_Shdr) < std::max<unsigned>(header.e_shnum, 1))
    return input_error("the section table is missing or cut off").error();
  size_t count = 0, names = 0;
  if (elf_getshdrnum(elf, &count) || elf_getshdrstrndx(elf, &names))
    return input_error("the section table is damaged").error();
  if (count > max_sections)
    return unsupported(formatv("more than {0} sections", max_sections).str()).error();
  file.sections.resize(count);
  for (size_t i = 1; i < count; ++i) {
    GElf_Shdr header;
    Elf_Scn *scn = elf_getscn(elf, i);
    if (!scn || !gelf_getshdr(scn, &header))
      return input_error(formatv("section {0}: header is damaged", i).str()).error();
    const char *name = elf_strptr(elf, names, header.sh_name);
    if (!name)
      return input_error(formatv("section {0}: name is outside of the string table", i).str()).error();
    ElfSection &s = file.sections[i];
    s.name = name;
    s.type = header.sh_type;
    s.flags = header.sh_flags;
    s.size = header.sh_size;
    if (s.type == SHT_NOBITS || s.type == SHT_NULL)
      continue;
    if (header.sh_offset > file.image->size() || header.sh_size > file.image->size() - header.sh_offset)
      return input_error(formatv("section {0} reaches beyond the end of the file", s.name).str()).error();
    s.bytes = std::span<const uint8_t>(*file.image).subspan(header.sh_offset, header.sh_size);
  }
  return Error::success();
}

Error read_symbols(Elf *elf, ElfFile &file) {
  for (size_t i = 1; i < file.sections.size(); ++i) {
    if (file.sections[i].type != SHT_SYMTAB)
      continue;
    Elf_Scn *scn = elf_getscn(elf, i);
    GElf_Shdr header;
    Elf_Data *data = elf_getdata(scn, nullptr);
    if (!data || !gelf_getshdr(scn, &header) || header.sh_entsize != sizeof(Elf64_Sym))
      return input_error("the symbol table is damaged").error();
    file.symbols.resize(header.sh_size / header.sh_entsize);
    for (size_t n = 0; n < file.symbols.size(); ++n) {
      GElf_Sym sym;
      if (!gelf_getsym(data, n, &sym))
        return input_error(formatv("symbol {0} is damaged", n).str()).error();
      const char *name = elf_strptr(elf, header.sh_link, sym.st_name);
      if (!name)
        return input_error(formatv("symbol {0}: name is outside of the string table", n).str()).error();
      ElfSymbol &s = file.symbols[n];
      s.name = name;
      s.value = sym.st_value;
      s.size = sym.st_size;
      s.type = GELF_ST_TYPE(sym.st_info);
      s.bind = GELF_ST_BIND(sym.st_info);
      if (sym.st_shndx == SHN_XINDEX)
        return unsupported(formatv("more than {0} sections", max_sections).str()).error();
      if (sym.st_shndx < SHN_LORESERVE) {
        if (sym.st_shndx >= file.sections.size())
          return input_error(
                     formatv("symbol {0} lies in section {1}, which does not exist", s.name, sym.st_shndx)
                         .str())
              .error();
        s.section = sym.st_shndx;
      }
      if (s.type == STT_SECTION && s.name.empty())
        s.name = file.sections[s.section].name;
    }
    return Error::success();
  }
  return Error::success();
}

/// Debug sections have relocations as well; nothing here looks at them.
bool is_patched(const ElfSection &s) { return (s.flags & SHF_ALLOC) && s.size != 0; }

Error read_relocations(Elf *elf, ElfFile &file) {
  file.relocations.resize(file.sections.size());
  for (size_t i = 1; i < file.sections.size(); ++i) {
    const ElfSection &table = file.sections[i];
    if (table.type != SHT_REL && table.type != SHT_RELA)
      continue;
    Elf_Scn *scn = elf_getscn(elf, i);
    GElf_Shdr header;
    if (!gelf_getshdr(scn, &header) || header.sh_info >= file.sections.size())
      return input_error(
                 formatv("relocation section {0} patches a section that does not exist", table.name).str())
          .error();
    const ElfSection &target = file.sections[header.sh_info];
    if (!is_patched(target))
      continue;
    if (table.type == SHT_RELA)
      return unsupported(formatv("{0}: relocations with explicit addends (SHT_RELA)", table.name).str())
          .with_hint("compile with clang, or with binutils 2.41 or newer")
          .error();
    Elf_Data *data = elf_getdata(scn, nullptr);
    if (!data || header.sh_entsize != sizeof(Elf64_Rel))
      return input_error(formatv("relocation section {0} is damaged", table.name).str()).error();
    std::vector<ElfRelocation> &out = file.relocations[header.sh_info];
    for (size_t n = 0; n < header.sh_size / header.sh_entsize; ++n) {
      GElf_Rel rel;
      if (!gelf_getrel(data, n, &rel))
        return input_error(formatv("{0}: relocation {1} is damaged", table.name, n).str()).error();
      ElfRelocation r{rel.r_offset, uint32_t(GELF_R_TYPE(rel.r_info)), uint32_t(GELF_R_SYM(rel.r_info))};
      if (r.symbol >= file.symbols.size())
        return input_error(formatv("{0}: relocation {1} names symbol {2}, which does not exist", table.name,
                                   n, r.symbol)
                               .str())
            .error();
      if (r.offset >= target.size)
        return input_error(
                   formatv("{0}: relocation {1} lies outside of section {2}", table.name, n, target.name)
                       .str())
            .error();
      if (r.type != r_bpf_none)
        out.push_back(r);
    }
    std::stable_sort(out.begin(), out.end(),
                     [](const auto &a, const auto &b) { return a.offset < b.offset; });
  }
  return Error::success();
}

} // namespace

Expected<ElfFile> parse_elf(std::span<const uint8_t> bytes) {
  if (elf_version(EV_CURRENT) == EV_NONE)
    return internal_error("libelf is of another version").error();
  ElfFile file;
  file.image = std::make_unique<std::vector<uint8_t>>(bytes.begin(), bytes.end());
  if (bytes.size() < sizeof(Elf64_Ehdr))
    return input_error("not an ELF file: too short").error();
  // A second copy for libelf, which may convert tables in place.
  std::vector<uint8_t> scratch = *file.image;
  std::unique_ptr<Elf, ElfCloser> elf(elf_memory(reinterpret_cast<char *>(scratch.data()), scratch.size()));
  if (!elf)
    return input_error("not an ELF file").error();
  if (Error e = check_header(elf.get()))
    return e;
  if (Error e = read_sections(elf.get(), file))
    return e;
  if (Error e = read_symbols(elf.get(), file))
    return e;
  if (Error e = read_relocations(elf.get(), file))
    return e;
  return file;
}

} // namespace ujit
