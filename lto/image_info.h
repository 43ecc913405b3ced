// The description of an image as JSON text: the contents of its `.ujit` section.
#pragma once

#include "lto/image.h"

#include "llvm/ADT/StringRef.h"

namespace ujit {

/// One line of JSON, the same for the same description.
std::string print_image_info(const ImageInfo &info);

/// The inverse, strict: unknown, missing and ill-typed fields are errors, as is a format newer than ours.
Expected<ImageInfo> parse_image_info(llvm::StringRef json);

} // namespace ujit
