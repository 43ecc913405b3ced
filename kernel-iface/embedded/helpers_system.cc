// Helpers that know no packet: time, random numbers, CPUs, tracing.
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/kernel.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace ujit {
namespace {

constexpr uint64_t jiffy_ns = 4'000'000; // HZ=250

uint64_t ktime_get_ns(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  Cpu &cpu = *current_cpu;
  return cpu.time_ns += cpu.kernel->options().call_time_ns;
}

uint64_t jiffies64(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  return current_cpu->time_ns / jiffy_ns;
}

uint64_t get_prandom_u32(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return current_cpu->random(); }

uint64_t get_smp_processor_id(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return current_cpu->index; }

uint64_t get_numa_node_id(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return 0; }

/// Cookie of the initial network namespace.
uint64_t get_netns_cookie(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return 1; }

uint64_t strncmp_helper(uint64_t text, uint64_t size, uint64_t other, uint64_t, uint64_t) {
  int order =
      strncmp(reinterpret_cast<const char *>(text), reinterpret_cast<const char *>(other), uint32_t(size));
  return uint64_t(int64_t(order > 0) - int64_t(order < 0));
}

/// One conversion of a format, `at` behind its percent sign; false if it is not one that the kernel takes.
bool print_argument(std::string &text, const char *&at, const char *end, uint64_t value) {
  std::string spec = "%";
  while (at < end && strchr("0123456789.-+ #", *at))
    spec += *at++;
  unsigned longs = 0;
  for (; at < end && *at == 'l'; at++)
    longs++;
  if (at == end || longs > 2)
    return false;
  char conversion = *at++;
  bool is_text = conversion == 's' || conversion == 'c' || conversion == 'p';
  if (!strchr("diuxXscp", conversion) || (is_text && longs))
    return false;
  if (conversion == 'd' || conversion == 'i')
    value = longs ? value : uint64_t(int64_t(int32_t(value)));
  else if (!longs && conversion != 's' && conversion != 'p')
    value = uint32_t(value);
  if (conversion == 'p') { // sixteen digits, as the kernel prints them
    spec = "%016";
    conversion = 'x';
  }
  if (!is_text || conversion == 'x')
    spec += "ll";
  spec += conversion;
  char out[512];
  snprintf(out, sizeof out, spec.c_str(), value);
  text += out;
  return true;
}

uint64_t trace_printk(uint64_t format, uint64_t format_size, uint64_t a, uint64_t b, uint64_t c) {
  const char *at = reinterpret_cast<const char *>(format);
  uint32_t size = uint32_t(format_size);
  if (size == 0 || at[size - 1] != 0)
    return failed(EINVAL);
  const char *end = at + strnlen(at, size);
  const uint64_t args[] = {a, b, c};
  size_t next = 0;
  std::string text;
  while (at < end) {
    char ch = *at++;
    if (ch != '%') {
      text += ch;
    } else if (at < end && *at == '%') {
      text += *at++;
    } else if (next == std::size(args) || !print_argument(text, at, end, args[next++])) {
      return failed(EINVAL);
    }
  }
  uint64_t length = text.size();
  if (current_cpu->record)
    current_cpu->printed.push_back(std::move(text));
  return length;
}

constexpr HelperSymbol symbols[] = {
    {"bpf_ktime_get_ns", ktime_get_ns},
    {"bpf_ktime_get_boot_ns", ktime_get_ns},
    {"bpf_ktime_get_coarse_ns", ktime_get_ns},
    {"bpf_ktime_get_tai_ns", ktime_get_ns},
    {"bpf_jiffies64", jiffies64},
    {"bpf_get_prandom_u32", get_prandom_u32},
    {"bpf_get_smp_processor_id", get_smp_processor_id},
    {"bpf_get_numa_node_id", get_numa_node_id},
    {"bpf_get_netns_cookie", get_netns_cookie},
    {"bpf_strncmp", strncmp_helper},
    {"bpf_trace_printk", trace_printk},
};

} // namespace

std::span<const HelperSymbol> system_helpers() { return symbols; }

} // namespace ujit
