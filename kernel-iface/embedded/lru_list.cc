#include "kernel-iface/embedded/lru_list.h"

#include <mutex>
#include <new>

namespace ujit {

/// Elements looked at before the search settles for a referenced one.
constexpr unsigned scan_limit = 128;

void LruList::insert(List &list, LruNode *node) {
  node->prev = &list.head;
  node->next = list.head.next;
  node->next->prev = node;
  list.head.next = node;
  list.count++;
  node->active = &list == &active_;
}

void LruList::remove(LruNode *node) {
  node->prev->next = node->next;
  node->next->prev = node->prev;
  (node->active ? active_ : inactive_).count--;
}

void LruList::move(LruNode *node, List &list) {
  remove(node);
  node->referenced.store(0, std::memory_order_relaxed);
  insert(list, node);
}

void LruList::rotate_active() {
  LruNode *node = active_.head.prev;
  for (unsigned scanned = 0; scanned < scan_limit && node != &active_.head; scanned++) {
    LruNode *before = node->prev;
    move(node, node->referenced.load(std::memory_order_relaxed) ? active_ : inactive_);
    node = before;
  }
}

LruNode *LruList::evict(llvm::function_ref<bool(LruNode *)> unlink) {
  if (inactive_.count < active_.count)
    rotate_active();
  LruNode *node = inactive_.head.prev;
  for (unsigned scanned = 0; scanned < scan_limit && node != &inactive_.head; scanned++) {
    LruNode *before = node->prev;
    if (node->referenced.load(std::memory_order_relaxed))
      move(node, active_);
    else if (unlink(node))
      return node;
    node = before;
  }
  for (List *list : {&inactive_, &active_})
    for (node = list->head.prev; node != &list->head; node = node->prev)
      if (unlink(node))
        return node;
  return nullptr;
}

LruNode *LruList::take(uint32_t hash, llvm::function_ref<bool(LruNode *)> unlink) {
  std::lock_guard guard(lock_);
  LruNode *node = static_cast<LruNode *>(pool_.take());
  if (!node) {
    node = evict(unlink);
    if (!node)
      return nullptr;
    remove(node);
  }
  node->hash.store(hash, std::memory_order_relaxed);
  node->referenced.store(0, std::memory_order_relaxed);
  insert(inactive_, node);
  return node;
}

void LruList::give(LruNode *node) {
  std::lock_guard guard(lock_);
  remove(node);
  pool_.give(node);
}

} // namespace ujit
