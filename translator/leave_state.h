// What is alive behind a tail call: the part of a program's state that is saved when the call leaves the
// image and restored when it comes back (docs/design.md, "Leaving and coming back").
#pragma once

#include "translator/provenance.h"

namespace ujit {

/// One saved register or piece of the stack, and its place in the leave frame.
struct SavedItem {
  bool is_register = false;
  int16_t place = 0;  ///< register number, or offset from r10
  uint16_t frame = 0; ///< byte offset in the leave frame
  uint8_t size = 8;   ///< bytes: 1, 2, 4, 8
  /// What it points to, as code behind the call sees it; pieces of less than 8 bytes are numbers.
  Provenance provenance;
  /// It may point into the program's own frame, which lies elsewhere after coming back: in the leave frame
  /// such an address is its distance from the frame's start plus 1, which no kernel pointer can be.
  bool may_be_own_frame = false;
};

/// A tail call of the main function. The first 8 bytes of a leave frame hold the tail-call count and the
/// resume point, 32 bits each; the items follow.
struct LeaveSite {
  uint32_t insn = 0;
  std::vector<SavedItem> items;
  /// Addresses in the own frame that are spilled to these stack slots: not saved but computed again.
  std::vector<std::pair<int16_t, int64_t>> spilled_addresses;
  uint32_t frame_bytes = 8; ///< a multiple of 8
};

constexpr uint32_t leave_count_offset = 0, leave_point_offset = 4;

struct LeaveState {
  std::vector<LeaveSite> sites; ///< sorted by insn
  bool whole_frame = false;     ///< the stack has to be a single object, for may_be_own_frame
  const LeaveSite *at(uint32_t insn) const;
};

/// `facts` must come from an analysis that ends blocks behind tail calls. Registers come from liveness,
/// stack bytes from a dataflow analysis of its own: what may have been written before and may be read behind.
LeaveState analyse_leaving(const Pipeline &pipeline, const Program &program, const ProgramFacts &facts);

} // namespace ujit
