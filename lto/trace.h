// What a run of a pipeline over packets showed, in a form that does not depend on who ran it, and the
// comparison of two such traces. Fields that an executor cannot observe are left empty there and are not
// compared.
#pragma once

#include "translator/map_contents.h"
#include "translator/program.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Where a redirecting helper sent a packet.
struct RedirectTarget {
  std::string map;  ///< empty: an interface
  uint64_t key = 0; ///< of the map, or interface index
  uint64_t flags = 0;
  friend bool operator==(const RedirectTarget &, const RedirectTarget &) = default;
};

struct Observation {
  uint32_t retval = 0;
  std::vector<uint8_t> packet;
  std::vector<uint8_t> metadata;                         ///< XDP: bytes in front of the packet
  std::optional<std::vector<uint8_t>> context;           ///< UAPI form; pointer fields zero
  std::optional<std::optional<RedirectTarget>> redirect; ///< inner none: no redirect was asked for
  bool not_run = false;                                  ///< this executor does not take such a packet
};

/// Samples that programs sent through one perf_event_array or ringbuf, in order.
struct EventTrace {
  std::string map;
  std::vector<std::vector<uint8_t>> samples;
  bool padded = false; ///< samples may have padding behind them, as the kernel's perf ring adds
};

struct Trace {
  std::string executor;
  std::vector<Observation> packets;
  std::vector<MapSeed> maps;      ///< contents afterwards, sorted by name
  std::vector<EventTrace> events; ///< sorted by map
};

struct Difference {
  std::string left, right;      ///< the executors
  std::optional<size_t> packet; ///< from 0; none: about the state at the end
  std::string field;            ///< "return value", "packet", "context", "map services", ...
  std::string left_value, right_value;
};

/// Both traces must be of the same packets. At most `limit` differences are spelled out; `total` counts all.
struct Comparison {
  std::vector<Difference> differences;
  size_t total = 0;
};
Comparison compare(const Trace &left, const Trace &right, size_t limit = 10);

/// The lines of a person's report of one difference, ended by a newline.
std::string print_difference(const Difference &difference);

} // namespace ujit
