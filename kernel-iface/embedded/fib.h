// The routes that bpf_fib_lookup answers from.
#pragma once

#include "translator/error.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

struct bpf_fib_lookup;

namespace ujit {

struct FibRoute {
  bool ipv6 = false;
  std::array<uint8_t, 16> prefix{}; ///< network order; IPv4 uses the first four bytes
  uint32_t prefix_bits = 0;
  uint32_t ifindex = 0;
  std::array<uint8_t, 6> smac{};
  std::array<uint8_t, 6> dmac{};
  std::array<uint8_t, 16> gateway{}; ///< all zero: the destination is on the link
  uint32_t mtu = 1500;
  friend bool operator==(const FibRoute &, const FibRoute &) = default;
};

/// A route from its text form: prefix "10.1.0.0/16" or "2001:db8::/32", addresses "02:00:00:00:00:01",
/// gateway as an address or empty. Errors name the text.
Expected<FibRoute> make_route(const std::string &prefix, uint32_t ifindex, const std::string &smac,
                              const std::string &dmac, const std::string &gateway = {});

/// bpf_fib_lookup on a table: longest prefix wins, the first of equals. `packet_size`: of an skb,
/// whose length counts where the caller gives none; 0 for XDP. BPF_FIB_LKUP_RET_* or a negative errno.
long fib_lookup(const std::vector<FibRoute> &routes, bpf_fib_lookup &params, uint32_t length, uint32_t flags,
                uint32_t packet_size);

} // namespace ujit
