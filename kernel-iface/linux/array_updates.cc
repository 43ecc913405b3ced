// Code of ours takes the place of bpf_map_update_elem() on arrays (translator/lower_array.cc). What the
// helper returns, which bytes of which element it writes, and that a program writes its own CPU's element of
// a per-CPU array only, is tried out here on maps of our own; an array's memory is read too, where the code
// will write.
//
// That it takes no lock and copies without order was read in the sources: array_map_update_elem() has been
// the same since 6.1 (since 4.6, but for values with locks, timers and pointers, which stay the kernel's).
#include "kernel-iface/linux/array_updates.h"

#include "kernel-iface/linux/fd.h"
#include "kernel-iface/linux/kernel_version.h"
#include "translator/instance.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace ujit {

namespace {

constexpr uint32_t entries = 3, value_size = 12;
using Value = std::array<uint8_t, 16>; ///< as bpf() gives it for a per-CPU array: padded

/// What the program finds in its packet.
struct Request {
  uint32_t key;
  uint8_t value[value_size];
  uint64_t flags;
  uint8_t rest[40];
};
static_assert(sizeof(Request) == 64);

class Trial {
public:
  Trial(KernelReader &reader, uint32_t array_value, bpf_map_type type)
      : reader_(reader), array_value_(array_value), type_(type) {}

  bool run() {
    map_ = Fd(bpf_map_create(type_, "ujit_trial", sizeof(uint32_t), value_size, entries, nullptr));
    program_ = map_ ? load() : Fd();
    if (!program_)
      return false;
    static constexpr uint64_t flags[] = {BPF_ANY, BPF_EXIST, BPF_NOEXIST, 3, 8, BPF_ANY | 1ull << 32, ~0ull};
    static constexpr uint32_t keys[] = {0, 1, entries - 1, entries, 0x80000000, UINT32_MAX};
    for (uint64_t f : flags)
      for (uint32_t k : keys)
        if (!agrees(k, f))
          return false;
    return per_cpu() || in_memory();
  }

private:
  bool per_cpu() const { return type_ == BPF_MAP_TYPE_PERCPU_ARRAY; }

  Fd load() const {
    auto insn = [](uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
      return bpf_insn{
          .code = code, .dst_reg = uint8_t(dst & 15), .src_reg = uint8_t(src & 15), .off = off, .imm = imm};
    };
    const uint8_t mov = BPF_ALU64 | BPF_MOV | BPF_K, move = BPF_ALU64 | BPF_MOV | BPF_X,
                  add = BPF_ALU64 | BPF_ADD | BPF_K, call = BPF_JMP | BPF_CALL,
                  load64 = BPF_LDX | BPF_MEM | BPF_DW;
    const bpf_insn code[] = {insn(mov, 2, 0, 0, 0), // the first bytes of the packet
                             insn(move, 3, 10, 0, 0),
                             insn(add, 3, 0, 0, -24),
                             insn(mov, 4, 0, 0, 24),
                             insn(call, 0, 0, 0, BPF_FUNC_skb_load_bytes),
                             insn(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, map_.get()),
                             insn(0, 0, 0, 0, 0),
                             insn(move, 2, 10, 0, 0),
                             insn(add, 2, 0, 0, -24),
                             insn(move, 3, 10, 0, 0),
                             insn(add, 3, 0, 0, -20),
                             insn(load64, 4, 10, -8, 0),
                             insn(call, 0, 0, 0, BPF_FUNC_map_update_elem),
                             insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
    return Fd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "ujit_trial", "GPL", code, std::size(code), nullptr));
  }

  /// One update, with bytes that no earlier one had.
  bool agrees(uint32_t key, uint64_t flags) {
    std::vector<Value> before, after;
    Request request{.key = key, .value = {}, .flags = flags, .rest = {}};
    ++serial_;
    for (uint32_t i = 0; i < value_size; ++i)
      request.value[i] = uint8_t(i % 2 ? serial_ : i + 1);
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = &request, .data_size_in = sizeof request, .repeat = 1);
    if (!contents(before) || bpf_prog_test_run_opts(program_.get(), &run) != 0 || !contents(after))
      return false;
    const int wanted = flags > BPF_EXIST      ? -EINVAL
                       : key >= entries       ? -E2BIG
                       : flags == BPF_NOEXIST ? -EEXIST
                                              : 0;
    if (int(run.retval) != wanted)
      return false;
    size_t changed = 0;
    for (size_t i = 0; i < after.size(); ++i) {
      if (after[i] == before[i])
        continue;
      ++changed;
      if (i % entries != key || !std::equal(request.value, request.value + value_size, after[i].begin()))
        return false;
    }
    return changed == (wanted == 0);
  }

  /// All elements, of the first CPU, of the second, ...
  bool contents(std::vector<Value> &out) const {
    const size_t copies = per_cpu() ? size_t(std::max(libbpf_num_possible_cpus(), 1)) : 1;
    out.assign(copies * entries, {});
    std::vector<Value> values(copies);
    for (uint32_t k = 0; k < entries; ++k) {
      if (bpf_map_lookup_elem(map_.get(), &k, values.data()) != 0)
        return false;
      for (size_t c = 0; c < copies; ++c)
        out[c * entries + k] = values[c];
    }
    return true;
  }

  /// Whether an array's elements lie where code of ours writes them.
  bool in_memory() {
    std::vector<Value> elements;
    if (!contents(elements))
      return false;
    Expected<map_record> record = reader_.map(map_.get());
    if (!record) {
      llvm::consumeError(record.takeError());
      return false;
    }
    if (record->special_fields)
      return false;
    std::vector<uint8_t> memory(entries * array_stride(value_size));
    const KernelRange range[] = {{record->address + array_value_, memory}};
    if (Error e = reader_.copy(range)) {
      llvm::consumeError(std::move(e));
      return false;
    }
    for (uint32_t k = 0; k < entries; ++k)
      if (std::memcmp(memory.data() + k * array_stride(value_size), elements[k].data(), value_size) != 0)
        return false;
    return true;
  }

  KernelReader &reader_;
  uint32_t array_value_;
  bpf_map_type type_;
  Fd map_, program_;
  uint8_t serial_ = 0;
};

} // namespace

bool can_update_arrays(KernelReader &reader, uint32_t array_value, std::string_view release) {
  if (!sources_were_read(release))
    return false;
  for (bpf_map_type type : {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY})
    if (!Trial(reader, array_value, type).run())
      return false;
  return true;
}

} // namespace ujit
