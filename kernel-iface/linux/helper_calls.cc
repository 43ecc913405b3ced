// One program a helper; each writes into the only value of an array: the number of calls, then a slot for
// each with the helper's row in the table, its numbers, and the memory that it reads.
#include "kernel-iface/linux/helper_calls.h"

#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/maps.h"
#include "translator/make_insn.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ujit {
namespace {

using llvm::formatv;

/// Arguments are counted from 1. `narrow`: a number of 32 bits, whatever the rest of its register is.
struct WatchedHelper {
  const char *symbol;
  std::vector<int> numbers;
  int narrow = 0;
  int memory = 0, size = 0; ///< 0: reads none
};

const std::vector<WatchedHelper> &watched() {
  static const std::vector<WatchedHelper> helpers = {
      {"bpf_redirect", {1, 2}, 1},
      {"bpf_redirect_peer", {1, 2}, 1},
      {"bpf_redirect_neigh", {1, 4}, 1, 2, 3},
      {"bpf_xdp_redirect", {1, 2}, 1},
      {"bpf_clone_redirect", {2, 3}, 2},
      {"bpf_skb_set_tunnel_key", {3, 4}, 3, 2, 3},
      {"bpf_skb_change_type", {2}, 2},
  };
  return helpers;
}

constexpr size_t places = 16, numbers_kept = 2, memory_kept = 48;

struct Slot {
  uint64_t helper;
  uint64_t numbers[numbers_kept];
  uint64_t bytes; ///< of memory
  uint8_t memory[memory_kept];
};

struct Record {
  uint64_t calls;
  Slot slots[places];
};

/// Where struct pt_regs keeps the n-th argument.
int16_t argument(int n) {
  constexpr int16_t offsets[] = {112, 104, 96, 88, 72};
  return offsets[n - 1];
}

/// r6: registers of the call; r7: the record, then the slot, less what stands in front of the slots.
std::vector<Insn> probe(size_t number, int record) {
  constexpr auto insn = make_insn;
  constexpr int probe_read_kernel = 113;
  constexpr int load = BPF_LDX | BPF_MEM | BPF_DW, store = BPF_STX | BPF_MEM | BPF_DW,
                alu = BPF_ALU64 | BPF_K;
  constexpr size_t front = offsetof(Record, slots);
  const WatchedHelper &h = watched()[number];
  std::vector<Insn> out = {
      insn(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
      insn(BPF_LD | BPF_IMM | BPF_DW, 7, BPF_PSEUDO_MAP_VALUE, 0, record),
      insn(0, 0, 0, 0, 0),
      insn(load, 8, 7, offsetof(Record, calls), 0),
      insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 8, 0, 0),
      insn(alu | BPF_ADD, 1, 0, 0, 1),
      insn(store, 7, 1, offsetof(Record, calls), 0),
      insn(alu | BPF_AND, 8, 0, 0, places - 1),
      insn(alu | BPF_MUL, 8, 0, 0, sizeof(Slot)),
      insn(BPF_ALU64 | BPF_ADD | BPF_X, 7, 8, 0, 0),
      insn(alu | BPF_MOV, 1, 0, 0, int32_t(number)),
      insn(store, 7, 1, front + offsetof(Slot, helper), 0),
  };
  for (size_t i = 0; i < h.numbers.size(); ++i) {
    out.push_back(insn(load, 1, 6, argument(h.numbers[i]), 0));
    if (h.numbers[i] == h.narrow)
      out.push_back(insn(BPF_ALU | BPF_MOV | BPF_X, 1, 1, 0, 0));
    out.push_back(insn(store, 7, 1, front + offsetof(Slot, numbers) + 8 * i, 0));
  }
  if (h.memory) {
    const Insn copy[] = {insn(load, 2, 6, argument(h.size), 0),
                         insn(BPF_ALU | BPF_MOV | BPF_X, 2, 2, 0, 0),
                         insn(BPF_JMP | BPF_JLE | BPF_K, 2, 0, 1, memory_kept),
                         insn(alu | BPF_MOV, 2, 0, 0, memory_kept),
                         insn(store, 7, 2, front + offsetof(Slot, bytes), 0),
                         insn(load, 3, 6, argument(h.memory), 0),
                         insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 7, 0, 0),
                         insn(alu | BPF_ADD, 1, 0, 0, front + offsetof(Slot, memory)),
                         insn(BPF_JMP | BPF_CALL, 0, 0, 0, probe_read_kernel)};
    out.insert(out.end(), std::begin(copy), std::end(copy));
  }
  out.push_back(insn(alu | BPF_MOV, 0, 0, 0, 0));
  out.push_back(insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return out;
}

/// None: the kernel has no such function.
Expected<Fd> attach(const char *symbol, uint32_t type, int program) {
  perf_event_attr attr{};
  attr.size = sizeof attr;
  attr.type = type;
  attr.config1 = reinterpret_cast<uint64_t>(symbol);
  Fd event(int(syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!event && (errno == ENOENT || errno == EADDRNOTAVAIL))
    return event;
  if (!event || ioctl(event.get(), PERF_EVENT_IOC_SET_BPF, program) != 0 ||
      ioctl(event.get(), PERF_EVENT_IOC_ENABLE, 0) != 0)
    return bpf_error(errno, formatv("a kprobe on {0}", symbol)).error();
  return event;
}

} // namespace

Expected<HelperCalls> HelperCalls::watch() {
  const auto file = llvm::MemoryBuffer::getFileAsStream("/sys/bus/event_source/devices/kprobe/type");
  uint32_t type = 0;
  if (!file || (*file)->getBuffer().trim().getAsInteger(10, type))
    return unsupported("this kernel has no kprobes").error();
  HelperCalls out;
  out.record_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "calls", 4, sizeof(Record), 1, nullptr));
  if (!out.record_)
    return bpf_error(errno, "creating a map for the calls of helpers").error();
  for (size_t i = 0; i < watched().size(); ++i) {
    const std::vector<Insn> insns = probe(i, out.record_.get());
    const Fd program = load_own_program(BPF_PROG_TYPE_KPROBE, "watch", insns);
    if (!program)
      return bpf_error(errno, formatv("loading a program that watches {0}", watched()[i].symbol)).error();
    Expected<Fd> event = attach(watched()[i].symbol, type, program.get()); // holds the program
    if (!event)
      return event.takeError();
    out.probes_.push_back(std::move(*event));
  }
  return out;
}

Error HelperCalls::forget() {
  const uint32_t key = 0;
  const Record none{};
  if (bpf_map_update_elem(record_.get(), &key, &none, BPF_ANY) != 0)
    return bpf_error(errno, "clearing the calls of helpers").error();
  return Error::success();
}

Expected<std::vector<std::string>> HelperCalls::take() const {
  const uint32_t key = 0;
  Record record;
  if (bpf_map_lookup_elem(record_.get(), &key, &record) != 0)
    return bpf_error(errno, "reading the calls of helpers").error();
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min<uint64_t>(record.calls, places); ++i) {
    const Slot &slot = record.slots[i];
    const WatchedHelper &h = watched().at(slot.helper);
    std::vector<std::string> arguments;
    for (size_t n = 0; n < h.numbers.size(); ++n)
      arguments.push_back(formatv("{0:x}", slot.numbers[n]));
    if (h.memory)
      arguments.push_back(llvm::toHex(llvm::ArrayRef(slot.memory, std::min(slot.bytes, memory_kept)), true));
    out.push_back(formatv("{0}({1})", h.symbol, llvm::join(arguments, ", ")));
  }
  return out;
}

} // namespace ujit
