// Which element an LRU map gives up: two lists and a reference bit, as in the kernel's bpf_lru_list.c but
// without its per-CPU batches, so that a map is really full before it evicts.
//
// New elements enter the inactive list. A lookup only sets the element's bit. When a node is needed and none
// is free, the inactive list is searched from its old end: referenced elements move to the active list and
// lose their bit, the first other one is evicted. Before that the active list, if it is the longer one, gives
// its unreferenced old elements back to the inactive list.
#pragma once

#include "kernel-iface/embedded/memory.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <atomic>

namespace ujit {

struct LruNode {
  LruNode *prev = nullptr, *next = nullptr;
  bool active = false;
  uint8_t unused[2] = {};
  /// At the kernel's distance from the key that follows a hash map's node, because code of the kernel's JIT
  /// sets it itself, and is measured on these maps.
  std::atomic<uint8_t> referenced{0};
  std::atomic<uint32_t> hash{0}; ///< of the key; read without a lock, as everything that lookups read
};

/// Thread safe. Takes its own lock, under which it calls `unlink`.
class LruList {
public:
  explicit LruList(NodePool pool) : pool_(std::move(pool)) {
    for (List *list : {&inactive_, &active_})
      list->head.prev = list->head.next = &list->head;
  }

  bool ok() const { return pool_.ok(); }

  /// A node for an element with this hash. Evicts if need be: `unlink(node)` takes a node out of its bucket
  /// and says whether it was there. Null: every node is held by another thread at this moment.
  LruNode *take(uint32_t hash, llvm::function_ref<bool(LruNode *)> unlink);

  /// Gives back a node that is in no bucket.
  void give(LruNode *node);

private:
  struct List {
    LruNode head;
    uint32_t count = 0;
  };

  void insert(List &list, LruNode *node);
  void remove(LruNode *node);
  void move(LruNode *node, List &list);
  void rotate_active();
  LruNode *evict(llvm::function_ref<bool(LruNode *)> unlink);

  SpinLock lock_;
  NodePool pool_;
  List inactive_, active_;
};

} // namespace ujit
