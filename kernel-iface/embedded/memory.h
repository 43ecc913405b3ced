// Memory and locks of the embedded kernel's maps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <immintrin.h>
#include <utility>

namespace ujit {

/// Zeroed, page-aligned memory whose pages cost nothing until they are touched, so that a map for half a
/// million entries is created in microseconds.
class LazyMemory {
public:
  LazyMemory() = default;
  explicit LazyMemory(size_t bytes); ///< check with `ok()`: fails only when address space runs out
  ~LazyMemory();
  LazyMemory(LazyMemory &&other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)), ok_(other.ok_) {}
  LazyMemory &operator=(LazyMemory &&other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(ok_, other.ok_);
    return *this;
  }

  bool ok() const { return ok_; }
  uint8_t *data() const { return base_; }
  size_t size() const { return size_; }

private:
  uint8_t *base_ = nullptr;
  size_t size_ = 0;
  bool ok_ = true;
};

class SpinLock {
public:
  void lock() {
    while (held_.exchange(true, std::memory_order_acquire))
      while (held_.load(std::memory_order_relaxed))
        _mm_pause();
  }
  void unlock() { held_.store(false, std::memory_order_release); }

private:
  std::atomic<bool> held_{false};
};

/// Fixed-size nodes for linked maps. Memory is never given back, so a reader without a lock may follow a
/// stale pointer: it finds a recycled node, never an unmapped page. Not thread safe by itself.
class NodePool {
public:
  enum Reuse {
    newest_first, ///< a freed node is taken next, as the kernel's free lists do
    oldest_first, ///< freed nodes rest as long as possible, as if an RCU grace period had to pass
  };
  NodePool(size_t node_bytes, size_t capacity, Reuse reuse);

  bool ok() const { return memory_.ok(); }
  void *take(); ///< null: all nodes are in use
  void give(void *node);

private:
  /// Link of a free node: at its end, where no reader without a lock looks for a next pointer.
  void *&link(void *node) const {
    return *reinterpret_cast<void **>(static_cast<uint8_t *>(node) + node_bytes_ - sizeof(void *));
  }

  LazyMemory memory_;
  size_t node_bytes_;
  size_t fresh_ = 0; ///< nodes from here on were never used
  size_t capacity_;
  Reuse reuse_;
  void *free_head_ = nullptr;
  void *free_tail_ = nullptr;
};

} // namespace ujit
