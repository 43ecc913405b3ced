// Leaving an image in the kernel target (docs/design.md, "Leaving and coming back"): which prog arrays calls
// leave through, where programs go on when such a call fails, and how that is numbered.
#pragma once

#include "graph/plan.h"

namespace ujit {

struct LeavePlan {
  struct Point {
    ProgId program{};
    uint32_t insn = 0; ///< of the tail call; the program goes on behind it
    uint32_t frame_bytes = 0;
    friend bool operator==(const Point &, const Point &) = default;
  };
  std::vector<MapId> prog_arrays; ///< by number; sorted
  std::vector<Point> points;      ///< point N is the element N - 1; sorted by program and insn
  std::vector<ProgId> resumed;    ///< programs with a resume function; sorted
  uint32_t frame_bytes = 0;       ///< of the largest leave frame; 0: nothing leaves
  std::vector<bool> has_function; ///< by ProgId: there is an out-of-line function
  /// By ProgId: the program whose resume function goes on for it: its second copy (peel.cc), where the count
  /// may be anything, or itself.
  std::vector<ProgId> goes_on_as;
  /// By ProgId: a tail call in a subprogram may call it, which gets 64 bits; others return 32.
  std::vector<bool> whole_result;

  uint32_t number_of(MapId prog_array) const;
  uint32_t point_of(ProgId program, uint32_t insn) const; ///< where it goes on; 0: nowhere
};

/// Errors (unsupported): more prog arrays or points than the numbers of the stub's protocol can hold.
Expected<LeavePlan> plan_leaving(const CallGraph &graph, const LinkPlan &plan);

/// The site in a resume function: calls of programs that exist only inside of others leave.
PlannedSite resumed_site(const LeavePlan &leave, PlannedSite site);

/// By ProgId: some site calls its out-of-line function.
std::vector<bool> called_functions(const LinkPlan &plan);

} // namespace ujit
