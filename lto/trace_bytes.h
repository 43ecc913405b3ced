// A trace as bytes, to get it out of a worker process.
#pragma once

#include "lto/trace.h"
#include "translator/error.h"

#include <span>

namespace ujit {

std::vector<uint8_t> pack(Trace trace);

/// Errors (internal): not what pack() made, as when bad code has overwritten it.
Expected<Trace> unpack(std::span<const uint8_t> bytes);

} // namespace ujit
