// C code of the same source as the pipeline, compiled for this machine: what could be had if nothing stood
// between the source and the compiler.
#pragma once

#include "lto/bench_measure.h"
#include "lto/bench_thunk.h"

#include "kernel-iface/embedded/loader.h"

#include <memory>

namespace ujit {

/// A relocatable object with a function `whole` (context of the embedded kernel, r0). It names maps by the
/// undefined symbols `ujit_map_NAME` (the map as helpers take it) and `ujit_values_NAME` (its first value),
/// each as a 64-bit immediate.
class PlainCode {
public:
  /// Loads it once at one place. With `thunks` its return goes through one; `helpers` as for load_native().
  /// Errors: those of load_image(); a map that the pipeline has not.
  static Expected<PlacedCode> place(const Execution &execution, std::span<const uint8_t> object,
                                    const std::string &name, uint32_t page_offset, ReturnThunks *thunks,
                                    std::span<const ImageSymbol> helpers);
};

} // namespace ujit
