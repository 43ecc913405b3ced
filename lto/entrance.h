// What a test run calls. Mostly that is an entry itself or a stub. Programs behind a tunnel ask for the
// tunnel's key, which no context of a test run has: then it is a small program that sets the key and
// tail-calls them, which is one tail call of the 33.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "lto/contexts.h"

namespace ujit {

class Entrance {
public:
  /// `program` (a tc program where there is a key) stays the caller's, but is held as long as this lives.
  /// Errors: the kernel takes no such program.
  static Expected<Entrance> make(const std::optional<TunnelKey> &tunnel, int program);

  int fd() const { return own_ ? own_.get() : program_; }

private:
  Entrance() = default;
  int program_ = -1;
  Fd own_, target_; ///< target_: a prog array with `program` in its only slot
};

} // namespace ujit
