// Helpers that read and write packets and their metadata (net/core/filter.c).
#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/jhash.h"

#include <arpa/inet.h>
#include <cerrno>
#include <climits>
#include <cstring>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

namespace ujit {
namespace {

Packet &packet() { return current_cpu->packet; }
uint8_t *bytes_at(uint64_t address) { return reinterpret_cast<uint8_t *>(address); }

/// skb_ensure_writable() of a linear skb.
bool has(uint64_t bytes) { return bytes <= packet().size(); }

uint64_t skb_load_bytes(uint64_t, uint64_t offset, uint64_t to, uint64_t length, uint64_t) {
  uint32_t at = uint32_t(offset), size = uint32_t(length);
  if (at > INT_MAX || !has(uint64_t(at) + size)) {
    memset(bytes_at(to), 0, size);
    return failed(EFAULT);
  }
  memcpy(bytes_at(to), packet().data() + at, size);
  return 0;
}

uint64_t skb_load_bytes_relative(uint64_t, uint64_t offset, uint64_t to, uint64_t length, uint64_t header) {
  uint32_t at = uint32_t(offset), size = uint32_t(length);
  int64_t start = 0;
  bool ok = at <= 0xffff;
  switch (uint32_t(header)) {
  case BPF_HDR_START_MAC: start = packet().mac_offset(); break;
  case BPF_HDR_START_NET: start = packet().network_offset(); break;
  default: ok = false;
  }
  if (!ok || start + int64_t(at) + size > int64_t(packet().size())) {
    memset(bytes_at(to), 0, size);
    return failed(EFAULT);
  }
  memcpy(bytes_at(to), packet().data() + start + at, size);
  return 0;
}

uint64_t skb_store_bytes(uint64_t, uint64_t offset, uint64_t from, uint64_t length, uint64_t flags) {
  uint32_t at = uint32_t(offset), size = uint32_t(length);
  if (flags & ~uint64_t(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH))
    return failed(EINVAL);
  if (at > INT_MAX || !has(uint32_t(at + size)) || at + size < at)
    return failed(EFAULT);
  memmove(packet().data() + at, bytes_at(from), size);
  if (flags & BPF_F_INVALIDATE_HASH)
    packet().skb().hash = 0;
  return 0;
}

uint64_t skb_pull_data(uint64_t, uint64_t length, uint64_t, uint64_t, uint64_t) {
  return has(uint32_t(length)) ? 0 : failed(ENOMEM);
}

uint64_t xdp_get_buff_len(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return packet().size(); }

/// bpf_xdp_pointer().
int check_xdp_range(uint32_t offset, uint32_t length) {
  if (offset > 0xffff || length > 0xffff)
    return EFAULT;
  return has(offset + length) ? 0 : EINVAL;
}

uint64_t xdp_load_bytes(uint64_t, uint64_t offset, uint64_t to, uint64_t length, uint64_t) {
  if (int error = check_xdp_range(uint32_t(offset), uint32_t(length)))
    return failed(error);
  memcpy(bytes_at(to), packet().data() + uint32_t(offset), uint32_t(length));
  return 0;
}

uint64_t xdp_store_bytes(uint64_t, uint64_t offset, uint64_t from, uint64_t length, uint64_t) {
  if (int error = check_xdp_range(uint32_t(offset), uint32_t(length)))
    return failed(error);
  memmove(packet().data() + uint32_t(offset), bytes_at(from), uint32_t(length));
  return 0;
}

uint64_t xdp_adjust_head(uint64_t, uint64_t delta, uint64_t, uint64_t, uint64_t) {
  return uint64_t(packet().adjust_head(int32_t(delta)));
}

uint64_t xdp_adjust_meta(uint64_t, uint64_t delta, uint64_t, uint64_t, uint64_t) {
  return uint64_t(packet().adjust_meta(int32_t(delta)));
}

uint64_t xdp_adjust_tail(uint64_t, uint64_t delta, uint64_t, uint64_t, uint64_t) {
  return uint64_t(packet().adjust_tail(int32_t(delta)));
}

uint64_t skb_change_type(uint64_t, uint64_t type, uint64_t, uint64_t, uint64_t) {
  if (packet().skb().pkt_type > PACKET_OTHERHOST || uint32_t(type) > PACKET_OTHERHOST)
    return failed(EINVAL);
  packet().skb().pkt_type = uint32_t(type);
  return 0;
}

/// The kernel keys this hash with a random secret; ours is fixed, so that runs repeat. Addresses, protocol
/// and ports of IP packets, else the first bytes.
uint32_t flow_hash(const Packet &p) {
  const uint8_t *at = p.data() + p.network_offset();
  uint64_t left = p.size() - p.network_offset();
  uint8_t tuple[37] = {};
  uint16_t protocol = ntohs(uint16_t(p.skb().protocol));
  if (protocol == ETH_P_IP && left >= 20) {
    uint32_t header = (at[0] & 15) * 4;
    tuple[36] = at[9];
    memcpy(tuple, at + 12, 8);
    if (left >= header + 4 && (at[9] == IPPROTO_TCP || at[9] == IPPROTO_UDP))
      memcpy(tuple + 32, at + header, 4);
  } else if (protocol == ETH_P_IPV6 && left >= 40) {
    tuple[36] = at[6];
    memcpy(tuple, at + 8, 32);
    if (left >= 44 && (at[6] == IPPROTO_TCP || at[6] == IPPROTO_UDP))
      memcpy(tuple + 32, at + 40, 4);
  } else {
    memcpy(tuple, p.data(), std::min<size_t>(p.size(), eth_header_size));
  }
  uint32_t hash = jhash(tuple, sizeof tuple, 0);
  return hash ? hash : 1;
}

uint64_t get_hash_recalc(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  Packet &p = packet();
  if (p.skb().hash == 0 && p.network_offset() >= 0 && uint32_t(p.network_offset()) <= p.size())
    p.skb().hash = flow_hash(p);
  return p.skb().hash;
}

uint64_t set_hash(uint64_t, uint64_t hash, uint64_t, uint64_t, uint64_t) {
  packet().skb().hash = uint32_t(hash);
  return 0;
}

uint64_t set_hash_invalid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  packet().skb().hash = 0;
  return 0;
}

uint64_t skb_set_tstamp(uint64_t, uint64_t time, uint64_t type, uint64_t, uint64_t) {
  __sk_buff &skb = packet().skb();
  if (skb.protocol != htons(ETH_P_IP) && skb.protocol != htons(ETH_P_IPV6))
    return failed(EOPNOTSUPP);
  bool monotonic = uint32_t(type) == BPF_SKB_TSTAMP_DELIVERY_MONO;
  if ((!monotonic && uint32_t(type) != BPF_SKB_TSTAMP_UNSPEC) || monotonic != (time != 0))
    return failed(EINVAL);
  skb.tstamp = time;
  skb.tstamp_type = uint8_t(type);
  return 0;
}

/// The skb belongs to no socket, cgroup or class and has no route.
uint64_t nothing(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return 0; }

constexpr HelperSymbol symbols[] = {
    {"bpf_skb_load_bytes", skb_load_bytes},
    {"bpf_skb_load_bytes_relative", skb_load_bytes_relative},
    {"bpf_skb_store_bytes", skb_store_bytes},
    {"bpf_skb_pull_data", skb_pull_data},
    {"bpf_xdp_get_buff_len", xdp_get_buff_len},
    {"bpf_xdp_load_bytes", xdp_load_bytes},
    {"bpf_xdp_store_bytes", xdp_store_bytes},
    {"bpf_xdp_adjust_head", xdp_adjust_head},
    {"bpf_xdp_adjust_meta", xdp_adjust_meta},
    {"bpf_xdp_adjust_tail", xdp_adjust_tail},
    {"bpf_skb_change_type", skb_change_type},
    {"bpf_get_hash_recalc", get_hash_recalc},
    {"bpf_set_hash", set_hash},
    {"bpf_set_hash_invalid", set_hash_invalid},
    {"bpf_skb_set_tstamp", skb_set_tstamp},
    {"bpf_get_socket_cookie", nothing},
    {"bpf_get_cgroup_classid", nothing},
    {"bpf_skb_cgroup_classid", nothing},
    {"bpf_skb_cgroup_id", nothing},
    {"bpf_skb_ancestor_cgroup_id", nothing},
    {"bpf_get_route_realm", nothing},
    {"bpf_sk_lookup_tcp", nothing},
    {"bpf_sk_lookup_udp", nothing},
    {"bpf_skc_lookup_tcp", nothing},
    {"bpf_sk_release", nothing},
};

} // namespace

std::span<const HelperSymbol> packet_helpers() { return symbols; }

} // namespace ujit
