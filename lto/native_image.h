// An image in this process, with the addresses that an embedded kernel needs to run it.
#pragma once

#include "kernel-iface/embedded/kernel.h"
#include "kernel-iface/embedded/loader.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ujit {

struct NativeImage {
  LoadedImage code;
  NativeEntry entry = nullptr;
  std::vector<std::pair<ProgId, const void *>> programs; ///< what prog-array slots lead to

  /// Tells a kernel what its prog-array slots lead to from now on.
  void install(Kernel &kernel) const;
};

/// Loads an image that was linked from `pipeline`. `name` is for messages; `page_offset` as for load_image();
/// `helpers` take the place of the embedded kernel's of the same name. Errors: those of load_image() and
/// read_image_info(), and no entry for this program.
Expected<NativeImage> load_native(const Pipeline &pipeline, ProgId entry, std::span<const uint8_t> image,
                                  const std::string &name, std::optional<uint32_t> page_offset = {},
                                  std::span<const ImageSymbol> helpers = {});

} // namespace ujit
