// Packets for attached programs in every form in which a kernel can hold them, and what became of them: sent
// on the outer ends of a test network, seen on all outer ends and by the device's own network stack. What
// comes out with one set of programs attached can be compared with what comes out with another.
#pragma once

#include "tests/support/test_network.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace ujit {

/// What a packet buffer says of work that was left to the hardware (struct virtio_net_hdr).
struct Offload {
  bool partial_checksum = false; ///< CHECKSUM_PARTIAL: the checksum field has the pseudo header's sum only
  uint16_t checksum_start = 0;   ///< bytes from the frame's begin
  uint16_t checksum_offset = 0;  ///< from there to the field
  uint8_t gso_type =
      0; ///< 1: TCP over IPv4, 4: over IPv6, 0x80 beside: ECN; not 0: several segments in one buffer
  uint16_t gso_size = 0;    ///< payload bytes of one segment
  uint16_t header_size = 0; ///< all headers; at least so much is linear
  friend bool operator==(const Offload &, const Offload &) = default;
};

struct Stimulus {
  std::string name;           ///< for messages
  std::vector<uint8_t> frame; ///< from the Ethernet header on
  Offload offload;
  bool paged =
      false; ///< a non-linear buffer: everything behind offload.header_size (or the Ethernet header) in pages
};

enum class SeenAt : uint8_t { outer, stack };

struct Observed {
  unsigned link = 0;
  SeenAt at = SeenAt::outer; ///< stack: passed by the ingress programs of t<link> (IPv4, IPv6 and ARP only)
  std::vector<uint8_t> frame;
  Offload offload;              ///< header_size is not part of what is seen
  std::optional<uint16_t> vlan; ///< tag that is held beside the frame
  friend bool operator==(const Observed &, const Observed &) = default;
};
std::string print(const Observed &packet);

class Traffic {
public:
  /// `network` must outlive it. Errors: the kernel's.
  static Expected<Traffic> make(const TestNetwork &network);
  Traffic(Traffic &&) noexcept;
  Traffic &operator=(Traffic &&) = delete;
  ~Traffic();

  /// Sends on o<link>. At most 15 paged ones between two collect(). Errors: the kernel does not take the
  /// frame.
  Error send(unsigned link, const Stimulus &stimulus);

  /// What was seen since the last time, by link, outer ends first, each in order. Settles the network first.
  Expected<std::vector<Observed>> collect();

  /// Sends one and collects.
  Expected<std::vector<Observed>> exchange(unsigned link, const Stimulus &stimulus);

  /// From now on a capture runs on t<link>, so that programs see clones: their data is shared and must be
  /// copied before it is written. Errors: the kernel's.
  Error start_capture(unsigned link);
  /// How many packets captures saw since they were asked last, both directions.
  size_t captured();

private:
  struct Ring;
  explicit Traffic(const TestNetwork &network);
  const TestNetwork *network_;
  Fd sender_;
  std::unique_ptr<Ring> ring_; ///< its packets are pages
  struct Listener {
    Fd fd;
    unsigned link;
    SeenAt at;
  };
  std::vector<Listener> listeners_;
  std::vector<Fd> captures_;
};

/// The same packet in each form that it can take: linear, paged; where it is TCP or UDP, with its checksum
/// left to the hardware, linear and paged; where it is TCP, as one buffer of six segments of 1,000 bytes.
std::vector<Stimulus> shapes_of(const Stimulus &plain);

/// UDP, TCP and ICMP over IPv4 and IPv6, with and without a VLAN tag, fragments, IPv4 options, an ARP
/// request, a frame of 14 bytes, one of a whole MTU: from o<link> to t<link>, 10.77.<link>.2
/// to 10.77.<link>.1 and fd77:<link>::2 to fd77:<link>::1, checksums right.
std::vector<Stimulus> varied_packets(unsigned link);

enum class BulkSource : uint8_t { copied, sendfile, zerocopy };

/// Sends `size` bytes by TCP from the outside to the device's stack over `link` (addresses as above are given
/// to both ends), out of user memory, of a file's pages, or of user pages: segments of up to 64 KiB in pages.
/// Errors: what arrives is not what was sent, or nothing arrives for 20 seconds.
Error send_bulk(const TestNetwork &network, unsigned link, size_t size, BulkSource source);

/// Attaches to interface `device` of the calling thread's namespace, in place of what is there. The programs
/// go with the interface. Errors: the kernel's.
Error attach_xdp(int device, int program, bool native = true);
enum class TcSide : uint8_t { ingress, egress };
/// By clsact, direct action, priority 1, handle 1.
Error attach_tc(int device, TcSide side, int program);

} // namespace ujit
