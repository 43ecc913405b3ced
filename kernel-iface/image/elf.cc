#include "kernel-iface/image/elf.h"

#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/SHA256.h"

#include <array>
#include <cstring>
#include <optional>

namespace ujit {

using namespace llvm::ELF;
using llvm::ArrayRef;
using llvm::formatv;
using llvm::StringRef;

static LinkError malformed(std::string what) { return input_error("malformed object: " + std::move(what)); }

uint32_t ElfObject::find_section(StringRef name) const {
  for (uint32_t i = 1; i < sections.size(); ++i)
    if (sections[i].name == name)
      return i;
  return 0;
}

unsigned relocation_size(uint32_t type) {
  switch (type) {
  case R_X86_64_PC32:
  case R_X86_64_PLT32:
  case R_X86_64_32:
  case R_X86_64_32S:
  case R_X86_64_GOTPCREL:
  case R_X86_64_GOTPCRELX:
  case R_X86_64_REX_GOTPCRELX: return 4;
  case R_X86_64_64:
  case R_X86_64_PC64: return 8;
  default: return 0;
  }
}

/// The string at `offset` of a string table, or nothing if it does not end inside.
static std::optional<StringRef> string_at(ArrayRef<uint8_t> table, uint32_t offset) {
  if (offset == 0 && table.empty())
    return StringRef();
  if (offset >= table.size())
    return std::nullopt;
  StringRef rest(reinterpret_cast<const char *>(table.data()) + offset, table.size() - offset);
  size_t end = rest.find('\0');
  if (end == StringRef::npos)
    return std::nullopt;
  return rest.take_front(end);
}

template <class T>
static ArrayRef<T> array_of(ArrayRef<uint8_t> bytes) {
  static_assert(alignof(T) == 1, "tables lie at any offset");
  return {reinterpret_cast<const T *>(bytes.data()), bytes.size() / sizeof(T)};
}

namespace {
class Reader {
public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes.data(), bytes.size()) {}

  Expected<ElfObject> read() {
    if (Error e = read_header())
      return e;
    for (uint32_t i = 0; i < table_.size(); ++i)
      if (Error e = read_section(i))
        return e;
    for (uint32_t i = 1; i < table_.size(); ++i)
      if (Error e = read_name(i))
        return e;
    if (Error e = read_symbols())
      return e;
    for (uint32_t i = 1; i < table_.size(); ++i)
      if (object_.sections[i].type == SHT_RELA)
        if (Error e = read_relocations(i))
          return e;
    return std::move(object_);
  }

private:
  Error read_header() {
    if (bytes_.size() < sizeof(Elf::Ehdr))
      return malformed(formatv("{0} bytes are too few for an ELF header", bytes_.size())).error();
    auto &h = *reinterpret_cast<const Elf::Ehdr *>(bytes_.data());
    if (std::memcmp(h.e_ident, ElfMagic, 4) != 0)
      return malformed("no ELF magic number").error();
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != EM_X86_64 ||
        h.e_type != ET_REL)
      return malformed("not a relocatable object for x86-64").error();
    uint64_t offset = h.e_shoff, size = uint64_t(h.e_shnum) * sizeof(Elf::Shdr);
    if (h.e_shentsize != sizeof(Elf::Shdr) || h.e_shnum == 0 || offset > bytes_.size() ||
        size > bytes_.size() - offset)
      return malformed(formatv("section header table of {0} entries at {1:x} does not fit the file",
                               h.e_shnum, offset))
          .error();
    if (h.e_shstrndx == 0 || h.e_shstrndx >= h.e_shnum)
      return malformed("no section name table").error();
    names_ = h.e_shstrndx;
    table_ = array_of<Elf::Shdr>(bytes_.slice(offset, size));
    object_.sections.resize(table_.size());
    return Error::success();
  }

  Error read_section(uint32_t i) {
    const Elf::Shdr &h = table_[i];
    ImageElfSection &s = object_.sections[i];
    if (i == 0)
      return h.sh_type == SHT_NULL ? Error::success() : malformed("section 0 is not null").error();
    s.type = h.sh_type;
    s.flags = h.sh_flags;
    s.offset = h.sh_offset;
    s.size = h.sh_size;
    s.align = h.sh_addralign == 0 ? 1 : uint64_t(h.sh_addralign);
    s.link = h.sh_link;
    s.info = h.sh_info;
    if (!llvm::isPowerOf2_64(s.align) || s.align > 1 << 16)
      return malformed(formatv("section {0}: alignment {1:x}", i, s.align)).error();
    if (s.link >= table_.size())
      return malformed(formatv("section {0}: link to section {1}", i, s.link)).error();
    if (s.type == SHT_NOBITS) {
      if (s.size > 1 << 30)
        return malformed(formatv("section {0}: {1:x} bytes without contents", i, s.size)).error();
      return Error::success();
    }
    if (s.offset > bytes_.size() || s.size > bytes_.size() - s.offset)
      return malformed(formatv("section {0}: bytes {1:x} to {2:x} lie outside of the file", i, s.offset,
                               s.offset + s.size))
          .error();
    s.contents = bytes_.slice(s.offset, s.size);
    return Error::success();
  }

  Error read_name(uint32_t i) {
    if (auto name = string_at(object_.sections[names_].contents, table_[i].sh_name))
      object_.sections[i].name = *name;
    else
      return malformed(formatv("section {0}: name outside of the name table", i)).error();
    return Error::success();
  }

  Error read_symbols() {
    for (uint32_t i = 1; i < table_.size(); ++i) {
      const ImageElfSection &s = object_.sections[i];
      if (s.type == SHT_SYMTAB_SHNDX)
        return malformed("extended section numbers").error();
      if (s.type != SHT_SYMTAB)
        continue;
      if (symbol_table_)
        return malformed("two symbol tables").error();
      if (table_[i].sh_entsize != sizeof(Elf::Sym) || s.size % sizeof(Elf::Sym) != 0)
        return malformed(formatv("section {0}: size or entry size of a symbol table", i)).error();
      symbol_table_ = i;
    }
    if (!symbol_table_)
      return Error::success();
    const ImageElfSection &s = object_.sections[symbol_table_];
    ArrayRef<uint8_t> names = object_.sections[s.link].contents;
    for (const Elf::Sym &raw : array_of<Elf::Sym>(s.contents))
      if (Error e = read_symbol(raw, names))
        return e;
    return Error::success();
  }

  Error read_symbol(const Elf::Sym &raw, ArrayRef<uint8_t> names) {
    size_t number = object_.symbols.size();
    ImageElfSymbol symbol;
    auto name = string_at(names, raw.st_name);
    if (!name)
      return malformed(formatv("symbol {0}: name outside of the string table", number)).error();
    symbol.name = *name;
    symbol.binding = raw.getBinding();
    symbol.type = raw.getType();
    symbol.visibility = raw.getVisibility();
    symbol.section = raw.st_shndx;
    symbol.value = raw.st_value;
    symbol.size = raw.st_size;
    if (symbol.section != SHN_UNDEF && symbol.section != SHN_ABS) {
      if (symbol.section >= object_.sections.size())
        return malformed(formatv("symbol {0}: section {1}", number, symbol.section)).error();
      uint64_t end = object_.sections[symbol.section].size;
      if (symbol.value > end || symbol.size > end - symbol.value)
        return malformed(formatv("symbol {0}: lies outside of section {1}", number, symbol.section)).error();
    }
    object_.symbols.push_back(symbol);
    return Error::success();
  }

  Error read_relocations(uint32_t i) {
    const ImageElfSection &s = object_.sections[i];
    if (table_[i].sh_entsize != sizeof(Elf::Rela) || s.size % sizeof(Elf::Rela) != 0)
      return malformed(formatv("section {0}: size or entry size of relocations", i)).error();
    if (s.link != symbol_table_ || s.info == 0 || s.info >= table_.size())
      return malformed(formatv("section {0}: relocations of no section or no symbol table", i)).error();
    ImageElfSection &target = object_.sections[s.info];
    if (!target.relocations.empty())
      return malformed(formatv("section {0}: relocated twice", s.info)).error();
    ArrayRef<Elf::Rela> relocations = array_of<Elf::Rela>(s.contents);
    for (const Elf::Rela &r : relocations) {
      uint64_t offset = r.r_offset;
      unsigned size = relocation_size(r.getType(false));
      if (r.getSymbol(false) >= object_.symbols.size())
        return malformed(
                   formatv("{0}+{1:x}: relocation to symbol {2}", target.name, offset, r.getSymbol(false)))
            .error();
      if (size == 0)
        return malformed(formatv("{0}+{1:x}: relocation type {2} is not one that images may have",
                                 target.name, offset, r.getType(false)))
            .error();
      if (offset > target.contents.size() || size > target.contents.size() - offset)
        return malformed(formatv("{0}+{1:x}: relocation outside of the section", target.name, offset))
            .error();
    }
    target.relocations = relocations;
    return Error::success();
  }

  ArrayRef<uint8_t> bytes_;
  ArrayRef<Elf::Shdr> table_;
  uint32_t names_ = 0, symbol_table_ = 0;
  ElfObject object_;
};
} // namespace

Expected<ElfObject> read_elf(std::span<const uint8_t> bytes) { return Reader(bytes).read(); }

std::vector<uint8_t> write_elf(std::vector<ElfOutputSection> sections, size_t names_after) {
  ElfOutputSection names{.name = ".shstrtab", .type = SHT_STRTAB};
  sections.insert(sections.begin() + names_after, std::move(names));
  std::vector<uint8_t> strings{0};
  std::vector<uint32_t> name_offsets;
  for (const ElfOutputSection &s : sections) {
    name_offsets.push_back(strings.size());
    strings.insert(strings.end(), s.name.begin(), s.name.end());
    strings.push_back(0);
  }
  sections[names_after].contents = std::move(strings);

  std::vector<uint8_t> out(sizeof(Elf::Ehdr));
  std::vector<Elf::Shdr> table{Elf::Shdr{}};
  for (size_t i = 0; i < sections.size(); ++i) {
    const ElfOutputSection &s = sections[i];
    out.resize(llvm::alignTo(out.size(), s.align));
    Elf::Shdr h{};
    h.sh_name = name_offsets[i];
    h.sh_type = s.type;
    h.sh_flags = s.flags;
    h.sh_offset = out.size();
    h.sh_size = s.type == SHT_NOBITS ? s.nobits_size : s.contents.size();
    h.sh_link = s.link;
    h.sh_info = s.info;
    h.sh_addralign = s.align;
    h.sh_entsize = s.entry_size;
    table.push_back(h);
    out.insert(out.end(), s.contents.begin(), s.contents.end());
  }
  out.resize(llvm::alignTo(out.size(), 8));

  Elf::Ehdr header{};
  std::memcpy(header.e_ident, ElfMagic, 4);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_REL;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_shoff = out.size();
  header.e_ehsize = sizeof(Elf::Ehdr);
  header.e_shentsize = sizeof(Elf::Shdr);
  header.e_shnum = table.size();
  header.e_shstrndx = names_after + 1;
  std::memcpy(out.data(), &header, sizeof(header));
  for (const Elf::Shdr &h : table)
    append_bytes(out, h);
  return out;
}

bool is_debug_part(const ElfObject &object, const ImageElfSection &section) {
  return is_debug_section(section.name) ||
         (section.type == SHT_RELA && is_debug_section(object.sections[section.info].name));
}

static std::array<uint8_t, 32> checksum(const ElfObject &object, bool debug) {
  std::vector<uint8_t> headers;
  llvm::SHA256 sum;
  for (const ImageElfSection &s : object.sections) {
    if (is_debug_part(object, s) != debug || s.name == checksum_section || s.name == debug_checksum_section)
      continue;
    headers.insert(headers.end(), s.name.begin(), s.name.end());
    headers.push_back(0);
    for (uint64_t field : {uint64_t(s.type), s.flags, s.size, s.align, uint64_t(s.link), uint64_t(s.info)})
      append_bytes(headers, llvm::support::ulittle64_t(field));
    sum.update(s.contents);
  }
  sum.update(headers);
  return sum.final();
}

ElfOutputSection make_checksum(StringRef name) {
  return {.name = name.str(), .type = SHT_PROGBITS, .contents = std::vector<uint8_t>(32)};
}

void write_checksums(std::vector<uint8_t> &bytes) {
  ElfObject object = llvm::cantFail(read_elf(bytes));
  for (StringRef name : {checksum_section, debug_checksum_section})
    if (const ImageElfSection &s = object.sections[object.find_section(name)]; s.contents.size() == 32)
      llvm::copy(checksum(object, is_debug_section(name)), bytes.begin() + s.offset);
}

Error check_checksum(const ElfObject &object, StringRef name) {
  uint32_t section = object.find_section(name);
  if (section == 0)
    return input_error(formatv("the image has no section {0}", name)).error();
  if (object.sections[section].contents != ArrayRef<uint8_t>(checksum(object, is_debug_section(name))))
    return input_error(formatv("the image is damaged: its contents do not match its {0}", name)).error();
  return Error::success();
}

} // namespace ujit
