// One packet on its way through a program: the buffer, the context struct that the program sees, and the
// changes which helpers make to both. Layout and start values are those of BPF_PROG_TEST_RUN.
#pragma once

#include "translator/context.h"

#include <linux/bpf.h>
#include <memory>
#include <span>
#include <vector>

namespace ujit {

constexpr uint32_t eth_header_size = 14;

class Packet {
public:
  static constexpr uint32_t frame_size = 4096;     ///< of an XDP buffer, headroom and tailroom included
  static constexpr uint32_t xdp_headroom = 256;    ///< XDP_PACKET_HEADROOM
  static constexpr uint32_t xdp_tailroom = 320;    ///< struct skb_shared_info
  static constexpr uint32_t xdp_frame_header = 40; ///< struct xdp_frame, at the start of the headroom
  static constexpr uint32_t max_xdp_size = frame_size - xdp_headroom - xdp_tailroom;
  static constexpr uint32_t max_skb_size = 65535;
  static constexpr uint32_t max_skb_grown = 16064; ///< BPF_SKB_MAX_LEN

  Packet();

  /// An empty string, or why a packet of this size cannot be given to programs of this type.
  static std::string check(ProgType type, size_t size);

  /// Starts with new bytes; check() must have allowed them.
  void reset(ProgType type, std::span<const uint8_t> bytes);

  ProgType type() const { return type_; }
  bool is_xdp() const { return type_ == ProgType::xdp; }
  void *context() { return is_xdp() ? static_cast<void *>(&xdp_) : &skb_; }

  uint8_t *data() const { return data_; }
  uint8_t *end() const { return end_; }
  uint32_t size() const { return uint32_t(end_ - data_); }
  uint8_t *meta() const { return meta_; }

  /// The packet as user space gets it back: for types that see no Ethernet header, 14 zero bytes stand for
  /// it.
  std::vector<uint8_t> bytes() const;
  /// The UAPI context struct, pointer fields zero.
  std::vector<uint8_t> context_bytes() const;

  // XDP: 0 or a negative errno.
  long adjust_head(int32_t delta);
  long adjust_meta(int32_t delta);
  long adjust_tail(int32_t delta);

  // skb.
  __sk_buff &skb() { return *reinterpret_cast<__sk_buff *>(skb_.uapi); }
  const __sk_buff &skb() const { return *reinterpret_cast<const __sk_buff *>(skb_.uapi); }
  /// Headers' distance from data(); may be negative.
  int32_t mac_offset() const { return int32_t(mac_ - data_); }
  int32_t network_offset() const { return int32_t(network_ - data_); }
  bool has_transport() const { return transport_ != nullptr; }
  int32_t transport_offset() const { return int32_t(transport_ - data_); }
  void set_network_offset(int32_t offset) { network_ = data_ + offset; }
  void set_transport_offset(int32_t offset) { transport_ = data_ + offset; }
  void reset_mac() { mac_ = data_; }
  /// skb->protocol for the type field of an Ethernet header or VLAN tag, of whose bytes so many are there: an
  /// 802.3 length is none.
  static uint16_t protocol_at(const uint8_t *type, size_t available);
  /// Makes room of `count` zero bytes in front; headers stay where they are in memory.
  void push(uint32_t count);
  /// Makes room of `count` zero bytes at `offset`; the bytes before move forward, link and network header
  /// with them.
  void insert(uint32_t offset, uint32_t count);
  /// Takes out `count` bytes at `offset`, which lie in the packet.
  void remove(uint32_t offset, uint32_t count);
  /// Cuts the end, or grows it by zero bytes.
  void set_size(uint32_t size);

  bool encapsulated = false;         ///< skb->encapsulation
  bool checksum_unnecessary = false; ///< skb->ip_summed
  uint32_t checksum_level = 0;
  std::vector<uint8_t> tunnel_key; ///< set by bpf_skb_set_tunnel_key; struct bpf_tunnel_key
  uint64_t tunnel_flags = 0;

private:
  void publish();
  void make_headroom(uint32_t count);
  void start_skb(std::span<const uint8_t> bytes);

  std::unique_ptr<uint8_t[]> buffer_;
  ProgType type_ = ProgType::unspec;
  uint8_t *data_ = nullptr, *end_ = nullptr, *meta_ = nullptr;
  uint8_t *mac_ = nullptr, *network_ = nullptr, *transport_ = nullptr;
  bool headroom_used_ = false; ///< bytes in front of the packet may not be zero
  XdpContext xdp_;
  SkbContext skb_;
};

} // namespace ujit
