#include "kernel-iface/embedded/event_maps.h"

#include <cerrno>
#include <cstring>
#include <linux/bpf.h>
#include <mutex>

namespace ujit {

long PerfEventArray::check_slot(uint64_t slot) const {
  if (slot >= (shape_.max_entries ? shape_.max_entries : options_.cpus))
    return -E2BIG;
  return options_.perf_readers && slot < options_.cpus ? 0 : -ENOENT;
}

constexpr uint32_t length_mask = ~uint32_t(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
constexpr uint64_t largest_record = UINT32_MAX / 4;

/// Bytes that a sample takes in the ring.
static uint64_t record_size(uint64_t sample) { return (sample + BPF_RINGBUF_HDR_SZ + 7) & ~uint64_t(7); }

RingBuffer::RingBuffer(const Map &shape, MapId id, const MapOptions &options)
    : MapObject(shape, id, options), memory_(uint64_t(shape.max_entries) * 2) {}

void *RingBuffer::reserve(uint64_t size, uint64_t flags) {
  if (flags || size > largest_record)
    return nullptr;
  uint64_t length = record_size(size);
  std::lock_guard guard(lock_);
  if (length > shape_.max_entries || produced_ + length - consumed_ > shape_.max_entries - 1)
    return nullptr;
  auto *header = reinterpret_cast<Header *>(record(produced_));
  header->length.store(uint32_t(size) | BPF_RINGBUF_BUSY_BIT, std::memory_order_relaxed);
  produced_ += length;
  return header + 1;
}

void RingBuffer::finish(void *sample, bool discard) {
  Header *header = static_cast<Header *>(sample) - 1;
  uint32_t length = header->length.load(std::memory_order_relaxed) & length_mask;
  header->length.store(discard ? length | BPF_RINGBUF_DISCARD_BIT : length, std::memory_order_release);
}

long RingBuffer::output(const void *sample, uint64_t size, uint64_t flags) {
  if (flags & ~uint64_t(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP))
    return -EINVAL;
  void *to = reserve(size, 0);
  if (!to)
    return -EAGAIN;
  memcpy(to, sample, size);
  finish(to, false);
  return 0;
}

uint64_t RingBuffer::query(uint64_t what) const {
  std::lock_guard guard(lock_);
  switch (what) {
  case BPF_RB_AVAIL_DATA: return produced_ - consumed_;
  case BPF_RB_RING_SIZE: return shape_.max_entries;
  case BPF_RB_CONS_POS: return consumed_;
  case BPF_RB_PROD_POS: return produced_;
  default: return 0;
  }
}

void RingBuffer::consume(llvm::function_ref<void(std::span<const uint8_t>)> take) {
  std::lock_guard guard(lock_);
  while (consumed_ < produced_) {
    uint8_t *at = record(consumed_);
    uint32_t length = reinterpret_cast<Header *>(at)->length.load(std::memory_order_acquire);
    if (length & BPF_RINGBUF_BUSY_BIT)
      return;
    uint32_t size = length & length_mask;
    if (!(length & BPF_RINGBUF_DISCARD_BIT))
      take({at + sizeof(Header), size});
    consumed_ += record_size(size);
  }
}

std::unique_ptr<MapObject> make_perf_event_array(const Map &shape, MapId id, const MapOptions &options) {
  return std::make_unique<PerfEventArray>(shape, id, options);
}

std::unique_ptr<MapObject> make_ring_buffer(const Map &shape, MapId id, const MapOptions &options) {
  auto map = std::make_unique<RingBuffer>(shape, id, options);
  return map->ok() ? std::move(map) : nullptr;
}

} // namespace ujit
