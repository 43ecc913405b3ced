// Is the fused image in the kernel what the stock chain is there? Replicas of a pipeline, each on fresh and
// equally seeded maps in a private network namespace: the original entries run on one, the stubs of an
// installed image on the other, packet by packet. Nothing of it touches what is attached on the machine.
#pragma once

#include "lto/contexts.h"
#include "lto/replica.h"

#include <map>

namespace ujit {

/// One way into the pipeline: every packet goes through it.
struct WayIn {
  ProgId entry{};
  std::vector<uint8_t> context; ///< UAPI form, or empty
  std::optional<TunnelKey> tunnel;
  std::string text; ///< for messages
};

struct ReachedPath {
  std::vector<std::string> programs; ///< from the entry on
  size_t runs = 0;                   ///< that took it
};

/// Counted runs. Of all of them by BPF_PROG_TEST_RUN, without what an empty program takes: sums of the
/// smallest of a few runs. Where the clock counts instructions, 1 ns is one.
struct InstalledPath : ReachedPath {
  double stock_ns = 0, installed_ns = 0;
};

struct InstalledCheck {
  InstalledFacts facts;
  size_t packets = 0;                   ///< times ways in
  size_t not_run = 0;                   ///< of these: not taken by test runs of this kernel
  std::string no_calls;                 ///< why redirects and tunnel keys were not seen; empty: they were
  Comparison comparison;                ///< the field of a packet's difference says the way in
  std::map<std::string, size_t> varied; ///< what the originals' own two runs did not agree on, how often
  std::vector<InstalledPath> paths;     ///< the most expensive first, over all their runs
  Reach reached;
};

/// Packets go through all ways in, one way after the other. The pipeline's entries are what is installed.
/// Errors: those of Replica::make(); a difference is none. `limit`: differences kept.
Expected<InstalledCheck> check_installed(const Execution &execution, std::span<const WayIn> ways,
                                         const Manifest &manifest, const LinkOptions &link,
                                         size_t limit = 10);

struct ReachCheck {
  size_t packets = 0, not_run = 0; ///< as above
  Reach possible, reached;
  std::vector<ReachedPath> paths; ///< the most frequent first
};

/// The originals alone: what the packets reach of what can be reached. Nothing is linked or installed.
Expected<ReachCheck> check_reach(const Execution &execution, std::span<const WayIn> ways,
                                 const Manifest &manifest);

} // namespace ujit
