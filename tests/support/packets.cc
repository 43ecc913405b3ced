// Frames that are made here, and the forms that one can take.
#include "tests/support/traffic.h"

#include <algorithm>
#include <cstring>

namespace ujit {
namespace {

using Bytes = std::vector<uint8_t>;

void put16(Bytes &out, uint32_t value) {
  out.push_back(uint8_t(value >> 8));
  out.push_back(uint8_t(value));
}
void put32(Bytes &out, uint32_t value) {
  put16(out, value >> 16);
  put16(out, value & 0xffff);
}
uint16_t get16(std::span<const uint8_t> bytes, size_t at) { return uint16_t(bytes[at] << 8 | bytes[at + 1]); }
void set16(Bytes &bytes, size_t at, uint16_t value) {
  bytes[at] = uint8_t(value >> 8);
  bytes[at + 1] = uint8_t(value);
}
void append(Bytes &out, std::span<const uint8_t> part) { out.insert(out.end(), part.begin(), part.end()); }

/// The Internet checksum's sum, folded, not complemented.
uint16_t sum(std::span<const uint8_t> bytes, uint32_t start = 0) {
  uint32_t out = start;
  for (size_t i = 0; i < bytes.size(); i++)
    out += i % 2 ? bytes[i] : uint32_t(bytes[i]) << 8;
  while (out >> 16)
    out = (out & 0xffff) + (out >> 16);
  return uint16_t(out);
}

/// Where the headers of an IPv4 or IPv6 packet are which is TCP or UDP and no fragment.
struct Layout {
  size_t ip, transport, payload, end;
  bool v6, tcp;
  size_t checksum() const { return transport + (tcp ? 16 : 6); }
};

std::optional<Layout> layout_of(std::span<const uint8_t> frame) {
  size_t ip = 14;
  if (frame.size() < ip + 20)
    return std::nullopt;
  uint16_t type = get16(frame, 12);
  if (type == 0x8100) {
    type = get16(frame, 16);
    ip = 18;
  }
  Layout out{};
  out.ip = ip;
  uint8_t protocol;
  if (type == 0x0800 && frame.size() >= ip + 20) {
    out.transport = ip + 4 * (frame[ip] & 15);
    out.end = ip + get16(frame, ip + 2);
    protocol = frame[ip + 9];
    if (get16(frame, ip + 6) & 0x3fff)
      return std::nullopt; // a fragment
  } else if (type == 0x86dd && frame.size() >= ip + 40) {
    out.v6 = true;
    out.transport = ip + 40;
    out.end = ip + 40 + get16(frame, ip + 4);
    protocol = frame[ip + 6];
  } else {
    return std::nullopt;
  }
  out.tcp = protocol == 6;
  if (!out.tcp && protocol != 17)
    return std::nullopt;
  if (out.end > frame.size() || out.transport + (out.tcp ? 20 : 8) > out.end)
    return std::nullopt;
  out.payload = out.transport + (out.tcp ? 4 * (frame[out.transport + 12] >> 4) : 8);
  if (out.payload > out.end)
    return std::nullopt;
  return out;
}

uint16_t pseudo_header_sum(std::span<const uint8_t> frame, const Layout &at) {
  size_t size = at.end - at.transport;
  auto addresses = at.v6 ? frame.subspan(at.ip + 8, 32) : frame.subspan(at.ip + 12, 8);
  return sum(addresses, uint32_t(at.tcp ? 6 : 17) + uint32_t(size));
}

void set_ip_checksum(Bytes &frame, size_t ip) {
  set16(frame, ip + 10, 0);
  set16(frame, ip + 10, uint16_t(~sum(std::span(frame).subspan(ip, 4 * (frame[ip] & 15)))));
}

void set_transport_checksum(Bytes &frame, const Layout &at) {
  set16(frame, at.checksum(), 0);
  auto bytes = std::span(frame).subspan(at.transport, at.end - at.transport);
  uint16_t value = uint16_t(~sum(bytes, pseudo_header_sum(frame, at)));
  set16(frame, at.checksum(), value || at.tcp ? value : 0xffff);
}

/// Checksum left to the hardware.
Stimulus partial(Stimulus in, const Layout &at) {
  in.name += ", partial checksum";
  set16(in.frame, at.checksum(), pseudo_header_sum(in.frame, at));
  in.offload.partial_checksum = true;
  in.offload.checksum_start = uint16_t(at.transport);
  in.offload.checksum_offset = uint16_t(at.checksum() - at.transport);
  in.offload.header_size = uint16_t(at.payload);
  return in;
}

/// Six segments in one buffer: a payload of 6,000 bytes, which repeats the packet's own.
Stimulus segments(const Stimulus &in, Layout at) {
  constexpr size_t size = 1000, count = 6;
  Stimulus out = in;
  out.name += ", GSO";
  const Bytes payload = at.payload == at.end
                            ? Bytes{'u', 'j', 'i', 't'}
                            : Bytes(in.frame.begin() + at.payload, in.frame.begin() + at.end);
  out.frame.resize(at.payload);
  for (size_t i = 0; i < size * count; i++)
    out.frame.push_back(payload[i % payload.size()]);
  at.end = out.frame.size();
  if (at.v6) {
    set16(out.frame, at.ip + 4, uint16_t(at.end - at.transport));
  } else {
    set16(out.frame, at.ip + 2, uint16_t(at.end - at.ip));
    set_ip_checksum(out.frame, at.ip);
  }
  std::string name = out.name;
  out = partial(std::move(out), at);
  out.name = name;
  out.offload.gso_type = at.v6 ? 4 : 1;
  out.offload.gso_size = size;
  return out;
}

Bytes ethernet(unsigned link, uint16_t type, bool tagged = false) {
  Bytes out{2, 0, 0, 0, uint8_t(link), 1, 2, 0, 0, 0, uint8_t(link), 2};
  if (tagged) {
    put16(out, 0x8100);
    put16(out, 42);
  }
  put16(out, type);
  return out;
}

Bytes ipv4(unsigned link, uint8_t protocol, std::span<const uint8_t> payload, uint16_t fragment = 0,
           std::span<const uint8_t> ip_options = {}) {
  Bytes out{uint8_t(0x45 + ip_options.size() / 4), 0};
  put16(out, uint32_t(20 + ip_options.size() + payload.size()));
  put16(out, 0x1234);
  put16(out, fragment);
  out.insert(out.end(), {64, protocol, 0, 0, 10, 77, uint8_t(link), 2, 10, 77, uint8_t(link), 1});
  append(out, ip_options);
  set_ip_checksum(out, 0);
  append(out, payload);
  return out;
}

Bytes ipv6(unsigned link, uint8_t protocol, std::span<const uint8_t> payload) {
  Bytes out;
  put32(out, 0x60000000);
  put16(out, uint32_t(payload.size()));
  out.insert(out.end(), {protocol, 64});
  for (uint8_t host : {2, 1}) {
    Bytes address(16);
    address[0] = 0xfd, address[1] = 0x77, address[3] = uint8_t(link), address[15] = host;
    append(out, address);
  }
  append(out, payload);
  return out;
}

Bytes counting(size_t size) {
  Bytes out(size);
  for (size_t i = 0; i < size; i++)
    out[i] = uint8_t(i * 7 + 1);
  return out;
}

Bytes udp(uint16_t port, std::span<const uint8_t> payload) {
  Bytes out;
  put16(out, 40000);
  put16(out, port);
  put16(out, uint32_t(8 + payload.size()));
  put16(out, 0);
  append(out, payload);
  return out;
}

Bytes tcp(uint16_t port, uint8_t flags, std::span<const uint8_t> payload) {
  Bytes out;
  put16(out, 40001);
  put16(out, port);
  put32(out, 1000);
  put32(out, 2000);
  out.insert(out.end(), {0x50, flags, 0x40, 0, 0, 0, 0, 0});
  append(out, payload);
  return out;
}

} // namespace

std::vector<Stimulus> shapes_of(const Stimulus &plain) {
  std::vector<Stimulus> out{plain};
  if (plain.frame.size() > 14) {
    out.push_back(plain);
    out.back().name += ", paged";
    out.back().paged = true;
  }
  std::optional<Layout> at = layout_of(plain.frame);
  if (!at)
    return out;
  out.push_back(partial(plain, *at));
  out.push_back(out.back());
  out.back().name += ", paged";
  out.back().paged = true;
  if (at->tcp)
    out.push_back(segments(plain, *at));
  return out;
}

std::vector<Stimulus> varied_packets(unsigned link) {
  std::vector<Stimulus> out;
  auto add = [&](std::string name, Bytes header, const Bytes &rest) {
    append(header, rest);
    if (std::optional<Layout> at = layout_of(header))
      set_transport_checksum(header, *at);
    out.push_back({std::move(name), std::move(header), {}, false});
  };
  Bytes echo{8, 0, 0, 0, 0, 1, 0, 1};
  append(echo, counting(48));
  set16(echo, 2, uint16_t(~sum(echo)));
  Bytes request{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, uint8_t(link), 2, 10, 77, uint8_t(link), 2};
  request.insert(request.end(), {0, 0, 0, 0, 0, 0, 10, 77, uint8_t(link), 1});
  const uint8_t no_operation[] = {1, 1, 1, 0};
  for (bool tagged : {false, true}) {
    std::string tag = tagged ? ", VLAN" : "";
    Bytes v4 = ethernet(link, 0x0800, tagged), v6 = ethernet(link, 0x86dd, tagged);
    add("UDP" + tag, v4, ipv4(link, 17, udp(9, counting(100))));
    add("UDP over IPv6" + tag, v6, ipv6(link, 17, udp(9, counting(100))));
    add("TCP" + tag, v4, ipv4(link, 6, tcp(80, 0x10, counting(200))));
    add("TCP over IPv6" + tag, v6, ipv6(link, 6, tcp(80, 0x10, counting(200))));
    add("TCP SYN" + tag, v4, ipv4(link, 6, tcp(443, 2, {})));
    add("ICMP" + tag, v4, ipv4(link, 1, echo));
  }
  Bytes v4 = ethernet(link, 0x0800);
  add("first fragment", v4, ipv4(link, 17, udp(9, counting(72)), 0x2000));
  add("last fragment", v4, ipv4(link, 17, counting(64), 10));
  add("IPv4 options", v4, ipv4(link, 17, udp(9, counting(10)), 0, no_operation));
  add("whole MTU", v4, ipv4(link, 17, udp(9, counting(1472))));
  add("ARP", ethernet(link, 0x0806), request);
  add("header only", ethernet(link, 0x0800), {});
  return out;
}

} // namespace ujit
