// What a run of a pipeline over packets showed, whoever ran it, and the comparison of two such traces. What
// an executor cannot observe is not compared.
#pragma once

#include "kernel-iface/embedded/result.h"
#include "translator/map_contents.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ujit {

struct Observation {
  PacketResult result;
  std::string not_run;            ///< why this executor did not take the packet; the result is empty then
  std::vector<std::string> calls; ///< of helpers whose effects are not in the result (helper_calls.h)
};

struct Trace {
  std::string executor;
  std::vector<Observation> packets;
  std::vector<MapSeed> maps;   ///< contents afterwards; array elements that are all zero are left out
  double measured_seconds = 0; ///< of the rounds that execute_image() was asked to measure

  // What this executor can see.
  bool sees_redirects = true, sees_clones = true, sees_printed = true, sees_calls = false;
  /// Bytes of the context struct that it sees, as (offset, size); none: all of it.
  std::optional<std::vector<std::pair<uint32_t, uint32_t>>> context_ranges;
  bool pads_events = false; ///< samples may have padding behind them, as the kernel's perf ring adds
};

struct Difference {
  std::string left, right;      ///< the executors
  std::optional<size_t> packet; ///< counted from 0; none: about the maps at the end
  std::string field;            ///< "return value", "packet", "services[0a000001]", ...
  std::string left_value, right_value;
};

struct Comparison {
  std::vector<Difference> differences; ///< the first `limit`
  size_t total = 0;
};

/// Compares everything that both executors see: of each packet that both took, and of each map that both
/// have. Both traces are of the same packets through the same pipeline.
Comparison compare(const Pipeline &pipeline, const Trace &left, const Trace &right, size_t limit = 10);

/// The lines of a person's report of one difference, ended by a newline. Packets are counted from 1 there, as
/// in wireshark.
std::string print_difference(const Difference &difference);

} // namespace ujit
