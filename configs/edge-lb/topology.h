// The small network that the example balances: services, backends, endpoints and classes of sources, as a
// control plane would know them, and what it would write into the datapath's maps.
#pragma once

#include "edge_lb.h"

#include <array>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace ujit::edge_lb {

/// An IPv4 or IPv6 address in the form of the maps.
struct Address {
  ip_addr bytes{};
  uint8_t family = FAMILY_NONE;
};

/// From text; throws std::invalid_argument for what inet_pton does not take.
Address parse_address(const std::string &text);

/// The same network, `host` added to the last 32 bits.
Address host_in(const Address &network, uint32_t host);

struct Backend {
  Address address;
  uint16_t port = 0;
  Address tunnel; ///< IPv4 address of the host; family none: not used
};

/// How a service's backends are guarded.
enum class Guard : uint8_t { none, allow_all, web, identity, quarantine, policy_missing };

struct Service {
  uint32_t id = 0;
  Address vip;
  uint16_t port = 0;
  uint8_t proto = 0;
  bool dsr = false;
  Guard guard = Guard::none;
  uint32_t weight = 0;            ///< share of the flows
  std::vector<uint32_t> backends; ///< numbers in Topology::backends
  std::vector<uint32_t> maglev;   ///< EDGE_LB_MAGLEV_SIZE backend numbers
};

struct Endpoint {
  Address address;
  uint32_t id = 0;
  Guard guard = Guard::none;
};

struct Source {
  Address network;
  uint32_t prefix_len = 0;
  uint32_t identity = 0;
  bool blocked = false;
};

struct Topology {
  Topology();

  std::vector<Service> services;
  std::vector<Backend> backends; ///< by number; 0 is nobody
  std::vector<Endpoint> endpoints;
  std::vector<Source> sources;

  /// The backend number that the datapath chooses for a new connection.
  uint32_t choose(const Service &service, const flow_tuple &tuple) const;

private:
  void add_service(const char *vip, uint16_t port, uint8_t proto, const char *backend_network, uint32_t count,
                   uint16_t backend_port, Guard guard, uint32_t weight, const char *tunnel_network = nullptr);
};

/// Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): each backend in turn takes the next free element
/// of its own permutation, so that shares are equal and few elements move when a backend comes or goes.
/// All zero for a service without backends.
std::vector<uint32_t> maglev_table(const std::vector<uint32_t> &backends);

/// The map contents as JSON, keys and values as hexadecimal bytes: the form that `seed:` of a manifest takes.
void write_maps(const Topology &topology, std::ostream &out);

} // namespace ujit::edge_lb
