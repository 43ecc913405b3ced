// The maps' addresses are not known when the object is loaded, since each measurement has a kernel of its
// own. So the symbols get values that nothing else has, and where those are found as immediates the addresses
// are written later.
#include "lto/bench_plain.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Object/ELFObjectFile.h"

#include <sys/mman.h>

#include <cstring>

namespace ujit {

namespace {

using llvm::StringRef;

constexpr uint64_t placeholder = 0x7e57c0de00000000;

struct Symbol {
  std::string name;
  MapId map{};
  bool values = false;
};

struct Site {
  uint8_t *immediate;
  Symbol symbol;
};

struct Loaded {
  LoadedImage image;
  std::vector<Site> sites;
  const Kernel *kernel = nullptr;
};

Expected<std::vector<Symbol>> read_symbols(const Pipeline &pipeline, llvm::MemoryBufferRef object) {
  auto parsed = llvm::object::ObjectFile::createELFObjectFile(object);
  if (!parsed)
    return with_place(parsed.takeError(), object.getBufferIdentifier().str());
  std::vector<Symbol> out;
  for (const llvm::object::ELFSymbolRef symbol : (*parsed)->symbols()) {
    Expected<StringRef> name = symbol.getName();
    if (!name)
      return with_place(name.takeError(), object.getBufferIdentifier().str());
    StringRef map = *name;
    const bool values = map.consume_front("ujit_values_");
    if (!values && !map.consume_front("ujit_map_"))
      continue;
    const std::optional<MapId> id = pipeline.find_map(std::string_view(map));
    if (!id)
      return input_error(("it uses a map " + map + " which the pipeline has not").str())
          .in_file(object.getBufferIdentifier().str())
          .error();
    out.push_back({name->str(), *id, values});
  }
  return out;
}

/// movabs with one of the placeholders.
std::vector<Site> find_sites(const LoadedImage &image, const std::vector<Symbol> &symbols) {
  std::vector<Site> out;
  for (const auto &[address, size] : image.code_ranges()) {
    auto *code = reinterpret_cast<uint8_t *>(address);
    for (uint64_t at = 0; at + 10 <= size; ++at) {
      if ((code[at] & 0xfe) != 0x48 || (code[at + 1] & 0xf8) != 0xb8)
        continue;
      uint64_t value;
      memcpy(&value, code + at + 2, 8);
      if (const uint64_t n = value - placeholder; n < symbols.size())
        out.push_back({code + at + 2, symbols[n]});
    }
  }
  return out;
}

void write_addresses(Loaded &loaded, Kernel &kernel) {
  if (loaded.kernel == &kernel)
    return;
  loaded.kernel = &kernel;
  for (const auto &[address, size] : loaded.image.code_ranges()) {
    const uint64_t first = address & ~uint64_t(4095);
    mprotect(reinterpret_cast<void *>(first), address + size - first, PROT_READ | PROT_WRITE | PROT_EXEC);
  }
  for (const Site &s : loaded.sites) {
    MapObject *map = kernel.map(s.symbol.map);
    const auto address =
        reinterpret_cast<uint64_t>(s.symbol.values ? map->values(0) : static_cast<void *>(map));
    memcpy(s.immediate, &address, 8);
  }
}

} // namespace

Expected<PlacedCode> PlainCode::place(const Execution &x, std::span<const uint8_t> object,
                                      const std::string &name, uint32_t page_offset, ReturnThunks *thunks,
                                      std::span<const ImageSymbol> helpers) {
  const llvm::MemoryBufferRef buffer({reinterpret_cast<const char *>(object.data()), object.size()}, name);
  Expected<std::vector<Symbol>> symbols = read_symbols(x.pipeline, buffer);
  if (!symbols)
    return symbols.takeError();
  std::vector<ImageSymbol> extra(helpers.begin(), helpers.end());
  for (size_t i = 0; i < symbols->size(); ++i)
    extra.push_back({(*symbols)[i].name, reinterpret_cast<const void *>(placeholder + i)});
  Expected<LoadedImage> image = load_image(buffer, extra, page_offset);
  if (!image)
    return image.takeError();
  Expected<const void *> entry = image->require("whole");
  if (!entry)
    return entry.takeError();
  auto loaded = std::make_shared<Loaded>();
  loaded->image = std::move(*image);
  loaded->sites = find_sites(loaded->image, *symbols);

  PlacedCode out;
  out.entry = reinterpret_cast<NativeEntry>(const_cast<void *>(*entry));
  if (thunks) {
    out.entry = thunks->entry(out.entry);
    out.thunks = {thunks->range()};
  }
  out.install = [loaded](Kernel &kernel) { write_addresses(*loaded, kernel); };
  out.ranges = loaded->image.code_ranges();
  return out;
}

} // namespace ujit
