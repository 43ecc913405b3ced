// edge-lb-traffic: writes packets as the edge of a network sees them into a pcap file, or the map contents
// that go with them into a JSON file. The same seed gives the same bytes everywhere.
//
// Most packets belong to flows: clients of the services with a few elephants among many mice, opened by SYN,
// closed by FIN, with replies from the backend that the datapath will have chosen (topology.h computes it in
// the same way). The rest is what an edge also sees: pings, fragments, tunnels, VLANs, scans, junk.

#include "topology.h"
#include "wire.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <pcap/pcap.h>
#include <random>

namespace ujit::edge_lb {
namespace {

constexpr size_t largest_ip_packet = 1400; ///< leaves room for every encapsulation within an MTU of 1500
constexpr uint32_t header_bytes = 60;      ///< IPv6 and TCP, or IPv4 with options

/// Portable random numbers: the standard's distributions differ between libraries, its engines do not.
class Random {
public:
  explicit Random(uint64_t seed) : engine(seed) {}
  uint32_t below(uint32_t bound) { return engine() % bound; }
  bool percent(uint32_t chance) { return below(100) < chance; }

  Bytes bytes(size_t count) {
    Bytes result(count);
    for (uint8_t &byte : result)
      byte = below(256);
    return result;
  }

private:
  std::mt19937_64 engine;
};

struct Flow {
  const Service *service = nullptr;
  Ends ends;           ///< from the client
  Ends reply;          ///< from the backend
  bool allowed = true; ///< the backend's policy lets it through
  bool open = false;
  uint32_t sequence = 0;
};

class Traffic {
public:
  Traffic(uint32_t flow_count, uint64_t seed) : random(seed) {
    for (uint32_t i = 0; i < flow_count; i++)
      flows.push_back(make_flow());
  }

  /// The next packet; fragments of one datagram come as several calls.
  Bytes next() {
    if (!pending.empty()) {
      Bytes packet = std::move(pending.back());
      pending.pop_back();
      return packet;
    }
    uint32_t kind = random.below(1000);
    for (const Kind &k : kinds) {
      if (kind < k.share)
        return (this->*k.make)();
      kind -= k.share;
    }
    return flow_frame();
  }

private:
  struct Kind {
    uint32_t share; ///< per mille of the draws
    Bytes (Traffic::*make)();
  };
  static const std::array<Kind, 13> kinds;

  Flow make_flow();
  Address client(uint8_t family);
  const Service &service_by_weight();
  Bytes payload();
  Bytes flow_packet(Flow &flow);
  Flow &some_flow();
  Flow &some_flow(uint8_t family);
  Bytes flow_frame();
  Bytes vlan_frame();
  Bytes tunnelled_frame();
  Bytes fragmented_frames();
  Bytes orphan_fragment();
  Bytes ping_frame();
  Bytes stranger_frame();
  Bytes blocked_frame();
  Bytes closed_port_frame();
  Bytes expired_frame();
  Bytes short_frame();
  Bytes garbage_frame();
  Bytes arp_frame();
  Bytes other_protocol_frame();

  Topology topology;
  Random random;
  std::vector<Flow> flows;
  std::vector<Bytes> pending; ///< frames to come, the next one last
};

const std::array<Traffic::Kind, 13> Traffic::kinds = {{
    {25, &Traffic::vlan_frame},
    {35, &Traffic::tunnelled_frame},
    {14, &Traffic::fragmented_frames},
    {3, &Traffic::orphan_fragment},
    {25, &Traffic::ping_frame},
    {10, &Traffic::stranger_frame},
    {15, &Traffic::blocked_frame},
    {10, &Traffic::closed_port_frame},
    {5, &Traffic::expired_frame},
    {4, &Traffic::short_frame},
    {4, &Traffic::garbage_frame},
    {5, &Traffic::arp_frame},
    {5, &Traffic::other_protocol_frame},
}};

Address Traffic::client(uint8_t family) {
  if (family == FAMILY_V6)
    return host_in(parse_address(random.percent(90) ? "2001:db8:c::" : "2001:db8:ff1::"),
                   1 + random.below(4000));
  if (random.percent(85))
    return host_in(parse_address("100.64.0.0"), 1 + random.below(1 << 20));
  return host_in(parse_address("203.0.113.0"), 1 + random.below(254));
}

const Service &Traffic::service_by_weight() {
  uint32_t total = 0;
  for (const Service &s : topology.services)
    total += s.weight;
  uint32_t drawn = random.below(total);
  size_t i = 0;
  while (drawn >= topology.services[i].weight)
    drawn -= topology.services[i++].weight;
  return topology.services[i];
}

Flow Traffic::make_flow() {
  Flow flow;
  const Service &s = service_by_weight();
  flow.service = &s;
  flow.ends = {client(s.vip.family), s.vip, static_cast<uint16_t>(1024 + random.below(64000)), s.port};
  flow.sequence = random.below(1u << 31);
  flow_tuple tuple{};
  tuple.src = flow.ends.src.bytes;
  tuple.dst = flow.ends.dst.bytes;
  tuple.sport = htons(flow.ends.sport);
  tuple.dport = htons(flow.ends.dport);
  tuple.proto = s.proto;
  tuple.family = s.vip.family;
  const Backend &backend = topology.backends[topology.choose(s, tuple)];
  flow.reply = {backend.address, flow.ends.src, backend.port, flow.ends.sport};
  bool office = flow.ends.src.family == FAMILY_V4 && (ntohl(flow.ends.src.bytes.v4) >> 8) == 0xcb0071;
  bool half = ntohl(flow.ends.src.bytes.v4) & 0x80;
  switch (s.guard) {
  case Guard::identity: flow.allowed = office; break;
  case Guard::quarantine: flow.allowed = office && !half; break;
  case Guard::policy_missing: flow.allowed = false; break;
  case Guard::none: flow.allowed = !s.dsr && !s.backends.empty(); break; // DSR replies do not come by here
  case Guard::web:
  case Guard::allow_all: break;
  }
  return flow;
}

/// Half of the data packets are small, a third nearly full.
Bytes Traffic::payload() {
  uint32_t kind = random.below(100);
  uint32_t limit = largest_ip_packet - header_bytes;
  if (kind < 50)
    return random.bytes(random.below(64));
  return random.bytes(kind < 83 ? limit - random.below(16) : random.below(limit));
}

Flow &Traffic::some_flow() {
  // The square of a uniform number: the first tenth of the flows gets a third of the packets.
  uint64_t drawn = random.below(1 << 16);
  return flows[drawn * drawn * flows.size() >> 32];
}

Flow &Traffic::some_flow(uint8_t family) {
  for (int attempt = 0; attempt < 100; attempt++)
    if (Flow &flow = some_flow(); flow.ends.src.family == family)
      return flow;
  return some_flow();
}

Bytes Traffic::flow_packet(Flow &flow) {
  bool reply = flow.open && flow.allowed && random.percent(40);
  const Ends &ends = reply ? flow.reply : flow.ends;
  IpFields ip{.proto = flow.service->proto, .id = static_cast<uint16_t>(random.below(65536))};
  if (ends.src.family == FAMILY_V4 && random.percent(1))
    ip.option_bytes = 4 * (1 + random.below(3));
  if (flow.service->proto == IPPROTO_UDP) {
    flow.open = true;
    return ip_packet(ends, ip,
                     udp_datagram(ends, payload(), flow.ends.src.family == FAMILY_V6 || !random.percent(5)));
  }
  uint8_t flags = tcp_ack;
  Bytes data;
  if (!flow.open) {
    flags = tcp_syn;
    flow.open = true;
  } else if (!reply && random.percent(4)) {
    flags = random.percent(80) ? tcp_fin | tcp_ack : tcp_rst;
    flow.open = false;
  } else if (random.percent(60)) {
    flags = tcp_psh | tcp_ack;
    data = payload();
  }
  flow.sequence += data.size();
  return ip_packet(ends, ip, tcp_segment(ends, flags, flow.sequence, data));
}

Bytes Traffic::flow_frame() {
  Flow &flow = some_flow();
  return frame(ether_type_of(flow.ends.src.family), flow_packet(flow));
}

Bytes Traffic::vlan_frame() {
  Flow &flow = some_flow();
  std::vector<uint16_t> vlans(random.percent(80) ? 1 : 2);
  for (uint16_t &vlan : vlans)
    vlan = 1 + random.below(4094);
  return frame(ether_type_of(flow.ends.src.family), flow_packet(flow), vlans);
}

/// Tunnelled to this node by another one; a few nested, fewer nested deeper than the datapath follows.
Bytes Traffic::tunnelled_frame() {
  Flow &flow = some_flow();
  Bytes packet = flow_packet(flow);
  Ends outer{parse_address("10.0.0.2"), host_in(Address{{}, FAMILY_V4}, EDGE_LB_DEFAULT_NODE_IP)};
  uint8_t proto = flow.ends.src.family == FAMILY_V6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
  uint32_t depth = random.percent(88) ? 1 : 2 + random.below(3);
  for (; depth; depth--, proto = IPPROTO_IPIP)
    packet = ip_packet(outer, {.proto = proto}, packet);
  return frame(ETHERTYPE_IP, packet);
}

/// A large datagram in three or four parts, sometimes with another packet between them.
Bytes Traffic::fragmented_frames() {
  uint8_t family = random.percent(75) ? FAMILY_V4 : FAMILY_V6;
  const Service &service = topology.services[family == FAMILY_V4 ? 2 : 9];
  Ends ends{client(family), service.vip, static_cast<uint16_t>(1024 + random.below(64000)), service.port};
  constexpr uint16_t part = 1320;
  Bytes datagram = udp_datagram(ends, random.bytes(part * (2 + random.below(2)) + random.below(800)));
  uint16_t id = random.below(65536);
  for (size_t offset = 0; offset < datagram.size(); offset += part) {
    size_t length = std::min<size_t>(part, datagram.size() - offset);
    IpFields ip{.proto = IPPROTO_UDP,
                .id = id,
                .fragment_offset = static_cast<uint16_t>(offset),
                .more_fragments = offset + length < datagram.size()};
    pending.push_back(
        frame(ether_type_of(family), ip_packet(ends, ip, std::span(datagram).subspan(offset, length))));
    if (random.percent(20))
      pending.push_back(flow_frame());
  }
  std::ranges::reverse(pending);
  return next();
}

Bytes Traffic::orphan_fragment() {
  const Service &service = topology.services[2];
  Ends ends{client(FAMILY_V4), service.vip};
  IpFields ip{
      .proto = IPPROTO_UDP, .id = static_cast<uint16_t>(random.below(65536)), .fragment_offset = 1320};
  return frame(ETHERTYPE_IP, ip_packet(ends, ip, random.bytes(200)));
}

/// To a virtual address, or now and then to somebody behind us.
Bytes Traffic::ping_frame() {
  uint8_t family = random.percent(75) ? FAMILY_V4 : FAMILY_V6;
  Ends ends{client(family), parse_address(family == FAMILY_V4 ? "192.0.2.1" : "2001:db8:1::1"),
            static_cast<uint16_t>(random.below(65536))};
  if (random.percent(10))
    ends.dst = parse_address(family == FAMILY_V4 ? "10.9.9.9" : "2001:db8:9::9");
  uint8_t proto = family == FAMILY_V4 ? uint8_t{IPPROTO_ICMP} : uint8_t{IPPROTO_ICMPV6};
  return frame(ether_type_of(family),
               ip_packet(ends, {.proto = proto}, echo_request(ends, random.below(1000), random.bytes(56))));
}

/// To an address that is not one of the services'.
Bytes Traffic::stranger_frame() {
  uint8_t family = random.percent(80) ? FAMILY_V4 : FAMILY_V6;
  Ends ends{client(family), parse_address(family == FAMILY_V4 ? "10.0.0.1" : "2001:db8:9::1"),
            static_cast<uint16_t>(1024 + random.below(64000)), 22};
  return frame(ether_type_of(family),
               ip_packet(ends, {.proto = IPPROTO_TCP}, tcp_segment(ends, tcp_syn, 1, {})));
}

Bytes Traffic::blocked_frame() {
  const Flow &flow = some_flow();
  uint8_t family = flow.ends.src.family;
  Ends ends = flow.ends;
  ends.src =
      host_in(parse_address(family == FAMILY_V4 ? "198.51.100.0" : "2001:db8:bad::"), 1 + random.below(250));
  return frame(ether_type_of(family),
               ip_packet(ends, {.proto = IPPROTO_TCP}, tcp_segment(ends, tcp_syn, 1, {})));
}

/// A virtual address, but a port without a service: a scan.
Bytes Traffic::closed_port_frame() {
  Ends ends = some_flow().ends;
  uint8_t family = ends.src.family;
  ends.dport = 10000 + random.below(1000);
  bool udp = random.percent(50);
  return frame(ether_type_of(family),
               ip_packet(ends, {.proto = udp ? uint8_t{IPPROTO_UDP} : uint8_t{IPPROTO_TCP}},
                         udp ? udp_datagram(ends, payload()) : tcp_segment(ends, tcp_syn, 1, {})));
}

/// A traceroute.
Bytes Traffic::expired_frame() {
  const Ends &ends = some_flow().ends;
  IpFields ip{.proto = IPPROTO_UDP, .ttl = 1};
  return frame(ether_type_of(ends.src.family), ip_packet(ends, ip, udp_datagram(ends, random.bytes(32))));
}

/// Cut off anywhere behind the Ethernet header.
Bytes Traffic::short_frame() {
  Bytes bytes = flow_frame();
  bytes.resize(ETHER_HDR_LEN + random.below(40));
  return bytes;
}

/// Random bytes, half of them behind a type that gets them parsed.
Bytes Traffic::garbage_frame() {
  Bytes bytes = random.bytes(ETHER_HDR_LEN + random.below(200));
  constexpr uint16_t types[] = {ETHERTYPE_IP, ETHERTYPE_IPV6, ETHERTYPE_VLAN};
  if (random.percent(50)) {
    uint16_t type = types[random.below(3)];
    bytes[12] = type >> 8;
    bytes[13] = type & 0xff;
    if (type != ETHERTYPE_VLAN && bytes.size() > ETHER_HDR_LEN)
      bytes[ETHER_HDR_LEN] = type == ETHERTYPE_IP ? 0x45 : 0x60;
  }
  return bytes;
}

Bytes Traffic::arp_frame() { return frame(ETHERTYPE_ARP, random.bytes(46)); }

Bytes Traffic::other_protocol_frame() {
  constexpr uint8_t protocols[] = {IPPROTO_GRE, IPPROTO_ESP, IPPROTO_SCTP, IPPROTO_IPIP};
  const Ends &ends = some_flow(random.percent(70) ? FAMILY_V4 : FAMILY_V6).ends;
  return frame(ether_type_of(ends.src.family),
               ip_packet(ends, {.proto = protocols[random.below(4)]}, random.bytes(64)));
}

/// False with a message on standard error: the file could not be written.
bool write_packets(const std::string &path, uint32_t packets, uint32_t flows, uint64_t seed) {
  std::unique_ptr<pcap_t, decltype(&pcap_close)> pcap(pcap_open_dead(DLT_EN10MB, 65535), pcap_close);
  std::unique_ptr<pcap_dumper_t, decltype(&pcap_dump_close)> dumper(pcap_dump_open(pcap.get(), path.c_str()),
                                                                    pcap_dump_close);
  if (!dumper) {
    std::cerr << "edge-lb-traffic: error: " << pcap_geterr(pcap.get()) << "\n";
    return false;
  }
  Traffic traffic(flows, seed);
  constexpr uint64_t begin = 1'700'000'000, microseconds = 1'000'000, packets_per_second = 250'000;
  for (uint64_t i = 0; i < packets; i++) {
    Bytes bytes = traffic.next();
    uint64_t time = i * microseconds / packets_per_second;
    pcap_pkthdr header{};
    header.ts.tv_sec = begin + time / microseconds;
    header.ts.tv_usec = time % microseconds;
    header.caplen = header.len = bytes.size();
    pcap_dump(reinterpret_cast<u_char *>(dumper.get()), &header, bytes.data());
  }
  if (pcap_dump_flush(dumper.get()) != 0) {
    std::cerr << "edge-lb-traffic: error: " << path << ": cannot write\n";
    return false;
  }
  return true;
}

bool write_maps_file(const std::string &path) {
  std::ofstream out(path);
  write_maps(Topology(), out);
  out.close();
  if (!out)
    std::cerr << "edge-lb-traffic: error: " << path << ": cannot write\n";
  return static_cast<bool>(out);
}

} // namespace
} // namespace ujit::edge_lb

int main(int argc, char **argv) {
  CLI::App app{"Writes traffic and map contents for the edge load balancer example"};
  std::string packets_path, maps_path;
  uint32_t packets = 20000, flows = 2000;
  uint64_t seed = 1;
  app.add_option("OUT.pcap", packets_path, "packets are written here");
  app.add_option("--maps", maps_path, "map contents are written here, as JSON");
  app.add_option("--packets", packets, "number of packets")->capture_default_str();
  app.add_option("--flows", flows, "number of flows that they belong to")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", seed, "of the random numbers; equal seeds give equal files")
      ->capture_default_str();
  constexpr int exit_input = 1, exit_usage = 64;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    return app.exit(error) ? exit_usage : 0;
  }
  if (packets_path.empty() && maps_path.empty()) {
    std::cerr
        << "edge-lb-traffic: error: nothing to write\n>>> hint: name a pcap file, or give --maps FILE\n";
    return exit_usage;
  }
  if (!maps_path.empty() && !ujit::edge_lb::write_maps_file(maps_path))
    return exit_input;
  if (!packets_path.empty() && !ujit::edge_lb::write_packets(packets_path, packets, flows, seed))
    return exit_input;
  return 0;
}
