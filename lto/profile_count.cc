// Counting is the interpreter's: it sees every branch and tail call of the bytecode, needs no second kind of
// code, and what it counts is the same on every machine. It runs in a worker, whose counts come back as the
// text of a profile.
#include "lto/profile.h"

#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/worker.h"

#include "llvm/Support/FormatVariadic.h"

#include <map>
#include <tuple>

namespace ujit {

namespace {

class Counter final : public InterpreterObserver {
public:
  explicit Counter(Kernel &kernel) : pipeline_(kernel.pipeline()), programs_(pipeline_.programs.size()) {
    for (uint32_t m = 0; m < pipeline_.maps.size(); ++m)
      maps_[reinterpret_cast<uint64_t>(kernel.map(MapId(m)))] = MapId(m);
  }

  void entered(const Program &program) override { ++of(program).runs; }
  void branched(const Program &program, uint32_t insn, bool taken) override {
    auto &[yes, no] = of(program).branches[insn];
    ++(taken ? yes : no);
  }
  void tail_called(const Program &program, uint32_t insn, uint64_t map, uint32_t slot) override {
    if (auto it = maps_.find(map); it != maps_.end()) // a prog array inside of another map is no edge
      ++of(program).calls[{insn, it->second, slot}];
  }

  Profile profile(uint64_t packets) const {
    Profile out;
    out.packets = packets;
    for (const Counts &c : programs_) {
      std::optional<ProgramProfile> &p = out.programs.emplace_back();
      if (c.runs == 0)
        continue;
      p.emplace().runs = c.runs;
      for (const auto &[insn, counts] : c.branches)
        p->branches.push_back({insn, counts.first, counts.second});
      for (const auto &[call, count] : c.calls)
        p->calls.push_back({std::get<0>(call), std::get<1>(call), std::get<2>(call), count});
    }
    return out;
  }

private:
  struct Counts {
    uint64_t runs = 0;
    std::map<uint32_t, std::pair<uint64_t, uint64_t>> branches;
    std::map<std::tuple<uint32_t, MapId, uint32_t>, uint64_t> calls;
  };
  Counts &of(const Program &program) { return programs_[size_t(&program - pipeline_.programs.data())]; }

  const Pipeline &pipeline_;
  std::vector<Counts> programs_;
  std::map<uint64_t, MapId> maps_;
};

Expected<Profile> count_here(const Execution &x) {
  KernelOptions options;
  options.routes = x.routes;
  auto kernel = Kernel::create(x.pipeline, std::move(options));
  if (!kernel)
    return kernel.takeError();
  if (Error e = (*kernel)->seed(x.seeds))
    return e;
  EmbeddedHost host(**kernel);
  Counter counter(**kernel);
  InterpreterOptions interpreter_options = ujit::interpreter_options(x.pipeline[x.entry].type);
  interpreter_options.observer = &counter;
  Interpreter interpreter(host, interpreter_options);
  for (const CapturedPacket &p : x.packets) {
    Expected<PacketResult> result = run_interpreted(**kernel, interpreter, x.entry, p.bytes);
    if (!result)
      return result.takeError();
  }
  return counter.profile(x.packets.size());
}

} // namespace

Expected<Profile> count_profile(const Execution &x) {
  auto work = [&]() -> std::vector<uint8_t> {
    Expected<Profile> profile = count_here(x);
    const std::string text =
        profile ? print_profile(x.pipeline, *profile, nullptr) : llvm::toString(profile.takeError());
    return {text.begin(), text.end()};
  };
  WorkerLimits limits;
  limits.time += std::chrono::milliseconds(x.packets.size());
  Expected<WorkerResult> result = run_in_worker(work, limits);
  if (!result)
    return result.takeError();
  if (const auto *fault = std::get_if<WorkerFault>(&*result))
    return input_error("counting: " + describe(*fault)).in_program(x.pipeline[x.entry].name).error();
  const auto &bytes = std::get<std::vector<uint8_t>>(*result);
  const std::string text(bytes.begin(), bytes.end());
  Expected<StoredProfile> stored = parse_profile(text, {}, x.pipeline);
  if (stored)
    return std::move(stored->profile);
  llvm::consumeError(stored.takeError());
  return input_error("counting: " + text).in_program(x.pipeline[x.entry].name).error();
}

} // namespace ujit
