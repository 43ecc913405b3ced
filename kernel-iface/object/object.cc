#include "kernel-iface/object/object.h"

#include "kernel-iface/object/btf.h"
#include "kernel-iface/object/elf.h"
#include "kernel-iface/object/map_defs.h"
#include "kernel-iface/object/programs.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>
#include <cstring>
#include <elf.h>

namespace ujit {

using llvm::formatv;

namespace {

Error read_variables(const ElfFile &elf, const MapDefs &defs, Object &object) {
  for (const ElfSymbol &s : elf.symbols) {
    if (s.size == 0 || (s.type != STT_OBJECT && s.type != STT_NOTYPE))
      continue;
    auto map = defs.at(s.section, s.value);
    if (!map || !defs.maps[index(*map)].is_data())
      continue;
    if (s.size > defs.maps[index(*map)].contents.size() - s.value)
      return input_error(
                 formatv("variable {0} reaches beyond section {1}", s.name, defs.maps[index(*map)].name)
                     .str())
          .error();
    object.variables.push_back({s.name, *map, uint32_t(s.value), uint32_t(s.size)});
  }
  std::sort(object.variables.begin(), object.variables.end(), [](const Variable &a, const Variable &b) {
    return std::tie(a.map, a.offset, a.name) < std::tie(b.map, b.offset, b.name);
  });
  return Error::success();
}

Error read(std::span<const uint8_t> bytes, const ObjectOptions &options, Object &object) {
  if (bytes.size() > UINT32_MAX)
    return unsupported("the file has 4 GiB or more").error();
  auto elf = parse_elf(bytes);
  if (!elf)
    return elf.takeError();

  Btf btf;
  std::map<std::string, BtfExtSection> btf_ext;
  if (const ElfSection *s = elf->find_section(".BTF"); s && !s->bytes.empty()) {
    object.btf.assign(s->bytes.begin(), s->bytes.end());
    auto parsed = Btf::parse(s->bytes);
    if (!parsed)
      return parsed.takeError();
    btf = std::move(*parsed);
    if (const ElfSection *ext = elf->find_section(".BTF.ext"); ext && !ext->bytes.empty()) {
      object.btf_ext.assign(ext->bytes.begin(), ext->bytes.end());
      auto parsed = parse_btf_ext(ext->bytes, btf);
      if (!parsed)
        return parsed.takeError();
      btf_ext = std::move(*parsed);
    }
  }
  if (const ElfSection *s = elf->find_section("license"))
    object.license.assign(s->bytes.begin(), std::find(s->bytes.begin(), s->bytes.end(), 0));
  if (const ElfSection *s = elf->find_section("version"); s && s->bytes.size() == 4)
    std::memcpy(&object.version, s->bytes.data(), 4);

  auto defs = read_map_defs(*elf, btf);
  if (!defs)
    return defs.takeError();
  object.maps = defs->maps;
  object.replaced = defs->replaced;
  if (Error e = read_variables(*elf, *defs, object))
    return e;
  return read_programs(*elf, btf, btf_ext, *defs, options, object);
}

} // namespace

Expected<Object> read_object(std::string path, std::span<const uint8_t> bytes, const ObjectOptions &options) {
  Object object;
  object.path = std::move(path);
  if (Error e = read(bytes, options, object))
    return with_place(std::move(e), object.path);
  return object;
}

Expected<Object> read_object_file(const std::string &path, const ObjectOptions &options) {
  auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!buffer)
    return input_error("cannot be read: " + buffer.getError().message()).in_file(path).error();
  llvm::StringRef bytes = (*buffer)->getBuffer();
  return read_object(path, {reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size()}, options);
}

} // namespace ujit
