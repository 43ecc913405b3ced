#include "lto/optimise.h"

#include "lto/analyses.h"
#include "lto/lookup.h"
#include "lto/passes.h"
#include "lto/skb_helpers.h"
#include "lto/test_hooks.h"

#include "translator/error.h"
#include "translator/lower.h"

#include "llvm/Analysis/LoopInfo.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/Transforms/InstCombine/InstCombine.h"
#include "llvm/Transforms/Scalar/ADCE.h"
#include "llvm/Transforms/Scalar/ConstraintElimination.h"
#include "llvm/Transforms/Scalar/CorrelatedValuePropagation.h"
#include "llvm/Transforms/Scalar/DeadStoreElimination.h"
#include "llvm/Transforms/Scalar/EarlyCSE.h"
#include "llvm/Transforms/Scalar/GVN.h"
#include "llvm/Transforms/Scalar/IndVarSimplify.h"
#include "llvm/Transforms/Scalar/JumpThreading.h"
#include "llvm/Transforms/Scalar/LICM.h"
#include "llvm/Transforms/Scalar/LoopPassManager.h"
#include "llvm/Transforms/Scalar/LoopRotation.h"
#include "llvm/Transforms/Scalar/LoopUnrollPass.h"
#include "llvm/Transforms/Scalar/SROA.h"
#include "llvm/Transforms/Scalar/SimplifyCFG.h"
#include "llvm/Transforms/Utils/Cloning.h"
#include "llvm/Transforms/Utils/Local.h"

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <map>
#include <mutex>
#include <tuple>

namespace ujit {

using namespace llvm;

/// IR instructions of one function beyond which passes that query aliases and memory states are left out:
/// they stop being linear in practice.
constexpr size_t full_limit = 60'000;
/// Global value numbering and dead store elimination are a third of the passes' time; on large functions,
/// early CSE over memory SSA had already forwarded what they would have.
constexpr size_t forward_limit = 4'000;
/// Each is followed by another round of the passes. Together they may double a function.
constexpr unsigned most_splits = 4;

Effort effort_for(const Function &f) {
  if (f.hasFnAttribute(huge_attribute))
    return Effort::minimal;
  if (f.hasFnAttribute(Attribute::Cold))
    return Effort::reduced;
  return f.getInstructionCount() <= full_limit ? Effort::full : Effort::reduced;
}

void initialise_llvm() {
  static std::once_flag once;
  std::call_once(once, [] {
    InitializeNativeTarget();
    InitializeNativeTargetAsmPrinter();
    InitializeNativeTargetAsmParser();
    InitializeNativeTargetDisassembler();
    // Constant hoisting cost time and gave nothing; branch optimisations would join what was split for its
    // length; the search for negations to move up does not always end (tests/cases/loop-negated-and-shifted).
    // Moving conditions to mask registers takes the square of a function's length, and none ever is. Loops of
    // few rounds may become long (docs/design.md, "Loops").
    const char *args[] = {"ujit-lto",
                          "-disable-constant-hoisting",
                          "-disable-cgp-branch-opts",
                          "-instcombine-negator-enabled=0",
                          "-disable-x86-domain-reassignment",
                          "-unroll-threshold-aggressive=800"};
    cl::ParseCommandLineOptions(int(std::size(args)), args, "", &nulls());
  });
}

Expected<TargetCpu> resolve_cpu(const std::string &cpu, bool for_kernel) {
  static constexpr StringRef allowed[] = {"64bit", "cx8", "cx16", "cmov", "movbe", "popcnt",
                                          "lzcnt", "bmi", "bmi2", "adx",  "sahf",  "fxsr"};
  static constexpr StringRef vectors[] = {"sse3",    "ssse3",    "sse4.1",   "sse4.2",   "avx",     "avx2",
                                          "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"};
  TargetCpu result;
  std::string features;
  auto add = [&](const Twine &f) { result.features += ((result.features.empty() ? "" : ",") + f).str(); };
  if (cpu == "native") {
    result.name = "x86-64";
    StringMap<bool> host = sys::getHostCPUFeatures();
    for (StringRef f : allowed)
      if (host.lookup(f))
        add("+" + f);
    if (!for_kernel) {
      result.tune = sys::getHostCPUName();
      for (StringRef f : vectors)
        if (host.lookup(f))
          add("+" + f);
    }
  } else {
    result.name = cpu;
  }
  if (!for_kernel)
    return result;
  for (StringRef f : {"x87", "mmx", "sse", "sse2", "avx", "avx512f"})
    add("-" + f);
  add("+soft-float");
  return result;
}

Expected<std::unique_ptr<TargetMachine>> make_target_machine(const std::string &cpu, Effort effort,
                                                             const KernelCodeOptions *kernel) {
  initialise_llvm();
  Expected<TargetCpu> resolved = resolve_cpu(cpu, kernel != nullptr);
  if (!resolved)
    return resolved.takeError();
  std::string why;
  const std::string triple = "x86_64-unknown-linux-gnu";
  const Target *target = TargetRegistry::lookupTarget(triple, why);
  if (!target)
    return internal_error("no code generator for " + triple + ": " + why).error();
  std::unique_ptr<MCSubtargetInfo> known(target->createMCSubtargetInfo(triple, "", ""));
  if (!known->isCPUStringValid(resolved->name))
    return input_error("unknown CPU '" + cpu + "'")
        .with_hint("use native, or a name such as x86-64-v3")
        .error();
  TargetOptions options;
  options.EmitStackSizeSection = true;
  options.UniqueSectionNames = false;
  options.TrapUnreachable = options.NoTrapAfterNoreturn = true; // no code ends by running into the next
  CodeGenOptLevel level = effort == Effort::minimal ? CodeGenOptLevel::None : CodeGenOptLevel::Default;
  if (kernel)
    resolved->features += kernel_features(*kernel);
  return std::unique_ptr<TargetMachine>(target->createTargetMachine(
      triple, resolved->name, resolved->features, options, kernel ? Reloc::Static : Reloc::PIC_,
      kernel ? CodeModel::Kernel : CodeModel::Small, level));
}

Expected<TargetMachine *> thread_target_machine(const std::string &cpu, Effort effort,
                                                const KernelCodeOptions *kernel) {
  thread_local std::map<std::tuple<std::string, Effort, std::string>, std::unique_ptr<TargetMachine>> made;
  std::unique_ptr<TargetMachine> &tm =
      made[{cpu, effort, kernel ? "kernel " + kernel_features(*kernel) : ""}];
  if (!tm) {
    Expected<std::unique_ptr<TargetMachine>> fresh = make_target_machine(cpu, effort, kernel);
    if (!fresh)
      return fresh.takeError();
    tm = std::move(*fresh);
  }
  return tm.get();
}

namespace {

SimplifyCFGOptions cfg_options() {
  return SimplifyCFGOptions().convertSwitchRangeToICmp(true).hoistCommonInsts(true);
}
InstCombinePass combine() {
  return InstCombinePass(InstCombineOptions().setMaxIterations(1).setVerifyFixpoint(false));
}

FunctionPassManager simplify_passes(Effort effort) {
  FunctionPassManager fpm;
  if (effort == Effort::minimal)
    return fpm; // anything that carries values across blocks would undo what its translation is made for
  fpm.addPass(SROAPass(SROAOptions::ModifyCFG));
  fpm.addPass(HideFreezesPass());
  fpm.addPass(EarlyCSEPass(effort == Effort::full));
  fpm.addPass(SimplifyCFGPass(cfg_options()));
  fpm.addPass(combine());
  fpm.addPass(SimplifyCFGPass(cfg_options()));
  fpm.addPass(ShowFreezesPass());
  if (effort == Effort::full)
    fpm.addPass(ADCEPass());
  return fpm;
}

/// The code generator would compute a constant to branch by. Nothing is moved here, as SimplifyCFG would:
/// what has been bound would lose the place that tells it from a program's own loads (single_fetch.h).
struct FoldBranchesPass : PassInfoMixin<FoldBranchesPass> {
  PreservedAnalyses run(Function &f, FunctionAnalysisManager &) {
    bool any = false;
    for (BasicBlock &b : f)
      any |= ConstantFoldTerminator(&b, true);
    if (!any)
      return PreservedAnalyses::all();
    removeUnreachableBlocks(f);
    return PreservedAnalyses::none();
  }
};

struct PlantedPass : PassInfoMixin<PlantedPass> {
  PreservedAnalyses run(Function &f, FunctionAnalysisManager &) {
    test_hooks.fused_pass(f);
    return PreservedAnalyses::none();
  }
};

/// What the first of the passes do, and again where one behind them has made more of it constant.
void add_simplifying(FunctionPassManager &fpm, Effort effort) {
  fpm.addPass(HideFreezesPass());
  fpm.addPass(EarlyCSEPass(effort == Effort::full));
  fpm.addPass(SimplifyCFGPass(cfg_options()));
  fpm.addPass(combine());
  fpm.addPass(ShowFreezesPass());
  if (effort == Effort::full) {
    fpm.addPass(JumpThreadingPass());
    fpm.addPass(SimplifyCFGPass(cfg_options()));
  }
}

/// A header's offset that has become constant is a place in the packet whose bounds may have been checked.
struct CarryConstantsPass : PassInfoMixin<CarryConstantsPass> {
  PreservedAnalyses run(Function &f, FunctionAnalysisManager &fam) {
    if (!carry_constants(f, fam.getResult<AAManager>(f), fam.getResult<MemorySSAAnalysis>(f).getMSSA()))
      return PreservedAnalyses::all();
    fam.invalidate(f, PreservedAnalyses::none());
    FunctionPassManager again;
    add_simplifying(again, Effort::full);
    again.run(f, fam);
    return PreservedAnalyses::none();
  }
};

FunctionPassManager fused_passes(Effort effort, const PassOptions &options) {
  FunctionPassManager fpm;
  if (effort == Effort::minimal)
    return fpm;
  fpm.addPass(SROAPass(SROAOptions::ModifyCFG));
  add_simplifying(fpm, effort);
  if (effort == Effort::full) {
    if (options.forward_state) {
      fpm.addPass(CarryConstantsPass());
      // Of loads, early CSE does enough. And moved up together with one behind another branch, a load stands
      // for both with the place of one, which then seems to be made again (single_fetch.h).
      fpm.addPass(GVNPass(GVNOptions().setMemDep(false)));
      fpm.addPass(DSEPass());
    }
    if (options.conditions) {
      fpm.addPass(ConstraintEliminationPass());
      fpm.addPass(CorrelatedValuePropagationPass());
      fpm.addPass(SimplifyCFGPass(cfg_options()));
    }
  }
  return fpm;
}

/// Of functions that have any: what leaves a loop is gone, and its trip count is known.
FunctionPassManager loop_passes() {
  LoopPassManager move, unroll; // the latter do not keep MemorySSA
  move.addPass(LoopRotatePass());
  move.addPass(LICMPass(LICMOptions()));
  unroll.addPass(IndVarSimplifyPass());
  unroll.addPass(LoopFullUnrollPass());
  FunctionPassManager fpm;
  fpm.addPass(createFunctionToLoopPassAdaptor(std::move(move), /*UseMemorySSA=*/true));
  fpm.addPass(createFunctionToLoopPassAdaptor(std::move(unroll)));
  return fpm;
}

/// The last of them.
FunctionPassManager unroll_passes(bool vectors) {
  FunctionPassManager fpm;
  if (vectors)
    fpm.addPass(combine());
  fpm.addPass(LoopUnrollPass(LoopUnrollOptions(3).setPartial(true).setRuntime(true).setPeeling(false)));
  fpm.addPass(EarlyCSEPass(true));
  return fpm;
}

/// Once memory is settled and lookups are code.
FunctionPassManager last_passes(Effort effort, bool lookups) {
  FunctionPassManager fpm;
  if (effort == Effort::minimal)
    return fpm;
  if (lookups && effort == Effort::full)
    fpm.addPass(JumpThreadingPass()); // on from where it is known whether there is an element
  fpm.addPass(HideFreezesPass());
  fpm.addPass(SimplifyCFGPass(cfg_options().sinkCommonInsts(effort == Effort::full)));
  fpm.addPass(combine());
  fpm.addPass(ShowFreezesPass());
  fpm.addPass(ADCEPass());
  if (test_hooks.fused_pass)
    fpm.addPass(PlantedPass());
  return fpm;
}

} // namespace

TestHooks test_hooks;

size_t count_instructions(const Module &module) {
  size_t n = 0;
  for (const Function &f : module)
    n += f.getInstructionCount();
  return n;
}

/// A subprogram is inlined if it has one call or is small; one that tail-calls is not, since the call ends
/// only the subprogram.
static bool inline_subprograms(Module &module) {
  constexpr unsigned small = 40;
  bool any = false;
  for (Function &f : module) {
    if (f.isDeclaration() || !f.hasLocalLinkage() || f.hasAddressTaken())
      continue;
    bool tail_calls = false;
    for (const BasicBlock &b : f)
      for (const Instruction &i : b)
        if (auto *c = dyn_cast<CallInst>(&i))
          tail_calls |= c->getCalledFunction() && (c->getCalledFunction()->getName() == "ujit.tail_call" ||
                                                   c->getCalledFunction() == &f);
    if (tail_calls || !(f.hasOneUse() || f.getInstructionCount() <= small))
      continue;
    SmallVector<CallInst *> calls;
    for (User *u : f.users())
      if (auto *c = dyn_cast<CallInst>(u); c && !c->getFunction()->getName().ends_with(".callback"))
        calls.push_back(c); // a callback's entry only passes on what it was given
    for (CallInst *c : calls) {
      InlineFunctionInfo info;
      any |= InlineFunction(*c, info).isSuccess();
    }
  }
  for (Function &f : make_early_inc_range(module))
    if (f.hasLocalLinkage() && f.use_empty())
      f.eraseFromParent();
  return any;
}

void simplify_program(Module &module, TargetMachine &tm) {
  auto simplify = [&] {
    Analyses analyses(tm, module.getContext());
    for (Function &f : module)
      if (!f.isDeclaration())
        simplify_passes(effort_for(f)).run(f, analyses.functions);
  };
  simplify();
  bool more = inline_subprograms(module);
  for (Function &f : module)
    more |= name_elements(f);
  if (more)
    simplify();
}

/// Where helpers on packets find what they look at; null where nobody knows that they do what
/// lto/skb_helpers.cc puts in their place.
static const SkbLayout *known_skb(const Pipeline &pipeline) {
  if (!pipeline.kernel)
    return &embedded_skb;
  const KernelLayout &layout = pipeline.kernel->layout;
  return layout.expand_skb_helpers ? &layout.skb : nullptr;
}

/// Of the pipeline's entries, which are all of one type.
static std::span<const uint64_t> drop_verdicts(const Pipeline &pipeline) {
  static constexpr uint64_t xdp[] = {XDP_ABORTED, XDP_DROP}, tc[] = {TC_ACT_SHOT};
  if (pipeline.entries.empty())
    return {};
  switch (pipeline[pipeline.entries[0]].type) {
  case ProgType::xdp: return xdp;
  case ProgType::sched_cls: return tc;
  default: return {};
  }
}

void optimise_fused(Module &module, TargetMachine &tm, const Pipeline &pipeline, const PassOptions &options) {
  const std::span<const uint64_t> drops = drop_verdicts(pipeline);
  const SkbLayout *skb = options.skb_helpers ? known_skb(pipeline) : nullptr;
  Analyses analyses(tm, module.getContext());
  FunctionAnalysisManager &fam = analyses.functions;
  auto run = [&](Function &f, FunctionPassManager fpm) { fam.invalidate(f, fpm.run(f, fam)); };
  auto changed = [&](Function &f) { fam.invalidate(f, PreservedAnalyses::none()); };
  for (Function &f : module) {
    if (f.isDeclaration())
      continue;
    const Effort effort = effort_for(f);
    if (options.loops && effort == Effort::full && loop_self_calls(f))
      changed(f);
    if (skb && effort == Effort::full && expand_skb_helpers(f, *skb))
      changed(f);
    if (options.rare_ends && weigh_ends(f, drops))
      changed(f);
    // Costs are asked for from here on.
    if (options.loops && !options.tune.empty() && !fam.getResult<LoopAnalysis>(f).empty())
      f.addFnAttr("tune-cpu", options.tune);
    PassOptions mine = options;
    const bool small = f.getInstructionCount() <= forward_limit;
    mine.forward_state &= small;
    mine.conditions &= small;
    run(f, fused_passes(effort, mine));
    if (effort != Effort::full || !small)
      continue;
    const size_t largest = std::min(forward_limit, 2 * size_t(f.getInstructionCount()));
    for (unsigned n = 0; n < most_splits && options.forward_state && options.split_paths &&
                         split_paths(f, fam.getResult<DominatorTreeAnalysis>(f), largest);
         ++n) {
      changed(f);
      run(f, fused_passes(effort, mine));
    }
    if (options.merge_bytes && merge_bytes(f, fam.getResult<AAManager>(f)))
      changed(f);
    if (options.loops && !fam.getResult<LoopAnalysis>(f).empty())
      number_copied_loads(f, [&] {
        run(f, loop_passes());
        run(f, unroll_passes(options.vectors && vectorise_loops(f, fam)));
      });
  }
  const std::vector<Function *> searching = expand_lookups(module, pipeline);
  for (Function *f : searching)
    changed(*f);
  for (Function &f : module)
    if (!f.isDeclaration()) {
      run(f, last_passes(effort_for(f), is_contained(searching, &f)));
      if (options.rotates && effort_for(f) != Effort::minimal && restore_rotates(f))
        changed(f);
      if (options.switches && effort_for(f) != Effort::minimal && restore_switches(f))
        changed(f);
    }
}

void clean_up(Module &module, TargetMachine &tm) {
  Analyses analyses(tm, module.getContext());
  FunctionPassManager fpm;
  fpm.addPass(HideFreezesPass());
  fpm.addPass(EarlyCSEPass(false));
  fpm.addPass(FoldBranchesPass());
  fpm.addPass(ShowFreezesPass());
  for (Function &f : module)
    if (!f.isDeclaration() && effort_for(f) != Effort::minimal)
      fpm.run(f, analyses.functions);
}

} // namespace ujit
