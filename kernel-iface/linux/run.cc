// Test runs. BPF_PROG_TEST_RUN copies a packet and a context in, runs the program under the rules of its hook
// and copies both out. What it cannot express (packets without an Ethernet header, packets longer than one
// page) is reported as a property of the packet and not as an error, so that a comparison can leave such a
// packet out and say so.
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

namespace ujit {
namespace {

using llvm::formatv;

/// What adjust_tail, change_tail and change_head can add at most, so that no output is ever cut (cutting
/// would be noticed only after the run has changed maps).
constexpr size_t growth = 1 << 16;
constexpr size_t page_bytes = 4096;

/// The thread stays on one CPU while this lives.
class CpuPin {
public:
  /// None: the first CPU that the thread may use.
  explicit CpuPin(std::optional<unsigned> cpu) {
    if (sched_getaffinity(0, sizeof before_, &before_) != 0)
      return;
    if (!cpu)
      for (cpu = 0; *cpu < CPU_SETSIZE && !CPU_ISSET(*cpu, &before_);)
        ++*cpu;
    cpu_ = *cpu;
    if (cpu_ >= CPU_SETSIZE) {
      errno = EINVAL;
      return;
    }
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    CPU_SET(cpu_, &wanted);
    ok_ = sched_setaffinity(0, sizeof wanted, &wanted) == 0;
  }
  ~CpuPin() {
    if (ok_)
      sched_setaffinity(0, sizeof before_, &before_);
  }
  CpuPin(const CpuPin &) = delete;
  CpuPin &operator=(const CpuPin &) = delete;
  bool ok() const { return ok_; }
  unsigned cpu() const { return cpu_; }

private:
  cpu_set_t before_{};
  unsigned cpu_ = 0;
  bool ok_ = false;
};

size_t context_bytes(ProgType type) { return type == ProgType::xdp ? sizeof(xdp_md) : sizeof(__sk_buff); }

/// The context to pass in: the caller's fields, for XDP with the packet's extent as the kernel wants it
/// (`data` is the number of metadata bytes, `data_end` that of all bytes).
std::vector<uint8_t> initial_context(ProgType type, const TestRunOptions &options, size_t all_bytes) {
  std::vector<uint8_t> out = options.context;
  out.resize(context_bytes(type));
  if (type == ProgType::xdp) {
    xdp_md context;
    std::memcpy(&context, out.data(), sizeof context);
    context.data_meta = 0;
    context.data = uint32_t(options.metadata.size());
    context.data_end = uint32_t(all_bytes);
    std::memcpy(out.data(), &context, sizeof context);
  }
  return out;
}

/// Newer kernels take no skb test run with an IP packet that has not all of the fixed IP header.
bool cut_in_ip_header(std::span<const uint8_t> packet) {
  constexpr size_t ipv4_header = 20, ipv6_header = 40;
  uint16_t protocol = uint16_t(packet[12] << 8 | packet[13]);
  return (protocol == ETH_P_IP && packet.size() < ETH_HLEN + ipv4_header) ||
         (protocol == ETH_P_IPV6 && packet.size() < ETH_HLEN + ipv6_header);
}

} // namespace

std::span<const ContextRange> reported_context(ProgType type) {
#define UJIT_RANGE(field) {offsetof(__sk_buff, field), sizeof(__sk_buff::field)}
  static constexpr ContextRange skb[] = {UJIT_RANGE(mark), UJIT_RANGE(priority), UJIT_RANGE(cb),
                                         UJIT_RANGE(tstamp)};
#undef UJIT_RANGE
  return type == ProgType::xdp ? std::span<const ContextRange>() : skb;
}

Expected<TestRunResult> LoadedPipeline::run(ProgId entry, std::span<const uint8_t> packet,
                                            const TestRunOptions &options) const {
  const LoadedProgram &program = programs_[index(entry)];
  auto placed = [&](LinkError error) {
    return error.in_file(program.object).in_program(program.name).error();
  };
  bool xdp = program.type == ProgType::xdp;
  if (!xdp && program.type != ProgType::sched_cls && program.type != ProgType::sched_act &&
      program.type != ProgType::socket_filter && program.type != ProgType::cgroup_skb)
    return placed(
        unsupported(formatv("programs of type {0} have no test run on packets", name_of(program.type))));
  if (!xdp && !options.metadata.empty())
    return placed(input_error("only XDP programs have metadata in front of the packet"));
  if (options.context.size() > context_bytes(program.type))
    return placed(input_error(formatv("{0} bytes of context, where {1} has {2}", options.context.size(),
                                      name_of(program.type), context_bytes(program.type))));

  TestRunResult out;
  if (packet.size() < ETH_HLEN) {
    out.not_runnable = formatv("{0} bytes are shorter than an Ethernet header", packet.size());
    return out;
  }
  std::vector<uint8_t> input = options.metadata;
  input.insert(input.end(), packet.begin(), packet.end());
  // The kernel would split a longer packet into frags and show a program that knows none only the first part.
  constexpr size_t headroom = 256, shared_info = 320;
  if (xdp && !program.frags && input.size() > page_bytes - headroom - shared_info) {
    out.not_runnable = formatv("{0} bytes do not fit into one page", packet.size());
    return out;
  }
  std::vector<uint8_t> context_in = initial_context(program.type, options, input.size());
  out.context.resize(context_in.size());
  size_t capacity = input.size() + growth;
  auto output = std::make_unique_for_overwrite<uint8_t[]>(capacity);
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = input.data(), .data_out = output.get(),
              .data_size_in = uint32_t(input.size()), .data_size_out = uint32_t(capacity),
              .ctx_in = context_in.data(), .ctx_out = out.context.data(),
              .ctx_size_in = uint32_t(context_in.size()), .ctx_size_out = uint32_t(out.context.size()),
              .repeat = int(options.repeat));
  {
    CpuPin pin(options.cpu);
    if (!pin.ok())
      return placed(input_error(formatv("cannot run on CPU {0}: {1}", pin.cpu(), std::strerror(errno))));
    out.cpu = pin.cpu();
    int result = bpf_prog_test_run_opts(
        options.instead >= 0 ? options.instead : program_fds_[index(entry)].get(), &run);
    int error = errno;
    if (result != 0 && (error == EINVAL || error == E2BIG || error == EMSGSIZE)) {
      TestRunResult refused;
      refused.not_runnable =
          !xdp && cut_in_ip_header(packet)
              ? "the packet ends inside of its IP header"
              : formatv("the kernel takes no test run with this packet of {0} bytes{1}: {2}", packet.size(),
                        options.context.empty() ? "" : " and context", std::strerror(error))
                    .str();
      return refused;
    }
    if (result != 0)
      return placed(bpf_error(error, "test run"));
  }
  out.retval = run.retval;
  out.duration_ns = run.duration;
  size_t metadata = 0;
  if (xdp) {
    xdp_md context;
    std::memcpy(&context, out.context.data(), sizeof context);
    metadata = std::min<size_t>(context.data, run.data_size_out);
    context.data = context.data_end = context.data_meta = 0;
    std::memcpy(out.context.data(), &context, sizeof context);
  }
  const uint8_t *bytes = output.get();
  out.metadata.assign(bytes, bytes + metadata);
  out.packet.assign(bytes + metadata, bytes + run.data_size_out);
  return out;
}

} // namespace ujit
