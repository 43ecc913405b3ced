// Context structs. A program in object form sees the UAPI struct (xdp_md, __sk_buff) whose packet
// pointers are 32 bits wide; something must give it real ones. Our targets keep the UAPI struct as it is
// and put the pointers behind it, so a load of a pointer field moves and widens and everything else stays.
#pragma once

#include "translator/program.h"

#include <span>

namespace ujit {

enum class FieldKind : uint8_t {
  scalar,
  packet,      ///< start of packet data
  packet_meta, ///< start of XDP metadata
  packet_end,  ///< end of packet data
  pointer,     ///< other kernel pointer (skb->sk): null in the embedded kernel
};

struct ContextField {
  std::string_view name;
  uint16_t offset; ///< in the UAPI struct
  uint8_t size;    ///< in the UAPI struct
  FieldKind kind;
  uint16_t target; ///< offset of the 8-byte pointer for pointer kinds; == offset for scalars
  bool writable;
};

/// Fields of a program type's context, sorted by offset; empty where the type has no such struct, and
/// accesses then go through as they are.
std::span<const ContextField> context_fields(ProgType type);

/// The field that [offset, offset+size) lies in, or null.
const ContextField *context_field(ProgType type, int64_t offset, uint32_t size);

/// The structs themselves, as the embedded kernel allocates them. Offsets are asserted in context.cc.
struct XdpContext {
  uint32_t data = 0, data_end = 0, data_meta = 0, ingress_ifindex = 0, rx_queue_index = 0, egress_ifindex = 0;
  uint8_t *packet = nullptr;      // 24
  uint8_t *packet_end = nullptr;  // 32
  uint8_t *packet_meta = nullptr; // 40
};

struct SkbContext {
  uint8_t uapi[192] = {};         ///< struct __sk_buff; fields by context_field()
  uint8_t *packet = nullptr;      // 192
  uint8_t *packet_end = nullptr;  // 200
  uint8_t *packet_meta = nullptr; // 208
};

/// What a program without a program type runs on: r1 = memory, r2 = length.
struct MemoryContext {
  uint8_t *memory = nullptr;
  uint64_t length = 0;
};

} // namespace ujit
