// Native code runs in a worker, so that wrong code is a failed test and not the end of all tests.
#include "tests/support/modes.h"

#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/worker.h"
#include "kernel-iface/linux/kernel_version.h"
#include "kernel-iface/linux/load.h"
#include "lto/trace_bytes.h"
#include "tests/support/simple_host.h"
#include "translator/context.h"
#include "translator/helper.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/utsname.h>

namespace ujit {
namespace {

using llvm::formatv;

int64_t load_packet(const void *, int32_t offset, uint32_t bytes) {
  const std::optional<uint32_t> value = load_from_packet(offset, bytes * 8);
  return value ? int64_t(*value) : -EFAULT;
}

/// A call through a register: a helper by its number.
uint64_t call_helper(uint64_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
  const Helper *helper = find_helper(uint32_t(id));
  HelperFunction *function = helper ? find_helper_address(helper->name) : nullptr;
  return function ? function(r1, r2, r3, r4, r5) : uint64_t(-EINVAL);
}

const ImageSymbol extra_symbols[] = {{"ujit_load_packet", reinterpret_cast<const void *>(&load_packet)},
                                     {"ujit_call_helper", reinterpret_cast<const void *>(&call_helper)}};

/// Jobs on kernels, in the worker.
class JobRunner {
public:
  JobRunner(const Pipeline &pipeline, std::span<const MapSeed> seeds, const LinkedImage *image)
      : pipeline_(pipeline), seeds_(seeds), image_(image) {}

  Expected<std::unique_ptr<Kernel>> fresh_kernel() const {
    auto kernel = Kernel::create(pipeline_);
    if (kernel)
      if (Error e = (*kernel)->seed(seeds_))
        return e;
    return kernel;
  }

  /// On a kernel of its own, with all maps afterwards.
  Expected<JobRun> run(const Job &job) {
    auto kernel = fresh_kernel();
    if (!kernel)
      return kernel.takeError();
    Expected<JobRun> out = run(job, kernel);
    if (out)
      out->trace.maps = (*kernel)->snapshot();
    return out;
  }

  Expected<JobRun> run(const Job &job, Expected<std::unique_ptr<Kernel>> &kernel) {
    EmbeddedHost host(**kernel);
    const ProgType type = pipeline_[job.entry].type;
    Interpreter interpreter(host,
                            type == ProgType::unspec ? InterpreterOptions() : interpreter_options(type));
    std::vector<uint64_t> table;
    NativeEntry entry = nullptr;
    if (image_) {
      table = (*kernel)->instance_table(InstanceLayout(pipeline_), 0);
      if (Error e = take_addresses(**kernel, job.entry, entry))
        return e;
    }
    auto enter = [&](void *context, uint64_t r1, uint64_t r2) -> Expected<uint64_t> {
      return entry ? Expected<uint64_t>(entry(context, table.data()))
                   : interpreter.run(pipeline_[job.entry], r1, r2);
    };

    JobRun out;
    for (std::vector<uint8_t> input : job.inputs) {
      uint64_t r0 = 0;
      auto keep = [&](Expected<uint64_t> result) {
        r0 = result ? *result : 0;
        return result;
      };
      Expected<PacketResult> result = [&] {
        if (type != ProgType::unspec)
          return (*kernel)->run_packet(
              [&](void *context) { return keep(enter(context, reinterpret_cast<uint64_t>(context), 0)); },
              table.data(), type, input);
        // Helpers want a packet to be there, the program does not.
        static constexpr uint8_t packet[14] = {};
        MemoryContext memory{input.empty() ? nullptr : input.data(), input.size()};
        return (*kernel)->run_packet(
            [&](void *) {
              return keep(enter(&memory, reinterpret_cast<uint64_t>(memory.memory), memory.length));
            },
            table.data(), ProgType::xdp, packet);
      }();
      if (!result)
        return result.takeError();
      if (type == ProgType::unspec)
        result->packet = std::move(input);
      out.results.push_back(r0);
      out.trace.packets.push_back({std::move(*result), {}});
    }
    return out;
  }

private:
  Error take_addresses(Kernel &kernel, ProgId entry_program, NativeEntry &entry) {
    for (const ImageEntry &e : image_->info.entries)
      if (e.program == pipeline_[entry_program].name) {
        auto address = image_->code.require(e.symbol);
        if (!address)
          return address.takeError();
        entry = reinterpret_cast<NativeEntry>(const_cast<void *>(*address));
      }
    if (!entry)
      return input_error("the image has no entry for " + pipeline_[entry_program].name).error();
    for (const ImageProgram &p : image_->info.programs)
      if (auto id = pipeline_.find_program(p.name); id && !p.symbol.empty()) {
        auto address = image_->code.require(p.symbol);
        if (!address)
          return address.takeError();
        kernel.set_program_entry(*id, *address);
      }
    return Error::success();
  }

  const Pipeline &pipeline_;
  std::span<const MapSeed> seeds_;
  const LinkedImage *image_;
};

// What a worker hands back: for each job a byte that says what follows, its length, and then results and
// trace or the text of an error.

void put(std::vector<uint8_t> &out, const void *data, size_t size) {
  auto *bytes = static_cast<const uint8_t *>(data);
  out.insert(out.end(), bytes, bytes + size);
}

void put_number(std::vector<uint8_t> &out, uint64_t number) { put(out, &number, 8); }

struct Reader {
  std::span<const uint8_t> rest;
  std::span<const uint8_t> bytes(uint64_t size) {
    size = std::min<uint64_t>(size, rest.size());
    auto out = rest.first(size);
    rest = rest.subspan(size);
    return out;
  }
  uint64_t number() {
    uint64_t out = 0;
    auto from = bytes(8);
    std::memcpy(&out, from.data(), from.size());
    return out;
  }
};

Expected<JobRun> take_run(Reader &reader) {
  const uint64_t failed = reader.number();
  auto bytes = reader.bytes(reader.number());
  if (failed)
    return input_error(std::string(bytes.begin(), bytes.end())).error();
  Reader inner{bytes};
  JobRun out;
  out.results.resize(inner.number());
  for (uint64_t &r : out.results)
    r = inner.number();
  Expected<Trace> trace = unpack(inner.rest);
  if (!trace)
    return trace.takeError();
  out.trace = std::move(*trace);
  return out;
}

void put_run(std::vector<uint8_t> &out, Expected<JobRun> run) {
  std::vector<uint8_t> bytes;
  put_number(out, !run);
  if (run) {
    put_number(bytes, run->results.size());
    for (uint64_t r : run->results)
      put_number(bytes, r);
    auto packed = pack(run->trace);
    put(bytes, packed.data(), packed.size());
  } else {
    std::string text = llvm::toString(run.takeError());
    put(bytes, text.data(), text.size());
  }
  put_number(out, bytes.size());
  put(out, bytes.data(), bytes.size());
}

Error fault_error(const WorkerFault &fault, const LinkedImage *image) {
  LinkError error = internal_error(describe(fault));
  if (auto place = image ? image->code.locate(fault.pc) : std::nullopt) {
    error.note(formatv("in {0}+{1:x}", place->symbol, place->symbol_offset));
    if (auto frames = symbolize(image->result.image.object, place->offset))
      for (const Frame &f : *frames)
        error.note(formatv("{0}: insn {1}", f.program, f.insn));
    else
      llvm::consumeError(frames.takeError());
  }
  return error.error();
}

/// What a worker gives for so many jobs.
Expected<std::vector<JobRun>> take_runs(llvm::function_ref<std::vector<uint8_t>()> work, size_t jobs,
                                        const LinkedImage *image) {
  Expected<WorkerResult> done = run_in_worker(work, {.time = std::chrono::seconds(20)});
  if (!done)
    return done.takeError();
  if (auto *fault = std::get_if<WorkerFault>(&*done))
    return fault_error(*fault, image);
  Reader reader{std::get<std::vector<uint8_t>>(*done)};
  std::vector<JobRun> out;
  for (size_t i = 0; i < jobs; i++) {
    Expected<JobRun> run = take_run(reader);
    if (!run)
      return run.takeError();
    out.push_back(std::move(*run));
  }
  return out;
}

} // namespace

Expected<LinkedImage> link_and_load(const Pipeline &pipeline, const LinkOptions &options) {
  Expected<LinkResult> linked = link(pipeline, options);
  if (!linked)
    return linked.takeError();
  return load_linked(std::move(*linked));
}

Expected<LinkedImage> load_linked(LinkResult linked) {
  LinkedImage out{std::move(linked), {}, {}};
  const std::vector<uint8_t> &object = out.result.image.object;
  Expected<ImageInfo> info = read_image_info(object, "image");
  if (!info)
    return info.takeError();
  out.info = std::move(*info);
  llvm::StringRef bytes(reinterpret_cast<const char *>(object.data()), object.size());
  Expected<LoadedImage> code = load_image(llvm::MemoryBufferRef(bytes, "image"), extra_symbols);
  if (!code)
    return code.takeError();
  out.code = std::move(*code);
  return out;
}

Expected<std::vector<JobRun>> run_jobs(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                       std::span<const Job> jobs, const LinkedImage *image) {
  return take_runs(
      [&] {
        std::vector<uint8_t> out;
        for (const Job &job : jobs)
          put_run(out, JobRunner(pipeline, seeds, image).run(job));
        return out;
      },
      jobs.size(), image);
}

Expected<TogetherRun> run_jobs_together(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                        std::span<const Job> jobs, const LinkedImage *image) {
  auto work = [&] {
    std::vector<uint8_t> out;
    JobRunner runner(pipeline, seeds, image);
    auto kernel = runner.fresh_kernel();
    if (!kernel) {
      put_run(out, kernel.takeError());
      return out;
    }
    for (const Job &job : jobs)
      put_run(out, runner.run(job, kernel));
    JobRun last; // only the maps
    last.trace.maps = (*kernel)->snapshot();
    put_run(out, std::move(last));
    return out;
  };
  Expected<std::vector<JobRun>> runs = take_runs(work, jobs.size() + 1, image);
  if (!runs)
    return runs.takeError();
  TogetherRun out{std::move(*runs), {}};
  out.maps = std::move(out.runs.back().trace.maps);
  out.runs.pop_back();
  return out;
}

Expected<std::vector<JobRun>> run_jobs_in_kernel(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                                 std::span<const Job> jobs) {
  Pipeline typed = pipeline;
  for (Program &program : typed.programs)
    if (program.type == ProgType::unspec)
      program.type = ProgType::sched_cls;
  std::vector<JobRun> out;
  std::optional<LoadedPipeline> kernel;
  for (const Job &job : jobs) {
    // Programs that cannot write a map need no fresh one.
    if (!kernel || !pipeline.maps.empty()) {
      auto loaded = load_into_kernel(typed, {.seeds = {seeds.begin(), seeds.end()}});
      if (!loaded)
        return loaded.takeError();
      kernel.emplace(std::move(*loaded));
    }
    JobRun &run = out.emplace_back();
    run.trace.executor = "kernel";
    run.trace.sees_redirects = run.trace.sees_clones = run.trace.sees_printed = false;
    run.trace.pads_events = true;
    run.trace.context_ranges.emplace();
    for (const ContextRange &r : reported_context(typed[job.entry].type))
      run.trace.context_ranges->emplace_back(r.offset, r.size);
    unsigned cpu = 0;
    for (const std::vector<uint8_t> &input : job.inputs) {
      static const std::vector<uint8_t> dummy(14);
      const bool memory = pipeline[job.entry].type == ProgType::unspec;
      Expected<TestRunResult> result = kernel->run(job.entry, memory ? dummy : input);
      if (!result)
        return result.takeError();
      Observation &o = run.trace.packets.emplace_back();
      o.not_run = std::move(result->not_runnable);
      o.result.value = result->retval;
      o.result.packet = memory ? input : std::move(result->packet);
      o.result.metadata = std::move(result->metadata);
      o.result.context = std::move(result->context);
      if (memory)
        run.trace.context_ranges->clear();
      run.results.push_back(result->retval);
      cpu = result->cpu;
    }
    for (uint32_t m = 0; m < pipeline.maps.size(); m++) {
      const Map &map = pipeline.maps[m];
      if (map.is_template || !has_contents(map))
        continue;
      Expected<MapContents> contents = kernel->read(MapId(m));
      if (!contents)
        return contents.takeError();
      for (MapEntry &e : *contents)
        if (e.values.size() > 1 && cpu < e.values.size())
          e.values = {std::move(e.values[cpu])};
      run.trace.maps.push_back({map.name, std::move(*contents)});
    }
  }
  return out;
}

std::vector<std::string> differences(const Pipeline &pipeline, const JobRun &wanted, const JobRun &got,
                                     uint64_t result_mask) {
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min(wanted.results.size(), got.results.size()); i++)
    if (got.trace.packets[i].not_run.empty() &&
        (wanted.results[i] & result_mask) != (got.results[i] & result_mask))
      out.push_back(formatv("input {0}: result is {1:x}, should be {2:x}", i, got.results[i] & result_mask,
                            wanted.results[i] & result_mask));
  for (const Difference &d : compare(pipeline, wanted.trace, got.trace, 10).differences)
    if (d.field != "return value")
      out.push_back((d.packet ? formatv("input {0}: ", *d.packet).str() : std::string()) +
                    formatv("{0} is {1}, should be {2}", d.field, d.right_value, d.left_value).str());
  return out;
}

namespace {

/// Array elements that are all zero are no contents, but a case may list them.
void drop_zero_elements(const Pipeline &pipeline, std::vector<MapSeed> &maps) {
  for (MapSeed &seed : maps) {
    auto id = pipeline.find_map(seed.map);
    if (!id || (pipeline[*id].type != MapType::array && pipeline[*id].type != MapType::percpu_array))
      continue;
    std::erase_if(seed.entries, [](const MapEntry &e) {
      return std::ranges::all_of(
          e.values, [](auto &v) { return std::ranges::all_of(v, [](uint8_t b) { return !b; }); });
    });
  }
}

std::optional<std::string> missing_text(const std::vector<std::string> &wanted, llvm::StringRef text) {
  for (const std::string &line : wanted) {
    size_t at = text.find(line);
    if (at == llvm::StringRef::npos)
      return line;
    text = text.drop_front(at + line.size());
  }
  return std::nullopt;
}

class CaseRunner {
public:
  explicit CaseRunner(const Case &c) : c_(c), changed_(changed_pipeline(c)) {
    Job &job = jobs_.emplace_back();
    job.entry = c.pipeline.entries[0];
    for (const CaseInput &input : c.inputs)
      job.inputs.push_back(input.bytes);
    expected_ = c;
    drop_zero_elements(c.pipeline, expected_.maps_out);
  }

  std::vector<ModeOutcome> run() {
    if (c_.error) {
      refuse();
      return std::move(out_);
    }
    simple();
    if (Error e = check_case(c_))
      return fail("check", std::move(e)), std::move(out_);
    auto reference = run_jobs(changed_, c_.seeds, jobs_, nullptr);
    if (!reference)
      return fail("interpreter", reference.takeError()), std::move(out_);
    reference_ = std::move((*reference)[0]);
    // What runs leave in scratch maps is nobody's business.
    std::erase_if(reference_.trace.maps, [&](const MapSeed &m) {
      auto id = changed_.find_map(m.map);
      return id && c_.scratch[index(*id)];
    });
    judge("interpreter", reference_);
    if (auto only = c_.options.find("modes"); only != c_.options.end() && only->second == "interpreter")
      return std::move(out_);
    LinkOptions options = standalone_options(c_);
    options.plan.mode = PlanOptions::chain;
    image("unfused", options);
    options.plan.mode = PlanOptions::fused;
    options.threads = 1;
    auto first = image("fused", options);
    if (first)
      texts(options, *first);
    options.threads = 2;
    auto second = image("fused, 2 threads", options);
    if (first && second && *first != *second)
      out_.back().problems.push_back("the image differs from that of one thread");
    for (const OptimisationName &name : optimisation_names())
      options.disabled.emplace_back(name.name);
    image("fused without optimisations", options);
    kernel();
    return std::move(out_);
  }

private:
  void fail(const std::string &mode, Error e) { out_.push_back({mode, {}, {llvm::toString(std::move(e))}}); }

  /// Checking or linking must give exactly the error that the case names.
  void refuse() {
    for (auto mode : {PlanOptions::chain, PlanOptions::fused}) {
      LinkOptions options = standalone_options(c_);
      options.plan.mode = mode;
      Error e = check_case(c_);
      if (!e)
        e = link(c_.pipeline, options).takeError();
      std::string text = e ? llvm::toString(std::move(e)) : "no error";
      ModeOutcome &o = out_.emplace_back();
      o.mode = mode == PlanOptions::chain ? "unfused" : "fused";
      if (text != *c_.error)
        o.problems.push_back("the error is: " + text + "\nshould be: " + *c_.error);
    }
  }

  /// The smallest host; what it does not have is left out.
  void simple() {
    Case changed = c_;
    changed.pipeline = changed_;
    auto run = run_interpreted(changed);
    if (!run) {
      out_.push_back({"interpreter on the simple host", llvm::toString(run.takeError()), {}});
      return;
    }
    out_.push_back({"interpreter on the simple host", {}, differences(c_, *run)});
  }

  /// Against the case, and against the reference interpreter.
  void judge(const std::string &mode, const JobRun &got, uint64_t mask = ~uint64_t(0)) {
    ModeOutcome &o = out_.emplace_back();
    o.mode = mode;
    CaseRun run;
    run.maps = got.trace.maps;
    drop_zero_elements(c_.pipeline, run.maps);
    for (size_t i = 0; i < got.results.size(); i++) {
      run.results.push_back(got.results[i]);
      run.outs.push_back(got.trace.packets[i].result.packet);
    }
    if (mask == ~uint64_t(0))
      o.problems = differences(expected_, run);
    for (std::string &d : differences(changed_, reference_, got, mask))
      o.problems.push_back("not as the interpreter: " + d);
  }

  std::optional<std::vector<uint8_t>> image(const std::string &mode, const LinkOptions &options) {
    auto linked = link_and_load(c_.pipeline, options);
    if (!linked) {
      fail(mode, linked.takeError());
      return std::nullopt;
    }
    auto runs = run_jobs(changed_, c_.seeds, jobs_, &*linked);
    if (!runs) {
      fail(mode, runs.takeError());
      return std::nullopt;
    }
    judge(mode, (*runs)[0]);
    if (mode == "fused") {
      llvm::raw_string_ostream os(plan_);
      print_plan(linked->result.planned_graph(), linked->result.plan, os);
    }
    return std::move(linked->result.image.object);
  }

  /// `-- plan` and `-- ir`.
  void texts(LinkOptions options, const std::vector<uint8_t> &) {
    if (auto missing = missing_text(c_.plan, plan_))
      out_.back().problems.push_back("the plan has no (further) `" + *missing + "`:\n" + plan_);
    if (c_.ir.empty())
      return;
    llvm::SmallString<64> folder;
    if (llvm::sys::fs::createUniqueDirectory("ujit-case", folder))
      return out_.back().problems.push_back("no temporary folder");
    options.save_temps = folder.str();
    std::string ir;
    if (auto linked = link(c_.pipeline, options))
      for (uint32_t i = 0; i < linked->stats.partitions; i++)
        if (auto text =
                llvm::MemoryBuffer::getFile(folder + "/partition" + llvm::Twine(i) + ".3-optimised.ll"))
          ir += (*text)->getBuffer();
    llvm::sys::fs::remove_directories(folder);
    if (auto missing = missing_text(c_.ir, ir))
      out_.back().problems.push_back("the IR has no (further) `" + *missing + "`:\n" + ir);
  }

  /// Programs without a type run there if they touch no memory: then any context will do.
  void kernel() {
    const bool plain = c_.pipeline[c_.pipeline.entries[0]].type == ProgType::unspec;
    std::string reason;
    if (c_.rules != ImmediateRules::kernel)
      reason = "the program is not one of the kernel's";
    else if (plain && !std::ranges::all_of(c_.inputs, [](auto &i) { return i.bytes.empty(); }))
      reason = "plain memory";
    else if (auto it = c_.options.find("kernel"); it != c_.options.end())
      reason = it->second;
    else if (auto from = c_.options.find("kernel-from"); from != c_.options.end()) {
      utsname name{};
      if (uname(&name) != 0 || kernel_version(name.release) < kernel_version(from->second))
        reason = "from Linux " + from->second + " on";
    }
    if (!reason.empty())
      return out_.push_back({"kernel", reason, {}}), void();
    auto runs = run_jobs_in_kernel(changed_, c_.seeds, jobs_);
    if (!runs) {
      std::string text = llvm::toString(runs.takeError());
      const bool may_be = plain || llvm::StringRef(text).contains("bpf() is not allowed") ||
                          llvm::StringRef(text).contains("not permitted");
      return out_.push_back(
                 {"kernel", may_be ? text : "", may_be ? std::vector<std::string>() : std::vector{text}}),
             void();
    }
    judge("kernel", (*runs)[0], 0xffffffff);
  }

  const Case &c_;
  const Pipeline changed_; ///< with the slots as they are at run time
  Case expected_;
  std::vector<Job> jobs_;
  JobRun reference_;
  std::string plan_;
  std::vector<ModeOutcome> out_;
};

} // namespace

LinkOptions standalone_options(const Case &c) {
  LinkOptions options;
  options.name = c.name;
  options.plan.target_left_is_supported = false;
  options.policies.resize(c.pipeline.maps.size());
  for (auto &[map, kind] : c.edges)
    options.policies[index(map)].edges = kind == "sealed" ? EdgeKind::sealed
                                         : kind == "left" ? EdgeKind::left
                                                          : EdgeKind::guarded;
  options.scratch = c.scratch;
  return options;
}

std::vector<ModeOutcome> run_all_modes(const Case &c) { return CaseRunner(c).run(); }

} // namespace ujit
