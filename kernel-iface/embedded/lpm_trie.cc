// Longest-prefix match: the kernel's path-compressed binary trie (kernel/bpf/lpm_trie.c). A node has a prefix
// and two children, which share it and differ in the bit behind it; an intermediate node has no value and
// exists only where two prefixes part. Readers take no lock: nodes do not change once they are linked in, and
// freed ones rest.
#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"
#include "translator/instance.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <linux/bpf.h>
#include <mutex>

namespace ujit {
namespace {

/// Prefix bytes follow, padded to 8, then the value.
struct Node {
  std::atomic<Node *> child[2];
  uint32_t prefix_bits;
  bool intermediate;
  uint8_t *prefix() { return reinterpret_cast<uint8_t *>(this + 1); }
};

struct Prefix {
  uint32_t bits;
  const uint8_t *data;
  explicit Prefix(const void *key) : data(static_cast<const uint8_t *>(key) + 4) { memcpy(&bits, key, 4); }
};

bool bit_of(const uint8_t *data, uint32_t at) { return data[at / 8] >> (7 - at % 8) & 1; }

class LpmTrie final : public MapObject {
public:
  LpmTrie(const Map &shape, MapId id, const MapOptions &options)
      : MapObject(shape, id, options), data_bytes_(shape.key_size - 4), max_bits_(data_bytes_ * 8),
        value_at_(uint32_t(array_stride(data_bytes_))),
        pool_(sizeof(Node) + value_at_ + shape.value_size, size_t(shape.max_entries) * 2 + 1024,
              NodePool::oldest_first) {}

  bool ok() const { return pool_.ok(); }

  void *lookup(const void *key) override {
    Prefix wanted(key);
    if (wanted.bits > max_bits_)
      return nullptr;
    Node *found = nullptr;
    for (Node *node = root_.load(std::memory_order_acquire); node;) {
      uint32_t match = matching_bits(node, wanted);
      if (match == max_bits_) {
        found = node;
        break;
      }
      if (match < node->prefix_bits)
        break;
      if (!node->intermediate)
        found = node;
      node = node->child[bit_of(wanted.data, node->prefix_bits)].load(std::memory_order_acquire);
    }
    return found ? value_of(found) : nullptr;
  }

  long update(const void *key, const void *value, uint64_t flags) override {
    Prefix wanted(key);
    if (flags > BPF_EXIST || wanted.bits > max_bits_)
      return -EINVAL;
    std::lock_guard guard(lock_);
    std::atomic<Node *> *slot = &root_;
    Node *node;
    uint32_t match = 0;
    while ((node = slot->load(std::memory_order_relaxed))) {
      match = matching_bits(node, wanted);
      if (node->prefix_bits != match || node->prefix_bits == wanted.bits)
        break;
      slot = &node->child[bit_of(wanted.data, node->prefix_bits)];
    }

    bool replaces = node && node->prefix_bits == match && wanted.bits == match;
    bool exists = replaces && !node->intermediate;
    if (exists && flags == BPF_NOEXIST)
      return -EEXIST;
    if (!exists && flags == BPF_EXIST)
      return -ENOENT;
    if (!exists && entries_ == shape_.max_entries)
      return -ENOSPC;

    Node *added = make_node(wanted.bits, wanted.data);
    if (!added)
      return -ENOMEM;
    memcpy(value_of(added), value, shape_.value_size);
    if (replaces) {
      for (int side : {0, 1})
        added->child[side].store(node->child[side].load(std::memory_order_relaxed),
                                 std::memory_order_relaxed);
      slot->store(added, std::memory_order_release);
      pool_.give(node);
    } else if (!node) {
      slot->store(added, std::memory_order_release);
    } else if (match == wanted.bits) { // the new prefix holds the node's
      added->child[bit_of(node->prefix(), match)].store(node, std::memory_order_relaxed);
      slot->store(added, std::memory_order_release);
    } else {
      Node *fork = make_node(match, wanted.data);
      if (!fork) {
        pool_.give(added);
        return -ENOMEM;
      }
      fork->intermediate = true;
      bool side = bit_of(wanted.data, match);
      fork->child[side].store(added, std::memory_order_relaxed);
      fork->child[!side].store(node, std::memory_order_relaxed);
      slot->store(fork, std::memory_order_release);
    }
    entries_ += !exists;
    return 0;
  }

  long erase(const void *key) override {
    Prefix wanted(key);
    if (wanted.bits > max_bits_)
      return -EINVAL;
    std::lock_guard guard(lock_);
    std::atomic<Node *> *slot = &root_, *parent_slot = nullptr;
    Node *node, *parent = nullptr;
    while ((node = slot->load(std::memory_order_relaxed))) {
      uint32_t match = matching_bits(node, wanted);
      if (node->prefix_bits != match)
        return -ENOENT;
      if (node->prefix_bits == wanted.bits)
        break;
      parent = node;
      parent_slot = slot;
      slot = &node->child[bit_of(wanted.data, node->prefix_bits)];
    }
    if (!node || node->intermediate)
      return -ENOENT;
    entries_--;

    Node *left = node->child[0].load(std::memory_order_relaxed);
    Node *right = node->child[1].load(std::memory_order_relaxed);
    if (left && right) { // still needed as a fork; readers must not see it change, so a copy takes its place
      Node *fork = make_node(node->prefix_bits, node->prefix());
      if (!fork) {
        node->intermediate = true;
        return 0;
      }
      fork->intermediate = true;
      fork->child[0].store(left, std::memory_order_relaxed);
      fork->child[1].store(right, std::memory_order_relaxed);
      slot->store(fork, std::memory_order_release);
    } else if (parent && parent->intermediate && !left && !right) { // the fork above has one branch left
      bool side = slot == &parent->child[0];
      parent_slot->store(parent->child[side].load(std::memory_order_relaxed), std::memory_order_release);
      pool_.give(parent);
    } else {
      slot->store(left ? left : right, std::memory_order_release);
    }
    pool_.give(node);
    return 0;
  }

  MapContents contents() const override {
    MapContents out;
    std::vector<Node *> open{root_.load(std::memory_order_acquire)};
    while (!open.empty()) {
      Node *node = open.back();
      open.pop_back();
      if (!node)
        continue;
      for (auto &child : node->child)
        open.push_back(child.load(std::memory_order_acquire));
      if (node->intermediate)
        continue;
      MapEntry entry;
      entry.key.resize(shape_.key_size);
      memcpy(entry.key.data(), &node->prefix_bits, 4);
      memcpy(entry.key.data() + 4, node->prefix(), data_bytes_);
      entry.values.emplace_back(value_of(node), value_of(node) + shape_.value_size);
      out.push_back(std::move(entry));
    }
    std::sort(out.begin(), out.end());
    return out;
  }

private:
  uint8_t *value_of(Node *node) const { return node->prefix() + value_at_; }

  Node *make_node(uint32_t bits, const uint8_t *data) {
    Node *node = static_cast<Node *>(pool_.take());
    if (!node)
      return nullptr;
    node->child[0].store(nullptr, std::memory_order_relaxed);
    node->child[1].store(nullptr, std::memory_order_relaxed);
    node->prefix_bits = bits;
    node->intermediate = false;
    memcpy(node->prefix(), data, data_bytes_);
    return node;
  }

  /// Length of the common prefix of a node and a key.
  uint32_t matching_bits(Node *node, const Prefix &wanted) const {
    uint32_t limit = std::min(node->prefix_bits, wanted.bits);
    const uint8_t *a = node->prefix(), *b = wanted.data;
    uint32_t at = 0;
    for (; at + 4 <= data_bytes_; at += 4) {
      uint32_t x, y;
      memcpy(&x, a + at, 4);
      memcpy(&y, b + at, 4);
      if (x != y)
        return std::min(limit, at * 8 + uint32_t(std::countl_zero(__builtin_bswap32(x ^ y))));
      if (at * 8 + 32 >= limit)
        return limit;
    }
    for (; at < data_bytes_; at++)
      if (uint8_t diff = a[at] ^ b[at])
        return std::min(limit, at * 8 + uint32_t(std::countl_zero(diff)));
    return limit;
  }

  const uint32_t data_bytes_, max_bits_, value_at_;
  std::atomic<Node *> root_{nullptr};
  SpinLock lock_; ///< of writers
  NodePool pool_;
  uint32_t entries_ = 0;
};

} // namespace

std::unique_ptr<MapObject> make_lpm_trie(const Map &shape, MapId id, const MapOptions &options) {
  auto map = std::make_unique<LpmTrie>(shape, id, options);
  return map->ok() ? std::move(map) : nullptr;
}

} // namespace ujit
