// Measures pieces of native code side by side: the same packets, the same maps in the same memory, in turn.
#pragma once

#include "lto/execute.h"

#include "kernel-iface/embedded/kernel.h"

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ujit {

/// One copy of some code, at one place in memory. Copies of the same code differ in nothing else.
struct PlacedCode {
  NativeEntry entry = nullptr;
  /// Makes the kernel's prog arrays lead to this copy. May be empty.
  std::function<void(Kernel &)> install;
  /// Gives the context that the code gets for a prepared packet, the slot-th of a batch. Empty: the packet's
  /// own.
  std::function<void *(Cpu &, size_t slot)> context;
  /// Takes what the run did to that context back into the packet. May be empty.
  std::function<void(Cpu &, void *context)> finish;
  std::vector<std::pair<uint64_t, uint64_t>> ranges; ///< the code, as (address, size) by address
  std::vector<std::pair<uint64_t, uint64_t>> thunks; ///< return thunks and what leads to them
  /// Its instructions are counted too: two microseconds each. Asked of the first copy.
  bool counted = true;
};

struct MeasureOptions {
  uint32_t rounds = 5; ///< over all packets, for each copy
  /// Fewer rounds, at least two, if it would take longer than this; 0: it takes what it takes.
  double seconds = 0;
  bool progress = false;          ///< a line on stderr, which goes again
  uint32_t counted_packets = 200; ///< of these, evenly spread, instructions are counted one by one
};

struct HelperShare {
  std::string helper;
  double calls = 0, insns = 0; ///< a packet
};

struct Measured {
  std::vector<double> ns;           ///< a packet, by copy
  double own_insns = 0;             ///< a packet, in the code's own ranges
  double other_insns = 0;           ///< a packet, in helpers and what they call
  double thunk_insns = 0;           ///< a packet, in return thunks
  std::vector<HelperShare> helpers; ///< by instructions, most first
  /// Own instructions a packet by their place in the code's first range, in that order; those never reached
  /// are left out.
  std::vector<std::pair<uint64_t, double>> at;
};

struct Measurements {
  std::vector<Measured> codes; ///< in the order given
  uint32_t rounds = 0;         ///< for each copy
  double harness_ns = 0; ///< a packet: the same loop around a function that does nothing; not subtracted
};

/// `codes`: for each code its copies. Before each round the maps are set back to
/// their seeds; packets are prepared 64 at a time, and only the code's run over them is on the clock. Of each
/// batch of 64 the median over the rounds counts, so that a disturbance of the machine costs one batch of one
/// round. Codes take turns in each round. Runs in a worker. Errors: what a map refuses; (internal) code that
/// faults.
Expected<Measurements> measure(const Execution &execution, std::span<const std::vector<PlacedCode>> codes,
                               const MeasureOptions &options);

} // namespace ujit
