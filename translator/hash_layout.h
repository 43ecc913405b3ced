// How hash tables lie in memory: those of the embedded kernel, and those of the kernel that an image is made
// for. Code of ours searches both (lto/lookup.cc). The first is an interface between generated code and
// kernel-iface/embedded/hash_map.cc, which asserts it; the second is read from the running kernel's BTF and
// tried out on maps of our own (kernel-iface/linux/hash_tables.cc).
#pragma once

#include <cstdint>

namespace ujit {

/// Byte offsets; InstanceSlot::values of a hash map leads to its first bucket, nodes are where chains lead.
struct HashLayout {
  uint32_t bucket = 0;     ///< from one bucket to the next; at 0 its first node
  uint32_t chain = 0;      ///< in a node: the next one
  uint32_t referenced = 0; ///< in a node: u8, set by lookups in LRU maps
  uint32_t hash = 0;       ///< in a node: u32
  uint32_t key = 0;        ///< in a node; the value follows at a multiple of 8
  friend bool operator==(const HashLayout &, const HashLayout &) = default;
};

/// Keys end with zeros up to a multiple of 8 there, and in place of the first node of a bucket that was never
/// used is 0.
constexpr HashLayout embedded_hash{.bucket = 16, .chain = 24, .referenced = 19, .hash = 20, .key = 32};
/// From the embedded kernel's first bucket: u32, what jhash starts with.
constexpr int64_t embedded_hash_seed = -64;

/// What a chain ends with: an odd number that says which bucket it belongs to.
constexpr uint64_t hash_end_mark(uint32_t bucket) { return uint64_t(bucket) << 1 | 1; }

/// Longest key that is searched for inline.
constexpr uint32_t longest_inline_key = 64;

} // namespace ujit
