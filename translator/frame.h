// Layout of one subprogram's stack. eBPF has 512 flat bytes; the optimiser can do most with one object a
// variable. Accesses at known offsets are grouped into the smallest objects that no access straddles;
// where an access cannot be placed, the whole frame stays one object.
#pragma once

#include "translator/provenance.h"

namespace ujit {

struct StackObject {
  int32_t start = 0; ///< from r10, a multiple of 8
  int32_t size = 0;  ///< a multiple of 8
  /// Something may read bytes that were never written: they are set to zero on entry, so that a fused program
  /// neither depends on nor leaks what an earlier frame left there.
  bool zeroed = false;
  bool unset = false; ///< the same, but it is too large to be set: what is loaded from it is frozen instead
};

struct FrameLayout {
  std::vector<StackObject> objects; ///< sorted, disjoint
  bool whole = false;               ///< a single object of 512 bytes

  /// Index of the object that holds `offset` (or ends there); there must be one.
  size_t object_at(int64_t offset) const;
};

/// `whole`: a single object, whatever the accesses are. Errors (input): an access outside of the frame.
Expected<FrameLayout> layout_frame(const Pipeline &pipeline, const Program &program,
                                   const ProgramFacts &facts, uint32_t subprogram, bool whole = false);

} // namespace ujit
