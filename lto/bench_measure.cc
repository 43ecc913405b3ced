// What makes figures comparable here, in order of what it costs to leave out:
//  - The place of code: the same bytes at another address can cost 70 % more. Every code is measured at many
//  places, and
//    the median is the figure.
//  - The state of maps: each round starts from the seeds, so every code does the same work, first packets of
//    flows included.
//  - The machine: codes take turns within a round, and a batch of 64 packets counts by its median over
//  rounds.
//  - What is not the code's: packets are prepared off the clock, 64 at a time as a driver polls them.
#include "lto/bench_measure.h"

#include "lto/bench_count.h"

#include "kernel-iface/embedded/event_maps.h"
#include "kernel-iface/embedded/worker.h"
#include "translator/instance.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace ujit {

namespace {

using llvm::formatv;

constexpr size_t batch_size = 64;

uint64_t do_nothing(void *, const uint64_t *) { return 0; }

bool is_array(const Map &map) { return map.type == MapType::array || map.type == MapType::percpu_array; }

/// The lower one of two: a disturbance only makes it longer.
double median(std::vector<double> values) {
  auto middle = values.begin() + long((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Bench {
public:
  static Expected<std::unique_ptr<Bench>> create(const Execution &x);

  /// All packets once, from seeded maps. Gives ns by batch.
  Expected<std::vector<double>> pass(const PlacedCode &code);
  /// The same with instructions of some packets counted instead.
  Error count(const PlacedCode &code, uint32_t packets, Measured &out);
  size_t packets() const { return x_.packets.size(); }

private:
  explicit Bench(const Execution &x) : x_(x), contexts_(batch_size), cpus_(batch_size) {}
  /// Memory of an array: put back as bytes, since there may be many elements and few of them change.
  struct ArrayMemory {
    uint8_t *at;
    std::vector<uint8_t> initial;
  };
  Error restore();
  void keep_arrays(MapObject &map);
  size_t prepare(const PlacedCode &code, size_t first); ///< how many packets from there on are ready
  void drain();

  const Execution &x_;
  std::unique_ptr<Kernel> kernel_;
  std::vector<uint64_t> instance_;
  std::vector<ArrayMemory> arrays_;
  std::vector<std::pair<MapId, MapContents>> initial_; ///< of the other maps
  std::vector<void *> contexts_;                       ///< of those packets
  std::vector<Cpu> cpus_; ///< one for each packet of a batch; all of them play CPU 0
};

Expected<std::unique_ptr<Bench>> Bench::create(const Execution &x) {
  std::unique_ptr<Bench> bench(new Bench(x));
  KernelOptions options;
  options.routes = x.routes;
  auto kernel = Kernel::create(x.pipeline, std::move(options));
  if (!kernel)
    return kernel.takeError();
  bench->kernel_ = std::move(*kernel);
  if (Error e = bench->kernel_->seed(x.seeds))
    return e;
  bench->instance_ = bench->kernel_->instance_table(InstanceLayout(x.pipeline), 0);
  for (uint32_t m = 0; m < x.pipeline.maps.size(); ++m)
    if (MapObject *map = bench->kernel_->map(MapId(m)); map && map->has_contents()) {
      if (is_array(map->shape()))
        bench->keep_arrays(*map);
      else
        bench->initial_.emplace_back(MapId(m), map->contents());
    }
  for (Cpu &cpu : bench->cpus_) {
    cpu.kernel = bench->kernel_.get();
    cpu.instance = bench->instance_.data();
    cpu.record = false;
  }
  return bench;
}

void Bench::keep_arrays(MapObject &map) {
  for (uint32_t cpu = 0; cpu < (map.is_percpu() ? map.cpus() : 1); ++cpu) {
    auto *at = static_cast<uint8_t *>(map.values(cpu));
    arrays_.push_back({at, {at, at + array_stride(map.shape().value_size) * map.shape().max_entries}});
  }
}

/// Sets maps back: what was added goes, what was changed or removed is written. Inner maps that seeds made
/// are not in the pipeline; they are seeded again.
Error Bench::restore() {
  for (const ArrayMemory &a : arrays_)
    for (size_t i = 0; i < a.initial.size(); i += 4096) {
      const size_t n = std::min<size_t>(4096, a.initial.size() - i);
      if (memcmp(a.at + i, a.initial.data() + i, n) != 0)
        memcpy(a.at + i, a.initial.data() + i, n);
    }
  for (const auto &[id, wanted] : initial_) {
    MapObject &map = *kernel_->map(id);
    const Map &shape = map.shape();
    auto put = [&](std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values) -> Error {
      if (long refused = map.control_update(key, values, BPF_ANY))
        return internal_error(formatv("map {0}: contents refused: {1}", shape.name, strerror(int(-refused))))
            .error();
      return Error::success();
    };
    const MapContents now = map.contents();
    auto have = now.begin();
    for (auto want = wanted.begin(); want != wanted.end() || have != now.end();) {
      if (want == wanted.end() || (have != now.end() && have->key < want->key)) {
        map.control_erase(have->key);
        ++have;
        continue;
      }
      const bool both = have != now.end() && have->key == want->key;
      if (!both || have->values != want->values)
        if (Error e = put(want->key, want->values))
          return e;
      ++want;
      have += both;
    }
  }
  std::vector<MapSeed> inner;
  for (const MapSeed &seed : x_.seeds)
    if (seed.map.find('[') != std::string::npos)
      inner.push_back(seed);
  return kernel_->seed(inner);
}

size_t Bench::prepare(const PlacedCode &code, size_t first) {
  const KernelOptions &options = kernel_->options();
  const size_t count = std::min(batch_size, x_.packets.size() - first);
  for (size_t i = 0; i < count; ++i) {
    Cpu &cpu = cpus_[i];
    cpu.time_ns = options.start_time_ns + options.packet_time_ns * (first + i + 1);
    cpu.random_state = (first + i) * 0x9e3779b97f4a7c15ull | 1;
    cpu.redirect.kind = Redirect::none;
    cpu.packet.reset(x_.pipeline[x_.entry].type, x_.packets[first + i].bytes);
    contexts_[i] = code.context ? code.context(cpu, i) : cpu.packet.context();
  }
  return count;
}

void Bench::drain() {
  for (uint32_t m = 0; m < x_.pipeline.maps.size(); ++m)
    if (x_.pipeline.maps[m].type == MapType::ringbuf)
      if (auto *ring = static_cast<RingBuffer *>(kernel_->map(MapId(m))))
        ring->consume([](std::span<const uint8_t>) {});
}

Expected<std::vector<double>> Bench::pass(const PlacedCode &code) {
  if (Error e = restore())
    return e;
  if (code.install)
    code.install(*kernel_);
  std::vector<double> out;
  const uint64_t *instance = instance_.data();
  for (size_t first = 0; first < x_.packets.size(); first += batch_size) {
    const size_t count = prepare(code, first);
    uint64_t sum = 0;
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < count; ++i) {
      current_cpu = &cpus_[i];
      sum += code.entry(contexts_[i], instance);
    }
    const auto end = std::chrono::steady_clock::now();
    asm volatile("" : : "r"(sum)); // the verdicts are used
    out.push_back(std::chrono::duration<double, std::nano>(end - start).count());
    drain();
  }
  current_cpu = nullptr;
  return out;
}

Error Bench::count(const PlacedCode &code, uint32_t wanted, Measured &out) {
  if (Error e = restore())
    return e;
  if (code.install)
    code.install(*kernel_);
  InsnCounter counter(code.ranges, code.thunks);
  const size_t step = std::max<size_t>(1, x_.packets.size() / std::max(1u, wanted));
  size_t counted = 0;
  for (size_t first = 0; first < x_.packets.size(); first += batch_size) {
    const size_t count = prepare(code, first);
    for (size_t i = 0; i < count; ++i) {
      current_cpu = &cpus_[i];

      if ((first + i) % step == 0) {
        counter.run(code.entry, contexts_[i], instance_.data());
        ++counted;
      } else {
        code.entry(contexts_[i], instance_.data());
      }
    }
    drain();
  }
  current_cpu = nullptr;
  const InsnCounts &counts = counter.counts();
  const double n = double(std::max<size_t>(1, counted));
  out.own_insns = double(counts.own) / n;
  out.other_insns = double(counts.other) / n;
  out.thunk_insns = double(counts.thunks) / n;
  for (size_t offset = 0; offset < counts.at.size(); ++offset)
    if (counts.at[offset])
      out.at.emplace_back(offset, double(counts.at[offset]) / n);
  for (size_t i = 0; i < counts.helpers.size(); ++i)
    if (const auto &[calls, insns] = counts.helpers[i]; calls)
      out.helpers.push_back({std::string(helper_symbols()[i].name), double(calls) / n, double(insns) / n});
  std::sort(out.helpers.begin(), out.helpers.end(),
            [](const HelperShare &a, const HelperShare &b) { return a.insns > b.insns; });
  return Error::success();
}

/// One CPU for all that is measured, so that none is on a worse one. What is linked afterwards has all again.
class OnOneCpu {
public:
  OnOneCpu() {
    sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    sched_setaffinity(0, sizeof set, &set);
  }
  ~OnOneCpu() { sched_setaffinity(0, sizeof before_, &before_); }
  OnOneCpu(const OnOneCpu &) = delete;

private:
  cpu_set_t before_;
};

Expected<Measurements> measure_here(const Execution &x, std::span<const std::vector<PlacedCode>> codes,
                                    const MeasureOptions &options) {
  const OnOneCpu here;
  Expected<std::unique_ptr<Bench>> bench = Bench::create(x);
  if (!bench)
    return bench.takeError();

  Measurements out;
  out.rounds = options.rounds;
  out.codes.resize(codes.size());
  size_t copies = 0, all = 0;
  for (const std::vector<PlacedCode> &code : codes) {
    copies = std::max(copies, code.size());
    all += code.size();
  }
  const auto start = std::chrono::steady_clock::now();
  size_t done = 0;
  for (size_t copy = 0; copy < copies; ++copy) {
    std::vector<std::vector<std::vector<double>>> ns(codes.size()); // by code, batch, round
    for (uint32_t round = 0; round < out.rounds + (copy == 0); ++round)
      for (size_t turn = 0; turn < codes.size(); ++turn) {
        const size_t c =
            (turn + round + copy) % codes.size(); // nobody is always first, or behind the same one
        if (copy >= codes[c].size())
          continue;
        Expected<std::vector<double>> batches = (*bench)->pass(codes[c][copy]);
        if (!batches)
          return batches.takeError();
        if (copy == 0 && round == 0)
          continue; // memory is touched for the first time
        ns[c].resize(batches->size());
        for (size_t b = 0; b < batches->size(); ++b)
          ns[c][b].push_back((*batches)[b]);
      }
    for (size_t c = 0; c < codes.size(); ++c) {
      if (copy >= codes[c].size())
        continue;
      double sum = 0;
      for (std::vector<double> &batch : ns[c])
        sum += median(std::move(batch));
      out.codes[c].ns.push_back(sum / double(x.packets.size()));
      ++done;
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (copy == 0 && options.seconds > 0) {
      const double a_round = taken.count() / double(out.rounds + 1) / double(done) * double(all);
      out.rounds = std::clamp(uint32_t(options.seconds / a_round), std::min(2u, out.rounds), out.rounds);
    }
    if (options.progress)
      llvm::errs() << formatv("\r\x1b[Kmeasuring: {0} of {1} copies, {2:F0} s", done, all, taken.count());
  }
  if (options.progress)
    llvm::errs() << "\r\x1b[K";
  std::vector<double> harness;
  for (uint32_t round = 0; round < out.rounds; ++round) {
    Expected<std::vector<double>> batches = (*bench)->pass({do_nothing, nullptr, nullptr, nullptr, {}, {}});
    if (!batches)
      return batches.takeError();
    harness.push_back(median(std::move(*batches)) / double(std::min(batch_size, x.packets.size())));
  }
  out.harness_ns = median(std::move(harness));
  for (size_t c = 0; c < codes.size(); ++c)
    if (codes[c].front().counted)
      if (Error e = (*bench)->count(codes[c].front(), options.counted_packets, out.codes[c]))
        return e;
  return out;
}

// Through the pipe of the worker: numbers and names, in the order of the struct.
class Writer {
public:
  void put(double v) { put(&v, sizeof v); }
  void put(const std::string &s) {
    put(double(s.size()));
    put(s.data(), s.size());
  }
  std::vector<uint8_t> bytes;

private:
  void put(const void *data, size_t size) {
    const auto *p = static_cast<const uint8_t *>(data);
    bytes.insert(bytes.end(), p, p + size);
  }
};

class Reader {
public:
  explicit Reader(std::span<const uint8_t> bytes) : left_(bytes) {}
  double number() {
    double v = 0;
    take(&v, sizeof v);
    return v;
  }
  std::string text() {
    std::string s(size_t(number()), 0);
    take(s.data(), s.size());
    return s;
  }

private:
  void take(void *to, size_t size) { // the worker is this program: it wrote what is read here
    memcpy(to, left_.data(), size);
    left_ = left_.subspan(size);
  }
  std::span<const uint8_t> left_;
};

std::vector<uint8_t> pack(const Measurements &m) {
  Writer w;
  w.put(1.0);
  w.put(m.harness_ns);
  w.put(double(m.rounds));
  w.put(double(m.codes.size()));
  for (const Measured &c : m.codes) {
    w.put(double(c.ns.size()));
    for (double ns : c.ns)
      w.put(ns);
    w.put(c.own_insns);
    w.put(c.other_insns);
    w.put(c.thunk_insns);
    w.put(double(c.at.size()));
    for (const auto &[offset, count] : c.at) {
      w.put(double(offset));
      w.put(count);
    }
    w.put(double(c.helpers.size()));
    for (const HelperShare &h : c.helpers) {
      w.put(h.helper);
      w.put(h.calls);
      w.put(h.insns);
    }
  }
  return std::move(w.bytes);
}

std::vector<uint8_t> pack(Error e) {
  Writer w;
  w.put(0.0);
  w.put(llvm::toString(std::move(e)));
  return std::move(w.bytes);
}

Expected<Measurements> unpack(std::span<const uint8_t> bytes) {
  Reader r(bytes);
  if (r.number() == 0)
    return internal_error(r.text()).error();
  Measurements m;
  m.harness_ns = r.number();
  m.rounds = uint32_t(r.number());
  m.codes.resize(size_t(r.number()));
  for (Measured &c : m.codes) {
    c.ns.resize(size_t(r.number()));
    for (double &ns : c.ns)
      ns = r.number();
    c.own_insns = r.number();
    c.other_insns = r.number();
    c.thunk_insns = r.number();
    c.at.resize(size_t(r.number()));
    for (auto &[offset, count] : c.at) {
      offset = uint64_t(r.number());
      count = r.number();
    }
    c.helpers.resize(size_t(r.number()));
    for (HelperShare &h : c.helpers) {
      h.helper = r.text();
      h.calls = r.number();
      h.insns = r.number();
    }
  }
  return m;
}

} // namespace

Expected<Measurements> measure(const Execution &x, std::span<const std::vector<PlacedCode>> codes,
                               const MeasureOptions &options) {
  WorkerLimits limits;
  limits.time = std::chrono::minutes(30);
  Expected<WorkerResult> result = run_in_worker(
      [&]() -> std::vector<uint8_t> {
        Expected<Measurements> m = measure_here(x, codes, options);
        return m ? pack(*m) : pack(m.takeError());
      },
      limits);
  if (!result)
    return result.takeError();
  if (const auto *fault = std::get_if<WorkerFault>(&*result))
    return internal_error("while measuring: " + describe(*fault)).error();
  return unpack(std::get<std::vector<uint8_t>>(*result));
}

} // namespace ujit
