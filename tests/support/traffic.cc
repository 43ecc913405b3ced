#include "tests/support/traffic.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <arpa/inet.h>
#include <bpf/libbpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace ujit {
namespace {

/// struct virtio_net_hdr of the kernel, whose header is not for C++.
struct BufferHeader {
  uint8_t flags, gso_type;
  uint16_t header_size, gso_size, checksum_start, checksum_offset;
};
static_assert(sizeof(BufferHeader) == 10);
constexpr uint8_t needs_checksum = 1;

constexpr size_t slot_size = 128 << 10, slots = 16;
constexpr size_t slot_data = TPACKET2_HDRLEN - sizeof(sockaddr_ll);

Error failed(const std::string &what) { return unsupported(what + ": " + std::strerror(errno)).error(); }

sockaddr_ll link_address(int device, uint16_t protocol) {
  sockaddr_ll out{};
  out.sll_family = AF_PACKET;
  out.sll_protocol = htons(protocol);
  out.sll_ifindex = device;
  out.sll_halen = 6;
  return out;
}

Error enable(const Fd &fd, int option) {
  int on = 1;
  if (setsockopt(fd.get(), SOL_PACKET, option, &on, sizeof on) != 0)
    return failed("packet socket option " + std::to_string(option));
  return Error::success();
}

/// Sees packets of `protocol` on one interface of the namespace that `fd` belongs to.
Error listen_on(const Fd &fd, int device, uint16_t protocol) {
  int size = 8 << 20;
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  if (Error e = enable(fd, PACKET_VNET_HDR))
    return e;
  if (Error e = enable(fd, PACKET_AUXDATA))
    return e;
  sockaddr_ll address = link_address(device, protocol);
  if (bind(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
    return failed("cannot listen on an interface");
  return Error::success();
}

BufferHeader header_of(const Offload &offload) {
  BufferHeader out{};
  if (offload.partial_checksum) {
    out.flags = needs_checksum;
    out.checksum_start = offload.checksum_start;
    out.checksum_offset = offload.checksum_offset;
  }
  out.gso_type = offload.gso_type;
  out.gso_size = offload.gso_size;
  out.header_size = offload.header_size;
  return out;
}

Offload offload_of(const BufferHeader &header) {
  Offload out;
  out.partial_checksum = header.flags & needs_checksum;
  if (out.partial_checksum) {
    out.checksum_start = header.checksum_start;
    out.checksum_offset = header.checksum_offset;
  }
  out.gso_type = header.gso_type;
  out.gso_size = header.gso_size;
  return out;
}

std::optional<uint16_t> vlan_of(msghdr &message) {
  for (cmsghdr *control = CMSG_FIRSTHDR(&message); control; control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_PACKET || control->cmsg_type != PACKET_AUXDATA)
      continue;
    tpacket_auxdata data;
    std::memcpy(&data, CMSG_DATA(control), sizeof data);
    if (data.tp_status & TP_STATUS_VLAN_VALID)
      return data.tp_vlan_tci;
  }
  return std::nullopt;
}

} // namespace

// A ring that user space shares with the kernel: packets sent from it are page fragments, all but what the
// kernel copies to the front. A slot must stay as it is for as long as the packet lives somewhere.
struct Traffic::Ring {
  Fd fd;
  uint8_t *memory = nullptr;
  size_t next = 0;
  ~Ring() {
    if (memory)
      munmap(memory, slot_size * slots);
  }
  Error set_up() {
    int version = TPACKET_V2;
    if (setsockopt(fd.get(), SOL_PACKET, PACKET_VERSION, &version, sizeof version) != 0)
      return failed("cannot set a packet socket's version");
    if (Error e = enable(fd, PACKET_VNET_HDR))
      return e;
    tpacket_req request{slot_size, slots, slot_size, slots};
    if (setsockopt(fd.get(), SOL_PACKET, PACKET_TX_RING, &request, sizeof request) != 0)
      return failed("cannot make a packet socket's ring");
    void *mapped = mmap(nullptr, slot_size * slots, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (mapped == MAP_FAILED)
      return failed("cannot map a packet socket's ring");
    memory = static_cast<uint8_t *>(mapped);
    return Error::success();
  }
  Error send(int device, const BufferHeader &header, std::span<const uint8_t> frame) {
    uint8_t *slot = memory + next * slot_size;
    next = (next + 1) % slots;
    std::memcpy(slot + slot_data, &header, sizeof header);
    std::memcpy(slot + slot_data + sizeof header, frame.data(), frame.size());
    auto *descriptor = reinterpret_cast<tpacket2_hdr *>(slot);
    descriptor->tp_len = uint32_t(sizeof header + frame.size());
    __atomic_store_n(&descriptor->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
    sockaddr_ll address = link_address(device, ETH_P_ALL);
    if (sendto(fd.get(), nullptr, 0, 0, reinterpret_cast<sockaddr *>(&address), sizeof address) < 0)
      return failed("cannot send a packet from a ring");
    if (__atomic_load_n(&descriptor->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_WRONG_FORMAT)
      return unsupported("the kernel does not take a packet from a ring: wrong format").error();
    return Error::success();
  }
};

Traffic::Traffic(const TestNetwork &network) : network_(&network) {}
Traffic::Traffic(Traffic &&) noexcept = default;
Traffic::~Traffic() = default;

Expected<Traffic> Traffic::make(const TestNetwork &network) {
  Traffic out(network);
  Expected<Fd> sender = network.outside_socket(AF_PACKET, SOCK_RAW, 0);
  if (!sender)
    return sender.takeError();
  out.sender_ = std::move(*sender);
  if (Error e = enable(out.sender_, PACKET_VNET_HDR))
    return e;
  Expected<Fd> ring = network.outside_socket(AF_PACKET, SOCK_RAW, 0);
  if (!ring)
    return ring.takeError();
  out.ring_ = std::make_unique<Ring>();
  out.ring_->fd = std::move(*ring);
  if (Error e = out.ring_->set_up())
    return e;
  for (unsigned link = 0; link < network.links(); link++) {
    Expected<Fd> outer = network.outside_socket(AF_PACKET, SOCK_RAW, 0);
    if (!outer)
      return outer.takeError();
    if (Error e = listen_on(*outer, network.outer(link), ETH_P_ALL))
      return e;
    out.listeners_.push_back({std::move(*outer), link, SeenAt::outer});
    // A listener to one protocol comes after the ingress programs, one to all protocols before them.
    for (uint16_t protocol : {ETH_P_IP, ETH_P_IPV6, ETH_P_ARP}) {
      Fd stack(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
      if (!stack)
        return failed("cannot open a packet socket");
      if (Error e = listen_on(stack, network.device(link), protocol))
        return e;
      out.listeners_.push_back({std::move(stack), link, SeenAt::stack});
    }
  }
  return out;
}

Error Traffic::send(unsigned link, const Stimulus &stimulus) {
  BufferHeader header = header_of(stimulus.offload);
  if (stimulus.paged)
    return ring_->send(network_->outer(link), header, stimulus.frame);
  sockaddr_ll address = link_address(network_->outer(link), ETH_P_ALL);
  iovec parts[2] = {{&header, sizeof header},
                    {const_cast<uint8_t *>(stimulus.frame.data()), stimulus.frame.size()}};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = sizeof address;
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (sendmsg(sender_.get(), &message, 0) < 0)
    return failed("cannot send '" + stimulus.name + "'");
  return Error::success();
}

Expected<std::vector<Observed>> Traffic::collect() {
  if (Error e = network_->settle())
    return e;
  std::vector<Observed> out;
  std::vector<uint8_t> buffer(sizeof(BufferHeader) + (128 << 10));
  for (const Listener &listener : listeners_) {
    for (;;) {
      sockaddr_ll from{};
      iovec part{buffer.data(), buffer.size()};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(tpacket_auxdata))];
      msghdr message{};
      message.msg_name = &from;
      message.msg_namelen = sizeof from;
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      ssize_t size = recvmsg(listener.fd.get(), &message, MSG_DONTWAIT);
      if (size < 0 && (errno == EAGAIN || errno == EINTR))
        break;
      if (size < ssize_t(sizeof(BufferHeader)))
        return failed("cannot read a packet");
      if (from.sll_pkttype == PACKET_OUTGOING)
        continue;
      BufferHeader header;
      std::memcpy(&header, buffer.data(), sizeof header);
      out.push_back({listener.link, listener.at,
                     std::vector<uint8_t>(buffer.begin() + sizeof header, buffer.begin() + size),
                     offload_of(header), vlan_of(message)});
    }
  }
  llvm::stable_sort(out, [](const Observed &a, const Observed &b) {
    return std::pair(a.link, a.at) < std::pair(b.link, b.at);
  });
  return out;
}

Expected<std::vector<Observed>> Traffic::exchange(unsigned link, const Stimulus &stimulus) {
  if (Error e = send(link, stimulus))
    return e;
  return collect();
}

Error Traffic::start_capture(unsigned link) {
  Fd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!fd)
    return failed("cannot open a packet socket");
  if (Error e = listen_on(fd, network_->device(link), ETH_P_ALL))
    return e;
  captures_.push_back(std::move(fd));
  return Error::success();
}

size_t Traffic::captured() {
  size_t count = 0;
  uint8_t start[64];
  for (const Fd &fd : captures_)
    while (recv(fd.get(), start, sizeof start, MSG_DONTWAIT | MSG_TRUNC) >= 0)
      count++;
  return count;
}

std::string print(const Observed &packet) {
  std::string out = llvm::formatv("{0}{1}: {2} bytes {3}", packet.at == SeenAt::outer ? "o" : "stack of t",
                                  packet.link, packet.frame.size(), llvm::toHex(packet.frame, true));
  if (packet.vlan)
    out += llvm::formatv(", VLAN {0:x}", *packet.vlan);
  if (packet.offload.partial_checksum)
    out += llvm::formatv(", checksum {0}+{1} to be done", packet.offload.checksum_start,
                         packet.offload.checksum_offset);
  if (packet.offload.gso_type)
    out += llvm::formatv(", GSO {0} of {1}", packet.offload.gso_type, packet.offload.gso_size);
  return out;
}

Error attach_xdp(int device, int program, bool native) {
  int code = bpf_xdp_attach(device, program, native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE, nullptr);
  errno = -code;
  return code ? failed("cannot attach an XDP program") : Error::success();
}

Error attach_tc(int device, TcSide side, int program) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = device,
              .attach_point = side == TcSide::ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS);
  int code = bpf_tc_hook_create(&hook);
  if (code == 0 || code == -EEXIST) {
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .flags = BPF_TC_F_REPLACE, .handle = 1,
                .priority = 1);
    code = bpf_tc_attach(&hook, &options);
  }
  errno = -code;
  return code ? failed("cannot attach a tc program") : Error::success();
}

} // namespace ujit
