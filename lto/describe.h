// What an image says about itself, before its code is merged.
#pragma once

#include "lto/image.h"
#include "lto/link.h"

namespace ujit {

/// From a plan whose code has been generated. `helpers` has what the code may name; sizes are not known yet.
ImageInfo describe_image(const Pipeline &pipeline, const LinkOptions &options, const InstanceLayout &layout,
                         const LinkResult &result);

} // namespace ujit
