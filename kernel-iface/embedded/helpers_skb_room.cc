// Helpers that change an skb's length, headers and tags (net/core/filter.c, net/core/skbuff.c).
//
// One thing is not followed: when the kernel has to reallocate an skb for more headroom, it moves an unset
// transport header from "unset" to a meaningless offset (skb_headers_offset_update), and bpf_skb_change_tail
// takes that for its least length. Here the least length is always that of the headers.
#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/map.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <linux/bpf.h>
#include <linux/if_ether.h>

namespace ujit {
namespace {

// BPF_F_ADJ_ROOM_DECAP_L3_*, since Linux 6.3.
constexpr uint64_t decap_l3_ipv4 = 1 << 7, decap_l3_ipv6 = 1 << 8;

constexpr uint32_t ipv4_header = 20, ipv6_header = 40, vlan_header = 4;

Packet &packet() { return current_cpu->packet; }
bool is_protocol(uint16_t eth_type) { return packet().skb().protocol == htons(eth_type); }

uint64_t skb_change_tail(uint64_t, uint64_t length, uint64_t flags, uint64_t, uint64_t) {
  Packet &p = packet();
  int32_t least = std::max(0, p.network_offset());
  if (p.has_transport() && p.transport_offset() > 0)
    least = p.transport_offset();
  uint32_t size = uint32_t(length);
  if (flags || size > Packet::max_skb_grown || size < uint32_t(least))
    return failed(EINVAL);
  if (p.encapsulated)
    return failed(kernel_enotsupp);
  p.set_size(size);
  return 0;
}

uint64_t skb_change_head(uint64_t, uint64_t room, uint64_t flags, uint64_t, uint64_t) {
  Packet &p = packet();
  uint32_t count = uint32_t(room), size = p.size() + count;
  if (flags || int32_t(count) < 0 || size > Packet::max_skb_grown || size < p.size())
    return failed(EINVAL);
  p.push(count);
  p.reset_mac();
  return 0;
}

/// Length of the L3 header without options; nothing fits if the protocol is another one.
uint32_t base_header() {
  return is_protocol(ETH_P_IP) ? ipv4_header : is_protocol(ETH_P_IPV6) ? ipv6_header : ~0u;
}

uint64_t grow_room(uint32_t offset, uint32_t count, uint64_t flags) {
  constexpr uint64_t encap_l3 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
  constexpr uint64_t encap_l4 = BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
  Packet &p = packet();
  uint32_t inner_mac = uint32_t(flags >> BPF_ADJ_ROOM_ENCAP_L2_SHIFT);
  bool encap = flags & encap_l3;
  int32_t mac_length = p.network_offset() - p.mac_offset();
  if (encap) {
    if ((flags & encap_l3) == encap_l3 || (flags & encap_l4) == encap_l4)
      return failed(EINVAL);
    if (flags & BPF_F_ADJ_ROOM_ENCAP_L2_ETH && inner_mac < ETH_HLEN)
      return failed(EINVAL);
    if (p.encapsulated)
      return failed(EALREADY);
    if (inner_mac > count)
      return failed(EINVAL);
  }
  p.insert(offset, count);
  if (!encap)
    return 0;
  bool outer_ipv4 = flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
  p.encapsulated = true;
  p.set_network_offset(mac_length);
  if (flags & encap_l4)
    p.set_transport_offset(mac_length + int32_t(outer_ipv4 ? ipv4_header : ipv6_header));
  p.skb().protocol = htons(outer_ipv4 ? ETH_P_IP : ETH_P_IPV6);
  return 0;
}

uint64_t shrink_room(uint32_t offset, uint32_t count, uint64_t flags) {
  constexpr uint64_t known =
      BPF_F_ADJ_ROOM_FIXED_GSO | decap_l3_ipv4 | decap_l3_ipv6 | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
  Packet &p = packet();
  if (flags & ~known)
    return failed(EINVAL);
  if (offset + count > p.size())
    return failed(ENOMEM);
  p.remove(offset, count);
  if (flags & decap_l3_ipv4)
    p.skb().protocol = htons(ETH_P_IP);
  if (flags & decap_l3_ipv6)
    p.skb().protocol = htons(ETH_P_IPV6);
  return 0;
}

uint64_t skb_adjust_room(uint64_t, uint64_t difference, uint64_t mode, uint64_t flags, uint64_t) {
  constexpr uint64_t decap = decap_l3_ipv4 | decap_l3_ipv6;
  constexpr uint64_t known = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
                             BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE |
                             BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
                             uint64_t(BPF_ADJ_ROOM_ENCAP_L2_MASK) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT | decap |
                             BPF_F_ADJ_ROOM_NO_CSUM_RESET;
  Packet &p = packet();
  int32_t by = int32_t(difference);
  bool shrink = by < 0;
  uint32_t count = uint32_t(std::abs(int64_t(by)));
  if (flags & ~known)
    return failed(EINVAL);
  if (count > 0xfff)
    return failed(EFAULT);
  if (!is_protocol(ETH_P_IP) && !is_protocol(ETH_P_IPV6))
    return failed(kernel_enotsupp);
  uint32_t least = base_header();
  uint32_t offset = uint32_t(p.network_offset() - p.mac_offset());
  switch (uint32_t(mode)) {
  case BPF_ADJ_ROOM_NET: offset += base_header(); break;
  case BPF_ADJ_ROOM_MAC: break;
  default: return failed(kernel_enotsupp);
  }
  if (flags & decap) {
    if (!shrink || (flags & decap) == decap)
      return failed(EINVAL);
    least = flags & decap_l3_ipv4 ? ipv4_header : ipv6_header;
  }
  uint32_t now = p.size() - uint32_t(p.network_offset());
  if (shrink ? count >= now || now - count < least : p.size() + count > Packet::max_skb_grown)
    return failed(kernel_enotsupp);
  uint64_t result = shrink ? shrink_room(offset, count, flags) : grow_room(offset, count, flags);
  if (result == 0 && !(flags & BPF_F_ADJ_ROOM_NO_CSUM_RESET)) {
    p.checksum_unnecessary = false;
    p.checksum_level = 0;
  }
  return result;
}

uint64_t skb_change_proto(uint64_t, uint64_t protocol, uint64_t flags, uint64_t, uint64_t) {
  constexpr uint32_t difference = ipv6_header - ipv4_header;
  Packet &p = packet();
  uint16_t to = uint16_t(protocol);
  uint32_t offset = uint32_t(p.network_offset() - p.mac_offset());
  if (flags)
    return failed(EINVAL);
  if (is_protocol(ETH_P_IP) && to == htons(ETH_P_IPV6)) {
    p.insert(offset, difference);
  } else if (is_protocol(ETH_P_IPV6) && to == htons(ETH_P_IP)) {
    if (offset + difference > p.size())
      return failed(ENOMEM);
    p.remove(offset, difference);
  } else {
    return failed(kernel_enotsupp);
  }
  p.skb().protocol = to;
  p.skb().hash = 0;
  return 0;
}

bool is_vlan(uint32_t protocol) { return protocol == htons(ETH_P_8021Q) || protocol == htons(ETH_P_8021AD); }

void set_tag(uint16_t protocol, uint16_t tci) {
  __sk_buff &skb = packet().skb();
  skb.vlan_present = 1;
  skb.vlan_proto = protocol;
  skb.vlan_tci = tci;
}

uint64_t skb_vlan_push(uint64_t, uint64_t protocol, uint64_t tci, uint64_t, uint64_t) {
  Packet &p = packet();
  uint16_t wanted = is_vlan(uint16_t(protocol)) ? uint16_t(protocol) : htons(ETH_P_8021Q);
  if (p.skb().vlan_present) { // the tag that is there moves into the packet
    uint16_t old[2] = {uint16_t(p.skb().vlan_proto), htons(uint16_t(p.skb().vlan_tci))};
    p.insert(2 * ETH_ALEN, vlan_header);
    memcpy(p.data() + 2 * ETH_ALEN, old, sizeof old);
    p.skb().protocol = p.skb().vlan_proto;
  }
  set_tag(wanted, uint16_t(tci));
  return 0;
}

/// __skb_vlan_pop(): takes the outer tag out of the packet.
bool pop_tag(uint16_t &tci) {
  Packet &p = packet();
  if (p.size() < ETH_HLEN + vlan_header)
    return false;
  uint16_t field;
  memcpy(&field, p.data() + ETH_HLEN, 2);
  tci = ntohs(field);
  int32_t network = p.network_offset();
  p.remove(2 * ETH_ALEN, vlan_header);
  p.skb().protocol = Packet::protocol_at(p.data() + 2 * ETH_ALEN, p.size() - 2 * ETH_ALEN);
  if (network < int32_t(ETH_HLEN + vlan_header))
    network = ETH_HLEN + vlan_header;
  p.set_network_offset(network - int32_t(vlan_header));
  return true;
}

uint64_t skb_vlan_pop(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  __sk_buff &skb = packet().skb();
  uint16_t tci;
  if (skb.vlan_present) {
    skb.vlan_present = skb.vlan_proto = skb.vlan_tci = 0;
  } else {
    if (!is_vlan(skb.protocol))
      return 0;
    if (!pop_tag(tci))
      return failed(ENOMEM);
  }
  if (!is_vlan(skb.protocol))
    return 0;
  uint16_t protocol = uint16_t(skb.protocol);
  if (!pop_tag(tci))
    return failed(ENOMEM);
  set_tag(protocol, tci);
  return 0;
}

constexpr HelperSymbol symbols[] = {
    {"bpf_skb_change_tail", skb_change_tail}, {"bpf_skb_change_head", skb_change_head},
    {"bpf_skb_adjust_room", skb_adjust_room}, {"bpf_skb_change_proto", skb_change_proto},
    {"bpf_skb_vlan_push", skb_vlan_push},     {"bpf_skb_vlan_pop", skb_vlan_pop},
};

} // namespace

std::span<const HelperSymbol> skb_room_helpers() { return symbols; }

} // namespace ujit
