// Instructions counted one by one, by the processor's trap flag: exact, and possible where there are no
// performance counters.
#pragma once

#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/kernel.h"

#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace ujit {

struct InsnCounts {
  uint64_t own = 0;         ///< in the given ranges
  uint64_t other = 0;       ///< elsewhere: helpers, what they call, stubs that lead to them
  uint64_t thunks = 0;      ///< in the ranges given as thunks
  std::vector<uint32_t> at; ///< times each byte of the first range was an instruction's first
  std::vector<std::pair<uint64_t, uint64_t>>
      helpers; ///< calls and instructions, by index into helper_symbols()
};

/// Counts while it lives; takes over SIGTRAP of this process. One at a time.
class InsnCounter {
public:
  using Ranges = std::span<const std::pair<uint64_t, uint64_t>>; ///< as (address, size)

  /// `own` by address.
  InsnCounter(Ranges own, Ranges thunks);
  InsnCounter(const InsnCounter &) = delete;

  /// Runs and adds to counts().
  uint64_t run(NativeEntry entry, void *context, const uint64_t *instance);
  const InsnCounts &counts() const;
};

} // namespace ujit
