#include "wire.h"

#include <cstring>
#include <net/ethernet.h>
#include <netinet/in.h>

namespace ujit::edge_lb {
namespace {

void put16(Bytes &bytes, uint16_t value) {
  bytes.push_back(value >> 8);
  bytes.push_back(value & 0xff);
}

void put32(Bytes &bytes, uint32_t value) {
  put16(bytes, value >> 16);
  put16(bytes, value & 0xffff);
}

void put(Bytes &bytes, std::span<const uint8_t> more) { bytes.insert(bytes.end(), more.begin(), more.end()); }

std::span<const uint8_t> bytes_of(const Address &address) {
  return {reinterpret_cast<const uint8_t *>(&address.bytes), address.family == FAMILY_V6 ? 16u : 4u};
}

uint64_t sum_words(std::span<const uint8_t> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i++)
    sum += i % 2 ? bytes[i] : bytes[i] << 8;
  return sum;
}

uint16_t checksum(uint64_t sum) {
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return ~sum;
}

void set_checksum(Bytes &bytes, size_t at, uint16_t value) {
  bytes[at] = value >> 8;
  bytes[at + 1] = value & 0xff;
}

uint16_t transport_checksum(const Ends &ends, uint8_t proto, const Bytes &segment) {
  return checksum(sum_words(bytes_of(ends.src)) + sum_words(bytes_of(ends.dst)) + proto + segment.size() +
                  sum_words(segment));
}

Bytes ipv4_packet(const Ends &ends, const IpFields &fields, std::span<const uint8_t> payload) {
  size_t header = 20 + fields.option_bytes;
  Bytes ip{static_cast<uint8_t>(0x40 | header / 4), 0};
  put16(ip, header + payload.size());
  put16(ip, fields.id);
  put16(ip, fields.fragment_offset / 8 | (fields.more_fragments ? 0x2000 : 0));
  ip.push_back(fields.ttl);
  ip.push_back(fields.proto);
  put16(ip, 0);
  put(ip, bytes_of(ends.src));
  put(ip, bytes_of(ends.dst));
  constexpr uint8_t no_operation = 1;
  ip.resize(header, no_operation);
  set_checksum(ip, 10, checksum(sum_words(ip)));
  put(ip, payload);
  return ip;
}

Bytes ipv6_packet(const Ends &ends, const IpFields &fields, std::span<const uint8_t> payload) {
  bool fragment = fields.more_fragments || fields.fragment_offset;
  Bytes ip{0x60, 0, 0, 0};
  put16(ip, payload.size() + (fragment ? 8 : 0));
  ip.push_back(fragment ? uint8_t{IPPROTO_FRAGMENT} : fields.proto);
  ip.push_back(fields.ttl);
  put(ip, bytes_of(ends.src));
  put(ip, bytes_of(ends.dst));
  if (fragment) {
    ip.push_back(fields.proto);
    ip.push_back(0);
    put16(ip, fields.fragment_offset | (fields.more_fragments ? 1 : 0));
    put32(ip, fields.id);
  }
  put(ip, payload);
  return ip;
}

} // namespace

Bytes tcp_segment(const Ends &ends, uint8_t flags, uint32_t sequence, std::span<const uint8_t> payload) {
  Bytes tcp;
  put16(tcp, ends.sport);
  put16(tcp, ends.dport);
  put32(tcp, sequence);
  put32(tcp, flags & tcp_ack ? sequence + 1 : 0);
  tcp.push_back(5 << 4);
  tcp.push_back(flags);
  put16(tcp, 0xffff);
  put32(tcp, 0);
  put(tcp, payload);
  set_checksum(tcp, 16, transport_checksum(ends, IPPROTO_TCP, tcp));
  return tcp;
}

Bytes udp_datagram(const Ends &ends, std::span<const uint8_t> payload, bool with_checksum) {
  Bytes udp;
  put16(udp, ends.sport);
  put16(udp, ends.dport);
  put16(udp, 8 + payload.size());
  put16(udp, 0);
  put(udp, payload);
  if (with_checksum) {
    uint16_t sum = transport_checksum(ends, IPPROTO_UDP, udp);
    set_checksum(udp, 6, sum ? sum : 0xffff);
  }
  return udp;
}

Bytes echo_request(const Ends &ends, uint16_t sequence, std::span<const uint8_t> payload) {
  bool v6 = ends.src.family == FAMILY_V6;
  Bytes icmp{static_cast<uint8_t>(v6 ? 128 : 8), 0, 0, 0};
  put16(icmp, ends.sport); // the identifier
  put16(icmp, sequence);
  put(icmp, payload);
  set_checksum(icmp, 2, v6 ? transport_checksum(ends, IPPROTO_ICMPV6, icmp) : checksum(sum_words(icmp)));
  return icmp;
}

Bytes ip_packet(const Ends &ends, const IpFields &fields, std::span<const uint8_t> payload) {
  return ends.src.family == FAMILY_V6 ? ipv6_packet(ends, fields, payload)
                                      : ipv4_packet(ends, fields, payload);
}

Bytes frame(uint16_t ether_type, std::span<const uint8_t> packet, std::span<const uint16_t> vlans) {
  constexpr uint16_t ether_type_8021ad = 0x88a8;
  Bytes bytes{0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x99};
  for (size_t i = 0; i < vlans.size(); i++) {
    put16(bytes, i + 1 < vlans.size() ? ether_type_8021ad : ETHERTYPE_VLAN);
    put16(bytes, vlans[i]);
  }
  put16(bytes, ether_type);
  put(bytes, packet);
  return bytes;
}

uint16_t ether_type_of(uint8_t family) { return family == FAMILY_V6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP; }

} // namespace ujit::edge_lb
