// What a test run does not show: where a packet would be redirected to, which tunnel key it was given.
// Programs say so to helpers, so these helpers are watched, by kprobes. They see every call in the kernel: in
// a guest or a quiet network namespace that is the program that runs.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/error.h"

#include <string>
#include <vector>

namespace ujit {

class HelperCalls {
public:
  /// Watches until the object dies. Helpers that this kernel does not have are left out. Errors: the kernel
  /// has no kprobes, or does not allow them.
  static Expected<HelperCalls> watch();

  /// Before a run.
  Error forget();
  /// The calls since, in order, the first 16 of them: "bpf_redirect(0x7, 0x0)"; memory that a helper reads
  /// follows as hex.
  Expected<std::vector<std::string>> take() const;

private:
  Fd record_;
  std::vector<Fd> probes_;
};

} // namespace ujit
