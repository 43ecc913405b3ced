#include "lto/installed_places.h"

#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/lifecycle.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Regex.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

using llvm::formatv;
using llvm::StringRef;

namespace {

/// FUNCTION+0xOFFSET[/0xSIZE] [MODULE], as the kernel prints it, and perf with its parentheses.
constexpr char named_place[] =
    "([^][() \t+]+)\\+0x([0-9a-f]+)(/0x[0-9a-f]+)?[ \t]+\\(?\\[(ujit_[0-9a-f]{16})\\]";

struct Found {
  std::string installation;
  std::vector<uint8_t> image;
};

/// The pinned image of a module.
Expected<Found> image_of(StringRef module) {
  Expected<std::vector<std::string>> names = InstallationFolder::list();
  if (!names)
    return names.takeError();
  for (const std::string &name : *names) {
    Expected<InstallationFolder> folder = InstallationFolder::open(name);
    if (!folder)
      return folder.takeError();
    const std::vector<std::string> &modules = folder->installation().modules;
    for (size_t i = 0; i < modules.size(); ++i) {
      if (modules[i] != module)
        continue;
      Expected<Fd> map = folder->get(image_pin(i));
      if (!map)
        return map.takeError();
      if (!*map)
        return input_error(formatv("'{0}' does not keep the image of {1}", name, module)).error();
      Expected<std::vector<uint8_t>> image = kept_bytes(*map);
      if (!image)
        return image.takeError();
      return Found{name, std::move(*image)};
    }
  }
  return input_error(formatv("no installation has a module {0}", module))
      .with_hint("what was uninstalled or is of another boot cannot be looked up any more")
      .error();
}

/// The image's text begins the module's.
Expected<InstalledPlace> place_in(StringRef module, std::optional<StringRef> function, uint64_t offset,
                                  bool return_address) {
  Expected<Found> found = image_of(module);
  if (!found)
    return found.takeError();
  auto object = read_elf(found->image);
  if (!object)
    return object.takeError();
  const uint32_t text = object->find_section(".text");
  InstalledPlace out{found->installation, {}};
  if (function) {
    const ImageElfSymbol *symbol = nullptr;
    for (const ImageElfSymbol &s : object->symbols)
      if (s.name == *function && s.section == text && text)
        symbol = &s;
    if (!symbol)
      return out;
    offset += symbol->value;
  }
  offset -= return_address && offset ? 1 : 0;
  if (offset >= object->sections[text].size)
    return out;
  Expected<std::vector<Frame>> frames = symbolize(found->image, offset);
  if (!frames)
    return frames.takeError();
  out.frames = std::move(*frames);
  return out;
}

/// Where the kernel has put a module's text; none: it hides addresses.
std::optional<uint64_t> text_address(StringRef module) {
  auto file = llvm::MemoryBuffer::getFileAsStream("/sys/module/" + module + "/sections/.text");
  uint64_t address = 0;
  if (!file || (*file)->getBuffer().trim().getAsInteger(0, address) || address == 0)
    return std::nullopt;
  return address;
}

Expected<InstalledPlace> place_at(uint64_t address, bool return_address) {
  Expected<std::vector<std::string>> names = InstallationFolder::list();
  if (!names)
    return names.takeError();
  bool hidden = false;
  for (const std::string &name : *names) {
    Expected<InstallationFolder> folder = InstallationFolder::open(name);
    if (!folder)
      return folder.takeError();
    for (const std::string &module : folder->installation().modules) {
      const ModuleStatus status = module_status(module);
      const std::optional<uint64_t> text = text_address(module);
      hidden |= status.loaded && !text;
      if (text && address >= *text && address - *text < status.bytes)
        return place_in(module, std::nullopt, address - *text, return_address);
    }
  }
  LinkError error = input_error(formatv("no module of an installation has address {0:x}", address));
  if (hidden)
    error.with_hint("the kernel hides addresses here: CAP_SYSLOG, sysctl kernel.kptr_restrict");
  return error.error();
}

} // namespace

bool is_installed_place(StringRef place) {
  uint64_t address = 0;
  return llvm::Regex(named_place).match(place) || !place.getAsInteger(0, address);
}

Expected<InstalledPlace> find_installed_place(StringRef place, bool return_address) {
  uint64_t address = 0;
  if (!place.getAsInteger(0, address))
    return place_at(address, return_address);
  llvm::SmallVector<StringRef> parts;
  if (!llvm::Regex(named_place).match(place, &parts) || parts[2].getAsInteger(16, address))
    return input_error("'" + place.str() + "' is not a place in what is installed").error();
  return place_in(parts[4], parts[1], address, return_address);
}

std::string annotate_dump(StringRef dump) {
  const llvm::Regex named(named_place);
  std::string out;
  while (!dump.empty()) {
    auto [line, rest] = dump.split('\n');
    dump = rest;
    out += line.str() + "\n";
    llvm::SmallVector<StringRef> parts;
    if (!named.match(line, &parts))
      continue;
    Expected<InstalledPlace> place = find_installed_place(parts[0], !line.contains("RIP:"));
    if (place)
      out += print_frames(place->frames, "    ");
    else
      out += "    " + llvm::toString(place.takeError()) + "\n";
  }
  return out;
}

std::string print_frames(const std::vector<Frame> &frames, StringRef indent) {
  std::string out;
  llvm::raw_string_ostream os(out);
  for (size_t i = 0; i < frames.size(); ++i) {
    const Frame &f = frames[i];
    os << indent << formatv("{0}{1}: insn {2}", i ? "  inlined into " : "", f.program, f.insn);
    if (!f.source.empty()) {
      llvm::SmallString<128> source(f.source);
      llvm::sys::path::remove_dots(source);
      os << " (" << source << ')';
    }
    os << '\n';
  }
  return out;
}

} // namespace ujit
