// Code of ours takes the place of some helpers on linear packets that are not cloned (lto/skb_helpers.cc).
// What they do to the bytes then, and that their result is 0, is tried out here in test runs, whose packets
// are linear and not cloned: a copy where it is wanted, and checksums with every way of summing up, at the
// values where sums of other kinds would differ (0 against 0xffff, carries). Where the packet's end and the
// bits lie that the conditions test comes from the kernel's BTF.
//
// That they do nothing beside was read in the sources: the packet's end is computed again, which changes
// nothing where nothing was pulled. It has been so from 4.10 on; a kernel later than those read is not taken.
#include "kernel-iface/linux/skb_helpers.h"

#include "kernel-iface/linux/fd.h"
#include "kernel-iface/linux/kernel_version.h"
#include "kernel-iface/linux/load.h"
#include "translator/make_insn.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ujit {

namespace {

/// In the packets of the trial.
constexpr uint32_t from_at = 16, to_at = 24, sum_at = 32, copy_at = 40, copy_length = 13;
using Packet = std::array<uint8_t, 64>;

template <class T>
T get(const Packet &p, uint32_t at) {
  T out;
  std::memcpy(&out, p.data() + at, sizeof out);
  return out;
}
template <class T>
void put(Packet &p, uint32_t at, T value) {
  std::memcpy(p.data() + at, &value, sizeof value);
}

uint16_t fold(uint64_t sum) {
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return uint16_t(sum);
}

/// What a helper should make of a packet.
struct Trial {
  int32_t helper;
  int32_t flags = 0;

  void expected(Packet &p) const {
    const uint64_t from = get<uint64_t>(p, from_at), to = get<uint64_t>(p, to_at);
    const uint16_t old = get<uint16_t>(p, sum_at);
    const bool l4 = helper == BPF_FUNC_l4_csum_replace;
    if (helper == BPF_FUNC_skb_store_bytes)
      std::memmove(p.data() + copy_at, p.data() + from_at, copy_length);
    if (!l4 && helper != BPF_FUNC_l3_csum_replace)
      return;
    const bool mangled = flags & BPF_F_MARK_MANGLED_0;
    if (mangled && old == 0)
      return;
    uint64_t sum = uint32_t(~uint32_t(old));
    switch (flags & BPF_F_HDR_FIELD_MASK) {
    case 0: sum += uint32_t(to); break;
    case 2:
      sum = l4 ? sum + uint32_t(~uint32_t(uint16_t(from))) : uint64_t(uint16_t(~old)) + uint16_t(~from);
      sum += uint16_t(to);
      break;
    case 4: sum += uint64_t(uint32_t(~from)) + uint32_t(to); break;
    }
    const uint16_t fresh = uint16_t(~fold(sum));
    put<uint16_t>(p, sum_at, mangled && fresh == 0 ? 0xffff : fresh);
  }

  Fd load() const {
    constexpr auto insn = make_insn;
    const uint8_t mov = BPF_ALU64 | BPF_MOV | BPF_K, move = BPF_ALU64 | BPF_MOV | BPF_X,
                  add = BPF_ALU64 | BPF_ADD | BPF_K, call = BPF_JMP | BPF_CALL,
                  load64 = BPF_LDX | BPF_MEM | BPF_DW;
    std::vector<Insn> code{// the operands, by another helper of those that are tried
                           insn(move, 6, 1, 0, 0),  insn(mov, 2, 0, 0, from_at),
                           insn(move, 3, 10, 0, 0), insn(add, 3, 0, 0, -16),
                           insn(mov, 4, 0, 0, 16),  insn(call, 0, 0, 0, BPF_FUNC_skb_load_bytes),
                           insn(move, 1, 6, 0, 0)};
    switch (helper) {
    case BPF_FUNC_skb_pull_data: code.push_back(insn(mov, 2, 0, 0, flags)); break;
    case BPF_FUNC_skb_store_bytes:
      code.insert(code.end(), {insn(mov, 2, 0, 0, copy_at), insn(move, 3, 10, 0, 0), insn(add, 3, 0, 0, -16),
                               insn(mov, 4, 0, 0, copy_length), insn(mov, 5, 0, 0, flags)});
      break;
    default:
      code.insert(code.end(), {insn(mov, 2, 0, 0, sum_at), insn(load64, 3, 10, -16, 0),
                               insn(load64, 4, 10, -8, 0), insn(mov, 5, 0, 0, flags)});
    }
    code.insert(code.end(), {insn(call, 0, 0, 0, helper), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
    return load_own_program(BPF_PROG_TYPE_SCHED_CLS, "ujit_trial", code);
  }

  bool run() const {
    static constexpr uint16_t sums[] = {0, 1, 0x1234, 0xfffe, 0xffff};
    static constexpr uint64_t changes[][2] = {{0, 0},
                                              {0xffff, 0},
                                              {0, 0xffff},
                                              {0xffffffff, 0},
                                              {0x12340000, 0xedcb},
                                              {0xdeadbeef, 0xcafebabe},
                                              {0x1122334455667788, 0x99aabbccddeeff00}};
    const Fd program = load();
    if (!program)
      return false;
    for (uint16_t sum : sums)
      for (const auto &change : changes) {
        // Without a width, helpers demand that `from` is 0.
        const uint64_t from = flags & BPF_F_HDR_FIELD_MASK ? change[0] : 0, to = change[1];
        Packet before{}, after{};
        for (uint32_t i = 0; i < before.size(); ++i)
          before[i] = uint8_t(i * 37);
        put(before, from_at, from);
        put(before, to_at, to);
        put(before, sum_at, sum);
        LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = before.data(), .data_out = after.data(),
                    .data_size_in = before.size(), .data_size_out = after.size(), .repeat = 1);
        if (bpf_prog_test_run_opts(program.get(), &run) != 0 || run.retval != 0)
          return false;
        expected(before);
        if (before != after)
          return false;
      }
    return true;
  }
};

constexpr Trial trials[] = {
    {BPF_FUNC_skb_pull_data},
    {BPF_FUNC_skb_pull_data, 34},
    {BPF_FUNC_skb_store_bytes},
    {BPF_FUNC_l3_csum_replace, 0},
    {BPF_FUNC_l3_csum_replace, 2},
    {BPF_FUNC_l3_csum_replace, 4},
    {BPF_FUNC_l4_csum_replace, 0},
    {BPF_FUNC_l4_csum_replace, 2},
    {BPF_FUNC_l4_csum_replace, 4},
    {BPF_FUNC_l4_csum_replace, 0 | BPF_F_PSEUDO_HDR},
    {BPF_FUNC_l4_csum_replace, 4 | BPF_F_PSEUDO_HDR},
    {BPF_FUNC_l4_csum_replace, 0 | BPF_F_MARK_MANGLED_0},
    {BPF_FUNC_l4_csum_replace, 2 | BPF_F_MARK_MANGLED_0},
    {BPF_FUNC_l4_csum_replace, 4 | BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR},
};

} // namespace

bool can_expand_skb_helpers(std::string_view release) {
  if (!sources_were_read(release))
    return false;
  for (const Trial &t : trials)
    if (!t.run())
      return false;
  return true;
}

} // namespace ujit
