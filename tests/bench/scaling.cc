#include "tests/bench/scaling.h"

#include "translator/assembler.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

namespace ujit {

namespace {

using llvm::formatv;

constexpr uint32_t rows = 30;
constexpr int longest_link_seconds = 180;

/// Blocks of some 20 instructions until the program is as long as wanted. Jumps are short: distances have 16
/// bits.
std::string body(uint32_t number, uint32_t insns) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "r6 = r1\n*(u32 *)(r10 - 4) = 0\nr1 = map scratch ll\nr2 = r10\nr2 += -4\ncall map_lookup_elem\n"
        "if r0 != 0 goto found\nr0 = 1\nexit\nfound:\nr7 = r0\n";
  const uint32_t blocks = std::max(1u, insns > 50 ? (insns - 50) / 23 : 1);
  for (uint32_t b = 0; b < blocks; ++b) {
    const uint32_t at = (number * 7 + b * 13) % 56;
    os << formatv(
        "r2 = *(u32 *)(r6 + 0)\nr3 = *(u32 *)(r6 + 4)\nr4 = r2\nr4 += {0}\nif r4 <= r3 goto inside{2}\n"
        "r0 = 1\nexit\ninside{2}:\nw5 = *(u32 *)(r2 + {1})\n",
        at + 4, at, b);
    os << formatv(
        "w1 = *(u32 *)(r7 + {0})\nw1 ^= w5\nw1 *= {1}\nw1 += {2}\nif w1 > {3} goto skip{4}\nw5 >>= {5}\n"
        "w1 += w5\nif w1 != {6} goto skip{4}\nw1 ^= 0x5bd1\n",
        (b % 8) * 4, 0x9e3779b1 % 0x7fffffff, number + b, 0x40000000 + b * 4097, b, 1 + b % 13,
        number * 31 + b);
    os << formatv("skip{0}:\n*(u32 *)(r7 + {1}) = w1\nw8 = w1\nw8 &= 255\nw9 = w8\nw9 <<= {2}\nw9 |= w1\n", b,
                  ((b + 1) % 8) * 4, 1 + b % 7);
  }
  return std::move(os.str());
}

std::string tail_call(uint32_t slot) {
  return formatv("r1 = r6\nr2 = map programs ll\nr3 = {0}\ncall tail_call\n", slot).str();
}

} // namespace

Pipeline make_pipeline(uint32_t programs, uint32_t insns) {
  Pipeline p;
  auto map = [&](const char *name, MapType type, uint32_t value, uint32_t entries) {
    Map m;
    m.name = name;
    m.type = type;
    m.key_size = 4;
    m.value_size = value;
    m.max_entries = entries;
    p.maps.push_back(std::move(m));
  };
  map("programs", MapType::prog_array, 4, programs);
  map("scratch", MapType::percpu_array, 64, 1);
  map("counters", MapType::percpu_array, 16, 256);
  const uint32_t per_row = std::max(1u, (programs + rows - 1) / rows);
  for (uint32_t i = 0; i < programs; ++i) {
    std::string text = body(i, insns);
    // The next row, and there the one below or a neighbour of it.
    const uint32_t row = i / per_row, column = i % per_row;
    const uint32_t first = (row + 1) * per_row + column,
                   second = (row + 1) * per_row + (column * 5 + 1) % per_row;
    if (first < programs) {
      text += "w1 = *(u32 *)(r7 + 0)\nif w1 & 1 goto other\n" + tail_call(first) + "goto out\nother:\n" +
              tail_call(second < programs ? second : first);
    }
    text += "out:\nr0 = 2\nexit\n";
    AssemblerOptions options;
    options.name = formatv("program_{0}", i).str();
    options.find_map = [&](std::string_view name) { return p.find_map(name); };
    Expected<Assembly> a = assemble(text, options);
    if (!a)
      llvm::report_fatal_error(a.takeError());
    Program program;
    program.name = options.name;
    program.object = "made up";
    program.section = "xdp";
    program.type = ProgType::xdp;
    program.insns = std::move(a->insns);
    program.subprograms = std::move(a->subprograms);
    p.programs.push_back(std::move(program));
    p.maps[0].prog_slots.emplace_back(i, ProgId(i));
  }
  // Whoever nobody calls is attached.
  for (uint32_t i = 0; i < std::min(per_row, programs); ++i)
    p.entries.push_back(ProgId(i));
  return p;
}

Expected<LinkPoint> measure_link(uint32_t programs, uint32_t insns, unsigned threads) {
  int ends[2];
  if (pipe(ends) < 0)
    return unsupported("no pipe").error();
  const pid_t child = fork();
  if (child < 0)
    return unsupported("no process").error();
  if (child == 0) {
    const Pipeline pipeline = make_pipeline(programs, insns);
    LinkOptions options;
    options.threads = threads;
    options.debug_info = false;
    options.plan.target_left_is_supported = false;
    ProgArrayPolicy sealed{};
    sealed.edges = EdgeKind::sealed;
    options.policies.assign(pipeline.maps.size(), sealed);
    options.scratch = {false, true, false};
    LinkPoint point{.programs = programs, .insns_each = insns, .threads = threads};
    auto user_seconds = [] {
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      return double(usage.ru_utime.tv_sec) + double(usage.ru_utime.tv_usec) * 1e-6;
    };
    const double user_before = user_seconds();
    const auto start = std::chrono::steady_clock::now();
    Expected<LinkResult> linked = link(pipeline, options);
    if (!linked) {
      llvm::logAllUnhandledErrors(linked.takeError(), llvm::errs());
      _exit(1);
    }
    point.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    point.user_seconds = user_seconds() - user_before;
    point.bytecode_insns = linked->stats.bytecode_insns;
    point.code_bytes = linked->stats.code_bytes;
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    point.peak_kilobytes = uint64_t(usage.ru_maxrss);
    _exit(write(ends[1], &point, sizeof point) == sizeof point ? 0 : 1);
  }
  close(ends[1]);
  LinkPoint point;
  pollfd answer{ends[0], POLLIN, 0};
  const bool in_time = poll(&answer, 1, longest_link_seconds * 1000) == 1;
  const bool whole = in_time && read(ends[0], &point, sizeof point) == sizeof point;
  close(ends[0]);
  if (!in_time)
    kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  if (!in_time)
    return unsupported(formatv("the link of {0} programs of {1} instructions takes more than {2} seconds",
                               programs, insns, longest_link_seconds)
                           .str())
        .error();
  if (!whole || status != 0)
    return internal_error(formatv("the link of {0} programs failed", programs).str()).error();
  return point;
}

} // namespace ujit
