#include "lto/replica.h"

#include "llvm/ADT/STLExtras.h"

#include <chrono>

namespace ujit {

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// By the names that the manifest's objects have.
Reach reachable(const Pipeline &pipeline, const CallGraph &graph) {
  Reach out;
  for (uint32_t i = 0; i < pipeline.programs.size(); ++i) {
    if (!graph.reachable[i])
      continue;
    out.programs.insert(pipeline.programs[i].name);
    for (const Edge &e : graph.edges_of(ProgId(i)))
      for (ProgId to : graph.targets_of(e))
        out.edges.emplace(pipeline.programs[i].name, pipeline[to].name);
  }
  return out;
}

/// Loaded on maps of its own; what the manifest attaches is attached nowhere.
Expected<std::unique_ptr<KernelSource>> load_replica(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                                     const Manifest &manifest) {
  Manifest unattached = manifest;
  unattached.attach.clear();
  Expected<KernelSource> source = load_and_capture(unattached, pipeline, seeds);
  if (!source)
    return source.takeError();
  if (source->pipelines.size() != 1)
    return unsupported("entries of several program types are checked one type at a time")
        .with_hint("choose an entry by --entry")
        .error();
  return std::make_unique<KernelSource>(std::move(*source));
}

} // namespace

Expected<Replica> Replica::make(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                const Manifest &manifest, const LinkOptions &link) {
  Expected<ModuleKernel> kernel = read_module_kernel();
  if (!kernel)
    return kernel.takeError();
  if (!kernel->refusal.empty())
    return unsupported(kernel->refusal).error();
  Replica r;
  auto start = Clock::now();
  Expected<std::unique_ptr<KernelSource>> source = load_replica(pipeline, seeds, manifest);
  if (!source)
    return source.takeError();
  r.source_ = std::move(*source);
  r.facts_.capture_ms = ms_since(start);
  const KernelPipeline &k = r.source_->pipelines.front();
  for (const KernelEntry &e : k.entries) {
    const auto loaded = llvm::find_if(
        pipeline.entries, [&](ProgId p) { return pipeline[p].name == k.canonical.pipeline[e.program].name; });
    if (loaded == pipeline.entries.end())
      return internal_error("an entry has another name after capture").error();
    r.entries_.push_back(*loaded);
  }
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
  r.facts_.possible = reachable(k.canonical.pipeline, image->link.graph);
  return r;
}

Expected<Reach> Replica::possible(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                  const Manifest &manifest) {
  Expected<std::unique_ptr<KernelSource>> source = load_replica(pipeline, seeds, manifest);
  if (!source)
    return source.takeError();
  const KernelPipeline &k = (*source)->pipelines.front();
  Expected<CallGraph> graph = analyse(k.canonical.pipeline, k.options);
  if (!graph)
    return graph.takeError();
  return reachable(k.canonical.pipeline, *graph);
}

Replica::~Replica() {
  if (source_)
    llvm::consumeError(remove());
}

int Replica::stub(ProgId entry) const {
  const auto at = llvm::find(entries_, entry);
  return at == entries_.end() ? -1 : live_.entries[size_t(at - entries_.begin())].stub.get();
}

Error Replica::remove() {
  if (live_.module.name.empty())
    return Error::success();
  live_.entries.clear();
  live_.module.btf = Fd();
  return remove_module(std::exchange(live_.module.name, {}));
}

} // namespace ujit
