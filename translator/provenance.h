// Pointer provenance: for every register, at every block, what kind of memory it points to. The verifier
// has proven every access safe; it does not hand its proof over, so the part that the optimiser needs is
// computed again: a forward dataflow analysis on the bytecode, with 8-byte spills to the stack followed.
// What it finds decides whether a register is a pointer in the IR and which alias domain an access is in.
// Where paths disagree the answer is "unknown", never a guess.
//
// The analysis leans on the verifier in one point: a spilled pointer that is loaded and dereferenced again
// has not been overwritten in between by anything but a pointer, or the verifier would have refused the
// dereference. So a store of unknown extent makes us forget spilled numbers and stack pointers (which would
// be recomputed, not loaded), and a spilled pointer becomes what it was or what was stored.
#pragma once

#include "translator/cfg.h"
#include "translator/program.h"

#include <array>

namespace ujit {

struct Provenance {
  enum Kind : uint8_t {
    unset,  ///< never written: reading it is an error
    scalar, ///< a number; `offset` is its value if `exact`
    context,
    stack,       ///< this frame; `offset` counts from r10
    outer_stack, ///< a caller's frame; `offset` counts from the direct caller's r10
    packet,      ///< packet data or metadata
    packet_end,
    map_object, ///< the map itself, as helpers take it
    map_value,  ///< inside of a value; `offset` counts from the value's (for data maps: the map's) start
    memory,     ///< other memory that may be dereferenced
    kernel,     ///< verified form: a kernel object, never a frame; what it points to is one as well
    function,   ///< a callback subprogram; `id` is its index
    mixed,      ///< paths disagree in a way that matters: an integer in the IR, not to be dereferenced
  };
  static constexpr uint32_t any_map = ~0u;

  Kind kind = unset;
  bool exact = false; ///< `offset` is known
  bool maybe_null = false;
  bool aligned = false; ///< map_object, map_value: values of the map(s) begin at multiples of 8
  uint32_t id = 0; ///< map_object, map_value: MapId or any_map
  int64_t offset = 0;

  friend bool operator==(const Provenance &, const Provenance &) = default;

  static Provenance number() { return {.kind = scalar}; }
  static Provenance constant(int64_t v) { return {.kind = scalar, .exact = true, .offset = v}; }
  static Provenance pointer(Kind k, uint32_t id = 0) { return {.kind = k, .exact = true, .id = id}; }

  bool is_pointer() const { return kind != unset && kind != scalar && kind != mixed && kind != function; }
  bool is_null() const { return kind == scalar && exact && offset == 0; }
  bool is_constant() const { return kind == scalar && exact; }
};

/// Values spilled to one frame.
class SpillSlots {
public:
  Provenance load(int64_t offset) const; ///< a number where nothing is known
  void store(int64_t offset, const Provenance &value);
  /// Forgets what is known of [offset, offset + size).
  void clobber(int64_t offset, int64_t size);
  /// A store of unknown extent, which may have been of the pointer `stored`; see the top of this file.
  void weaken(const Provenance &stored = {});
  /// True if that changed anything.
  bool join(const SpillSlots &other);
  /// The same frame as a callee sees it.
  SpillSlots as_outer() const;
  friend bool operator==(const SpillSlots &, const SpillSlots &) = default;

private:
  /// 8-byte slots with a known value, sorted by offset from r10 (-512 .. -8).
  std::vector<std::pair<int16_t, Provenance>> slots_;
};

/// Registers and spilled values at one point of a subprogram.
struct State {
  std::array<Provenance, register_count> regs{};
  SpillSlots frame;
  SpillSlots outer; ///< the direct caller's frame, where `outer_stack` pointers lead
  Provenance
      handed_out; ///< all pointers that subprograms of the program store outside of their own frames, joined
  friend bool operator==(const State &, const State &) = default;
};

struct SubprogramFacts {
  Cfg cfg;
  std::vector<State> entry; ///< by block; meaningful for blocks in Cfg::order only
  Provenance result;        ///< r0 at exit, joined over all exits
};

struct ProgramFacts {
  std::vector<SubprogramFacts> subprograms; ///< by index; `entry` is empty if nothing reaches it
  std::vector<bool> reached;
  std::vector<bool> is_callback; ///< its address is taken
  /// Verified form: something is accessed through a register that could not be followed. The verifier has; it
  /// may be memory of any kind, frames included.
  bool unknown_access = false;
};

/// Analyses a program that has passed check_program(). Errors (input, unsupported): a register that is read
/// before it is written, a call of an unknown helper. `end_at_tail_calls` as for build_cfg(), in the main
/// function.
Expected<ProgramFacts> analyse_provenance(const Pipeline &pipeline, const Program &program,
                                          bool end_at_tail_calls = false);

/// Applies the instruction at `slot` to `state`. Calls of subprograms yield `callee_result`.
void step(const Pipeline &pipeline, const Program &program, uint32_t slot, State &state,
          const Provenance &callee_result);

/// Bytes that a pointer argument of a helper covers, or none where that is not known here.
/// `state` is the state before the call.
std::optional<uint64_t> argument_size(const Pipeline &pipeline, uint32_t helper, unsigned arg,
                                      const State &state);

/// Registers and exact values joined: the smallest statement that is true of both.
Provenance join(const Provenance &a, const Provenance &b);

} // namespace ujit
