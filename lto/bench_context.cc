#include "lto/bench_context.h"

#include <cstddef>
#include <cstring>

namespace ujit {

namespace {

template <class T>
void put(uint8_t *at, T value) {
  memcpy(at, &value, sizeof value);
}

/// In a move or two each: helpers that change the packet pay for all fields, twice.
void copy_field(uint8_t *to, const uint8_t *from, uint8_t size) {
  switch (size) {
  case 2: memcpy(to, from, 2); break;
  case 4: memcpy(to, from, 4); break;
  case 8: memcpy(to, from, 8); break;
  default: memcpy(to, from, size); break;
  }
}

} // namespace

Expected<std::unique_ptr<KernelContexts>> KernelContexts::create(const JitCode &code) {
  auto out = std::make_unique<KernelContexts>();
  LinkError missing = unsupported("");
  bool bad = false;
  auto at = [&](std::string_view name) -> uint32_t {
    Expected<uint32_t> offset = code.member(name);
    if (!offset) {
      missing = unsupported(llvm::toString(offset.takeError()));
      bad = true;
      return 0;
    }
    if (*offset + 8 > (llvm::StringRef(name).starts_with("net_device") ? device_bytes : context_bytes)) {
      missing = unsupported("a layout with " + std::string(name) + " far out");
      bad = true;
      return 0;
    }
    return *offset;
  };
  out->xdp_ = code.type == ProgType::xdp;
  out->ifindex_ = at("net_device.ifindex");
  if (out->xdp_) {
    out->data_ = at("xdp_buff.data");
    out->end_ = at("xdp_buff.data_end");
    out->meta_ = at("xdp_buff.data_meta");
    out->hard_start_ = at("xdp_buff.data_hard_start");
    out->queue_ = at("xdp_buff.rxq");
  } else {
    const uint32_t cb = at("sk_buff.cb");
    out->data_ = at("sk_buff.data");
    out->end_ = cb + at("bpf_skb_data_end.data_end");
    out->meta_ = cb + at("bpf_skb_data_end.data_meta");
    out->device_at_ = at("sk_buff.dev");
    out->length_ = at("sk_buff.len");
    out->pkt_len_ = cb + at("qdisc_skb_cb.pkt_len");
    out->type_ = at("sk_buff.__pkt_type_offset");
    auto add = [&](size_t uapi, uint32_t offset, uint8_t size, bool writable) {
      out->fields_.push_back({uint16_t(uapi), offset, size, writable});
    };
    add(offsetof(__sk_buff, mark), at("sk_buff.mark"), 4, true);
    add(offsetof(__sk_buff, priority), at("sk_buff.priority"), 4, true);
    add(offsetof(__sk_buff, hash), at("sk_buff.hash"), 4, false);
    add(offsetof(__sk_buff, protocol), at("sk_buff.protocol"), 2, false);
    add(offsetof(__sk_buff, vlan_proto), at("sk_buff.vlan_proto"), 2, false);
    add(offsetof(__sk_buff, vlan_tci), at("sk_buff.vlan_tci"), 2, false);
    add(offsetof(__sk_buff, queue_mapping), at("sk_buff.queue_mapping"), 2, true);
    add(offsetof(__sk_buff, tc_index), at("sk_buff.tc_index"), 2, true);
    add(offsetof(__sk_buff, ingress_ifindex), at("sk_buff.skb_iif"), 4, false);
    add(offsetof(__sk_buff, tstamp), at("sk_buff.tstamp"), 8, true);
    add(offsetof(__sk_buff, tc_classid), cb + at("qdisc_skb_cb.tc_classid"), 2, true);
    add(offsetof(__sk_buff, cb), cb + at("qdisc_skb_cb.data"), 20, true);
  }
  if (bad)
    return missing.error();
  return out;
}

void KernelContexts::refill(void *context, const Packet &packet) const {
  auto *c = static_cast<uint8_t *>(context);
  put(c + data_, packet.data());
  put(c + end_, packet.end());
  put(c + meta_, packet.meta());
  if (xdp_)
    return;
  const __sk_buff &skb = packet.skb();
  put(c + length_, skb.len);
  put(c + pkt_len_, skb.wire_len);
  c[type_] = uint8_t(skb.pkt_type & 7);
  const auto *uapi = reinterpret_cast<const uint8_t *>(&skb);
  for (const Field &f : fields_)
    copy_field(c + f.offset, uapi + f.uapi, f.size);
}

void *KernelContexts::fill(const Cpu &cpu, size_t slot) {
  uint8_t *c = contexts_[slot % count];
  const Packet &packet = cpu.packet;
  refill(c, packet);
  const uint8_t *device = device_;
  if (xdp_) {
    put(c + queue_, &receive_queue_);
    receive_queue_[0] = device;
    put(device_ + ifindex_,
        static_cast<const XdpContext *>(const_cast<Packet &>(packet).context())->ingress_ifindex);
  } else {
    put(c + device_at_, device);
    put(device_ + ifindex_, packet.skb().ifindex);
  }
  return c;
}

void KernelContexts::take_back(void *context, Packet &packet) const {
  auto *uapi = reinterpret_cast<uint8_t *>(&packet.skb());
  for (const Field &f : fields_)
    if (f.writable)
      copy_field(uapi + f.uapi, static_cast<uint8_t *>(context) + f.offset, f.size);
}

} // namespace ujit
