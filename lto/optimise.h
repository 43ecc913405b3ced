// The pass pipelines. They are chosen by measurement, not by name: on verified datapath code LLVM's default
// O2 takes twice the time for larger code (docs/design.md, "The ladder").
#pragma once

#include "lto/kernel_code.h"
#include "translator/program.h"

#include "llvm/IR/Module.h"
#include "llvm/Target/TargetMachine.h"

#include <memory>
#include <span>
#include <string>

namespace ujit {

/// How much work a function gets, by its size: the costs of some passes are not linear.
enum class Effort : uint8_t { full, reduced, minimal };
Effort effort_for(const llvm::Function &function);

/// Called once per process before any other function here; sets LLVM up. Thread-safe.
void initialise_llvm();

/// A target machine for the calling thread. `cpu`: "native" or an LLVM name. `kernel`: for code that runs in
/// a kernel, else position-independent code for a process. Errors: unknown CPU.
llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
make_target_machine(const std::string &cpu, Effort effort, const KernelCodeOptions *kernel = nullptr);

/// The same, kept for the thread: a machine knows nothing of what was compiled with it, and takes as long to
/// make as a small program to compile.
llvm::Expected<llvm::TargetMachine *> thread_target_machine(const std::string &cpu, Effort effort,
                                                            const KernelCodeOptions *kernel = nullptr);

/// "native" resolved to the name and the allowed features of this machine, as LLVM spells them: integer
/// extensions, and vector registers unless it is `for_kernel`.
struct TargetCpu {
  std::string name, features;
  std::string tune; ///< the CPU whose costs decide how far loops are unrolled; empty: that of `name`
};
llvm::Expected<TargetCpu> resolve_cpu(const std::string &cpu, bool for_kernel);

/// What can be left out by name, to see what it gives: see optimisation_names().
struct PassOptions {
  bool forward_state = true; ///< store-to-load forwarding, dead stores: what carries state across borders
  bool merge_bytes = true;   ///< words that were split into bytes
  bool loops = true;         ///< loop passes, tail calls of oneself
  bool conditions = true;    ///< what dominating conditions imply
  bool split_paths = true;   ///< code apart for each answer to a question that is asked again
  bool schedule = true;      ///< the code generator's scheduler: fewer values alive at once
  bool skb_helpers = true;   ///< helpers on packets become code, where it is known what they do
  bool rare_ends = true;     ///< ends that drop the packet are taken to be rare, mildly
  bool rotates = true;       ///< funnel shifts that are rotates
  bool switches = false;     ///< jump tables: never in a kernel
  bool vectors = false;      ///< loops may use vector registers: never in a kernel
  std::string tune = {};     ///< TargetCpu::tune, for functions with loops
};

/// One program: makes the graph visible (constant indices, dead code) and the code small. Inlines small
/// subprograms.
void simplify_program(llvm::Module &module, llvm::TargetMachine &tm);

/// Fused functions, after inlining. Lookups in tables of `pipeline` become code.
void optimise_fused(llvm::Module &module, llvm::TargetMachine &tm, const Pipeline &pipeline,
                    const PassOptions &options);

/// Merges what lowering the instance symbols made.
void clean_up(llvm::Module &module, llvm::TargetMachine &tm);

/// Instructions in a module's functions, debug intrinsics aside.
size_t count_instructions(const llvm::Module &module);

} // namespace ujit
