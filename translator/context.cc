// The context structs by field, as the UAPI header defines them. The tables are checked against the
// compiler's layout of that header and of our structs, so no offset is typed in.
#include "translator/context.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <linux/bpf.h>

namespace ujit {

static_assert(offsetof(XdpContext, data) == offsetof(xdp_md, data));
static_assert(offsetof(XdpContext, egress_ifindex) == offsetof(xdp_md, egress_ifindex));
static_assert(sizeof(xdp_md) == offsetof(XdpContext, packet));
static_assert(sizeof(__sk_buff) == sizeof(SkbContext::uapi));
static_assert(offsetof(SkbContext, packet) == 192 && offsetof(SkbContext, packet_meta) == 208);
static_assert(offsetof(XdpContext, packet) == 24 && offsetof(XdpContext, packet_meta) == 40);

namespace {

constexpr ContextField scalar(std::string_view name, size_t offset, size_t size, bool writable = false) {
  return {name, uint16_t(offset), uint8_t(size), FieldKind::scalar, uint16_t(offset), writable};
}
constexpr ContextField pointer_to(FieldKind kind, std::string_view name, size_t offset, size_t target) {
  return {name, uint16_t(offset), 4, kind, uint16_t(target), false};
}
constexpr ContextField object(std::string_view name, size_t offset) {
  return {name, uint16_t(offset), 8, FieldKind::pointer, uint16_t(offset), false};
}

constexpr std::array xdp_fields = {
    pointer_to(FieldKind::packet, "data", offsetof(xdp_md, data), offsetof(XdpContext, packet)),
    pointer_to(FieldKind::packet_end, "data_end", offsetof(xdp_md, data_end),
               offsetof(XdpContext, packet_end)),
    pointer_to(FieldKind::packet_meta, "data_meta", offsetof(xdp_md, data_meta),
               offsetof(XdpContext, packet_meta)),
    scalar("ingress_ifindex", offsetof(xdp_md, ingress_ifindex), 4),
    scalar("rx_queue_index", offsetof(xdp_md, rx_queue_index), 4, true),
    scalar("egress_ifindex", offsetof(xdp_md, egress_ifindex), 4),
};

#define SKB(field) #field, offsetof(__sk_buff, field)
#define SKB_SCALAR(field) scalar(SKB(field), sizeof(__sk_buff::field))

/// Which of the fields a program may write depends on its type (the kernel's *_is_valid_access).
constexpr auto skb_fields(std::span<const std::string_view> writable) {
  std::array fields = {
      SKB_SCALAR(len),
      SKB_SCALAR(pkt_type),
      SKB_SCALAR(mark),
      SKB_SCALAR(queue_mapping),
      SKB_SCALAR(protocol),
      SKB_SCALAR(vlan_present),
      SKB_SCALAR(vlan_tci),
      SKB_SCALAR(vlan_proto),
      SKB_SCALAR(priority),
      SKB_SCALAR(ingress_ifindex),
      SKB_SCALAR(ifindex),
      SKB_SCALAR(tc_index),
      SKB_SCALAR(cb),
      SKB_SCALAR(hash),
      SKB_SCALAR(tc_classid),
      pointer_to(FieldKind::packet, SKB(data), offsetof(SkbContext, packet)),
      pointer_to(FieldKind::packet_end, SKB(data_end), offsetof(SkbContext, packet_end)),
      SKB_SCALAR(napi_id),
      SKB_SCALAR(family),
      SKB_SCALAR(remote_ip4),
      SKB_SCALAR(local_ip4),
      SKB_SCALAR(remote_ip6),
      SKB_SCALAR(local_ip6),
      SKB_SCALAR(remote_port),
      SKB_SCALAR(local_port),
      pointer_to(FieldKind::packet_meta, SKB(data_meta), offsetof(SkbContext, packet_meta)),
      object(SKB(flow_keys)),
      SKB_SCALAR(tstamp),
      SKB_SCALAR(wire_len),
      SKB_SCALAR(gso_segs),
      object(SKB(sk)),
      SKB_SCALAR(gso_size),
      SKB_SCALAR(tstamp_type),
      SKB_SCALAR(hwtstamp),
  };
  for (ContextField &field : fields)
    field.writable = std::find(writable.begin(), writable.end(), field.name) != writable.end();
  return fields;
}

#undef SKB_SCALAR
#undef SKB

constexpr std::string_view tc_writable[] = {"mark", "queue_mapping", "priority", "tc_index",
                                            "cb",   "tc_classid",    "tstamp"};
constexpr std::string_view cgroup_writable[] = {"mark", "priority", "cb", "tstamp"};
constexpr std::string_view socket_writable[] = {"cb"};

constexpr auto tc_fields = skb_fields(tc_writable);
constexpr auto cgroup_fields = skb_fields(cgroup_writable);
constexpr auto socket_fields = skb_fields(socket_writable);

constexpr bool sorted_and_apart(std::span<const ContextField> fields) {
  for (size_t i = 1; i < fields.size(); i++)
    if (fields[i - 1].offset + fields[i - 1].size > fields[i].offset)
      return false;
  return true;
}
static_assert(sorted_and_apart(xdp_fields) && sorted_and_apart(tc_fields));

} // namespace

std::span<const ContextField> context_fields(ProgType type) {
  switch (type) {
  case ProgType::xdp: return xdp_fields;
  case ProgType::sched_cls:
  case ProgType::sched_act: return tc_fields;
  case ProgType::cgroup_skb: return cgroup_fields;
  case ProgType::socket_filter: return socket_fields;
  default: return {};
  }
}

const ContextField *context_field(ProgType type, int64_t offset, uint32_t size) {
  std::span<const ContextField> fields = context_fields(type);
  auto after = std::upper_bound(fields.begin(), fields.end(), offset,
                                [](int64_t at, const ContextField &f) { return at < f.offset; });
  if (after == fields.begin())
    return nullptr;
  const ContextField &field = *std::prev(after);
  return offset + int64_t(size) <= field.offset + field.size ? &field : nullptr;
}

} // namespace ujit
