// Several relocatable objects become one.
//
// This is `ld -r` for what LLVM writes, as a function from bytes to bytes. Sections of one name are
// concatenated (`.text.*` into `.text`, `.rodata.*` into `.rodata`), and every input section is from then on
// a piece: an output section and an offset in it. A symbol moves with its piece; so does a relocation, and
// where it names a section symbol its addend grows by the piece's offset.
//
// Debug sections refer to each other by offset. As an image is never merged again, those relocations are
// resolved here and only the ones to code stay. Therefore no symbol belongs to a debug section, and as they
// also come last in the file, strip_debug() cuts them off and changes nothing in front of them.
//
// What an image may not have is refused: COMDAT groups, thread-local and common storage, writable data (all
// state is reached through the instance), symbols that are defined twice or nowhere, and relocation types
// other than those of relocation_size(). Everything is done in the order of the objects and of their
// tables, so the same input gives the same bytes.
#include "kernel-iface/image/elf.h"
#include "lto/image.h"
#include "lto/image_info.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <set>

namespace ujit {

using namespace llvm::ELF;
using llvm::formatv;
using llvm::StringRef;

namespace {

/// The output section that an input section goes to; empty: it is left out. The linker's own bookkeeping is
/// written anew; notes and `.comment` say nothing that a loader of images wants to know.
StringRef output_name(const ImageElfSection &s) {
  switch (s.type) {
  case SHT_NULL:
  case SHT_SYMTAB:
  case SHT_STRTAB:
  case SHT_RELA:
  case SHT_LLVM_ADDRSIG:
  case SHT_NOTE: return {};
  }
  if (s.name == ".comment" || s.name == ".note.GNU-stack")
    return {};
  for (StringRef stem : {".text", ".rodata", ".data.rel.ro"})
    if (s.name.starts_with(stem) && (s.name.size() == stem.size() || s.name[stem.size()] == '.'))
      return stem;
  return s.name;
}

Error check_section(const ImageElfSection &s) {
  auto refuse = [&](const char *why) {
    return internal_error(formatv("section {0}: {1}", s.name, why)).error();
  };
  if (s.type == SHT_GROUP || s.flags & SHF_GROUP)
    return refuse("COMDAT groups cannot be merged");
  if (output_name(s).empty())
    return Error::success();
  if (s.type != SHT_PROGBITS && s.type != SHT_NOBITS && s.type != SHT_X86_64_UNWIND)
    return refuse("a type that images do not have");
  if (s.flags & SHF_TLS)
    return refuse("an image has no thread-local storage");
  if (s.flags & SHF_COMPRESSED)
    return refuse("compressed sections cannot be merged");
  if (s.flags & SHF_WRITE && s.size > 0 && output_name(s) != ".data.rel.ro")
    return refuse("an image has no writable data: state is reached through the instance");
  if (s.name == ".ujit")
    return refuse("an image cannot be merged again");
  return Error::success();
}

struct Merged {
  ElfOutputSection header;
  std::vector<Elf::Rela> relocations{};
  uint64_t size = 0;
};

/// Where an input section went.
struct Piece {
  static constexpr uint32_t nowhere = UINT32_MAX;
  uint32_t section = nowhere; ///< index into Merger::sections_
  uint64_t offset = 0;
};

struct SymbolRef {
  uint32_t object = 0, symbol = 0;
};

class Merger {
public:
  explicit Merger(const ImageInfo &info) : info_(info) {
    for (const ImageEntry &e : info.entries)
      exported_.insert(e.symbol);
    for (const ImageProgram &p : info.programs)
      if (!p.symbol.empty())
        exported_.insert(p.symbol);
  }

  Expected<std::vector<uint8_t>> run(std::span<const std::vector<uint8_t>> objects) {
    for (const std::vector<uint8_t> &bytes : objects) {
      auto object = read_elf(bytes);
      if (!object)
        return in_object(objects_.size(), object.takeError());
      objects_.push_back(std::move(*object));
    }
    if (Error e = place_sections())
      return e;
    // From here on every piece has its place.
    if (Error e = find_definitions())
      return e;
    number_symbols();
    if (Error e = number_undefined())
      return e;
    // From here on every symbol has its number.
    for (uint32_t o = 0; o < objects_.size(); ++o)
      for (uint32_t s = 1; s < objects_[o].sections.size(); ++s)
        if (Error e = move_relocations(o, s))
          return in_object(o, std::move(e));
    return write();
  }

private:
  static Error in_object(size_t object, Error e) {
    return internal_error(formatv("object {0}: {1}", object, llvm::toString(std::move(e)))).error();
  }

  Error place_sections() {
    for (uint32_t o = 0; o < objects_.size(); ++o) {
      pieces_.emplace_back(objects_[o].sections.size());
      for (uint32_t i = 1; i < objects_[o].sections.size(); ++i) {
        if (Error e = check_section(objects_[o].sections[i]))
          return in_object(o, std::move(e));
        if (Error e = place_section(o, i))
          return in_object(o, std::move(e));
      }
    }
    return Error::success();
  }

  Error place_section(uint32_t o, uint32_t i) {
    const ImageElfSection &in = objects_[o].sections[i];
    StringRef name = output_name(in);
    if (name.empty())
      return Error::success();
    auto [it, fresh] = section_by_name_.try_emplace(name, sections_.size());
    if (fresh)
      sections_.push_back({.header = {.name = name.str(), .type = in.type}});
    Merged &out = sections_[it->second];
    if (out.header.type != in.type)
      return internal_error(formatv("section {0}: its type differs from the one in another object", name))
          .error();
    // Merged strings and constants stay as they are, one after the other: duplicates cost bytes, not sense.
    out.header.flags |= in.flags & ~uint64_t(SHF_MERGE | SHF_STRINGS | SHF_LINK_ORDER);
    out.header.align = std::max(out.header.align, in.align);
    uint64_t offset = llvm::alignTo(out.size, in.align);
    if (in.type != SHT_NOBITS) {
      // int3 between functions: whoever gets there does not go on
      out.header.contents.resize(offset, in.flags & SHF_EXECINSTR ? 0xcc : 0);
      out.header.contents.insert(out.header.contents.end(), in.contents.begin(), in.contents.end());
    }
    out.size = offset + in.size;
    pieces_[o][i] = {it->second, offset};
    return Error::success();
  }

  bool is_debug(uint32_t section) const { return is_debug_section(sections_[section].header.name); }

  Error find_definitions() {
    for (uint32_t o = 0; o < objects_.size(); ++o)
      for (uint32_t i = 1; i < objects_[o].symbols.size(); ++i) {
        const ImageElfSymbol &s = objects_[o].symbols[i];
        if (s.binding == STB_LOCAL || !s.defined())
          continue;
        auto [it, fresh] = definitions_.try_emplace(s.name, SymbolRef{o, i});
        if (!fresh)
          return internal_error(formatv("symbol {0} is defined in object {1} and in object {2}", s.name,
                                        it->second.object, o))
              .error();
      }
    for (const std::string &name : exported_)
      if (!definitions_.contains(name))
        return internal_error(formatv("symbol {0} of an entry or program is not defined", name)).error();
    return Error::success();
  }

  /// ELF wants local symbols first.
  void number_symbols() {
    append_bytes(symbols_, Elf::Sym{});
    strings_.push_back(0);
    section_symbols_.resize(sections_.size());
    for (uint32_t i = 0; i < sections_.size(); ++i)
      if (!is_debug(i))
        section_symbols_[i] = add_symbol("", STB_LOCAL, STT_SECTION, i + 1, 0, 0);
    numbers_.resize(objects_.size());
    for (bool local : {true, false}) {
      if (!local)
        first_global_ = symbol_count();
      for (uint32_t o = 0; o < objects_.size(); ++o) {
        numbers_[o].resize(objects_[o].symbols.size());
        for (uint32_t i = 1; i < objects_[o].symbols.size(); ++i) {
          const ImageElfSymbol &s = objects_[o].symbols[i];
          if (!s.defined() || s.type == STT_SECTION || s.type == STT_FILE || is_local(s) != local)
            continue;
          const Piece &piece = pieces_[o][s.section == SHN_ABS ? 0 : s.section];
          if (s.section != SHN_ABS && (piece.section == Piece::nowhere || is_debug(piece.section)))
            continue;
          numbers_[o][i] = add_symbol(s.name, local ? uint8_t(STB_LOCAL) : s.binding, s.type,
                                      s.section == SHN_ABS ? uint32_t(SHN_ABS) : piece.section + 1,
                                      s.value + piece.offset, s.size);
        }
      }
    }
  }

  bool is_local(const ImageElfSymbol &s) const {
    if (s.binding == STB_LOCAL)
      return true;
    return s.visibility != STV_DEFAULT && !exported_.contains(s.name.str());
  }

  Error number_undefined() {
    std::set<std::string> wanted, unknown;
    for (const ElfObject &object : objects_)
      for (size_t i = 1; i < object.symbols.size(); ++i) {
        const ImageElfSymbol &s = object.symbols[i];
        if (!s.defined() && !definitions_.contains(s.name))
          wanted.insert(s.name.str());
      }
    for (const std::string &name : wanted) {
      if (std::ranges::find(info_.helpers, name) == info_.helpers.end())
        unknown.insert(name);
      undefined_[name] = add_symbol(name, STB_GLOBAL, STT_NOTYPE, SHN_UNDEF, 0, 0);
    }
    if (unknown.empty())
      return Error::success();
    return internal_error(
               formatv("undefined symbol {0}: not among the helpers of the image", llvm::join(unknown, ", ")))
        .error();
  }

  uint32_t symbol_count() const { return symbols_.size() / sizeof(Elf::Sym); }

  uint32_t add_symbol(StringRef name, uint8_t binding, uint8_t type, uint16_t section, uint64_t value,
                      uint64_t size) {
    Elf::Sym s{};
    if (!name.empty()) {
      s.st_name = strings_.size();
      strings_.insert(strings_.end(), name.begin(), name.end());
      strings_.push_back(0);
    }
    s.setBindingAndType(binding, type);
    s.st_shndx = section;
    s.st_value = value;
    s.st_size = size;
    append_bytes(symbols_, s);
    return symbol_count() - 1;
  }

  Error move_relocations(uint32_t o, uint32_t section) {
    const Piece &at = pieces_[o][section];
    if (at.section == Piece::nowhere)
      return Error::success();
    Merged &out = sections_[at.section];
    for (const Elf::Rela &r : objects_[o].sections[section].relocations) {
      Elf::Rela moved = r;
      moved.r_offset = r.r_offset + at.offset;
      SymbolRef ref{o, r.getSymbol(false)};
      if (const ImageElfSymbol &s = symbol(ref); !s.defined() && ref.symbol != 0)
        if (auto it = definitions_.find(s.name); it != definitions_.end())
          ref = it->second;
      const ImageElfSymbol &target = symbol(ref);
      const Piece &piece = pieces_[ref.object][target.section == SHN_ABS ? 0 : target.section];
      if (piece.section != Piece::nowhere && is_debug(piece.section)) {
        if (Error e = resolve_debug(out, moved, piece.offset + target.value + uint64_t(r.r_addend)))
          return e;
        continue;
      }
      uint32_t number = numbers_[ref.object][ref.symbol];
      if (!target.defined() && ref.symbol != 0)
        number = undefined_[target.name];
      else if (target.type == STT_SECTION && piece.section != Piece::nowhere) {
        number = section_symbols_[piece.section];
        moved.r_addend = r.r_addend + int64_t(piece.offset);
      }
      if (number == 0)
        return internal_error(formatv("{0}+{1:x}: refers to section {2}, which is left out", out.header.name,
                                      uint64_t(moved.r_offset),
                                      objects_[ref.object].sections[target.section].name))
            .error();
      moved.setSymbolAndType(number, r.getType(false), false);
      out.relocations.push_back(moved);
    }
    return Error::success();
  }

  const ImageElfSymbol &symbol(SymbolRef ref) const { return objects_[ref.object].symbols[ref.symbol]; }

  /// An offset into a debug section, known now.
  static Error resolve_debug(Merged &out, const Elf::Rela &r, uint64_t value) {
    uint8_t *field = out.header.contents.data() + r.r_offset;
    uint32_t type = r.getType(false);
    if (!is_debug_section(out.header.name) || (type != R_X86_64_32 && type != R_X86_64_64))
      return internal_error(formatv("{0}+{1:x}: relocation type {2} to a debug section", out.header.name,
                                    uint64_t(r.r_offset), type))
          .error();
    if (type == R_X86_64_32 && !llvm::isUInt<32>(value))
      return internal_error("debug information exceeds 4 GiB").error();
    if (type == R_X86_64_32)
      llvm::support::endian::write32le(field, value);
    else
      llvm::support::endian::write64le(field, value);
    return Error::success();
  }

  /// Loaded sections, `.ujit`, their relocations, symbols, names; then all that strip_debug() cuts off.
  std::vector<uint8_t> write() {
    std::vector<uint32_t> order;
    for (bool debug : {false, true})
      for (uint32_t i = 0; i < sections_.size(); ++i)
        if (is_debug(i) == debug)
          order.push_back(i);
    size_t kept = std::ranges::count_if(order, [&](uint32_t i) { return !is_debug(i); });

    std::string json = print_image_info(info_);
    std::vector<ElfOutputSection> out, debug;
    std::vector<uint32_t> number(sections_.size());
    for (size_t k = 0; k < kept; ++k) {
      number[order[k]] = out.size() + 1;
      out.push_back(header_of(order[k]));
    }
    out.push_back({.name = ".ujit", .type = SHT_PROGBITS, .contents = {json.begin(), json.end()}});
    out.push_back(make_checksum(checksum_section));
    out.push_back({.name = ".note.GNU-stack", .type = SHT_PROGBITS});
    uint32_t relocated = std::ranges::count_if(order.begin(), order.begin() + kept,
                                               [&](uint32_t i) { return !sections_[i].relocations.empty(); });
    uint32_t symbol_table = out.size() + relocated + 1;
    for (size_t k = 0; k < kept; ++k)
      add_relocations(out, order[k], number[order[k]], symbol_table);
    // LLVM links the frame sizes of a function with a jump table to its constants; they speak of code.
    auto text = section_by_name_.find(".text");
    for (ElfOutputSection &s : out)
      if (s.name == ".stack_sizes" && text != section_by_name_.end()) {
        s.flags |= SHF_LINK_ORDER;
        s.link = number[text->second];
      }
    renumber_sections(number);
    out.push_back({.name = ".symtab",
                   .type = SHT_SYMTAB,
                   .align = 8,
                   .entry_size = sizeof(Elf::Sym),
                   .link = symbol_table + 1,
                   .info = first_global_,
                   .contents = std::move(symbols_)});
    out.push_back({.name = ".strtab", .type = SHT_STRTAB, .contents = std::move(strings_)});
    size_t names_after = out.size();
    for (size_t k = kept; k < order.size(); ++k) {
      number[order[k]] = out.size() + 2; // behind .shstrtab
      out.push_back(header_of(order[k]));
    }
    if (kept < order.size())
      out.push_back(make_checksum(debug_checksum_section));
    for (size_t k = kept; k < order.size(); ++k)
      add_relocations(out, order[k], number[order[k]], symbol_table);
    std::vector<uint8_t> bytes = write_elf(std::move(out), names_after);
    write_checksums(bytes);
    return bytes;
  }

  ElfOutputSection header_of(uint32_t i) {
    ElfOutputSection s = std::move(sections_[i].header);
    s.nobits_size = sections_[i].size;
    return s;
  }

  void add_relocations(std::vector<ElfOutputSection> &out, uint32_t section, uint32_t target,
                       uint32_t symbol_table) {
    const std::vector<Elf::Rela> &relocations = sections_[section].relocations;
    if (relocations.empty())
      return;
    size_t at = target - (target > symbol_table ? 2 : 1);
    ElfOutputSection s{.name = ".rela" + out[at].name,
                       .type = SHT_RELA,
                       .flags = SHF_INFO_LINK,
                       .align = 8,
                       .entry_size = sizeof(Elf::Rela),
                       .link = symbol_table,
                       .info = target};
    for (const Elf::Rela &r : relocations)
      append_bytes(s.contents, r);
    out.push_back(std::move(s));
  }

  /// Symbols were made with places in sections_; now the sections have their final numbers.
  void renumber_sections(const std::vector<uint32_t> &number) {
    auto *symbols = reinterpret_cast<Elf::Sym *>(symbols_.data());
    for (uint32_t i = 0; i < symbol_count(); ++i)
      if (symbols[i].st_shndx != SHN_UNDEF && symbols[i].st_shndx != SHN_ABS)
        symbols[i].st_shndx = number[symbols[i].st_shndx - 1];
  }

  const ImageInfo &info_;
  std::set<std::string> exported_;
  std::vector<ElfObject> objects_;
  std::vector<Merged> sections_;
  llvm::StringMap<uint32_t> section_by_name_;
  std::vector<std::vector<Piece>> pieces_;     ///< by object and section
  llvm::StringMap<SymbolRef> definitions_;     ///< globals
  llvm::StringMap<uint32_t> undefined_;        ///< output symbol numbers
  std::vector<std::vector<uint32_t>> numbers_; ///< by object and symbol: output symbol numbers; 0: none
  std::vector<uint32_t> section_symbols_;      ///< by output section
  std::vector<uint8_t> symbols_, strings_;
  uint32_t first_global_ = 0;
};

} // namespace

Expected<std::vector<uint8_t>> write_image(std::span<const std::vector<uint8_t>> objects,
                                           const ImageInfo &info) {
  return Merger(info).run(objects);
}

Expected<std::vector<uint8_t>> strip_debug(std::span<const uint8_t> image) {
  auto object = read_elf(image);
  if (!object)
    return object.takeError();
  std::vector<ImageElfSection> &sections = object->sections;
  auto is_debug = [&](const ImageElfSection &s) { return is_debug_part(*object, s); };
  auto first = std::ranges::find_if(sections, is_debug);
  if (first == sections.end())
    return std::vector<uint8_t>(image.begin(), image.end());
  uint64_t end = first->offset;
  uint32_t kept = first - sections.begin();
  auto &header = *reinterpret_cast<const Elf::Ehdr *>(image.data());
  bool in_order =
      std::all_of(first, sections.end(), is_debug) && header.e_shstrndx < kept && end >= sizeof(Elf::Ehdr);
  for (uint32_t i = 1; i < kept; ++i)
    in_order &= sections[i].offset + sections[i].contents.size() <= end && sections[i].link < kept;
  for (const ImageElfSymbol &s : object->symbols)
    in_order &= s.section == SHN_ABS || s.section < kept;
  if (!in_order)
    return input_error("malformed object: debug sections are not behind all others").error();

  std::vector<uint8_t> out(image.begin(), image.begin() + end);
  out.resize(llvm::alignTo(end, 8));
  Elf::Ehdr stripped = header;
  stripped.e_shoff = out.size();
  stripped.e_shnum = kept;
  std::copy_n(reinterpret_cast<const uint8_t *>(&stripped), sizeof(stripped), out.begin());
  const uint8_t *table = image.data() + header.e_shoff;
  out.insert(out.end(), table, table + kept * sizeof(Elf::Shdr));
  return out;
}

} // namespace ujit
