// The kernel JIT's own machine code as the baseline: what the running kernel made of a pipeline, run in this
// process on the embedded kernel's maps, helpers and packets.
#pragma once

#include "lto/bench_measure.h"

#include <memory>

namespace ujit {

class JitReplay {
public:
  /// Loads the pipeline into the running kernel, takes its code, and lets go of it again. Errors
  /// (unsupported): bpf() is not allowed, code or addresses are hidden; something in the code that cannot be
  /// replayed, by program.
  static Expected<std::unique_ptr<JitReplay>> capture(const Execution &execution);
  ~JitReplay();

  /// A copy of the code at another place. It lives as long as this.
  Expected<PlacedCode> place(uint32_t page_offset);

  uint64_t code_bytes() const;
  /// Whether the kernel's code returns and jumps through mitigation thunks. The replay does without: helpers
  /// and our own code return plainly too.
  bool had_thunks() const;

private:
  struct State;
  explicit JitReplay(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace ujit
