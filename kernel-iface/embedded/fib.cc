#include "kernel-iface/embedded/fib.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {

static bool parse_mac(const std::string &text, std::array<uint8_t, 6> &out) {
  unsigned b[6];
  char rest;
  if (sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &rest) != 6)
    return false;
  std::copy(std::begin(b), std::end(b), out.begin());
  return true;
}

Expected<FibRoute> make_route(const std::string &prefix, uint32_t ifindex, const std::string &smac,
                              const std::string &dmac, const std::string &gateway) {
  FibRoute route;
  route.ifindex = ifindex;
  size_t slash = prefix.find('/');
  std::string address = prefix.substr(0, slash);
  route.ipv6 = address.find(':') != std::string::npos;
  int family = route.ipv6 ? AF_INET6 : AF_INET;
  uint32_t most = route.ipv6 ? 128 : 32;
  route.prefix_bits = most;
  if (slash != std::string::npos) {
    char *end;
    std::string bits = prefix.substr(slash + 1);
    unsigned long n = strtoul(bits.c_str(), &end, 10);
    if (bits.empty() || *end || n > most)
      return input_error("route " + prefix + ": wrong prefix length").error();
    route.prefix_bits = uint32_t(n);
  }
  if (inet_pton(family, address.c_str(), route.prefix.data()) != 1)
    return input_error("route " + prefix + ": not an IP prefix").error();
  for (auto [text, mac] : {std::pair(&smac, &route.smac), std::pair(&dmac, &route.dmac)})
    if (!parse_mac(*text, *mac))
      return input_error("route " + prefix + ": '" + *text + "' is not a MAC address").error();
  if (!gateway.empty() && inet_pton(family, gateway.c_str(), route.gateway.data()) != 1)
    return input_error("route " + prefix + ": gateway '" + gateway + "' is not an address of the same family")
        .error();
  return route;
}

static bool matches(const FibRoute &route, const uint8_t *address) {
  uint32_t whole = route.prefix_bits / 8, rest = route.prefix_bits % 8;
  if (memcmp(route.prefix.data(), address, whole) != 0)
    return false;
  return rest == 0 || ((route.prefix[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

long fib_lookup(const std::vector<FibRoute> &routes, bpf_fib_lookup &params, uint32_t length, uint32_t flags,
                uint32_t packet_size) {
  constexpr uint32_t known_flags = 0x3f; // BPF_FIB_LOOKUP_DIRECT to BPF_FIB_LOOKUP_MARK
  if (length < sizeof params || flags & ~known_flags)
    return -EINVAL;
  if (params.family != AF_INET && params.family != AF_INET6)
    return -EAFNOSUPPORT;
  bool ipv6 = params.family == AF_INET6;
  uint8_t *destination = reinterpret_cast<uint8_t *>(ipv6 ? params.ipv6_dst : &params.ipv4_dst);
  const FibRoute *best = nullptr;
  for (const FibRoute &route : routes)
    if (route.ipv6 == ipv6 && matches(route, destination) && (!best || route.prefix_bits > best->prefix_bits))
      best = &route;
  if (!best)
    return BPF_FIB_LKUP_RET_NOT_FWDED;

  // tot_len and mtu_result share their bytes: the MTU is an answer only where one was asked for.
  uint32_t l3_size = params.tot_len;
  if (l3_size || packet_size)
    params.mtu_result = uint16_t(best->mtu);
  constexpr uint32_t link_overhead = 14 + 4; // Ethernet header and a VLAN tag
  if (l3_size > best->mtu || (!l3_size && packet_size > best->mtu + link_overhead))
    return BPF_FIB_LKUP_RET_FRAG_NEEDED;
  params.rt_metric = 0;
  if (best->gateway != std::array<uint8_t, 16>{})
    memcpy(destination, best->gateway.data(), ipv6 ? 16 : 4);
  params.ifindex = best->ifindex;
  memcpy(params.smac, best->smac.data(), 6);
  memcpy(params.dmac, best->dmac.data(), 6);
  params.h_vlan_proto = params.h_vlan_TCI = 0;
  return BPF_FIB_LKUP_RET_SUCCESS;
}

} // namespace ujit
