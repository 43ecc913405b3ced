// Captured programs to canonical form (translator/kernel.h): addresses become symbols again, sequences that
// the verifier put in for a helper become the helper call they were. The same object loaded twice, or on two
// boots, gives the same canonical pipeline.
#pragma once

#include "kernel-iface/linux/capture.h"

namespace ujit {

struct CanonicalPipeline {
  Pipeline pipeline;
  std::vector<size_t> programs; ///< by ProgId: index into Capture::programs
  std::vector<size_t> maps;     ///< by MapId: index into Capture::maps
  struct Unfused {
    size_t program; ///< index into Capture::programs
    std::string reason;
  };
  std::vector<Unfused> unfused; ///< refused by name: they run as they are, and edges to them leave
};

/// `Capture::entries` programs from the front become entries. Programs and maps are in the order in which
/// they are found from there, whatever the order in the capture. Errors: an entry that is refused, with the
/// reason.
Expected<CanonicalPipeline> canonicalise(const Capture &capture);

/// Kernel functions and variables that translated code can name beside those that the programs themselves
/// call: what CaptureOptions::symbols should ask for. Not every kernel has all of them.
std::span<const std::string> translation_symbols();

} // namespace ujit
