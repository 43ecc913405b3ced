// Packets from and to capture files.
#pragma once

#include "translator/error.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ujit {

struct CapturedPacket {
  uint64_t time_ns = 0;       ///< since 1970
  std::vector<uint8_t> bytes; ///< from the Ethernet header on
  uint32_t wire_size = 0;     ///< length on the wire; more than bytes.size() if the capture cut it
  friend bool operator==(const CapturedPacket &, const CapturedPacket &) = default;
};

/// All packets of a capture file (pcap with any time resolution and byte order, pcapng as far as libpcap
/// reads it). Errors: cannot be opened, damaged (what was read before is dropped), a link type other than
/// Ethernet.
Expected<std::vector<CapturedPacket>> read_pcap(const std::string &path);

/// Writes a pcap file with nanosecond times. A failed write leaves no file behind and an old one as it was.
Error write_pcap(const std::string &path, std::span<const CapturedPacket> packets);

} // namespace ujit
