#pragma once

#include "lto/link.h"

#include <string>
#include <string_view>

namespace ujit {

/// The IR of a pipeline's first partition as code is made of it; the error's text if it does not link.
std::string optimised_ir(const Pipeline &pipeline, LinkOptions options);

/// How often `what` is in `text`, overlaps included.
size_t count(std::string_view text, std::string_view what);

} // namespace ujit
