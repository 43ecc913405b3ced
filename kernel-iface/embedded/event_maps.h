// Maps by which programs send events to user space.
#pragma once

#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"

namespace ujit {

/// BPF_MAP_TYPE_PERF_EVENT_ARRAY: only knows which slots have a reader; events go to the CPU's record.
class PerfEventArray final : public MapObject {
public:
  using MapObject::MapObject;
  void *lookup(const void *) override { return nullptr; }
  bool has_contents() const override { return false; }
  MapContents contents() const override { return {}; }

  /// 0 if an event sent to this slot arrives, else a negative errno.
  long check_slot(uint64_t slot) const;
};

/// BPF_MAP_TYPE_RINGBUF with the kernel's records: an 8-byte header with length, busy and discard bits, then
/// the sample. The second half of the memory stands for the kernel's double mapping: a record that wraps lies
/// there.
class RingBuffer final : public MapObject {
public:
  RingBuffer(const Map &shape, MapId id, const MapOptions &options);
  bool ok() const { return memory_.ok(); }

  void *lookup(const void *) override { return nullptr; }
  bool has_contents() const override { return false; }
  MapContents contents() const override { return {}; }

  /// Memory for a sample; null if flags or size are wrong or the ring is full.
  void *reserve(uint64_t size, uint64_t flags);
  /// Finishes a sample of any ring buffer.
  static void finish(void *sample, bool discard);
  /// bpf_ringbuf_output.
  long output(const void *sample, uint64_t size, uint64_t flags);
  /// bpf_ringbuf_query.
  uint64_t query(uint64_t what) const;
  /// Plays user space: takes all finished records up to the first busy one, in ring order.
  void consume(llvm::function_ref<void(std::span<const uint8_t>)> take);

private:
  struct Header {
    std::atomic<uint32_t> length; ///< with busy and discard bits
    uint32_t unused;
  };
  uint8_t *record(uint64_t position) const { return memory_.data() + (position & (shape_.max_entries - 1)); }

  mutable SpinLock lock_;
  LazyMemory memory_;
  uint64_t produced_ = 0, consumed_ = 0;
};

} // namespace ujit
