// Planted faults: how tests make the linker wrong at one known place, to show that comparison and bisection
// find that place. Null outside of tests; set only while nothing is linked.
#pragma once

namespace llvm {
class Function;
class Module;
} // namespace llvm

namespace ujit {

struct LinkPlan;

struct TestHooks {
  void (*lowered)(llvm::Module &) = nullptr;      ///< gets each program as it was translated: wrong lowering
  void (*planned)(LinkPlan &) = nullptr;          ///< wrong treatment of an edge
  void (*fused_pass)(llvm::Function &) = nullptr; ///< runs as the last pass of fused code, `PlantedPass`
};
extern TestHooks test_hooks;

} // namespace ujit
