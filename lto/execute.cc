// The code of an image is loaded here, in the parent, and run in a forked child: so the addresses of the
// child's faults are addresses that the parent can look up. Kernel, maps and packets exist in the child only.
// A page that both share says which packet was in work when the child died.
#include "lto/execute.h"

#include "lto/image.h"
#include "lto/native_image.h"
#include "lto/trace_bytes.h"

#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/worker.h"

#include "llvm/Support/FormatVariadic.h"

#include <sys/mman.h>

#include <atomic>
#include <chrono>

namespace ujit {

namespace {

using llvm::formatv;

/// What the child tells while it works.
class Progress {
public:
  struct Page {
    std::atomic<uint64_t> packet{0}; ///< counted from 1; 0: before the first
  };
  Progress() {
    void *memory = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    page_ = memory == MAP_FAILED ? nullptr : new (memory) Page;
  }
  ~Progress() {
    if (page_)
      munmap(page_, sizeof(Page));
  }
  Progress(const Progress &) = delete;
  void at(size_t packet) const {
    if (page_)
      page_->packet.store(packet + 1, std::memory_order_relaxed);
  }
  uint64_t packet() const { return page_ ? page_->packet.load() : 0; }

private:
  Page *page_;
};

// The child hands back one byte that says what follows: a trace, or the text of an error.
enum class Answer : uint8_t { trace, input, unsupported, internal };

std::vector<uint8_t> tagged(Answer answer, std::vector<uint8_t> bytes) {
  bytes.push_back(uint8_t(answer));
  return bytes;
}

std::vector<uint8_t> pack_error(Error e) {
  ErrorKind kind = ErrorKind::input;
  std::string text;
  llvm::handleAllErrors(
      std::move(e),
      [&](const LinkError &le) {
        kind = le.kind;
        text = le.message;
        if (le.insn)
          text = formatv("insn {0}: {1}", *le.insn, text);
        if (!le.program.empty())
          text = le.program + ": " + text;
      },
      [&](const llvm::ErrorInfoBase &other) { text = other.message(); });
  const Answer answer = kind == ErrorKind::input         ? Answer::input
                        : kind == ErrorKind::unsupported ? Answer::unsupported
                                                         : Answer::internal;
  return tagged(answer, {text.begin(), text.end()});
}

Expected<Trace> take_answer(std::vector<uint8_t> bytes) {
  if (bytes.empty())
    return internal_error("a worker ended without a result").error();
  const auto answer = Answer(bytes.back());
  bytes.pop_back();
  if (answer == Answer::trace)
    return unpack(bytes);
  const ErrorKind kind = answer == Answer::input         ? ErrorKind::input
                         : answer == Answer::unsupported ? ErrorKind::unsupported
                                                         : ErrorKind::internal;
  return LinkError(kind, std::string(bytes.begin(), bytes.end())).error();
}

/// A kernel with the pipeline's maps in the state that every executor starts from.
Expected<std::unique_ptr<Kernel>> fresh_kernel(const Execution &x) {
  KernelOptions options;
  options.routes = x.routes;
  auto kernel = Kernel::create(x.pipeline, std::move(options));
  if (kernel)
    if (Error e = (*kernel)->seed(x.seeds))
      return e;
  return kernel;
}

using RunPacket = llvm::function_ref<Expected<PacketResult>(Kernel &, std::span<const uint8_t>)>;

/// In the child: all packets, one after the other.
Expected<Trace> run_packets(const Execution &x, Kernel &kernel, const Progress &progress, RunPacket run) {
  Trace trace;
  trace.packets.resize(x.packets.size());
  for (size_t i = 0; i < x.packets.size(); ++i) {
    progress.at(i);
    Expected<PacketResult> result = run(kernel, x.packets[i].bytes);
    if (!result)
      return result.takeError();
    trace.packets[i].result = std::move(*result);
  }
  trace.maps = kernel.snapshot();
  return trace;
}

WorkerLimits limits(const Execution &x, uint32_t rounds) {
  WorkerLimits out;
  out.time += std::chrono::milliseconds(x.packets.size() * (1 + rounds / 100));
  return out;
}

std::vector<uint8_t> pack_result(Expected<Trace> trace) {
  return trace ? tagged(Answer::trace, pack(std::move(*trace))) : pack_error(trace.takeError());
}

/// An image set up on a fresh kernel: in the child.
struct Stage {
  std::unique_ptr<Kernel> kernel;
  std::vector<uint64_t> instance;
};

Expected<Stage> set_stage(const Execution &x, const NativeImage &image) {
  auto kernel = fresh_kernel(x);
  if (!kernel)
    return kernel.takeError();
  image.install(**kernel);
  Stage stage{std::move(*kernel), {}};
  stage.instance = stage.kernel->instance_table(InstanceLayout(x.pipeline), 0);
  return stage;
}

Expected<double> measure(const Execution &x, const NativeImage &image, uint32_t rounds) {
  Expected<Stage> stage = set_stage(x, image);
  if (!stage)
    return stage.takeError();
  const std::vector<std::span<const uint8_t>> packets = [&] {
    std::vector<std::span<const uint8_t>> out;
    for (const CapturedPacket &p : x.packets)
      out.emplace_back(p.bytes);
    return out;
  }();
  const auto start = std::chrono::steady_clock::now();
  Expected<uint64_t> sum = stage->kernel->run_batch(image.entry, stage->instance.data(),
                                                    x.pipeline[x.entry].type, packets, rounds);
  if (!sum)
    return sum.takeError();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The fault of native code, by program and instruction as far as the image tells.
Error fault_error(const Execution &x, const WorkerFault &fault, const Progress &progress,
                  const LoadedImage &code, std::span<const uint8_t> image, const std::string &name) {
  LinkError error = internal_error(formatv("{0} code: {1}", name, describe(fault)));
  const std::optional<CodePlace> place = code.locate(fault.pc);
  error.in_program(x.pipeline[x.entry].name);
  if (place) {
    Expected<std::vector<Frame>> frames = symbolize(image, place->offset);
    if (frames && !frames->empty()) {
      error.in_program(frames->front().program).at(frames->front().insn);
      for (size_t i = 1; i < frames->size(); ++i)
        error.note(formatv("inlined into {0}: insn {1}", (*frames)[i].program, (*frames)[i].insn));
    } else {
      error.note(formatv("in {0}+{1:x}", place->symbol, place->symbol_offset));
    }
    llvm::consumeError(frames.takeError());
  }
  if (progress.packet())
    error.note(formatv("at packet {0}", progress.packet()));
  return error.error();
}

} // namespace

std::string refuse_packet(ProgType type, std::span<const uint8_t> packet) {
  return Packet::check(type, packet.size());
}

Expected<Trace> execute_interpreter(const Execution &x) {
  const Progress progress;
  auto work = [&]() -> std::vector<uint8_t> {
    auto kernel = fresh_kernel(x);
    if (!kernel)
      return pack_error(kernel.takeError());
    EmbeddedHost host(**kernel);
    Interpreter interpreter(host, interpreter_options(x.pipeline[x.entry].type));
    return pack_result(run_packets(x, **kernel, progress, [&](Kernel &k, std::span<const uint8_t> packet) {
      return run_interpreted(k, interpreter, x.entry, packet);
    }));
  };
  Expected<WorkerResult> result = run_in_worker(work, limits(x, 0));
  if (!result)
    return result.takeError();
  if (const auto *fault = std::get_if<WorkerFault>(&*result))
    return input_error(formatv("interpreter: {0}", describe(*fault)))
        .in_program(x.pipeline[x.entry].name)
        .note(formatv("at packet {0}", progress.packet()))
        .with_hint("the program touches memory that the verifier would not let it touch")
        .error();
  Expected<Trace> trace = take_answer(std::move(std::get<std::vector<uint8_t>>(*result)));
  if (trace)
    trace->executor = "interpreter";
  return trace;
}

Expected<Trace> execute_image(const Execution &x, std::span<const uint8_t> image, const std::string &name,
                              uint32_t rounds) {
  Expected<NativeImage> native = load_native(x.pipeline, x.entry, image, name);
  if (!native)
    return native.takeError();

  const Progress progress;
  auto work = [&]() -> std::vector<uint8_t> {
    Expected<Stage> stage = set_stage(x, *native);
    if (!stage)
      return pack_error(stage.takeError());
    auto run = [&](Kernel &kernel, std::span<const uint8_t> packet) {
      return kernel.run_packet(native->entry, stage->instance.data(), x.pipeline[x.entry].type, packet);
    };
    Expected<Trace> trace = run_packets(x, *stage->kernel, progress, run);
    if (trace && rounds) {
      Expected<double> seconds = measure(x, *native, rounds);
      if (!seconds)
        return pack_error(seconds.takeError());
      trace->measured_seconds = *seconds;
    }
    return pack_result(std::move(trace));
  };
  Expected<WorkerResult> result = run_in_worker(work, limits(x, rounds));
  if (!result)
    return result.takeError();
  if (const auto *fault = std::get_if<WorkerFault>(&*result))
    return fault_error(x, *fault, progress, native->code, image, name);
  Expected<Trace> trace = take_answer(std::move(std::get<std::vector<uint8_t>>(*result)));
  if (trace)
    trace->executor = name;
  return trace;
}

Expected<Trace> execute_native(const Execution &x, const std::string &name,
                               llvm::function_ref<Error(Kernel &)> set_up,
                               llvm::function_ref<uint64_t(Kernel &, void *)> run) {
  const Progress progress;
  auto work = [&]() -> std::vector<uint8_t> {
    auto kernel = fresh_kernel(x);
    if (!kernel)
      return pack_error(kernel.takeError());
    if (Error e = set_up(**kernel))
      return pack_error(std::move(e));
    auto run_one = [&](Kernel &k, std::span<const uint8_t> packet) {
      auto call = [&](void *context) -> Expected<uint64_t> { return run(k, context); };
      return k.run_packet(call, nullptr, x.pipeline[x.entry].type, packet);
    };
    return pack_result(run_packets(x, **kernel, progress, run_one));
  };
  Expected<WorkerResult> result = run_in_worker(work, limits(x, 0));
  if (!result)
    return result.takeError();
  if (const auto *fault = std::get_if<WorkerFault>(&*result))
    return internal_error(formatv("{0}: {1}", name, describe(*fault)))
        .note(formatv("at packet {0}", progress.packet()))
        .error();
  Expected<Trace> trace = take_answer(std::move(std::get<std::vector<uint8_t>>(*result)));
  if (trace)
    trace->executor = name;
  return trace;
}

} // namespace ujit
