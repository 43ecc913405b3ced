// The plan: what becomes of each program and each tail call in the image. It is made from the call graph and
// options alone, never from the number of threads, and does not change once made. The fusing phase reads it
// partition by partition and needs nothing else of other programs.
#pragma once

#include "graph/call_graph.h"

namespace llvm {
class raw_ostream;
}

namespace ujit {

/// What the code of one alternative of a tail-call site does.
enum class Treatment : uint8_t {
  fall_through, ///< the call is known to fail: the code behind it goes on
  inlined,      ///< the target's only copy is inlined here
  cloned,       ///< a copy of a small shared target is inlined here
  direct,       ///< musttail call of the target's function; a plain call and return where the site is in a
                ///< subprogram
  leave,        ///< through the prog array
};
std::string_view name_of(Treatment treatment);

/// Caps what the plan may do at one site: to bisect a difference, or because a user insists.
struct SiteOverride {
  ProgId from{};
  uint32_t site = 0;
  Treatment at_most = Treatment::leave; ///< direct: not inlined; leave: not fused
};

struct PlanOptions {
  enum Mode : uint8_t {
    chain, ///< each program a function, each call through the prog array, counted and checked: the kernel's
           ///< way
    fused,
  } mode = fused;
  bool inline_single_caller = true;
  /// An entry's program is inlined into the function that the outside calls. Its frame then stays for the
  /// whole chain, since only a function with the tail-call convention is replaced by what it calls.
  bool inline_entries = true;
  uint32_t clone_limit_ir =
      60; ///< a shared program up to this size (with what is cloned into it) may be copied; 0: never
  uint32_t clone_growth_ir = 480;   ///< the copies of one program may add this much altogether
  uint32_t partition_cost = 6000;   ///< IR instructions
  uint32_t max_function_ir = 20000; ///< nothing is inlined into a function beyond this size
  uint32_t stack_budget = 1024;     ///< eBPF stack bytes of one function; inlined frames overlay
  uint32_t max_tail_calls = 33;
  /// The originals are loaded beside the image and take the calls that leave it. If not, the image itself
  /// holds a chain copy of each program that such a call may reach.
  bool target_left_is_supported = true;
  /// A call that leaves from inside a subprogram returns to that subprogram. Where the target cannot do that
  /// (a stub that performs the real tail call would lose the fused frames), programs with such calls stay
  /// unfused.
  bool leave_from_subprogram = true;
  /// The count goes along when a call leaves; if not, programs are counted only where the fused part itself
  /// may reach the limit.
  bool count_across_leave = true;
  /// A call that leaves and fails comes back, with its state in a frame of at most this many bytes; 0: calls
  /// that leave do not come back. Programs that need more stay unfused.
  uint32_t leave_frame_limit = 0;
  /// A call that fails for an empty slot counts all the same (kernels before 6.12).
  bool count_failed = false;
  bool hot_paths = true; ///< calls of sinks and calls that leave beside known targets are taken to be rare
  /// Cycles are peeled (peel.cc) if the copies that this makes of programs add no more than this; 0: never.
  uint32_t peel_growth_ir = 10000;
  std::vector<SiteOverride> overrides = {};
  /// Programs that stay unfused, with the reason; not for chain mode.
  std::vector<std::pair<ProgId, std::string>> unfused = {};
};

struct PlannedEdge {
  Edge edge;
  Treatment treatment = Treatment::leave;
  bool guard = false; ///< the slot is loaded and compared with `edge.to`; leave if it differs
};

/// How a site finds its alternative at run time.
enum class Select : uint8_t {
  none,    ///< there is one, no question
  index,   ///< by (map, index)
  program, ///< by the program that the loaded slot holds; an empty slot or one out of range falls through
};
std::string_view name_of(Select select);

struct PlannedSite {
  ProgId from{};
  uint32_t site = 0;
  Select select = Select::none;
  /// Sorted by (map, slot); alternatives with the same target share one copy or call of it. Empty:
  /// `otherwise` is all there is.
  std::vector<PlannedEdge> alternatives;
  /// What happens to an index (or program) that no alternative names. `nothing`: there is none, proven within
  /// the program's own code.
  enum Otherwise : uint8_t { nothing, fall_through, leave } otherwise = nothing;
  bool check_count =
      false; ///< the call falls through once the count has reached the limit; else it cannot have
  bool in_subprogram = false; ///< call and return, not musttail
};

struct PlannedProgram {
  ProgId origin{}; ///< whose code it is: its own, or that of the program it is a second copy of (peel.cc)
  enum Role : uint8_t {
    dead,     ///< not reachable from any entry: dropped
    unfused,  ///< reachable only by calls that leave, or not fusable: the original runs
    function, ///< an out-of-line function
    inlined,  ///< only inside of other functions
  } role = dead;
  bool entry = false;            ///< also gets a C-ABI entry point
  bool needs_chain_copy = false; ///< a copy as in chain mode, filled into the prog arrays of the instance
  bool counted = false;          ///< carries the tail-call count
  bool sink = false; ///< a good part of all calls leads there: where errors end, so each call of it is rare
  uint32_t count_lower = 0; ///< tail calls done when it is entered, at least ...
  uint32_t count_upper = 0; ///< ... and at most; max_tail_calls where not bounded
  std::string reason;       ///< why unfused
};

struct Partition {
  std::vector<ProgId> functions;    ///< out-of-line functions emitted here, in order
  std::vector<ProgId> chain_copies; ///< chain copies emitted here
  std::vector<ProgId>
      members;       ///< all programs whose IR is needed: the above, inlined, cloned; sorted, once each
  uint64_t cost = 0; ///< IR instructions, copies counted
};

struct LinkPlan {
  PlanOptions::Mode mode = PlanOptions::fused;
  uint32_t max_tail_calls = 33;
  bool count_failed = false;            ///< PlanOptions::count_failed
  bool hot_paths = true;                ///< PlanOptions::hot_paths
  bool inline_entries = true;           ///< PlanOptions::inline_entries
  std::vector<PlannedProgram> programs; ///< by ProgId
  std::vector<PlannedSite> sites; ///< as CallGraph::sites; without alternatives for dead and unfused programs
  std::vector<uint32_t> first_site; ///< by ProgId, one more at the end
  std::vector<Partition> partitions;
  std::vector<ProgId> entries; ///< those that are fused; sorted
  std::vector<ProgId> dead;    ///< sorted
  bool has_counter = false;    ///< some program is counted: the convention has a count argument
  /// A counted program tail-calls from a subprogram: when that call returns, the count has moved on, so all
  /// share one cell in memory, as in the kernel.
  bool count_cell = false;

  const PlannedProgram &operator[](ProgId p) const { return programs[index(p)]; }
  bool is_copy(ProgId p) const { return programs[index(p)].origin != p; }
  std::span<const PlannedSite> sites_of(ProgId p) const;
};

/// Linear in the graph. Errors (unsupported): an entry that cannot be fused, where no original could run in
/// its place.
Expected<LinkPlan> make_plan(const CallGraph &graph, const PlanOptions &options);

bool may_leave(const PlannedSite &site);
/// What a program is called where there may be two of it (peel.cc).
std::string planned_name(const Pipeline &pipeline, const LinkPlan &plan, ProgId p);
/// Programs that alternatives of `site` call; sorted, once each.
std::vector<ProgId> called(const PlannedSite &site);

/// Text form, one line a function, program and site; for tests and reports.
void print_plan(const CallGraph &graph, const LinkPlan &plan, llvm::raw_ostream &os);

} // namespace ujit
