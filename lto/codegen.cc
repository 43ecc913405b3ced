#include "lto/codegen.h"

#include "translator/error.h"

#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/CodeGen/MachineModuleInfo.h"
#include "llvm/CodeGen/Passes.h"
#include "llvm/CodeGen/TargetPassConfig.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

using namespace llvm;

constexpr size_t longest_block = 2000; ///< IR instructions

static void split_long_blocks(Function &f) {
  SmallVector<BasicBlock *> work;
  for (BasicBlock &b : f)
    if (b.size() > longest_block)
      work.push_back(&b);
  for (BasicBlock *b : work)
    while (b->size() > longest_block) {
      auto at = std::next(b->begin(), longest_block);
      while (at != b->end() && (isa<PHINode>(at) || at->isTerminator()))
        ++at;
      // A musttail call stays together with its return.
      if (at == b->end() || std::distance(at, b->end()) < 4)
        break;
      b = b->splitBasicBlock(at);
    }
}

/// `freeze` keeps IR passes from taking a load that races for several values (docs/memory-model.md). The code
/// generator knows no such value: what a machine load gave is what all its users see. There it would only
/// stand between a load and the instruction that extends or uses it.
static void thaw_loads(Function &f) {
  for (BasicBlock &b : f)
    for (Instruction &i : make_early_inc_range(b))
      if (isa<FreezeInst>(i) && isa<LoadInst>(i.getOperand(0))) {
        i.replaceAllUsesWith(i.getOperand(0));
        i.eraseFromParent();
      }
}

/// Passes of LLVM's code generator that cost time and gave nothing on this kind of code, counted in
/// executed instructions (docs/design.md). Variable locations are never asked for: a line is all we need.
static void leave_out(TargetPassConfig &config, bool schedule) {
  for (AnalysisID pass :
       {&PostRASchedulerID, &PostMachineSchedulerID, &MachineLICMID, &MachineCSEID, &LiveDebugValuesID})
    config.disablePass(pass);
  if (!schedule)
    config.disablePass(&MachineSchedulerID);
}

Expected<std::vector<uint8_t>> generate_code(Module &module, TargetMachine &tm, bool schedule) {
  for (Function &f : module) {
    thaw_loads(f);
    split_long_blocks(f);
  }
  SmallVector<char, 0> bytes;
  raw_svector_ostream os(bytes);
  legacy::PassManager pm;
  TargetLibraryInfoImpl none(tm.getTargetTriple());
  none.disableAllFunctions();
  pm.add(new TargetLibraryInfoWrapperPass(none));
  // What TargetMachine::addPassesToEmitFile() does, with a say in which passes run.
  auto &target = static_cast<LLVMTargetMachine &>(tm);
  auto *machine_module = new MachineModuleInfoWrapperPass(&target);
  TargetPassConfig *config = target.createPassConfig(pm);
  config->setDisableVerify(true);
  leave_out(*config, schedule);
  pm.add(config);
  pm.add(machine_module);
  if (config->addISelPasses())
    return internal_error("no instruction selection for " + tm.getTargetTriple().str()).error();
  config->addMachinePasses();
  config->setInitialized();
  if (target.addAsmPrinter(pm, os, nullptr, CodeGenFileType::ObjectFile,
                           machine_module->getMMI().getContext()))
    return internal_error("no object file output for " + tm.getTargetTriple().str()).error();
  pm.add(createFreeMachineFunctionPass());
  pm.run(module);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

} // namespace ujit
