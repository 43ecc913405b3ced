#include "kernel-iface/embedded/memory.h"

#include <sys/mman.h>

namespace ujit {

LazyMemory::LazyMemory(size_t bytes) : size_(bytes) {
  if (bytes == 0)
    return;
  void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ok_ = at != MAP_FAILED;
  base_ = ok_ ? static_cast<uint8_t *>(at) : nullptr;
}

LazyMemory::~LazyMemory() {
  if (base_)
    munmap(base_, size_);
}

static size_t node_stride(size_t node_bytes) { return ((node_bytes + 7) & ~size_t(7)) + sizeof(void *); }

NodePool::NodePool(size_t node_bytes, size_t capacity, Reuse reuse)
    : memory_(node_stride(node_bytes) * capacity), node_bytes_(node_stride(node_bytes)), capacity_(capacity),
      reuse_(reuse) {}

void *NodePool::take() {
  bool fresh_first = reuse_ == oldest_first && fresh_ < capacity_;
  if (free_head_ && !fresh_first) {
    void *node = free_head_;
    free_head_ = link(node);
    return node;
  }
  if (fresh_ == capacity_)
    return nullptr;
  return memory_.data() + node_bytes_ * fresh_++;
}

void NodePool::give(void *node) {
  if (reuse_ == newest_first) {
    link(node) = free_head_;
    free_head_ = node;
    return;
  }
  link(node) = nullptr;
  if (free_head_)
    link(free_tail_) = node;
  else
    free_head_ = node;
  free_tail_ = node;
}

} // namespace ujit
