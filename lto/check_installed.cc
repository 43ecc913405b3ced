#include "lto/check_installed.h"

#include "lto/execute_loaded.h"
#include "lto/kernel_pipeline.h"
#include "lto/kernel_routes.h"

#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/private_network.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <set>

namespace ujit {

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// The fused image of a pipeline in the kernel, on maps of its own, attached nowhere.
class Replica {
public:
  static Expected<Replica> make(const Execution &x, const Manifest &manifest, const LinkOptions &link) {
    Expected<ModuleKernel> kernel = read_module_kernel();
    if (!kernel)
      return kernel.takeError();
    if (!kernel->refusal.empty())
      return unsupported(kernel->refusal).error();
    Manifest unattached = manifest;
    unattached.attach.clear();
    Pipeline only = x.pipeline;
    only.entries = {x.entry};
    Replica r;
    auto start = Clock::now();
    Expected<KernelSource> source = load_and_capture(unattached, only, x.seeds);
    if (!source)
      return source.takeError();
    r.source_ = std::make_unique<KernelSource>(std::move(*source));
    r.facts_.capture_ms = ms_since(start);
    const KernelPipeline &k = r.source_->pipelines.at(0);
    LinkOptions options = k.options;
    options.threads = link.threads;
    options.disabled = link.disabled;
    options.progress = link.progress;
    start = Clock::now();
    Expected<KernelImage> image = link_for_kernel(k, *kernel, options);
    if (!image)
      return image.takeError();
    r.facts_.link_ms = ms_since(start);
    Expected<Fd> kill_switch = make_kill_switch();
    if (!kill_switch)
      return kill_switch.takeError();
    Expected<LiveImage> live = bring_up(k, *image, *kernel, *kill_switch);
    if (!live)
      return live.takeError();
    r.live_ = std::move(*live);
    r.facts_.insert_ms = r.live_.insert_ms;
    r.facts_.stubs_ms = r.live_.stubs_ms;
    r.facts_.module_bytes = r.live_.module_bytes;
    r.facts_.report = make_report(k.canonical.pipeline, image->link, manifest.name);
    for (const CanonicalPipeline::Unfused &u : k.canonical.unfused)
      r.facts_.report.unfused_reasons.emplace_back(k.capture.programs[u.program].name, u.reason);
    return r;
  }
  Replica(Replica &&) = default;
  ~Replica() {
    if (source_)
      llvm::consumeError(remove());
  }

  LoadedPipeline &loaded() { return *source_->loaded; }
  int stub() const { return live_.entries.front().stub.get(); }
  const InstalledFacts &facts() const { return facts_; }

  Error remove() {
    if (live_.module.name.empty())
      return Error::success();
    live_.entries.clear();
    live_.module.btf = Fd();
    return remove_module(std::exchange(live_.module.name, {}));
  }

private:
  Replica() = default;
  std::unique_ptr<KernelSource> source_; ///< the image refers to it
  LiveImage live_;
  InstalledFacts facts_;
};

/// The interpreter's host, with the programs that each run reached written down.
class PathHost final : public InterpreterHost {
public:
  explicit PathHost(Kernel &kernel) : host_(kernel) {}
  Expected<uint64_t> map_address(MapId map) override { return host_.map_address(map); }
  Expected<uint64_t> map_value_address(MapId map, uint64_t offset) override {
    return host_.map_value_address(map, offset);
  }
  Expected<uint64_t> call_helper(Interpreter &i, uint32_t id, const std::array<uint64_t, 5> &args) override {
    return host_.call_helper(i, id, args);
  }
  std::optional<uint64_t> load_packet(uint64_t context, int32_t offset, unsigned bits) override {
    return host_.load_packet(context, offset, bits);
  }
  const Program *tail_call_target(uint64_t map, uint32_t index) override {
    const Program *p = host_.tail_call_target(map, index);
    if (p)
      path.push_back(p->name);
    return p;
  }
  std::vector<std::string> path;

private:
  EmbeddedHost host_;
};

/// By packet: names of the programs that it goes through.
Expected<std::vector<std::vector<std::string>>> trace_paths(const Execution &x) {
  KernelOptions options;
  options.routes = x.routes;
  auto kernel = Kernel::create(x.pipeline, std::move(options));
  if (!kernel)
    return kernel.takeError();
  if (Error e = (*kernel)->seed(x.seeds))
    return e;
  PathHost host(**kernel);
  Interpreter interpreter(host, interpreter_options(x.pipeline[x.entry].type));
  std::vector<std::vector<std::string>> paths;
  for (const CapturedPacket &packet : x.packets) {
    host.path = {x.pipeline[x.entry].name};
    Expected<PacketResult> r = run_interpreted(**kernel, interpreter, x.entry, packet.bytes);
    if (!r)
      return r.takeError();
    paths.push_back(std::move(host.path));
  }
  return paths;
}

/// Smallest duration of a few runs: with a clock that counts instructions, what the run takes undisturbed.
Expected<uint32_t> shortest(LoadedPipeline &kernel, ProgId entry, std::span<const uint8_t> packet,
                            int instead) {
  constexpr int runs = 5;
  uint32_t best = UINT32_MAX;
  TestRunOptions options;
  options.instead = instead;
  for (int i = 0; i < runs; ++i) {
    Expected<TestRunResult> r = kernel.run(entry, packet, options);
    if (!r)
      return r.takeError();
    best = std::min(best, r->duration_ns);
  }
  return best;
}

Expected<Fd> empty_program(ProgType type) {
  const bpf_insn insns[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 2},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  Fd fd(bpf_prog_load(bpf_prog_type(type), "empty", "GPL", insns, 2, nullptr));
  if (!fd)
    return bpf_error(errno, "loading an empty program").error();
  return fd;
}

/// Durations of a few packets of each path, on both replicas.
Error count_paths(const Execution &x, LoadedPipeline &stock, Replica &installed, InstalledCheck &result) {
  constexpr size_t samples = 3;
  Expected<Fd> empty = empty_program(x.pipeline[x.entry].type);
  if (!empty)
    return empty.takeError();
  for (InstalledPath &path : result.paths) {
    double before = 0, after = 0, fixed = 0;
    size_t n = 0;
    for (size_t packet : path.packets) {
      if (n == samples)
        break;
      Expected<uint32_t> a = shortest(stock, x.entry, x.packets[packet].bytes, -1);
      if (!a)
        return a.takeError();
      Expected<uint32_t> b = shortest(installed.loaded(), x.entry, x.packets[packet].bytes, installed.stub());
      if (!b)
        return b.takeError();
      Expected<uint32_t> c = shortest(stock, x.entry, x.packets[packet].bytes, empty->get());
      if (!c)
        return c.takeError();
      before += *a;
      after += *b;
      fixed += *c;
      ++n;
    }
    if (n == 0)
      continue;
    path.stock_ns = (before - fixed) / double(n);
    path.installed_ns = (after - fixed) / double(n);
    path.fixed_ns = fixed / double(n);
  }
  return Error::success();
}

} // namespace

Expected<Trace> execute_installed(const Execution &x, const Manifest &manifest, const LinkOptions &link) {
  Expected<PrivateNetwork> network = PrivateNetwork::enter();
  if (!network)
    return network.takeError();
  if (Error e = add_kernel_routes(x.routes))
    return e;
  Expected<Replica> replica = Replica::make(x, manifest, link);
  if (!replica)
    return replica.takeError();
  Expected<Trace> trace = run_loaded(x, replica->loaded(), "installed", replica->stub());
  Error removed = replica->remove();
  if (!trace)
    return llvm::joinErrors(trace.takeError(), std::move(removed));
  if (removed)
    return removed;
  return trace;
}

Expected<InstalledCheck> check_installed(const Execution &x, const Manifest &manifest,
                                         const LinkOptions &link, size_t limit) {
  Expected<std::vector<std::vector<std::string>>> paths = trace_paths(x);
  if (!paths)
    return paths.takeError();
  Expected<PrivateNetwork> network = PrivateNetwork::enter();
  if (!network)
    return network.takeError();
  if (Error e = add_kernel_routes(x.routes))
    return e;
  Expected<Replica> installed = Replica::make(x, manifest, link);
  if (!installed)
    return installed.takeError();
  LoadOptions options;
  options.seeds.assign(x.seeds.begin(), x.seeds.end());
  Expected<LoadedPipeline> stock = load_into_kernel(x.pipeline, options);
  if (!stock)
    return stock.takeError();

  InstalledCheck result;
  result.facts = installed->facts();
  Expected<Trace> before = run_loaded(x, *stock, "kernel", -1);
  if (!before)
    return before.takeError();
  Expected<Trace> after = run_loaded(x, installed->loaded(), "installed", installed->stub());
  if (!after)
    return after.takeError();
  result.comparison = compare(x.pipeline, *before, *after, limit);

  std::map<std::vector<std::string>, size_t> index;
  std::set<std::string> programs;
  std::set<std::pair<std::string, std::string>> edges;
  for (size_t i = 0; i < paths->size(); ++i) {
    if (!before->packets[i].not_run.empty()) {
      ++result.not_run;
      continue;
    }
    ++result.packets;
    std::vector<std::string> &path = (*paths)[i];
    for (size_t p = 0; p < path.size(); ++p) {
      programs.insert(path[p]);
      if (p)
        edges.insert({path[p - 1], path[p]});
    }
    auto [it, fresh] = index.try_emplace(path, result.paths.size());
    if (fresh)
      result.paths.push_back({.programs = path, .packets = {}});
    result.paths[it->second].packets.push_back(i);
  }
  result.programs.assign(programs.begin(), programs.end());
  result.edges = edges.size();
  if (Error e = count_paths(x, *stock, *installed, result))
    return e;
  if (Error e = installed->remove())
    return e;
  return result;
}

} // namespace ujit
