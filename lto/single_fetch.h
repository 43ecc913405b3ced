// Single fetch: a load from memory that others can write yields one value, which is both checked and used.
// Should the compiler make two machine loads of one, the second may see what the check did not.
// docs/memory-model.md, M8.
#pragma once

#include "lto/image.h"

#include <cstdint>
#include <span>
#include <vector>

namespace ujit {

struct RepeatedFetch {
  std::vector<Frame> chain;       ///< the load, innermost first: an inlined copy of an instruction
  uint64_t first = 0, second = 0; ///< text offsets; the second can be executed after the first
};

struct SingleFetch {
  size_t loads = 0;  ///< machine loads that belong to loads of packet or map memory
  size_t folded = 0; ///< machine loads that became part of the instruction that uses the value: they have its
                     ///< line, so that it is not known which load they were. One use folds one load.
  std::vector<RepeatedFetch> repeated; ///< by the text offsets; empty is what must be
};

/// Looks at the machine code of an image that was linked from `pipeline` with debug information. Each inlined
/// copy of a load of packet or map memory may execute one machine load on any path; inside of machine loops,
/// where executing it again may be right, one in any basic block. Errors: a malformed image, one without
/// debug information, a program that cannot be analysed.
Expected<SingleFetch> check_single_fetch(std::span<const uint8_t> image, const Pipeline &pipeline);

} // namespace ujit
