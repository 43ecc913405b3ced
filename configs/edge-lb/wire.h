// Packets as bytes, built from the inside out: a transport segment, an IP packet around it, a frame around
// that. All checksums are right.
#pragma once

#include "topology.h"

#include <cstdint>
#include <span>
#include <vector>

namespace ujit::edge_lb {

using Bytes = std::vector<uint8_t>;

/// Both ends of a flow; ports in host order.
struct Ends {
  Address src, dst;
  uint16_t sport = 0, dport = 0;
};

enum TcpFlags : uint8_t { tcp_fin = 1, tcp_syn = 2, tcp_rst = 4, tcp_psh = 8, tcp_ack = 16 };

/// What the IP header says beside the addresses.
struct IpFields {
  uint8_t proto = 0;
  uint8_t ttl = 64;
  uint16_t id = 0;
  uint16_t fragment_offset = 0; ///< bytes, a multiple of eight
  bool more_fragments = false;
  uint8_t option_bytes = 0; ///< IPv4 only: padding options, a multiple of four, at most 40
};

Bytes tcp_segment(const Ends &ends, uint8_t flags, uint32_t sequence, std::span<const uint8_t> payload);
Bytes udp_datagram(const Ends &ends, std::span<const uint8_t> payload, bool checksum = true);
Bytes echo_request(const Ends &ends, uint16_t sequence, std::span<const uint8_t> payload);

/// IPv4 or IPv6, by the family of `ends.src`. A fragment of IPv6 gets a fragment header.
Bytes ip_packet(const Ends &ends, const IpFields &fields, std::span<const uint8_t> payload);

/// An Ethernet frame; each of `vlans` becomes a tag, the outermost first.
Bytes frame(uint16_t ether_type, std::span<const uint8_t> packet, std::span<const uint16_t> vlans = {});

/// The Ethernet type of an IP packet of this family.
uint16_t ether_type_of(uint8_t family);

} // namespace ujit::edge_lb
