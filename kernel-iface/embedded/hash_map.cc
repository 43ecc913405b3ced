// Hash maps: plain, per-CPU, and both as LRU. The table is the kernel's htab: jhash, a power of two of
// buckets, one lock a bucket for writers, none for readers. The end of a bucket's chain is marked with the
// bucket's number; a reader that ends at another number was carried away by a recycled node and starts again.
//
// What happens to an element's memory on update is visible to programs that hold a pointer to its value, so
// it follows the kernel too:
//  - plain: the new value goes into a spare node, which replaces the old one; with preallocation the old node
//  becomes
//    this CPU's next spare, without it rests until a grace period would be over;
//  - LRU: a node is taken, perhaps evicting another element, before anything else is looked at;
//  - per-CPU: the value is written in place.
#include "kernel-iface/embedded/jhash.h"
#include "kernel-iface/embedded/lru_list.h"
#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"
#include "translator/hash_layout.h"
#include "translator/instance.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <linux/bpf.h>
#include <mutex>
#include <new>

namespace ujit {
namespace {

/// Key and value follow: the key padded to 8 bytes, then a value (or one for each CPU).
struct Node : LruNode {
  std::atomic<uintptr_t> chain; ///< next node, or the end mark of the bucket
  uint8_t *key() { return reinterpret_cast<uint8_t *>(this + 1); }
};

struct Bucket {
  std::atomic<uintptr_t> first; ///< as Node::chain
  SpinLock lock;
};

static_assert(sizeof(Bucket) == embedded_hash.bucket && offsetof(Bucket, first) == 0);
static_assert(sizeof(Node) == embedded_hash.key && sizeof(std::atomic<uintptr_t>) == 8);
// What lies behind a base class has no offset of its own in the standard's eyes; sizes settle the rest.
static_assert(sizeof(LruNode) == embedded_hash.chain && embedded_hash.chain + 8 == sizeof(Node));
static_assert(offsetof(LruNode, hash) == embedded_hash.hash &&
              offsetof(LruNode, referenced) == embedded_hash.referenced);

/// In front of the buckets: what generated code needs beside them.
struct Header {
  uint32_t seed;
  uint8_t unused[60];
};
static_assert(-int64_t(sizeof(Header)) == embedded_hash_seed && offsetof(Header, seed) == 0);

constexpr uintptr_t end_mark(uint32_t bucket) { return hash_end_mark(bucket); }
constexpr bool is_end(uintptr_t p) { return p & 1; }

/// Keys are read while a recycled node may be rewritten: word by word, and a torn one does not match or is
/// caught by the end mark.
uint64_t key_word(const uint8_t *at) {
  return std::atomic_ref(*reinterpret_cast<uint64_t *>(const_cast<uint8_t *>(at)))
      .load(std::memory_order_relaxed);
}

template <uint32_t size>
uint64_t wanted_word(const uint8_t *key, uint32_t at, uint32_t key_size) {
  uint64_t w = 0;
  if constexpr (size != 0)
    memcpy(&w, key + at, std::min(size - at, 8u));
  else
    memcpy(&w, key + at, std::min(key_size - at, 8u));
  return w;
}

/// `size` 0: any key size.
template <uint32_t size>
bool same_key(const uint8_t *stored, const uint8_t *key, uint32_t key_size) {
  const uint32_t n = size ? size : key_size;
  for (uint32_t at = 0; at < n; at += 8)
    if (key_word(stored + at) != wanted_word<size>(key, at, key_size))
      return false;
  return true;
}

class HashMap : public MapObject {
public:
  HashMap(const Map &shape, MapId id, const MapOptions &options)
      : MapObject(shape, id, options),
        percpu_(shape.type == MapType::percpu_hash || shape.type == MapType::lru_percpu_hash),
        lru_(shape.type == MapType::lru_hash || shape.type == MapType::lru_percpu_hash),
        prealloc_(!(shape.flags & BPF_F_NO_PREALLOC)), value_at_(uint32_t(array_stride(shape.key_size))),
        stride_(array_stride(shape.value_size)), mask_(std::bit_ceil(shape.max_entries) - 1),
        buckets_(sizeof(Header) + sizeof(Bucket) * (uint64_t(mask_) + 1)),
        pool_(node_bytes(), lru_ ? 0 : node_count(),
              prealloc_ ? NodePool::newest_first : NodePool::oldest_first),
        lru_list_(NodePool(node_bytes(), lru_ ? shape.max_entries : 0, NodePool::newest_first)),
        spares_(!lru_ && !percpu_ && prealloc_ ? options.cpus : 0) {
    if (!ok())
      return;
    reinterpret_cast<Header *>(buckets_.data())->seed = options.hash_seed;
    for (uint32_t b = 0; b <= mask_; b++)
      buckets()[b].first.store(end_mark(b), std::memory_order_relaxed);
    for (Node *&spare : spares_)
      spare = static_cast<Node *>(pool_.take());
  }

  bool ok() const { return buckets_.ok() && pool_.ok() && lru_list_.ok(); }

  long update(const void *key, const void *value, uint64_t flags) override {
    auto write = [&](Node *node, bool is_new) {
      if (percpu_ && is_new)
        memset(value_of(node, 0), 0, stride_ * options_.cpus);
      memcpy(value_of(node, percpu_ ? this_cpu_index() : 0), value, shape_.value_size);
    };
    return insert(static_cast<const uint8_t *>(key), flags, write);
  }

  long control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                      uint64_t flags) override {
    auto write = [&](Node *node, bool) {
      for (uint32_t cpu = 0; cpu < (percpu_ ? options_.cpus : 1); cpu++)
        memcpy(value_of(node, cpu), values[values.size() == 1 ? 0 : cpu].data(), shape_.value_size);
    };
    return insert(key.data(), flags, write);
  }

  long erase(const void *key) override {
    const uint8_t *k = static_cast<const uint8_t *>(key);
    uint32_t hash = hash_of(k);
    Bucket &bucket = bucket_of(hash);
    Node *node;
    {
      std::lock_guard guard(bucket.lock);
      node = find_locked(bucket, hash, k);
      if (!node)
        return -ENOENT;
      unlink(bucket, node);
    }
    release(node, false);
    return 0;
  }

  long for_each(llvm::function_ref<long(const void *, void *)> visit) override {
    long visited = 0;
    for (uint32_t b = 0; b <= mask_; b++)
      for (uintptr_t p = chain_of(b); !is_end(p); p = node_at(p)->chain.load(std::memory_order_acquire)) {
        visited++;
        if (visit(node_at(p)->key(), value_of(node_at(p), percpu_ ? this_cpu_index() : 0)))
          return visited;
      }
    return visited;
  }

  bool is_percpu() const override { return percpu_; }
  void *values(uint32_t) override { return buckets(); }

  MapContents contents() const override {
    MapContents out;
    for (uint32_t b = 0; b <= mask_; b++)
      for (uintptr_t p = chain_of(b); !is_end(p); p = node_at(p)->chain.load(std::memory_order_acquire)) {
        Node *node = node_at(p);
        MapEntry entry;
        entry.key.assign(node->key(), node->key() + shape_.key_size);
        for (uint32_t cpu = 0; cpu < (percpu_ ? options_.cpus : 1); cpu++)
          entry.values.emplace_back(value_of(node, cpu), value_of(node, cpu) + shape_.value_size);
        out.push_back(std::move(entry));
      }
    std::sort(out.begin(), out.end());
    return out;
  }

protected:
  /// Lookup without a lock. `size` is the key size, or 0.
  template <uint32_t size>
  Node *find(const uint8_t *key) const {
    const uint32_t hash = jhash(key, size ? size : shape_.key_size, options_.hash_seed);
    const uint32_t bucket = hash & mask_;
    while (true) {
      uintptr_t p = chain_of(bucket);
      for (; !is_end(p); p = node_at(p)->chain.load(std::memory_order_acquire))
        if (node_at(p)->hash.load(std::memory_order_relaxed) == hash &&
            same_key<size>(node_at(p)->key(), key, shape_.key_size))
          return node_at(p);
      if (p == end_mark(bucket))
        return nullptr;
    }
  }

  uint8_t *value_of(Node *node, uint32_t cpu) const { return node->key() + value_at_ + stride_ * cpu; }

private:
  size_t node_bytes() const { return sizeof(Node) + value_at_ + stride_ * (percpu_ ? options_.cpus : 1); }

  /// With preallocation one spare a CPU; without it room for freed nodes to rest.
  size_t node_count() const {
    return shape_.max_entries + (prealloc_ ? (percpu_ ? 0 : options_.cpus) : 1024 * size_t(options_.cpus));
  }

  static Node *node_at(uintptr_t p) { return reinterpret_cast<Node *>(p); }
  Bucket *buckets() const { return reinterpret_cast<Bucket *>(buckets_.data() + sizeof(Header)); }
  Bucket &bucket_of(uint32_t hash) const { return buckets()[hash & mask_]; }
  uintptr_t chain_of(uint32_t b) const { return buckets()[b].first.load(std::memory_order_acquire); }
  uint32_t hash_of(const uint8_t *key) const { return jhash(key, shape_.key_size, options_.hash_seed); }

  Node *find_locked(Bucket &bucket, uint32_t hash, const uint8_t *key) const {
    for (uintptr_t p = bucket.first.load(std::memory_order_relaxed); !is_end(p);
         p = node_at(p)->chain.load(std::memory_order_relaxed))
      if (node_at(p)->hash.load(std::memory_order_relaxed) == hash &&
          same_key<0>(node_at(p)->key(), key, shape_.key_size))
        return node_at(p);
    return nullptr;
  }

  void link(Bucket &bucket, Node *node) {
    node->chain.store(bucket.first.load(std::memory_order_relaxed), std::memory_order_relaxed);
    bucket.first.store(reinterpret_cast<uintptr_t>(node), std::memory_order_release);
  }

  /// Takes a node out of its bucket, whose lock is held; false if it is not there.
  bool unlink(Bucket &bucket, Node *node) {
    std::atomic<uintptr_t> *at = &bucket.first;
    for (uintptr_t p = at->load(std::memory_order_relaxed); !is_end(p);
         p = at->load(std::memory_order_relaxed)) {
      if (node_at(p) == node) {
        at->store(node->chain.load(std::memory_order_relaxed), std::memory_order_release);
        return true;
      }
      at = &node_at(p)->chain;
    }
    return false;
  }

  void set_key(Node *node, uint32_t hash, const uint8_t *key) {
    node->hash.store(hash, std::memory_order_relaxed);
    for (uint32_t at = 0; at < shape_.key_size; at += 8)
      std::atomic_ref(*reinterpret_cast<uint64_t *>(node->key() + at))
          .store(wanted_word<0>(key, at, shape_.key_size), std::memory_order_relaxed);
  }

  /// A node that was taken out of its bucket. `replaced`: by an update on this CPU.
  void release(Node *node, bool replaced) {
    if (lru_)
      return lru_list_.give(node);
    std::lock_guard guard(pool_lock_);
    if (!replaced)
      used_--;
    pool_.give(node);
  }

  /// A node for a new element, or null if the map is full.
  Node *acquire() {
    std::lock_guard guard(pool_lock_);
    if (used_ == shape_.max_entries)
      return nullptr;
    Node *node = static_cast<Node *>(pool_.take());
    used_ += node != nullptr;
    return node;
  }

  long insert(const uint8_t *key, uint64_t flags, llvm::function_ref<void(Node *, bool is_new)> write) {
    bool may_lock = !lru_ && !percpu_;
    if ((flags & ~uint64_t(may_lock ? BPF_F_LOCK : 0)) > BPF_EXIST || (flags & BPF_F_LOCK))
      return -EINVAL;
    return lru_ ? insert_lru(key, flags, write) : insert_plain(key, flags, write);
  }

  static long check_flags(bool exists, uint64_t flags) {
    if (exists && flags == BPF_NOEXIST)
      return -EEXIST;
    return !exists && flags == BPF_EXIST ? -ENOENT : 0;
  }

  long insert_plain(const uint8_t *key, uint64_t flags, llvm::function_ref<void(Node *, bool)> write) {
    uint32_t hash = hash_of(key);
    Bucket &bucket = bucket_of(hash);
    std::lock_guard guard(bucket.lock);
    Node *old = find_locked(bucket, hash, key);
    if (long refused = check_flags(old != nullptr, flags))
      return refused;
    if (old && percpu_) {
      write(old, false);
      return 0;
    }
    Node *node = old ? replacement() : acquire();
    if (!node)
      return old ? -ENOMEM : -E2BIG;
    set_key(node, hash, key);
    write(node, true);
    link(bucket, node);
    if (old) {
      unlink(bucket, old);
      retire(old);
    }
    return 0;
  }

  /// The node that takes an updated element's place.
  Node *replacement() {
    std::lock_guard guard(pool_lock_);
    if (!spares_.empty())
      return std::exchange(spares_[this_cpu_index()], nullptr);
    return static_cast<Node *>(pool_.take());
  }

  /// The node that it was in.
  void retire(Node *old) {
    if (spares_.empty())
      return release(old, true);
    std::lock_guard guard(pool_lock_);
    spares_[this_cpu_index()] = old;
  }

  long insert_lru(const uint8_t *key, uint64_t flags, llvm::function_ref<void(Node *, bool)> write) {
    uint32_t hash = hash_of(key);
    Bucket &bucket = bucket_of(hash);
    Node *fresh = nullptr;
    // A per-CPU element is written in place, so with BPF_EXIST no node is needed.
    if (!percpu_ || flags != BPF_EXIST) {
      auto evict = [&](LruNode *victim) {
        Bucket &home = bucket_of(victim->hash.load(std::memory_order_relaxed));
        std::lock_guard guard(home.lock);
        return unlink(home, static_cast<Node *>(victim));
      };
      fresh = static_cast<Node *>(lru_list_.take(hash, evict));
      if (!fresh)
        return -ENOMEM;
    }
    Node *unused = fresh;
    long result = 0;
    {
      std::lock_guard guard(bucket.lock);
      Node *old = find_locked(bucket, hash, key);
      result = check_flags(old != nullptr, flags);
      if (result == 0 && old && percpu_) {
        old->referenced.store(1, std::memory_order_relaxed);
        write(old, false);
      } else if (result == 0) {
        set_key(fresh, hash, key);
        write(fresh, true);
        link(bucket, fresh);
        if (old) {
          fresh->referenced.store(1, std::memory_order_relaxed);
          unlink(bucket, old);
        }
        unused = old;
      }
    }
    if (unused)
      lru_list_.give(unused);
    return result;
  }

  const bool percpu_, lru_, prealloc_;
  const uint32_t value_at_;
  const uint64_t stride_;
  const uint32_t mask_;
  LazyMemory buckets_;
  SpinLock pool_lock_; ///< of pool_, spares_ and used_; taken under a bucket's lock
  NodePool pool_;
  LruList lru_list_;
  std::vector<Node *> spares_; ///< by CPU
  uint32_t used_ = 0;
};

enum class Kind { plain, lru, percpu, lru_percpu };

/// Lookup, which is what counts, compiled for the kind of map and the common key sizes.
template <Kind kind, uint32_t key_size>
class HashMapOf final : public HashMap {
public:
  using HashMap::HashMap;

  void *lookup(const void *key) override {
    constexpr bool percpu = kind == Kind::percpu || kind == Kind::lru_percpu;
    return look_up(key, percpu ? this_cpu_index() : 0);
  }

  void *lookup_percpu(const void *key, uint32_t cpu) override {
    return is_percpu() && cpu < cpus() ? look_up(key, cpu) : nullptr;
  }

private:
  void *look_up(const void *key, uint32_t cpu) {
    Node *node = find<key_size>(static_cast<const uint8_t *>(key));
    if (!node)
      return nullptr;
    if constexpr (kind == Kind::lru || kind == Kind::lru_percpu)
      if (!node->referenced.load(std::memory_order_relaxed))
        node->referenced.store(1, std::memory_order_relaxed);
    return value_of(node, cpu);
  }
};

template <Kind kind, uint32_t key_size>
std::unique_ptr<MapObject> make_sized(const Map &shape, MapId id, const MapOptions &options) {
  auto map = std::make_unique<HashMapOf<kind, key_size>>(shape, id, options);
  return map->ok() ? std::move(map) : nullptr;
}

template <Kind kind>
std::unique_ptr<MapObject> make(const Map &shape, MapId id, const MapOptions &options) {
  switch (shape.key_size) {
  case 4: return make_sized<kind, 4>(shape, id, options);
  case 8: return make_sized<kind, 8>(shape, id, options);
  case 12: return make_sized<kind, 12>(shape, id, options);
  case 16: return make_sized<kind, 16>(shape, id, options);
  case 20: return make_sized<kind, 20>(shape, id, options);
  case 40: return make_sized<kind, 40>(shape, id, options);
  default: return make_sized<kind, 0>(shape, id, options);
  }
}

} // namespace

std::unique_ptr<MapObject> make_hash_map(const Map &shape, MapId id, const MapOptions &options) {
  switch (shape.type) {
  case MapType::lru_hash: return make<Kind::lru>(shape, id, options);
  case MapType::percpu_hash: return make<Kind::percpu>(shape, id, options);
  case MapType::lru_percpu_hash: return make<Kind::lru_percpu>(shape, id, options);
  default: return make<Kind::plain>(shape, id, options);
  }
}

} // namespace ujit
