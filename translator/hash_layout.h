// How the embedded kernel's hash tables lie in memory. Code of ours searches them itself (lto/lookup.cc), so
// this is an interface between generated code and kernel-iface/embedded/hash_map.cc, which asserts it.
#pragma once

#include <cstdint>

namespace ujit {

/// InstanceSlot::values of a hash map leads to its first bucket; distances are from there, or from a node.
struct HashLayout {
  static constexpr int64_t seed = -64;       ///< u32, what jhash starts with
  static constexpr uint64_t bucket = 16;     ///< bytes from one bucket to the next; at 0 its first node
  static constexpr uint64_t referenced = 19; ///< node: u8, set by lookups in LRU maps
  static constexpr uint64_t hash = 20;       ///< node: u32
  static constexpr uint64_t chain = 24;      ///< node: the next one
  static constexpr uint64_t key = 32;        ///< node: the key, zeros up to a multiple of 8, then the values
};

/// What a chain ends with: an odd number that says which bucket it belongs to. A bucket that was never used
/// has 0 in place of its first node.
constexpr uint64_t hash_end_mark(uint32_t bucket) { return uint64_t(bucket) << 1 | 1; }

/// Longest key that is searched for inline.
constexpr uint32_t longest_inline_key = 64;

} // namespace ujit
