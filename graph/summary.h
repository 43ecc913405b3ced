// A summary is all that the planning phase knows of one program. It is made from the program's simplified
// IR by the translating phase and can be written to a cache; planning sees no code.
#pragma once

#include "translator/program.h"

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ujit {

/// A place that keeps its value across a tail call and whose constants we follow.
struct StateSlot {
  enum Region : uint8_t {
    context, ///< bytes of the context struct: skb->cb, mark, tc_index ...
    scratch, ///< bytes of a per-CPU array's element, from the start of the map's values
  } region = context;
  MapId map{}; ///< scratch only
  uint32_t offset = 0;
  uint8_t size = 0; ///< bytes: 1, 2, 4, 8
  auto operator<=>(const StateSlot &) const = default;
};

/// Bytes of state that something may have written.
struct StateRange {
  StateSlot::Region region = StateSlot::context;
  MapId map{}; ///< scratch only
  uint32_t offset = 0;
  uint32_t size = 0; ///< bytes
  auto operator<=>(const StateRange &) const = default;
};

/// What is known of a value at some point of a program.
struct AbstractValue {
  enum Kind : uint8_t {
    unknown,
    constants, ///< one of `values` (sorted, at most max_constants, zero-extended)
    entry,     ///< what `slot` held when the program was entered (zero-extended from its size)
  } kind = unknown;
  static constexpr size_t max_constants = 8;
  std::vector<uint64_t> values;
  StateSlot slot;
  auto operator<=>(const AbstractValue &) const = default;
};

/// One tail call, after simplification. Where LLVM merged calls on two prog arrays there are two targets.
struct TailCallSite {
  uint32_t insn = 0;       ///< slot number of the call instruction
  uint32_t subprogram = 0; ///< index; 0 is main
  struct Target {
    std::optional<MapId> map; ///< none: not resolved
    AbstractValue index;
    auto operator<=>(const Target &) const = default;
  };
  std::vector<Target> targets;
  /// What the slots that matter hold when the call is made, sorted by slot. A wider slot also gives its parts
  /// (little endian). A slot that is not listed is unknown, unless `clobbers` says otherwise.
  std::vector<std::pair<StateSlot, AbstractValue>> state;
  /// All state bytes that may have been written on some path from the program's entry to this call, by stores
  /// or by helpers. Where given, a slot that is neither listed in `state` nor touched by a clobbered range
  /// holds what it held at entry: so a program need not know which slots its successors look at.
  std::optional<std::vector<StateRange>> clobbers;
  std::string source; ///< "lb.c:212" from BTF line info, or empty
  /// Kernel target: bytes of the leave frame with what is alive behind the call.
  uint32_t leave_bytes = 0;
  bool repeats = false; ///< it can be executed more than once in a run of the program
};

struct Summary {
  ProgId program{};
  std::string name;
  ProgType type = ProgType::unspec;
  uint32_t bytecode_insns = 0;
  uint32_t ir_insns = 0;           ///< after simplification: the cost measure of inlining and partitions
  uint32_t stack_bytes = 0;        ///< eBPF stack that is really used
  std::vector<uint32_t> helpers;   ///< ids, sorted, once each
  std::vector<TailCallSite> sites; ///< sorted by insn
};

} // namespace ujit
