// The linker, from top to bottom. Two parallel phases work on one thing at a time (a program, a partition),
// each task in an LLVMContext of its own; the serial phase between them sees summaries and no code. Bitcode
// goes from one to the other, so the result does not depend on which thread did what.
#include "lto/link.h"

#include "graph/peel.h"
#include "graph/solve.h"
#include "lto/codegen.h"
#include "lto/describe.h"
#include "lto/fuse.h"
#include "lto/image.h"
#include "lto/kernel_code.h"
#include "lto/optimise.h"
#include "lto/summarise.h"
#include "lto/test_hooks.h"
#include "translator/helper.h"
#include "translator/kernel.h"
#include "translator/lower.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/OptBisect.h"
#include "llvm/Object/ObjectFile.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

namespace ujit {

using namespace llvm;

namespace {

/// What the first phase makes of one program.
struct Unit {
  std::vector<char> bitcode;
  Summary summary;
};

/// LinkOptions::may_run as LLVM asks it, for IR and machine passes alike.
class PassGate : public OptPassGate {
public:
  explicit PassGate(const LinkOptions &options) : options_(options) {}
  bool shouldRunPass(StringRef pass, StringRef where) override {
    where.consume_front("function (");
    where.consume_back(")");
    return options_.may_run(std::string_view(pass), std::string_view(where));
  }
  bool isEnabled() const override { return bool(options_.may_run); }

private:
  const LinkOptions &options_;
};

/// Takes back what calls of these helpers say about memory.
void forget_effects(Module &module, std::span<const std::string> helpers) {
  for (const std::string &name : helpers)
    if (Function *helper = module.getFunction(name))
      for (User *user : helper->users())
        if (auto *call = dyn_cast<CallInst>(user)) {
          call->setAttributes({});
          call->dropUnknownNonDebugMetadata();
          call->addFnAttr(Attribute::NoUnwind);
        }
}

class Link {
  template <class F>
  auto timed(std::string name, F f) {
    auto start = std::chrono::steady_clock::now();
    auto r = f();
    std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
    result_.stats.phases.push_back({std::move(name), d.count()});
    return r;
  }

  /// Runs `f(i)` for every i on all threads, costly ones first, so that none is left over at the end; all
  /// errors, in order.
  template <class F>
  Error parallel(std::string phase, std::span<const uint64_t> costs, F f) {
    return timed(phase, [&] {
      const size_t n = costs.size();
      std::vector<size_t> order(n);
      std::iota(order.begin(), order.end(), size_t(0));
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
      std::vector<std::optional<Error>> errors(n);
      std::atomic<size_t> next = 0, done = 0;
      const auto caller = std::this_thread::get_id();
      // Tasks see what was written before they began. oneTBB sees to that, but in a library that
      // ThreadSanitizer does not look into: this variable, which can be read before the closure is, says it
      // again.
      static std::atomic<size_t> begun;
      const auto work = [&](int) {
        begun.load();
        for (size_t k; (k = next++) < n;) {
          errors[order[k]].emplace(f(order[k]));
          size_t d = ++done;
          if (options_.progress && std::this_thread::get_id() == caller)
            options_.progress(phase, d, n);
        }
      };
      ++begun;
      arena_.execute(
          [&] { tbb::parallel_for(0, arena_.max_concurrency(), work, tbb::simple_partitioner()); });
      std::vector<Error> all;
      all.reserve(done); // a load: what they left is seen here
      for (auto &e : errors)
        all.push_back(std::move(*e));
      return join_sorted(std::move(all));
    });
  }

public:
  Link(const Pipeline &pipeline, const LinkOptions &options)
      : pipeline_(pipeline), options_(options),
        arena_(options.threads ? int(options.threads) : tbb::task_arena::automatic) {}

  Expected<CallGraph> analyse() {
    if (Error e = check_options())
      return e;
    // Beyond this point every program is valid bitcode with a summary; bytecode is not looked at again.
    if (Error e = translate_programs())
      return e;
    // Beyond this point every tail-call site knows what the slots that indices are loaded from hold.
    if (Error e = summarise_states())
      return e;
    return timed("graph", [&]() -> Expected<CallGraph> {
      std::vector<Summary> summaries;
      for (Unit &u : units_)
        summaries.push_back(std::move(u.summary));
      Expected<CallGraph> graph = build_call_graph(pipeline_, std::move(summaries), options_.policies);
      if (graph && enabled("profile") && !options_.profile.programs.empty())
        weigh(*graph, options_.profile);
      return graph;
    });
  }

  Expected<std::vector<LinkResult>> run(std::span<const PlanOptions> plans) {
    // Beyond this point it is known which tail call can reach which program.
    Expected<CallGraph> graph = analyse();
    if (!graph)
      return graph.takeError();
    result_.graph = std::move(*graph);
    result_.stats.notes = options_.notes;
    for (Unit &u : units_)
      bitcode_.push_back(std::move(u.bitcode));
    std::vector<LinkResult> out;
    const LinkResult translated = result_;
    for (const PlanOptions &options : plans) {
      result_ = translated;
      if (Error e = make_image(options))
        return e;
      out.push_back(std::move(result_));
    }
    return out;
  }

private:
  Error make_image(const PlanOptions &options) {
    // Beyond this point the plan does not change: what is inlined, called or left, and in which partition.
    if (Error e = plan(options))
      return e;
    // Beyond this point there is machine code, one object a partition.
    if (Error e = generate())
      return e;
    // And code that goes on behind tail calls which left the image and failed.
    if (Error e = generate_resumed())
      return e;
    // And now one object in all.
    return write();
  }

  bool enabled(StringRef name) const {
    return std::find(options_.disabled.begin(), options_.disabled.end(), name) == options_.disabled.end();
  }

  bool for_kernel() const { return options_.target == LinkTarget::kernel; }

  Expected<TargetMachine *> machine(Effort effort) const {
    return thread_target_machine(options_.cpu, effort, for_kernel() ? &options_.kernel_code : nullptr);
  }

  Error check_options() {
    if (for_kernel() && options_.plan.mode == PlanOptions::chain)
      return input_error("the kernel target has no chain mode: the originals are the chain").error();
    std::vector<StringRef> names;
    for (const OptimisationName &n : optimisation_names())
      names.push_back(n.name);
    for (const std::string &d : options_.disabled)
      if (!is_contained(names, d))
        return input_error("there is no optimisation named '" + d + "'")
            .with_hint("there are " + join(names, ", "))
            .error();
    return machine(Effort::full).takeError();
  }

  Error save(const Module &module, const Twine &name) {
    if (options_.save_temps.empty())
      return Error::success();
    std::error_code ec = sys::fs::create_directories(options_.save_temps);
    std::string path = (options_.save_temps + "/" + name + ".ll").str();
    raw_fd_ostream os(path, ec);
    if (ec)
      return input_error("cannot write " + path + ": " + ec.message()).error();
    module.print(os, nullptr);
    return Error::success();
  }

  // --- one program at a time ---

  TranslateOptions translate_options() const {
    TranslateOptions options;
    options.debug_info = options_.debug_info;
    options.scratch = options_.scratch;
    options.profile = enabled("profile") ? &options_.profile : nullptr;
    options.leaving = for_kernel();
    options.alias_domains = enabled("alias-domains");
    options.helper_effects = enabled("helper-effects");
    options.inline_lookups = enabled("inline-lookups");
    options.inline_hash_lookups = enabled("inline-hash-lookups") &&
                                  (pipeline_.kernel ? pipeline_.kernel->layout.search_htab : !for_kernel());
    options.inline_helpers = enabled("inline-helpers") && !for_kernel() && !pipeline_.kernel;
    options.inline_updates = enabled("inline-updates") &&
                             (pipeline_.kernel ? pipeline_.kernel->layout.update_arrays : !for_kernel());
    options.fold_config = enabled("fold-config");
    options.branch_hints = enabled("hot-paths");
    return options;
  }

  Error translate_programs() {
    units_.resize(pipeline_.programs.size());
    for (const Program &p : pipeline_.programs)
      result_.stats.bytecode_insns += p.insns.size();
    const TranslateOptions options = translate_options();
    std::vector<uint64_t> sizes;
    for (const Program &p : pipeline_.programs)
      sizes.push_back(p.insns.size());
    return parallel("translate", sizes, [&](size_t i) -> Error {
      LLVMContext context;
      context.setDiscardValueNames(options_.save_temps.empty());
      context.setOptPassGate(gate_);
      ProgId id{uint32_t(i)};
      const std::string &name = pipeline_[id].name;
      Expected<std::unique_ptr<Module>> module = translate(pipeline_, id, context, options);
      if (!module)
        return module.takeError();
      if (test_hooks.lowered)
        test_hooks.lowered(**module);
      forget_effects(**module, options_.opaque_helpers);
      if (Error e = save(**module, name + ".0-translated"))
        return e;
      auto tm = machine(Effort::full);
      if (!tm)
        return tm.takeError();
      simplify_program(**module, **tm);
      units_[i].summary = summarise(pipeline_, options_.scratch, id, **module, **tm);
      if (Error e = save(**module, name + ".1-simplified"))
        return e;
      units_[i].bitcode = write_bitcode(**module);
      return Error::success();
    });
  }

  static std::vector<char> write_bitcode(const Module &module) {
    SmallVector<char, 0> bytes;
    raw_svector_ostream os(bytes);
    WriteBitcodeToFile(module, os);
    return {bytes.begin(), bytes.end()};
  }

  /// Only where some index is loaded from state that its program found on entry. What such a slot was copied
  /// from in some program is looked at next, until nothing is new.
  Error summarise_states() {
    std::vector<StateSlot> seen, next;
    for (const Unit &u : units_)
      collect_index_slots(u.summary, next);
    for (;;) {
      std::sort(next.begin(), next.end());
      next.erase(std::unique(next.begin(), next.end()), next.end());
      std::erase_if(next, [&](const StateSlot &s) { return std::ranges::binary_search(seen, s); });
      next.resize(std::min(next.size(), max_followed_slots - seen.size()));
      if (next.empty())
        return Error::success();
      if (Error e = summarise_states(next))
        return e;
      seen.insert(seen.end(), next.begin(), next.end());
      std::sort(seen.begin(), seen.end());
      next.clear();
      for (const Unit &u : units_)
        collect_copied_slots(u.summary, next);
    }
  }

  Error summarise_states(const std::vector<StateSlot> &slots) {
    std::vector<uint64_t> sizes;
    for (const Unit &u : units_)
      sizes.push_back(u.bitcode.size());
    return parallel("state", sizes, [&](size_t i) -> Error {
      if (units_[i].summary.sites.empty())
        return Error::success();
      LLVMContext context;
      context.setOptPassGate(gate_);
      StringRef bytes(units_[i].bitcode.data(), units_[i].bitcode.size());
      Expected<std::unique_ptr<Module>> module = parseBitcodeFile(MemoryBufferRef(bytes, ""), context);
      if (!module)
        return module.takeError();
      auto tm = machine(Effort::full);
      if (!tm)
        return tm.takeError();
      summarise_state(pipeline_, options_.scratch, **module, **tm, slots, units_[i].summary);
      return Error::success();
    });
  }

  // --- the whole, without code ---

  void peel(uint32_t growth_ir) {
    const CallGraph &graph = result_.graph;
    result_.peeled = peel_cycles(graph, growth_ir);
    if (!result_.peeled &&
        std::ranges::any_of(graph.cycles, [&](auto &c) { return graph.reachable[index(c.programs[0])]; }))
      result_.stats.notes.push_back(
          formatv("cycles are not peeled: copies would add more than {0} IR instructions", growth_ir));
  }

  Error plan(PlanOptions options) {
    return timed("plan", [&]() -> Error {
      if (!enabled("inline"))
        options.inline_single_caller = false;
      if (!enabled("clone"))
        options.clone_limit_ir = 0;
      options.hot_paths &= enabled("hot-paths");
      if (enabled("peel") && options.mode == PlanOptions::fused && options.peel_growth_ir > 0)
        peel(options.peel_growth_ir);
      if (for_kernel()) {
        options.target_left_is_supported = true;
        options.leave_from_subprogram = false;
        options.count_across_leave = false; // the kernel counts what the stub calls
        if (options.leave_frame_limit == 0 || options.leave_frame_limit > largest_leave_frame)
          options.leave_frame_limit = largest_leave_frame;
        options.count_failed |= pipeline_.kernel && pipeline_.kernel->counts_failed_tail_calls;
      }
      Expected<LinkPlan> plan = make_plan(result_.planned_graph(), options);
      if (!plan)
        return plan.takeError();
      result_.plan = std::move(*plan);
      if (test_hooks.planned)
        test_hooks.planned(result_.plan);
      result_.stats.partitions = uint32_t(result_.plan.partitions.size());
      if (!for_kernel())
        return Error::success();
      Expected<LeavePlan> leave = plan_leaving(result_.planned_graph(), result_.plan);
      if (!leave)
        return leave.takeError();
      result_.leave = std::move(*leave);
      result_.for_kernel = true;
      return Error::success();
    });
  }

  // --- one partition at a time ---

  FuseInput fuse_input(std::span<const std::vector<char>> bitcode) const {
    return {pipeline_,
            result_.planned_graph(),
            result_.plan,
            layout_,
            bitcode,
            called_functions(result_.plan),
            for_kernel() ? &result_.leave : nullptr};
  }

  /// From fused IR to an object.
  Error finish(Module &module, TargetMachine &tm, const PassOptions &passes, const Twine &name, uint64_t &ir,
               std::vector<uint8_t> &object) {
    if (Error e = save(module, name + ".2-fused"))
      return e;
    optimise_fused(module, tm, pipeline_, passes);
    if (Error e = save(module, name + ".3-optimised"))
      return e;
    bind_instance(module, layout_);
    clean_up(module, tm);
    if (for_kernel())
      prepare_kernel_code(module, options_.kernel_code);
    if (Error e = save(module, name + ".4-bound"))
      return e;
    ir = count_instructions(module);
    Expected<std::vector<uint8_t>> bytes = generate_code(module, tm, passes.schedule);
    if (!bytes)
      return bytes.takeError();
    object = std::move(*bytes);
    return Error::success();
  }

  /// The resume functions lie behind all other code.
  Error generate_resumed() {
    const std::vector<ProgId> &programs = result_.leave.resumed;
    if (programs.empty())
      return Error::success();
    const FuseInput input = fuse_input({});
    const size_t first = objects_.size();
    objects_.resize(first + programs.size() + 1);
    std::vector<uint64_t> ir(programs.size() + 1), costs;
    for (ProgId p : programs)
      costs.push_back(pipeline_[result_.plan[p].origin].insns.size());
    costs.push_back(0);
    PassOptions passes;
    passes.forward_state = passes.schedule = false;
    Error e = parallel("resume", costs, [&](size_t i) -> Error {
      LLVMContext context;
      context.setDiscardValueNames(options_.save_temps.empty());
      context.setOptPassGate(gate_);
      std::unique_ptr<Module> module;
      std::string name = "resume";
      if (i == programs.size()) {
        module = make_resume_dispatcher(input, context);
      } else {
        Expected<std::unique_ptr<Module>> resumed = translate_resumed(programs[i], input, context);
        if (!resumed)
          return resumed.takeError();
        module = std::move(*resumed);
        name = input.program(programs[i]).name + ".resume";
      }
      Effort effort = Effort::reduced;
      for (const Function &f : *module)
        effort = std::max(effort, effort_for(f));
      auto tm = machine(effort);
      if (!tm)
        return tm.takeError();
      return finish(*module, **tm, passes, name, ir[i], objects_[first + i]);
    });
    for (uint64_t n : ir)
      result_.stats.ir_insns += n;
    return e;
  }

  /// Kept as bitcode by nobody: it is made and used in one task.
  Expected<std::unique_ptr<Module>> translate_resumed(ProgId p, const FuseInput &input,
                                                      LLVMContext &context) {
    TranslateOptions options = translate_options();
    for (uint32_t i = 0; i < result_.leave.points.size(); ++i)
      if (result_.leave.points[i].program == p)
        options.resume.push_back({i + 1, result_.leave.points[i].insn});
    Expected<std::unique_ptr<Module>> module = translate(pipeline_, result_.plan[p].origin, context, options);
    if (!module)
      return module.takeError();
    forget_effects(**module, options_.opaque_helpers);
    auto tm = machine(Effort::reduced);
    if (!tm)
      return tm.takeError();
    simplify_program(**module, **tm);
    if (Error e = fuse_resumed(input, p, **module))
      return e;
    return module;
  }

  Error generate() {
    const LinkPlan &plan = result_.plan;
    const FuseInput input = fuse_input(bitcode_);

    objects_.assign(plan.partitions.size(), {});
    std::vector<uint64_t> ir(objects_.size());
    std::vector<Effort> efforts(objects_.size());
    Expected<TargetCpu> cpu = resolve_cpu(options_.cpu, for_kernel());
    if (!cpu)
      return cpu.takeError();
    const PassOptions passes{.forward_state = enabled("forward-state"),
                             .merge_bytes = enabled("merge-bytes"),
                             .loops = enabled("loops"),
                             .conditions = enabled("conditions"),
                             .split_paths = enabled("split-paths"),
                             .schedule = enabled("schedule"),
                             .skb_helpers =
                                 enabled("inline-skb-helpers") && (pipeline_.kernel || !for_kernel()),
                             .rare_ends = enabled("hot-paths"),
                             .rotates = enabled("rotates"),
                             .switches = enabled("switches") && !for_kernel(),
                             .vectors = enabled("vectors") && !for_kernel(),
                             .tune = cpu->tune};
    std::vector<uint64_t> costs;
    for (const Partition &p : plan.partitions)
      costs.push_back(p.cost);
    Error e = parallel("generate", costs, [&](size_t i) -> Error {
      LLVMContext context;
      context.setDiscardValueNames(options_.save_temps.empty());
      context.setOptPassGate(gate_);
      Expected<std::unique_ptr<Module>> module = fuse(input, plan.partitions[i], context);
      if (!module)
        return module.takeError();
      for (const Function &f : **module)
        efforts[i] = std::max(efforts[i], effort_for(f));
      auto tm = machine(efforts[i]);
      if (!tm)
        return tm.takeError();
      PassOptions mine = passes;
      mine.schedule &= efforts[i] == Effort::full;
      return finish(**module, **tm, mine, "partition" + Twine(i), ir[i], objects_[i]);
    });
    for (size_t i = 0; i < objects_.size(); ++i) {
      result_.stats.ir_insns += ir[i];
      if (efforts[i] != Effort::full)
        result_.stats.notes.push_back(formatv("partition {0}: {1} optimisation, for its size", i,
                                              efforts[i] == Effort::reduced ? "reduced" : "minimal"));
    }
    return e;
  }

  // --- the image ---

  /// Only what is really used stays to be resolved at install.
  Error check_for_kernel(const std::vector<uint8_t> &image, ImageInfo &info) {
    Expected<std::vector<std::string>> undefined = check_kernel_image(image);
    if (!undefined)
      return undefined.takeError();
    for (const std::string &s : *undefined)
      if (is_invented(s))
        result_.stats.notes.push_back("the code generator calls " + s);
    info.helpers = std::move(*undefined);
    return Error::success();
  }

  static uint32_t text_bytes(const std::vector<uint8_t> &image) {
    MemoryBufferRef buffer(StringRef(reinterpret_cast<const char *>(image.data()), image.size()), "image");
    uint64_t n = 0;
    if (auto object = object::ObjectFile::createObjectFile(buffer)) {
      for (const object::SectionRef &s : (*object)->sections())
        n += s.isText() ? s.getSize() : 0;
    } else {
      consumeError(object.takeError());
    }
    return uint32_t(n);
  }

  Error write() {
    return timed("image", [&]() -> Error {
      ImageInfo info = describe_image(pipeline_, options_, layout_, result_);
      Expected<std::vector<uint8_t>> merged = write_image(objects_, info);
      if (!merged)
        return merged.takeError();
      std::vector<std::string> roots;
      for (const ImageEntry &e : info.entries)
        roots.push_back(e.symbol);
      Expected<uint32_t> stack = worst_stack(*merged, roots);
      if (!stack)
        return stack.takeError();
      result_.stats.max_stack_bytes = info.stack_bytes = *stack;
      result_.stats.code_bytes = info.code_bytes = text_bytes(*merged);
      if (for_kernel())
        if (Error e = check_for_kernel(*merged, info))
          return e;
      Expected<std::vector<uint8_t>> image = write_image(objects_, info);
      if (!image)
        return image.takeError();
      result_.image.object = std::move(*image);
      return Error::success();
    });
  }

  const Pipeline &pipeline_;
  const LinkOptions &options_;
  PassGate gate_{options_};
  tbb::task_arena arena_;
  InstanceLayout layout_{pipeline_};
  std::vector<Unit> units_;
  std::vector<std::vector<char>> bitcode_; ///< of the units, once they are in the graph
  std::vector<std::vector<uint8_t>> objects_;
  LinkResult result_;
};

} // namespace

Expected<std::vector<LinkResult>> link_each(const Pipeline &pipeline, const LinkOptions &options,
                                            std::span<const PlanOptions> plans) {
  return Link(pipeline, options).run(plans);
}

Expected<CallGraph> analyse(const Pipeline &pipeline, const LinkOptions &options) {
  return Link(pipeline, options).analyse();
}

} // namespace ujit
