// The linker as a function: a pipeline in, an image out.
#pragma once

#include "graph/call_graph.h"
#include "graph/leave_plan.h"
#include "graph/plan.h"
#include "lto/kernel_code.h"
#include "translator/instance.h"
#include "translator/program.h"

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Where the image runs.
enum class LinkTarget : uint8_t {
  embedded, ///< in a process: calls that leave jump through the slot
  kernel,   ///< behind stubs (kernel-iface/linux/stub.h), which make the calls that leave
};

struct LinkOptions {
  std::string name = "pipeline";
  LinkTarget target = LinkTarget::embedded;
  KernelCodeOptions kernel_code; ///< for LinkTarget::kernel
  PlanOptions plan;
  std::vector<ProgArrayPolicy> policies; ///< by MapId; missing ones are guarded
  /// By MapId: TranslateOptions::scratch. For a kernel, what its own ids of maps and programs show, and not a
  /// manifest's word alone.
  std::vector<bool> scratch;
  Profile profile; ///< counts of a run (lto/profile.h): branch weights, and frequencies of edges for the plan
  std::string cpu = "native";              ///< "native", or an LLVM CPU name: a portable image
  unsigned threads = 0;                    ///< 0: as many as the machine has; never changes the output
  bool debug_info = true;                  ///< line = instruction, scope = program, inlined-at = edge
  std::string save_temps;                  ///< folder for the IR of each stage; empty: none
  std::vector<std::string> disabled;       ///< optimisations left out, by name
  std::vector<std::string> notes;          ///< what the report says first
  std::vector<std::string> opaque_helpers; ///< whose effects the optimiser is not told, by name
  /// Asked before each of LLVM's passes runs on a function, but those that code cannot do without; false
  /// leaves it out. Called by the thread that does the work: in a fixed order where there is one.
  std::function<bool(std::string_view pass, std::string_view function)> may_run;
  /// Called on the calling thread as work proceeds: phase, done, total.
  std::function<void(std::string_view phase, size_t done, size_t total)> progress;
};

struct PhaseTime {
  std::string name;
  double seconds = 0; ///< wall time
};

struct LinkStats {
  std::vector<PhaseTime> phases;
  uint64_t bytecode_insns = 0, ir_insns = 0, code_bytes = 0;
  uint32_t partitions = 0;
  uint32_t max_stack_bytes = 0;   ///< worst chain of machine frames from an entry
  std::vector<std::string> notes; ///< what the ladder by size did, what was dropped
};

struct Image {
  std::vector<uint8_t> object; ///< relocatable x86-64 ELF, with a `.ujit` section that describes it (image.h)
};

struct LinkResult {
  Image image;
  CallGraph graph; ///< of the pipeline
  /// What the plan is of, where cycles were peeled: with second copies of programs behind all others
  /// (graph/peel.h), whose numbers no program of the pipeline has.
  std::optional<CallGraph> peeled;
  LinkPlan plan;
  bool for_kernel = false; ///< LinkTarget::kernel
  LeavePlan leave;         ///< empty unless for_kernel
  LinkStats stats;

  const CallGraph &planned_graph() const { return peeled ? *peeled : graph; }
};

/// What LinkOptions::disabled may name, with a sentence each.
struct OptimisationName {
  std::string_view name, what;
};
std::span<const OptimisationName> optimisation_names();

/// Translates, plans, fuses, optimises, generates. The same input gives the same bytes for any number of
/// threads. For a kernel, an image that would need too much stack is linked again without inlining. Errors:
/// all that were found, sorted by program and instruction.
Expected<LinkResult> link(const Pipeline &pipeline, const LinkOptions &options);

/// The same for several plans instead of `options.plan`, from one translation: a chain and what is fused of
/// it, for instance. No image is linked again for its stack.
Expected<std::vector<LinkResult>> link_each(const Pipeline &pipeline, const LinkOptions &options,
                                            std::span<const PlanOptions> plans);

/// Only the first half: the call graph.
Expected<CallGraph> analyse(const Pipeline &pipeline, const LinkOptions &options);

} // namespace ujit
