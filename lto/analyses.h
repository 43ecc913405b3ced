// The analysis managers of one module on one thread. Passes ask the context's gate (LinkOptions::may_run)
// whether they run.
#pragma once

#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Passes/StandardInstrumentations.h"
#include "llvm/Target/TargetMachine.h"

namespace ujit {

struct Analyses {
  llvm::PassInstrumentationCallbacks callbacks;
  llvm::OptPassGateInstrumentation gate;
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;

  Analyses(llvm::TargetMachine &tm, llvm::LLVMContext &context) : gate(context) {
    gate.registerCallbacks(callbacks);
    llvm::PassBuilder builder(&tm, {}, {}, &callbacks);
    builder.registerModuleAnalyses(modules);
    builder.registerCGSCCAnalyses(sccs);
    // No library call is ever what its name says: helpers are the kernel's.
    llvm::TargetLibraryInfoImpl none(tm.getTargetTriple());
    none.disableAllFunctions();
    functions.registerPass([&] { return llvm::TargetLibraryAnalysis(none); });
    builder.registerFunctionAnalyses(functions);
    builder.registerLoopAnalyses(loops);
    builder.crossRegisterProxies(loops, functions, sccs, modules);
  }
};

} // namespace ujit
