// Helpers that send packets elsewhere or ask where they go (net/core/filter.c).
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/kernel.h"

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

namespace ujit {
namespace {

bool is_xdp() { return current_cpu->packet.is_xdp(); }

uint64_t redirect(uint64_t ifindex, uint64_t flags, uint64_t, uint64_t, uint64_t) {
  if (flags & ~uint64_t(is_xdp() ? 0 : BPF_F_INGRESS))
    return is_xdp() ? XDP_ABORTED : TC_ACT_SHOT;
  Redirect &r = current_cpu->redirect;
  r.kind = Redirect::interface;
  r.ifindex = uint32_t(ifindex);
  r.flags = flags;
  return is_xdp() ? XDP_REDIRECT : TC_ACT_REDIRECT;
}

uint64_t redirect_peer(uint64_t ifindex, uint64_t flags, uint64_t, uint64_t, uint64_t) {
  if (flags)
    return TC_ACT_SHOT;
  Redirect &r = current_cpu->redirect;
  r.kind = Redirect::peer;
  r.ifindex = uint32_t(ifindex);
  r.flags = 0;
  return TC_ACT_REDIRECT;
}

uint64_t redirect_neigh(uint64_t ifindex, uint64_t params, uint64_t length, uint64_t flags, uint64_t) {
  uint32_t size = uint32_t(length);
  if (flags || (size && size < sizeof(bpf_redir_neigh)))
    return TC_ACT_SHOT;
  Redirect &r = current_cpu->redirect;
  r.kind = Redirect::neighbour;
  r.ifindex = uint32_t(ifindex);
  r.flags = 0;
  const uint8_t *at = reinterpret_cast<const uint8_t *>(params);
  r.next_hop.assign(at, at + (size ? sizeof(bpf_redir_neigh) : 0));
  return TC_ACT_REDIRECT;
}

uint64_t redirect_map(uint64_t map, uint64_t key, uint64_t flags, uint64_t, uint64_t) {
  constexpr uint64_t actions = XDP_ABORTED | XDP_DROP | XDP_PASS | XDP_TX;
  auto &targets = *reinterpret_cast<MapObject *>(map);
  MapType type = targets.shape().type;
  bool devices = type == MapType::devmap || type == MapType::devmap_hash;
  if (flags & ~(actions | (devices ? BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS : 0)))
    return XDP_ABORTED;
  Redirect &r = current_cpu->redirect;
  bool found = targets.has_target(key);
  if (!found && !(flags & BPF_F_BROADCAST)) {
    r.kind = Redirect::none;
    return flags & actions;
  }
  r.kind = Redirect::map;
  r.map_id = targets.id();
  r.key = key;
  r.flags = flags & BPF_F_BROADCAST ? flags : 0;
  r.target = 0;
  uint32_t slot = uint32_t(key);
  if (const void *value = found ? targets.lookup(&slot) : nullptr)
    memcpy(&r.target, value, sizeof r.target);
  return XDP_REDIRECT;
}

uint64_t clone_redirect(uint64_t, uint64_t ifindex, uint64_t flags, uint64_t, uint64_t) {
  if (flags & ~uint64_t(BPF_F_INGRESS))
    return failed(EINVAL);
  Cpu &cpu = *current_cpu;
  if (cpu.record)
    cpu.clones.push_back({.ifindex = uint32_t(ifindex), .flags = flags, .packet = cpu.packet.bytes()});
  return 0;
}

uint64_t fib_lookup_helper(uint64_t, uint64_t params, uint64_t length, uint64_t flags, uint64_t) {
  bpf_fib_lookup copy;
  if (uint32_t(length) < sizeof copy)
    return failed(EINVAL);
  memcpy(&copy, reinterpret_cast<void *>(params), sizeof copy);
  uint32_t packet_size = is_xdp() ? 0 : current_cpu->packet.size();
  long result =
      fib_lookup(current_cpu->kernel->options().routes, copy, uint32_t(length), uint32_t(flags), packet_size);
  memcpy(reinterpret_cast<void *>(params), &copy, sizeof copy);
  return uint64_t(result);
}

uint64_t check_mtu(uint64_t, uint64_t ifindex, uint64_t mtu_length, uint64_t difference, uint64_t flags) {
  Cpu &cpu = *current_cpu;
  uint32_t asked;
  memcpy(&asked, reinterpret_cast<void *>(mtu_length), 4);
  int32_t by = int32_t(difference);
  if (is_xdp() ? flags != 0
               : (flags & ~uint64_t(BPF_MTU_CHK_SEGS)) || ((flags & BPF_MTU_CHK_SEGS) && (by || asked)))
    return failed(EINVAL);
  uint32_t mtu = cpu.kernel->mtu_of(uint32_t(ifindex) ? uint32_t(ifindex) : 1);
  int64_t size = asked ? int64_t(asked) + ETH_HLEN : cpu.packet.size();
  memcpy(reinterpret_cast<void *>(mtu_length), &mtu, 4);
  return size + by > int64_t(mtu) + ETH_HLEN ? BPF_MTU_CHK_RET_FRAG_NEEDED : BPF_MTU_CHK_RET_SUCCESS;
}

constexpr uint64_t tunnel_ipv6 = BPF_F_TUNINFO_IPV6;

uint64_t skb_set_tunnel_key(uint64_t, uint64_t key, uint64_t size, uint64_t flags, uint64_t) {
  constexpr uint64_t known =
      tunnel_ipv6 | BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT | BPF_F_SEQ_NUMBER | (1 << 4);
  if (flags & ~known)
    return failed(EINVAL);
  uint32_t n = uint32_t(size);
  // Older, shorter forms of struct bpf_tunnel_key.
  if (n != sizeof(bpf_tunnel_key) && n != offsetof(bpf_tunnel_key, local_ipv6) &&
      n != offsetof(bpf_tunnel_key, tunnel_label) && n != offsetof(bpf_tunnel_key, tunnel_ext) &&
      n != offsetof(bpf_tunnel_key, remote_ipv6[1]))
    return failed(EINVAL);
  bpf_tunnel_key copy = {};
  memcpy(&copy, reinterpret_cast<const void *>(key), n);
  if ((!(flags & tunnel_ipv6) && copy.tunnel_label) || copy.tunnel_ext)
    return failed(EINVAL);
  Packet &p = current_cpu->packet;
  const uint8_t *at = reinterpret_cast<const uint8_t *>(&copy);
  p.tunnel_key.assign(at, at + sizeof copy);
  p.tunnel_flags = flags;
  return 0;
}

/// What was set before is what is got, seen from the other end: remote and local change places.
uint64_t skb_get_tunnel_key(uint64_t, uint64_t to, uint64_t size, uint64_t flags, uint64_t) {
  const Packet &p = current_cpu->packet;
  uint32_t n = uint32_t(size);
  auto refuse = [&](int error) {
    memset(reinterpret_cast<void *>(to), 0, n);
    return failed(error);
  };
  if (p.tunnel_key.empty() || flags & ~tunnel_ipv6 || n != sizeof(bpf_tunnel_key))
    return refuse(EINVAL);
  if ((p.tunnel_flags & tunnel_ipv6) != (flags & tunnel_ipv6))
    return refuse(EPROTO);
  bpf_tunnel_key key;
  memcpy(&key, p.tunnel_key.data(), sizeof key);
  if (flags & tunnel_ipv6) {
    std::swap(key.remote_ipv6, key.local_ipv6);
  } else {
    std::swap(key.remote_ipv4, key.local_ipv4);
    memset(&key.remote_ipv6[1], 0, 12);
    memset(&key.local_ipv6[1], 0, 12);
  }
  memcpy(reinterpret_cast<void *>(to), &key, sizeof key);
  return 0;
}

constexpr HelperSymbol symbols[] = {
    {"bpf_redirect", redirect},
    {"bpf_redirect_peer", redirect_peer},
    {"bpf_redirect_neigh", redirect_neigh},
    {"bpf_redirect_map", redirect_map},
    {"bpf_clone_redirect", clone_redirect},
    {"bpf_fib_lookup", fib_lookup_helper},
    {"bpf_check_mtu", check_mtu},
    {"bpf_skb_set_tunnel_key", skb_set_tunnel_key},
    {"bpf_skb_get_tunnel_key", skb_get_tunnel_key},
};

} // namespace

std::span<const HelperSymbol> route_helpers() { return symbols; }

} // namespace ujit
