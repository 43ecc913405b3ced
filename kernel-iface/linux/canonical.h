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

/// `entry_count` programs from the front become entries. Errors: an entry that is refused.
Expected<CanonicalPipeline> canonicalise(const Capture &capture);

} // namespace ujit
