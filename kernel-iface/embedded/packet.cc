#include "kernel-iface/embedded/packet.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

namespace ujit {

/// Room for the longest skb and for headers pushed in front of it, again and again.
static constexpr uint32_t buffer_size = 2 * 65536;
static constexpr uint32_t skb_start = 16384;
/// Longest XDP metadata (since Linux 6.3).
static constexpr uint32_t max_metadata = 252;

Packet::Packet() : buffer_(new uint8_t[buffer_size]()) {}

std::string Packet::check(ProgType type, size_t size) {
  if (type != ProgType::xdp && context_fields(type).empty())
    return llvm::formatv("programs of type {0} do not run on packets", name_of(type));
  if (size < eth_header_size)
    return llvm::formatv("packet of {0} bytes: shorter than an Ethernet header", size);
  size_t most = type == ProgType::xdp ? max_xdp_size : max_skb_size;
  if (size > most)
    return llvm::formatv("packet of {0} bytes: at most {1} fit a buffer for {2} programs", size, most,
                         name_of(type));
  return {};
}

/// Whether programs see the Ethernet header.
static bool sees_link_header(ProgType type) {
  return type == ProgType::xdp || type == ProgType::sched_cls || type == ProgType::sched_act;
}

void Packet::reset(ProgType type, std::span<const uint8_t> bytes) {
  type_ = type;
  uint8_t *start = buffer_.get() + (is_xdp() ? xdp_headroom : skb_start);
  if (headroom_used_) {
    memset(buffer_.get(), 0, start - buffer_.get());
    headroom_used_ = false;
  }
  memcpy(start, bytes.data(), bytes.size());
  data_ = meta_ = start;
  end_ = start + bytes.size();
  if (is_xdp()) {
    xdp_.ingress_ifindex = 1;
    xdp_.rx_queue_index = xdp_.egress_ifindex = 0;
  } else {
    start_skb(bytes);
  }
  publish();
}

uint16_t Packet::protocol_at(const uint8_t *type, size_t available) {
  uint16_t field;
  memcpy(&field, type, 2);
  if (ntohs(field) >= ETH_P_802_3_MIN)
    return field;
  bool raw = available >= 4 && type[2] == 0xff && type[3] == 0xff;
  return htons(raw ? ETH_P_802_3 : ETH_P_802_2);
}

/// What eth_type_trans() makes of an Ethernet header that comes from the loopback device.
void Packet::start_skb(std::span<const uint8_t> bytes) {
  mac_ = data_;
  network_ = data_ + eth_header_size;
  transport_ = nullptr;
  encapsulated = checksum_unnecessary = false;
  checksum_level = 0;
  tunnel_key.clear();

  memset(skb_.uapi, 0, sizeof skb_.uapi);
  skb().protocol = protocol_at(&bytes[12], bytes.size() - 12);
  static constexpr uint8_t loopback_address[6] = {};
  skb().pkt_type = bytes[0] & 1                                ? PACKET_MULTICAST
                   : memcmp(bytes.data(), loopback_address, 6) ? PACKET_OTHERHOST
                                                               : PACKET_HOST;
  skb().ifindex = 1;
  skb().wire_len = uint32_t(bytes.size());
  if (!sees_link_header(type_))
    data_ = meta_ = network_;
}

/// Makes the context show where the packet lies now.
void Packet::publish() {
  if (is_xdp()) {
    xdp_.packet = data_;
    xdp_.packet_end = end_;
    xdp_.packet_meta = meta_;
  } else {
    skb_.packet = data_;
    skb_.packet_end = end_;
    skb_.packet_meta = meta_;
    skb().len = size();
  }
}

std::vector<uint8_t> Packet::bytes() const {
  size_t before = sees_link_header(type_) ? 0 : eth_header_size;
  std::vector<uint8_t> out(before + size());
  memcpy(out.data() + before, data_, size());
  return out;
}

std::vector<uint8_t> Packet::context_bytes() const {
  if (!is_xdp())
    return {skb_.uapi, skb_.uapi + sizeof skb_.uapi};
  const uint8_t *at = reinterpret_cast<const uint8_t *>(&xdp_);
  return {at, at + sizeof(xdp_md)};
}

long Packet::adjust_head(int32_t delta) {
  uint8_t *first = buffer_.get() + xdp_frame_header;
  int64_t metadata = data_ - meta_;
  int64_t at = data_ - buffer_.get() + delta;
  if (at < first - buffer_.get() + metadata || at > end_ - buffer_.get() - int64_t(eth_header_size))
    return -EINVAL;
  if (metadata)
    memmove(meta_ + delta, meta_, metadata);
  headroom_used_ = true;
  meta_ += delta;
  data_ += delta;
  publish();
  return 0;
}

long Packet::adjust_meta(int32_t delta) {
  int64_t at = meta_ - buffer_.get() + delta;
  if (at < int64_t(xdp_frame_header) || at > data_ - buffer_.get())
    return -EINVAL;
  uint64_t length = data_ - buffer_.get() - at;
  if (length % 4 || length > max_metadata)
    return -EACCES;
  headroom_used_ = true;
  meta_ += delta;
  publish();
  return 0;
}

long Packet::adjust_tail(int32_t delta) {
  int64_t at = end_ - buffer_.get() + delta;
  if (at > int64_t(frame_size - xdp_tailroom) || at < data_ - buffer_.get() + int64_t(eth_header_size))
    return -EINVAL;
  if (delta > 0)
    memset(end_, 0, delta);
  end_ += delta;
  publish();
  return 0;
}

/// Moves the packet in its buffer when what lies in front of it is too small.
void Packet::make_headroom(uint32_t count) {
  headroom_used_ = true;
  if (data_ - buffer_.get() >= int64_t(count))
    return;
  uint32_t headroom = (buffer_size - size() - count) / 2 + count;
  ptrdiff_t by = buffer_.get() + headroom - data_;
  memmove(data_ + by, data_, size());
  for (uint8_t **at : {&data_, &end_, &meta_, &mac_, &network_, &transport_})
    if (*at)
      *at += by;
}

void Packet::push(uint32_t count) {
  make_headroom(count);
  data_ -= count;
  meta_ = data_;
  memset(data_, 0, count);
  publish();
}

void Packet::insert(uint32_t offset, uint32_t count) {
  make_headroom(count);
  if (offset >
      size()) // headers that were cut off: the kernel moves what lies behind the packet, here it is zero
    memset(end_, 0, offset - size());
  memmove(data_ - count, data_, offset);
  data_ -= count;
  meta_ = data_;
  memset(data_ + offset, 0, count);
  mac_ -= count;
  network_ -= count;
  publish();
}

void Packet::remove(uint32_t offset, uint32_t count) {
  headroom_used_ = true;
  memmove(data_ + count, data_, offset);
  data_ += count;
  meta_ = data_;
  mac_ += count;
  network_ += count;
  publish();
}

void Packet::set_size(uint32_t size) {
  if (data_ + size > buffer_.get() + buffer_size) {
    // The packet was moved towards the end before: bring it back.
    uint32_t headroom = (buffer_size - size) / 2;
    ptrdiff_t by = buffer_.get() + headroom - data_;
    memmove(data_ + by, data_, this->size());
    headroom_used_ = true;
    for (uint8_t **at : {&data_, &end_, &meta_, &mac_, &network_, &transport_})
      if (*at)
        *at += by;
  }
  if (size > this->size())
    memset(end_, 0, size - this->size());
  end_ = data_ + size;
  publish();
}

} // namespace ujit
