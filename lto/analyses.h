// The analysis managers of one module on one thread.
#pragma once

#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Target/TargetMachine.h"

namespace ujit {

struct Analyses {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;

  explicit Analyses(llvm::TargetMachine &tm) {
    llvm::PassBuilder builder(&tm);
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
