// Is the fused image the chain that it replaces? The same packets go through four executors, each on fresh
// and equally seeded maps, and everything observable is compared with what the reference interpreter saw: per
// packet the return value, packet, metadata, context, redirect, clones, printed text and events; at the end
// every map.
//
// The embedded kernel is a function of its input: time starts at a fixed value and goes on by a step each
// packet, random numbers come from a fixed seed. The running kernel is not. What a pipeline derives from
// bpf_ktime_get_*, bpf_get_prandom_u32, the CPU's number or which element a full LRU map evicts may differ
// between the two without a fault of anybody; notes say so where it applies.
#pragma once

#include "lto/execute.h"
#include "lto/link.h"

namespace ujit {

struct CheckedExecutor {
  std::string name;
  std::string left_out; ///< why; empty: it ran
};

struct CheckResult {
  size_t packets = 0;                                      ///< that went through all executors
  std::vector<std::pair<size_t, std::string>> not_checked; ///< packets that no executor got, with the reason
  std::vector<CheckedExecutor> executors;
  std::vector<Difference> differences; ///< the first `limit` of each pair
  size_t total_differences = 0;
  std::vector<std::string> notes;
};

/// Links `execution.pipeline` fused and as a chain (`options` otherwise), runs all, compares. Errors: a link
/// that fails, an executor other than the running kernel that fails; a difference is none.
Expected<CheckResult> check(const Execution &execution, const LinkOptions &options, bool with_kernel,
                            size_t limit = 10);

} // namespace ujit
