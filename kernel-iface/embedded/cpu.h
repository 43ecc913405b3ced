// One CPU of the embedded kernel: everything that helpers find without being told. A thread plays one CPU
// while it runs a program.
#pragma once

#include "kernel-iface/embedded/packet.h"
#include "kernel-iface/embedded/result.h"

#include <array>
#include <optional>

namespace ujit {

class Kernel;
class Interpreter;
class MapObject;

struct Cpu {
  uint32_t index = 0;
  Kernel *kernel = nullptr;
  Packet packet;
  const uint64_t *instance = nullptr; ///< handed on to native callbacks

  uint64_t time_ns = 0; ///< ktime
  uint64_t random_state = 1;

  bool record = true; ///< keep events, clones and printed text
  Redirect redirect;
  std::vector<Event> events;
  std::vector<Clone> clones;
  std::vector<std::string> printed;

  /// While the reference interpreter runs, callbacks are its functions; a failed one leaves its error here.
  Interpreter *interpreter = nullptr;
  std::optional<Error> callback_error;

  ProgType type() const { return packet.type(); }
  uint32_t random();
};

/// The CPU that this thread plays now; null outside of runs.
extern constinit thread_local Cpu *current_cpu;

/// Calls a program's callback, native or interpreted.
uint64_t call_callback(uint64_t function, const std::array<uint64_t, 5> &args);

} // namespace ujit
