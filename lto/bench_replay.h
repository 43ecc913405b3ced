// Runs what a kernel's JIT made of a pipeline in this process, on the embedded kernel's maps, helpers and
// packets: the baseline that everything is measured against.
#pragma once

#include "lto/bench_jit.h"
#include "lto/bench_measure.h"
#include "lto/bench_thunk.h"

#include <memory>

namespace ujit {

class JitReplay {
public:
  /// `code` may be of another pipeline than `execution`'s, if its maps are there by name: the same source as
  /// one program. `entry`: where a packet starts. Errors (unsupported): something in the code that cannot be
  /// replayed.
  static Expected<std::unique_ptr<JitReplay>> create(const Execution &execution, JitCode code,
                                                     const std::string &entry);
  ~JitReplay();

  /// A copy of the code at another place. With `thunks` returns go through one. It lives as long as this.
  Expected<PlacedCode> place(uint32_t page_offset, ReturnThunks *thunks);

  uint64_t code_bytes() const;

private:
  struct State;
  explicit JitReplay(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace ujit
