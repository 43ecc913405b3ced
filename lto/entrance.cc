#include "lto/entrance.h"

#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/maps.h"
#include "translator/make_insn.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace ujit {

namespace {

/// struct bpf_tunnel_key of Linux 6.1, which headers may not have yet.
struct KernelTunnelKey {
  uint32_t id;
  uint8_t remote[16];
  uint8_t tos, ttl;
  uint16_t ext;
  uint32_t label;
  uint8_t local[16];
};
static_assert(sizeof(KernelTunnelKey) == 44);

/// bpf_skb_set_tunnel_key describes a packet that leaves, bpf_skb_get_tunnel_key one that came: what the one
/// calls local the other calls remote.
KernelTunnelKey mirrored(const TunnelKey &key) {
  KernelTunnelKey out{};
  out.id = key.id;
  out.ttl = 64;
  const auto put = [&](uint8_t *to, const std::vector<uint8_t> &address) {
    std::memcpy(to, address.data(), address.size());
    if (!key.ipv6()) // in host order there
      std::reverse(to, to + 4);
  };
  put(out.local, key.remote);
  put(out.remote, key.local);
  return out;
}

std::vector<Insn> setting_key(const TunnelKey &key, int target) {
  constexpr int16_t at = -48; // on the stack
  constexpr int set_tunnel_key = 21, tail_call = 12;
  constexpr auto insn = make_insn;
  std::vector<Insn> out{insn(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0)};
  std::array<int32_t, sizeof(KernelTunnelKey) / 4> words;
  const KernelTunnelKey bytes = mirrored(key);
  std::memcpy(words.data(), &bytes, sizeof bytes);
  for (size_t i = 0; i < words.size(); ++i)
    out.push_back(insn(BPF_ST | BPF_MEM | BPF_W, 10, 0, int16_t(at + 4 * int(i)), words[i]));
  const Insn rest[] = {insn(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
                       insn(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, at),
                       insn(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, sizeof bytes),
                       insn(BPF_ALU64 | BPF_MOV | BPF_K, 4, 0, 0, key.ipv6() ? BPF_F_TUNINFO_IPV6 : 0),
                       insn(BPF_JMP | BPF_CALL, 0, 0, 0, set_tunnel_key),
                       insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0),
                       insn(BPF_LD | BPF_IMM | BPF_DW, 2, BPF_PSEUDO_MAP_FD, 0, target),
                       insn(0, 0, 0, 0, 0),
                       insn(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0),
                       insn(BPF_JMP | BPF_CALL, 0, 0, 0, tail_call),
                       insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1),
                       insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  out.insert(out.end(), std::begin(rest), std::end(rest));
  return out;
}

} // namespace

Expected<Entrance> Entrance::make(const std::optional<TunnelKey> &tunnel, int program) {
  Entrance out;
  out.program_ = program;
  if (!tunnel)
    return out;
  out.target_ = Fd(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "entrance", 4, 4, 1, nullptr));
  if (!out.target_)
    return bpf_error(errno, "creating a prog array for an entrance").error();
  const std::vector<Insn> insns = setting_key(*tunnel, out.target_.get());
  out.own_ = load_own_program(BPF_PROG_TYPE_SCHED_CLS, "entrance", insns);
  if (!out.own_)
    return bpf_error(errno, "loading a program that sets a tunnel's key").error();
  const uint32_t slot = 0;
  if (bpf_map_update_elem(out.target_.get(), &slot, &program, BPF_ANY) != 0)
    return bpf_error(errno, "putting an entry behind the program that sets a tunnel's key").error();
  return out;
}

} // namespace ujit
