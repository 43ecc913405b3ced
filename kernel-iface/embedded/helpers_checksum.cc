// Internet checksums as helpers give and update them (net/core/filter.c, net/core/utils.c). 32-bit one's
// complement sums with end-around carry; a packet of ours is never CHECKSUM_COMPLETE or _PARTIAL.
#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/map.h"

#include <cerrno>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {
namespace {

/// BPF_F_IPV6 of bpf_l4_csum_replace (since Linux 6.16); only matters to CHECKSUM_COMPLETE.
constexpr uint64_t flag_ipv6 = 1 << 7;

uint32_t add(uint32_t a, uint32_t b) {
  uint32_t sum = a + b;
  return sum + (sum < b);
}
uint32_t subtract(uint32_t a, uint32_t b) { return add(a, ~b); }

uint16_t add16(uint16_t a, uint16_t b) {
  uint16_t sum = uint16_t(a + b);
  return uint16_t(sum + (sum < b));
}

/// 32 to 16 bits, not inverted.
uint16_t halve(uint32_t sum) { return uint16_t((sum + ((sum >> 16) | (sum << 16))) >> 16); }
uint16_t fold(uint32_t sum) { return uint16_t(~halve(sum)); }

/// csum_partial().
uint32_t sum_bytes(const uint8_t *at, uint32_t size, uint32_t sum) {
  for (; size >= 4; size -= 4, at += 4) {
    uint32_t word;
    memcpy(&word, at, 4);
    sum = add(sum, word);
  }
  uint32_t rest = 0;
  memcpy(&rest, at, size);
  return add(sum, rest);
}

/// As Linux has it from 6.13 on: of any size. Before, sizes that are no multiple of 4 were refused.
uint64_t csum_diff(uint64_t from, uint64_t from_size, uint64_t to, uint64_t to_size, uint64_t seed) {
  uint32_t old_size = uint32_t(from_size), new_size = uint32_t(to_size);
  auto old_sum = [&](uint32_t sum) {
    return sum_bytes(reinterpret_cast<const uint8_t *>(from), old_size, sum);
  };
  auto new_sum = [&](uint32_t sum) {
    return sum_bytes(reinterpret_cast<const uint8_t *>(to), new_size, sum);
  };
  uint32_t sum = uint32_t(seed);
  if (old_size && new_size)
    sum = subtract(new_sum(sum), old_sum(0));
  else if (new_size)
    sum = new_sum(sum);
  else if (old_size)
    sum = ~old_sum(~sum);
  return halve(sum);
}

/// csum_replace2(), csum_replace4(), csum_replace_by_diff(); false if the size is none of theirs.
bool replace(uint16_t &checksum, uint64_t from, uint64_t to, uint64_t size, bool words) {
  uint32_t sum = uint32_t(uint16_t(~checksum)) | 0xffff0000u; // ~csum_unfold(checksum)
  switch (size) {
  case 0:
    if (from != 0)
      return false;
    checksum = fold(add(uint32_t(to), sum));
    return true;
  case 2:
    if (!words) {
      checksum = uint16_t(~add16(add16(uint16_t(~checksum), uint16_t(~uint16_t(from))), uint16_t(to)));
      return true;
    }
    checksum = fold(add(subtract(sum, uint16_t(from)), uint16_t(to)));
    return true;
  case 4: checksum = fold(add(subtract(sum, uint32_t(from)), uint32_t(to))); return true;
  default: return false;
  }
}

/// The checksum field at `offset`, or null.
uint8_t *field_at(uint64_t offset) {
  uint32_t at = uint32_t(offset);
  Packet &packet = current_cpu->packet;
  return at > 0xffff || at & 1 || at + 2 > packet.size() ? nullptr : packet.data() + at;
}

uint64_t l3_csum_replace(uint64_t, uint64_t offset, uint64_t from, uint64_t to, uint64_t flags) {
  if (flags & ~uint64_t(BPF_F_HDR_FIELD_MASK))
    return failed(EINVAL);
  uint8_t *field = field_at(offset);
  if (!field)
    return failed(EFAULT);
  uint16_t checksum;
  memcpy(&checksum, field, 2);
  if (!replace(checksum, from, to, flags & BPF_F_HDR_FIELD_MASK, false))
    return failed(EINVAL);
  memcpy(field, &checksum, 2);
  return 0;
}

uint64_t l4_csum_replace(uint64_t, uint64_t offset, uint64_t from, uint64_t to, uint64_t flags) {
  constexpr uint64_t known =
      BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE | BPF_F_PSEUDO_HDR | BPF_F_HDR_FIELD_MASK | flag_ipv6;
  if (flags & ~known)
    return failed(EINVAL);
  uint8_t *field = field_at(offset);
  if (!field)
    return failed(EFAULT);
  uint16_t checksum;
  memcpy(&checksum, field, 2);
  bool zero_means_none = flags & BPF_F_MARK_MANGLED_0;
  if (zero_means_none && !(flags & BPF_F_MARK_ENFORCE) && checksum == 0)
    return 0;
  if (!replace(checksum, from, to, flags & BPF_F_HDR_FIELD_MASK, true))
    return failed(EINVAL);
  if (zero_means_none && checksum == 0)
    checksum = 0xffff; // CSUM_MANGLED_0
  memcpy(field, &checksum, 2);
  return 0;
}

uint64_t csum_update(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) { return failed(kernel_enotsupp); }

uint64_t csum_level(uint64_t, uint64_t level, uint64_t, uint64_t, uint64_t) {
  constexpr uint32_t deepest = 3; // SKB_MAX_CSUM_LEVEL
  Packet &packet = current_cpu->packet;
  switch (level) {
  case BPF_CSUM_LEVEL_INC:
    if (!packet.checksum_unnecessary)
      packet.checksum_unnecessary = true;
    else if (packet.checksum_level < deepest)
      packet.checksum_level++;
    return 0;
  case BPF_CSUM_LEVEL_DEC:
    if (packet.checksum_unnecessary && packet.checksum_level == 0)
      packet.checksum_unnecessary = false;
    else if (packet.checksum_unnecessary)
      packet.checksum_level--;
    return 0;
  case BPF_CSUM_LEVEL_RESET:
    packet.checksum_unnecessary = false;
    packet.checksum_level = 0;
    return 0;
  case BPF_CSUM_LEVEL_QUERY: return packet.checksum_unnecessary ? packet.checksum_level : failed(EACCES);
  default: return failed(EINVAL);
  }
}

constexpr HelperSymbol symbols[] = {
    {"bpf_csum_diff", csum_diff},
    {"bpf_l3_csum_replace", l3_csum_replace},
    {"bpf_l4_csum_replace", l4_csum_replace},
    {"bpf_csum_update", csum_update},
    {"bpf_csum_level", csum_level},
};

} // namespace

std::span<const HelperSymbol> checksum_helpers() { return symbols; }

} // namespace ujit
