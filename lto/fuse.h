// One partition of the plan becomes one module: its programs' IR is linked together, every tail call is
// replaced by what the plan says of its site, inlined programs are inlined, and the symbols that translation
// left open become loads from the instance.
#pragma once

#include "graph/leave_plan.h"
#include "graph/plan.h"
#include "translator/instance.h"

#include "llvm/IR/Module.h"

#include <span>

namespace ujit {

struct FuseInput {
  const Pipeline &pipeline;
  const CallGraph &graph;
  const LinkPlan &plan;
  const InstanceLayout &layout;
  /// Simplified bitcode of the pipeline's programs, by ProgId; empty for dead programs.
  std::span<const std::vector<char>> bitcode;
  std::vector<bool> called;         ///< by ProgId: some site calls its out-of-line function
  const LeavePlan *leave = nullptr; ///< kernel target

  /// The program whose code `p` is.
  const Program &program(ProgId p) const { return pipeline[plan[p].origin]; }
  /// Symbols of its out-of-line function, and of the body that is inlined and copied.
  std::string function_symbol(ProgId p) const { return "ujit." + planned_name(pipeline, plan, p); }
  std::string body_symbol(ProgId p) const { return "ujit.body." + planned_name(pipeline, plan, p); }
};

/// Type of programs with the tail-call convention; `leaving`: with a leave frame.
llvm::FunctionType *program_type(llvm::LLVMContext &context, bool leaving);

/// Symbols of the image (docs/design.md, "The tail-call convention").
std::string entry_symbol(const Program &program);
std::string chain_symbol(const Program &program);

/// Is it what a call reaches that leaves the fused code, or a subprogram of that? In fused code, that is only
/// through a slot that has changed.
bool is_chain_copy(const llvm::Function &f);

/// Links, expands and inlines; nothing is optimised yet. Errors: a site that cannot be expanded.
Expected<std::unique_ptr<llvm::Module>> fuse(const FuseInput &input, const Partition &partition,
                                             llvm::LLVMContext &context);

/// Expands the tail calls of a resume function, which `module` holds. Errors: a site that cannot be expanded.
Error fuse_resumed(const FuseInput &input, ProgId program, llvm::Module &module);

/// What entries call to go on behind a tail call that failed: restores the count and finds the resume
/// function.
std::unique_ptr<llvm::Module> make_resume_dispatcher(const FuseInput &input, llvm::LLVMContext &context);

/// Replaces the instance symbols by loads; afterwards only helpers and other partitions' functions are
/// undefined.
void bind_instance(llvm::Module &module, const InstanceLayout &layout);

} // namespace ujit
