#include "lto/native_image.h"

#include "lto/cpu_check.h"
#include "lto/image.h"

#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/interpreter_host.h"
#include "translator/helper.h"

#include <cerrno>

namespace ujit {

namespace {

/// ld_abs and ld_ind of the translator: `bytes` of the packet in host order; negative: outside.
int64_t load_packet(const void *, int32_t offset, uint32_t bytes) {
  const std::optional<uint32_t> value = load_from_packet(offset, bytes * 8);
  return value ? int64_t(*value) : -EFAULT;
}

/// A call through a register: a helper by its number.
uint64_t call_helper(uint64_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
  const Helper *helper = find_helper(uint32_t(id));
  HelperFunction *function = helper ? find_helper_address(helper->name) : nullptr;
  return function ? function(r1, r2, r3, r4, r5) : uint64_t(-EINVAL);
}

} // namespace

void NativeImage::install(Kernel &kernel) const {
  for (const auto &[id, address] : programs)
    kernel.set_program_entry(id, address);
}

Expected<NativeImage> load_native(const Pipeline &pipeline, ProgId entry, std::span<const uint8_t> image,
                                  const std::string &name, std::optional<uint32_t> page_offset,
                                  std::span<const ImageSymbol> helpers) {
  Expected<ImageInfo> info = read_image_info(image, name);
  if (!info)
    return info.takeError();
  if (info->leave)
    return input_error("the image is for a kernel: its entries need a stub").in_file(name).error();
  if (Error e = check_cpu(*info))
    return with_place(std::move(e), name);
  std::vector<ImageSymbol> extra(helpers.begin(), helpers.end());
  extra.push_back({"ujit_load_packet", reinterpret_cast<const void *>(&load_packet)});
  extra.push_back({"ujit_call_helper", reinterpret_cast<const void *>(&call_helper)});
  const llvm::StringRef bytes(reinterpret_cast<const char *>(image.data()), image.size());
  Expected<LoadedImage> code = load_image(llvm::MemoryBufferRef(bytes, name), extra, page_offset);
  if (!code)
    return code.takeError();

  NativeImage out{std::move(*code), nullptr, {}};
  for (const ImageEntry &e : info->entries)
    if (e.program == pipeline[entry].name) {
      Expected<const void *> address = out.code.require(e.symbol);
      if (!address)
        return address.takeError();
      out.entry = reinterpret_cast<NativeEntry>(const_cast<void *>(*address));
    }
  if (!out.entry)
    return input_error("the image has no entry for " + pipeline[entry].name).error();
  for (const ImageProgram &p : info->programs)
    if (!p.symbol.empty()) {
      Expected<const void *> address = out.code.require(p.symbol);
      if (!address)
        return address.takeError();
      if (const std::optional<ProgId> id = pipeline.find_program(p.name))
        out.programs.emplace_back(*id, *address);
    }
  return out;
}

} // namespace ujit
