// The running kernel as an executor. It never sees live maps or networks: everything is loaded afresh, and
// runs in a network namespace of its own with the manifest's routes.
#include "lto/execute_loaded.h"

#include "lto/kernel_routes.h"

#include "kernel-iface/linux/private_network.h"

namespace ujit {

namespace {

bool sends_events(const Map &map) {
  return map.type == MapType::ringbuf || map.type == MapType::perf_event_array;
}

Error take_events(const Execution &x, LoadedPipeline &kernel, PacketResult &result) {
  for (uint32_t m = 0; m < x.pipeline.maps.size(); ++m) {
    if (!sends_events(x.pipeline.maps[m]) || x.pipeline.maps[m].is_template)
      continue;
    Expected<EventSamples> samples = kernel.drain_events(MapId(m));
    if (!samples)
      return samples.takeError();
    for (std::vector<uint8_t> &sample : samples->samples)
      result.events.push_back({MapId(m), 0, std::move(sample)});
  }
  return Error::success();
}

} // namespace

Error take_maps(const Execution &x, LoadedPipeline &kernel, unsigned cpu, Trace &trace) {
  for (uint32_t m = 0; m < x.pipeline.maps.size(); ++m) {
    const Map &map = x.pipeline.maps[m];
    if (map.is_template || !has_contents(map))
      continue;
    Expected<MapContents> contents = kernel.read(MapId(m));
    if (!contents)
      return contents.takeError();
    for (MapEntry &e : *contents)
      if (e.values.size() > 1 && cpu < e.values.size())
        e.values = {std::move(e.values[cpu])};
    trace.maps.push_back({map.name, std::move(*contents)});
  }
  return Error::success();
}

Trace new_trace(const Execution &x, const std::string &name) {
  Trace trace;
  trace.executor = name;
  trace.sees_redirects = trace.sees_clones = trace.sees_printed = false;
  trace.pads_events = true;
  trace.context_ranges.emplace();
  for (const ContextRange &r : reported_context(x.pipeline[x.entry].type))
    trace.context_ranges->emplace_back(r.offset, r.size);
  return trace;
}

Error observe(const Execution &x, LoadedPipeline &kernel, TestRunResult run, Trace &trace) {
  Observation &o = trace.packets.emplace_back();
  o.not_run = std::move(run.not_runnable);
  if (!o.not_run.empty())
    return Error::success();
  o.result.value = run.retval;
  o.result.packet = std::move(run.packet);
  o.result.metadata = std::move(run.metadata);
  o.result.context = std::move(run.context);
  return take_events(x, kernel, o.result);
}

Expected<Trace> run_loaded(const Execution &x, LoadedPipeline &kernel, const std::string &name) {
  Trace trace = new_trace(x, name);
  unsigned cpu = 0;
  for (const CapturedPacket &packet : x.packets) {
    Expected<TestRunResult> run = kernel.run(x.entry, packet.bytes);
    if (!run)
      return run.takeError();
    cpu = run->not_runnable.empty() ? run->cpu : cpu;
    if (Error e = observe(x, kernel, std::move(*run), trace))
      return e;
  }
  if (Error e = take_maps(x, kernel, cpu, trace))
    return e;
  return trace;
}

Expected<Trace> execute_kernel(const Execution &x) {
  Expected<PrivateNetwork> network = PrivateNetwork::enter();
  if (!network)
    return network.takeError();
  if (Error e = add_kernel_routes(x.routes))
    return e;
  LoadOptions options;
  options.seeds.assign(x.seeds.begin(), x.seeds.end());
  Expected<LoadedPipeline> kernel = load_into_kernel(x.pipeline, options);
  if (!kernel)
    return kernel.takeError();
  return run_loaded(x, *kernel, "kernel");
}

} // namespace ujit
