// An image may have been linked for another machine.
#pragma once

#include "lto/image.h"

namespace ujit {

/// Whether this machine has the instructions that the code of an image may use. Errors (input): it lacks
/// some, which are named; a target that nobody here knows.
Error check_cpu(const ImageInfo &image);

} // namespace ujit
