// Is the fused image in the kernel what the stock chain is there? Two replicas of a pipeline, each on fresh
// and equally seeded maps in a private network namespace: the original entry runs on one, the stub of an
// installed image on the other, packet by packet. Nothing of it touches what is attached on the machine.
#pragma once

#include "lto/execute.h"
#include "lto/link.h"
#include "lto/manifest.h"
#include "lto/report.h"

namespace ujit {

/// Times in milliseconds; the module's memory as the kernel accounts it.
struct InstalledFacts {
  double capture_ms = 0, link_ms = 0, insert_ms = 0, stubs_ms = 0;
  uint64_t module_bytes = 0;
  LinkReport report;
};

struct InstalledPath {
  std::vector<std::string> programs; ///< from the entry on
  std::vector<size_t> packets;       ///< that take it, counted from 0
  /// Of one run by BPF_PROG_TEST_RUN, without what an empty program takes (`fixed_ns`): means over a few
  /// packets of the smallest of several runs. Where the clock counts instructions, 1 ns is one.
  double stock_ns = 0, installed_ns = 0, fixed_ns = 0;
};

struct InstalledCheck {
  InstalledFacts facts;
  size_t packets = 0, not_run = 0;
  Comparison comparison;
  std::vector<InstalledPath> paths;  ///< in the order in which packets showed them
  std::vector<std::string> programs; ///< reached; sorted
  size_t edges = 0;                  ///< different pairs of programs of which one tail-called the other
};

/// Errors: those of execute_installed(); a difference is none. `limit`: differences kept.
Expected<InstalledCheck> check_installed(const Execution &execution, const Manifest &manifest,
                                         const LinkOptions &link, size_t limit = 10);

} // namespace ujit
