// Three replicas take turns on each packet: the originals, the installed image, and the originals again,
// which write down the path. Between two runs of the originals, the image's run has no chance to see a clock
// that neither saw; see noise.h.
//
// Afterwards every run is repeated and counted. Maps are warm then: flows exist, neighbours are known.
#include "lto/check_installed.h"

#include "lto/entrance.h"
#include "lto/execute_loaded.h"
#include "lto/kernel_routes.h"
#include "lto/noise.h"
#include "lto/witness.h"

#include "kernel-iface/linux/helper_calls.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/private_network.h"
#include "translator/make_insn.h"

#include "llvm/ADT/STLExtras.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>

namespace ujit {

namespace {

Expected<Fd> empty_program(ProgType type) {
  const Insn insns[] = {make_insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 2),
                        make_insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  Fd fd = load_own_program(uint32_t(type), "empty", insns);
  if (!fd)
    return bpf_error(errno, "loading an empty program").error();
  return fd;
}

/// One packet through one way in.
struct Turn {
  const WayIn &way;
  size_t number; ///< of the way
  std::span<const uint8_t> packet;
};

std::vector<Turn> turns(const Execution &x, std::span<const WayIn> ways) {
  std::vector<Turn> out;
  for (size_t i = 0; i < ways.size(); ++i)
    for (const CapturedPacket &packet : x.packets)
      out.push_back({ways[i], i, packet.bytes});
  return out;
}

Expected<TestRunResult> run_turn(LoadedPipeline &kernel, const Turn &t, const Entrance &entrance) {
  TestRunOptions options;
  options.instead = entrance.fd();
  options.context = t.way.context;
  return kernel.run(t.way.entry, t.packet, options);
}

class InstalledComparison {
public:
  InstalledComparison(const Execution &x, std::span<const WayIn> ways, Replica &installed,
                      LoadedPipeline &stock, Witness &witness, InstalledCheck &out)
      : x_(x), ways_(ways), installed_(installed), stock_(stock), witness_(witness), out_(out) {}

  Error run(size_t limit) {
    Expected<Fd> empty = empty_program(x_.pipeline[x_.pipeline.entries.front()].type);
    if (!empty)
      return empty.takeError();
    for (const WayIn &way : ways_) {
      const std::pair<std::vector<Entrance> &, int> programs[] = {
          {stock_entrances_, stock_.fd(way.entry)},
          {installed_entrances_, installed_.stub(way.entry)},
          {witness_entrances_, witness_.loaded().fd(way.entry)},
          {empty_entrances_, empty->get()}};
      for (const auto &[entrances, program] : programs) {
        Expected<Entrance> entrance = Entrance::make(way.tunnel, program);
        if (!entrance)
          return entrance.takeError();
        entrances.push_back(std::move(*entrance));
      }
    }
    if (Error e = compare_all(limit))
      return e;
    return count_all();
  }

private:
  Error compare_all(size_t limit) {
    Trace before = new_trace(x_, "kernel"), between = new_trace(x_, "installed"),
          after = new_trace(x_, "kernel");
    Expected<HelperCalls> calls = HelperCalls::watch();
    before.sees_calls = between.sees_calls = after.sees_calls = bool(calls);
    if (!calls)
      out_.no_calls = llvm::toString(calls.takeError());
    for (const Turn &t : turns(x_, ways_)) {
      if (Error e = witness_.forget())
        return e;
      const std::tuple<LoadedPipeline &, Trace &, const Entrance &> runs[] = {
          {stock_, before, stock_entrances_[t.number]},
          {installed_.loaded(), between, installed_entrances_[t.number]},
          {witness_.loaded(), after, witness_entrances_[t.number]}};
      for (const auto &[kernel, trace, entrance] : runs) {
        if (before.sees_calls)
          if (Error e = calls->forget())
            return e;
        Expected<TestRunResult> run = run_turn(kernel, t, entrance);
        if (!run)
          return run.takeError();
        cpu_ = run->not_runnable.empty() ? run->cpu : cpu_;
        if (Error e = observe(x_, kernel, std::move(*run), trace))
          return e;
        if (!before.sees_calls)
          continue;
        Expected<std::vector<std::string>> seen = calls->take();
        if (!seen)
          return seen.takeError();
        trace.packets.back().calls = std::move(*seen);
      }
      ++out_.packets;
      if (!before.packets.back().not_run.empty()) {
        ++out_.not_run;
        continue;
      }
      Expected<std::vector<ProgId>> path = witness_.path();
      if (!path)
        return path.takeError();
      out_.reached.add(x_.pipeline, *path);
    }
    const std::pair<LoadedPipeline &, Trace &> maps[] = {
        {stock_, before}, {installed_.loaded(), between}, {witness_.loaded(), after}};
    for (const auto &[kernel, trace] : maps)
      if (Error e = take_maps(x_, kernel, cpu_, trace))
        return e;
    out_.varied = level_noise(x_.pipeline, before, between, after);
    out_.comparison = compare(x_.pipeline, before, between, limit);
    for (Difference &d : out_.comparison.differences) {
      if (!d.packet)
        continue;
      d.field += " (" + ways_[*d.packet / x_.packets.size()].text + ")";
      *d.packet %= x_.packets.size();
    }
    return Error::success();
  }

  /// Smallest duration of a few runs: with a clock that counts instructions, what the run takes undisturbed.
  static Expected<double> shortest(LoadedPipeline &kernel, const Turn &t, const Entrance &entrance) {
    constexpr int runs = 3;
    uint32_t best = UINT32_MAX;
    for (int i = 0; i < runs; ++i) {
      Expected<TestRunResult> r = run_turn(kernel, t, entrance);
      if (!r)
        return r.takeError();
      best = std::min(best, r->not_runnable.empty() ? r->duration_ns : 0);
    }
    return double(best);
  }

  Error count_all() {
    std::map<std::vector<ProgId>, InstalledPath> paths;
    for (const Turn &t : turns(x_, ways_)) {
      if (Error e = witness_.forget())
        return e;
      Expected<TestRunResult> again = run_turn(witness_.loaded(), t, witness_entrances_[t.number]);
      if (!again)
        return again.takeError();
      if (!again->not_runnable.empty())
        continue;
      Expected<std::vector<ProgId>> path = witness_.path();
      if (!path)
        return path.takeError();
      out_.reached.add(x_.pipeline, *path);
      Expected<double> stock = shortest(stock_, t, stock_entrances_[t.number]);
      if (!stock)
        return stock.takeError();
      Expected<double> installed = shortest(installed_.loaded(), t, installed_entrances_[t.number]);
      if (!installed)
        return installed.takeError();
      Expected<double> fixed = shortest(stock_, t, empty_entrances_[t.number]);
      if (!fixed)
        return fixed.takeError();
      InstalledPath &p = paths[*path];
      ++p.runs;
      p.stock_ns += *stock - *fixed;
      p.installed_ns += *installed - *fixed;
    }
    for (auto &[programs, p] : paths) {
      for (ProgId id : programs)
        p.programs.push_back(x_.pipeline[id].name);
      out_.paths.push_back(std::move(p));
    }
    llvm::stable_sort(out_.paths,
                      [](const InstalledPath &a, const InstalledPath &b) { return a.stock_ns > b.stock_ns; });
    return Error::success();
  }

  const Execution &x_;
  const std::span<const WayIn> ways_;
  Replica &installed_;
  LoadedPipeline &stock_;
  Witness &witness_;
  InstalledCheck &out_;
  std::vector<Entrance> stock_entrances_, installed_entrances_, witness_entrances_, empty_entrances_;
  unsigned cpu_ = 0;
};

/// Where replicas live. Beyond this point nothing that runs can see the machine's own network.
Expected<PrivateNetwork> enter_network(const Execution &x) {
  Expected<PrivateNetwork> network = PrivateNetwork::enter();
  if (network)
    if (Error e = add_kernel_routes(x.routes))
      return e;
  return network;
}

LoadOptions load_options(const Execution &x) {
  LoadOptions options;
  options.seeds.assign(x.seeds.begin(), x.seeds.end());
  return options;
}

} // namespace

Expected<InstalledCheck> check_installed(const Execution &x, std::span<const WayIn> ways,
                                         const Manifest &manifest, const LinkOptions &link, size_t limit) {
  Expected<PrivateNetwork> network = enter_network(x);
  if (!network)
    return network.takeError();
  Expected<Replica> installed = Replica::make(x.pipeline, x.seeds, manifest, link);
  if (!installed)
    return installed.takeError();
  Expected<LoadedPipeline> stock = load_into_kernel(x.pipeline, load_options(x));
  if (!stock)
    return stock.takeError();
  Expected<Witness> witness = Witness::load(x.pipeline, load_options(x));
  if (!witness)
    return witness.takeError();

  InstalledCheck result;
  result.facts = installed->facts();
  if (Error e = InstalledComparison(x, ways, *installed, *stock, *witness, result).run(limit))
    return e;
  if (Error e = installed->remove())
    return e;
  return result;
}

Expected<ReachCheck> check_reach(const Execution &x, std::span<const WayIn> ways, const Manifest &manifest) {
  Expected<PrivateNetwork> network = enter_network(x);
  if (!network)
    return network.takeError();
  ReachCheck out;
  Expected<Reach> possible = Replica::possible(x.pipeline, x.seeds, manifest);
  if (!possible)
    return possible.takeError();
  out.possible = std::move(*possible);
  Expected<Witness> witness = Witness::load(x.pipeline, load_options(x));
  if (!witness)
    return witness.takeError();
  std::vector<Entrance> entrances;
  for (const WayIn &way : ways) {
    Expected<Entrance> entrance = Entrance::make(way.tunnel, witness->loaded().fd(way.entry));
    if (!entrance)
      return entrance.takeError();
    entrances.push_back(std::move(*entrance));
  }
  std::map<std::vector<ProgId>, size_t> paths;
  for (const Turn &t : turns(x, ways)) {
    if (Error e = witness->forget())
      return e;
    Expected<TestRunResult> run = run_turn(witness->loaded(), t, entrances[t.number]);
    if (!run)
      return run.takeError();
    ++out.packets;
    if (!run->not_runnable.empty()) {
      ++out.not_run;
      continue;
    }
    Expected<std::vector<ProgId>> path = witness->path();
    if (!path)
      return path.takeError();
    out.reached.add(x.pipeline, *path);
    ++paths[*path];
  }
  for (const auto &[programs, runs] : paths) {
    ReachedPath &p = out.paths.emplace_back();
    p.runs = runs;
    for (ProgId id : programs)
      p.programs.push_back(x.pipeline[id].name);
  }
  llvm::stable_sort(out.paths, [](const auto &a, const auto &b) { return a.runs > b.runs; });
  return out;
}

} // namespace ujit
