#include "topology.h"

#include "common/hash.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <netinet/in.h>
#include <stdexcept>
#include <string_view>

namespace ujit::edge_lb {

Address parse_address(const std::string &text) {
  Address address;
  if (inet_pton(AF_INET, text.c_str(), &address.bytes) == 1)
    address.family = FAMILY_V4;
  else if (inet_pton(AF_INET6, text.c_str(), &address.bytes) == 1)
    address.family = FAMILY_V6;
  else
    throw std::invalid_argument("not an address: " + text);
  return address;
}

Address host_in(const Address &network, uint32_t host) {
  Address address = network;
  __be32 &word = address.family == FAMILY_V6 ? address.bytes.v6[3] : address.bytes.v4;
  word = htonl(ntohl(word) + host);
  return address;
}

std::vector<uint32_t> maglev_table(const std::vector<uint32_t> &backends) {
  constexpr uint32_t size = EDGE_LB_MAGLEV_SIZE;
  std::vector<uint32_t> table(size, 0);
  if (backends.empty())
    return table;
  struct Permutation {
    uint32_t offset, skip, next = 0;
  };
  std::vector<Permutation> permutations;
  for (uint32_t number : backends) {
    flow_tuple name{};
    name.src.v4 = number;
    permutations.push_back({flow_hash(&name, 1) % size, flow_hash(&name, 2) % (size - 1) + 1});
  }
  std::vector<bool> taken(size);
  for (uint32_t filled = 0; filled < size;) {
    for (size_t i = 0; i < backends.size() && filled < size; i++) {
      auto &p = permutations[i];
      uint32_t element;
      do
        element = (p.offset + uint64_t{p.next++} * p.skip) % size;
      while (taken[element]);
      taken[element] = true;
      table[element] = backends[i];
      filled++;
    }
  }
  return table;
}

void Topology::add_service(const char *vip, uint16_t port, uint8_t proto, const char *backend_network,
                           uint32_t count, uint16_t backend_port, Guard guard, uint32_t weight,
                           const char *tunnel_network) {
  Service service;
  service.id = services.size() + 1;
  service.vip = parse_address(vip);
  service.port = port;
  service.proto = proto;
  service.dsr = tunnel_network != nullptr;
  service.guard = guard;
  service.weight = weight;
  for (uint32_t host = 1; host <= count; host++) {
    Backend backend{
        .address = host_in(parse_address(backend_network), host), .port = backend_port, .tunnel = {}};
    if (tunnel_network)
      backend.tunnel = host_in(parse_address(tunnel_network), host);
    service.backends.push_back(backends.size());
    auto same = [&](const Endpoint &e) {
      return std::memcmp(&e.address.bytes, &backend.address.bytes, sizeof(ip_addr)) == 0;
    };
    if (guard != Guard::none && std::ranges::none_of(endpoints, same))
      endpoints.push_back({backend.address, static_cast<uint32_t>(endpoints.size() + 1), guard});
    backends.push_back(backend);
  }
  service.maglev = maglev_table(service.backends);
  services.push_back(std::move(service));
}

// Endpoint ids follow from the order here: 1 to 10 web, 11 to 14 allow all, 15 to 17 identity, 18 and 19
// quarantine, 20 and 21 without a policy, 22 to 28 web. edge-lb.ujit.yaml fills policy_calls accordingly.
Topology::Topology() {
  backends.emplace_back();
  add_service("192.0.2.1", 80, IPPROTO_TCP, "10.1.0.0", 6, 8080, Guard::web, 14);
  add_service("192.0.2.1", 443, IPPROTO_TCP, "10.1.0.0", 6, 8443, Guard::web, 30);
  add_service("192.0.2.2", 443, IPPROTO_UDP, "10.1.1.0", 4, 443, Guard::web, 16);
  add_service("192.0.2.2", 53, IPPROTO_UDP, "10.1.2.0", 4, 53, Guard::allow_all, 8);
  add_service("192.0.2.3", 5432, IPPROTO_TCP, "10.1.3.0", 3, 5432, Guard::identity, 4);
  add_service("192.0.2.4", 443, IPPROTO_TCP, "10.2.0.0", 6, 443, Guard::none, 12, "10.0.1.0");
  add_service("192.0.2.5", 25, IPPROTO_TCP, "10.1.4.0", 2, 25, Guard::quarantine, 1);
  add_service("192.0.2.6", 8080, IPPROTO_TCP, "10.1.5.0", 2, 8080, Guard::policy_missing, 1);
  add_service("2001:db8:1::1", 80, IPPROTO_TCP, "2001:db8:10::", 4, 8080, Guard::web, 8);
  add_service("2001:db8:1::1", 443, IPPROTO_UDP, "2001:db8:10::10", 3, 443, Guard::web, 4);
  add_service("2001:db8:1::2", 443, IPPROTO_TCP, "2001:db8:20::", 4, 443, Guard::none, 4, "10.0.1.16");
  add_service("192.0.2.7", 80, IPPROTO_TCP, "10.1.6.0", 0, 80, Guard::none, 1);
  sources = {
      {parse_address("100.64.0.0"), 10, IDENTITY_WORLD, false},
      {parse_address("203.0.113.0"), 24, IDENTITY_OFFICE, false},
      {parse_address("203.0.113.128"), 25, IDENTITY_PARTNER, false},
      {parse_address("198.51.100.0"), 24, IDENTITY_WORLD, true},
      {parse_address("2001:db8:ff1::"), 48, IDENTITY_OFFICE, false},
      {parse_address("2001:db8:bad::"), 48, IDENTITY_WORLD, true},
  };
}

uint32_t Topology::choose(const Service &service, const flow_tuple &tuple) const {
  return service.maglev[flow_hash(&tuple, EDGE_LB_DEFAULT_SEED) % EDGE_LB_MAGLEV_SIZE];
}

namespace {

template <typename T>
std::string hex(const T &value) {
  static constexpr char digits[] = "0123456789abcdef";
  std::array<uint8_t, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  std::string text;
  for (uint8_t byte : bytes) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

class MapsWriter {
public:
  explicit MapsWriter(std::ostream &out) : out(out) { out << "{ \"maps\": ["; }

  void map(std::string_view name) {
    out << (first_map ? "\n" : "\n  ] },\n") << "  { \"name\": \"" << name << "\", \"entries\": [";
    first_map = false;
    first_entry = true;
  }

  template <typename Key, typename Value>
  void entry(const Key &key, const Value &value) {
    out << (first_entry ? "\n" : ",\n") << "    { \"key\": \"" << hex(key) << "\", \"value\": \""
        << hex(value) << "\" }";
    first_entry = false;
  }

  void finish() { out << "\n  ] }\n] }\n"; }

private:
  std::ostream &out;
  bool first_map = true, first_entry = true;
};

uint32_t policy_of(Guard guard) {
  switch (guard) {
  case Guard::web: return POLICY_WEB;
  case Guard::identity: return POLICY_IDENTITY;
  case Guard::quarantine: return POLICY_QUARANTINE;
  case Guard::policy_missing: return POLICY_COUNT;
  case Guard::none:
  case Guard::allow_all: break;
  }
  return POLICY_ALLOW_ALL;
}

void write_services(const Topology &topology, MapsWriter &writer) {
  writer.map("services");
  std::vector<ip_addr> vips;
  for (const Service &s : topology.services) {
    service_key key{.vip = s.vip.bytes, .port = htons(s.port), .proto = s.proto, .pad = 0};
    writer.entry(key, service{.id = s.id, .flags = s.dsr ? SERVICE_DSR : 0u});
    auto same = [&](const ip_addr &vip) { return std::memcmp(&vip, &s.vip.bytes, sizeof(vip)) == 0; };
    if (std::ranges::any_of(vips, same))
      continue;
    vips.push_back(s.vip.bytes);
    writer.entry(service_key{.vip = s.vip.bytes, .port = 0, .proto = 0, .pad = 0}, service{});
  }
  writer.map("maglev");
  for (const Service &s : topology.services)
    for (uint32_t i = 0; i < EDGE_LB_MAGLEV_SIZE; i++)
      writer.entry(s.id * EDGE_LB_MAGLEV_SIZE + i, s.maglev[i]);
}

void write_backends(const Topology &topology, MapsWriter &writer) {
  writer.map("backends");
  for (uint32_t number = 1; number < topology.backends.size(); number++) {
    const Backend &b = topology.backends[number];
    writer.entry(number, backend{.addr = b.address.bytes,
                                 .tunnel = b.tunnel.bytes.v4,
                                 .port = htons(b.port),
                                 .family = b.address.family,
                                 .pad = 0});
  }
  writer.map("next_hops");
  for (uint32_t number = 0; number < topology.backends.size(); number++) {
    uint8_t link = number ? 3 : 4, host = number;
    writer.entry(number,
                 next_hop{.ifindex = link, .dmac = {2, 0, 0, 0, link, host}, .smac = {2, 0, 0, 0, 0, link}});
  }
}

void write_policy(const Topology &topology, MapsWriter &writer) {
  writer.map("endpoints");
  for (const Endpoint &e : topology.endpoints)
    writer.entry(e.address.bytes, endpoint{.id = e.id, .policy = policy_of(e.guard)});
  writer.map("policy_rules");
  for (const Endpoint &e : topology.endpoints) {
    if (e.guard != Guard::identity)
      continue;
    constexpr uint32_t allow = 1;
    writer.entry(policy_key{e.id, IDENTITY_OFFICE, 0, IPPROTO_TCP, 0}, allow);
    writer.entry(policy_key{e.id, IDENTITY_PARTNER, htons(5432), IPPROTO_TCP, 0}, allow);
  }
  for (uint8_t family : {FAMILY_V4, FAMILY_V6}) {
    writer.map(family == FAMILY_V4 ? "sources_v4" : "sources_v6");
    for (const Source &s : topology.sources) {
      if (s.network.family != family)
        continue;
      source_class value{.identity = s.identity, .blocked = s.blocked};
      const __be32 *words = s.network.bytes.v6;
      if (family == FAMILY_V4)
        writer.entry(source_v4_key{s.prefix_len, words[0]}, value);
      else
        writer.entry(source_v6_key{s.prefix_len, {words[0], words[1], words[2], words[3]}}, value);
    }
  }
}

} // namespace

void write_maps(const Topology &topology, std::ostream &out) {
  MapsWriter writer(out);
  write_services(topology, writer);
  write_backends(topology, writer);
  write_policy(topology, writer);
  writer.finish();
}

} // namespace ujit::edge_lb
