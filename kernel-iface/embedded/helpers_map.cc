// Helpers on maps (kernel/bpf/helpers.c, kernel/bpf/ringbuf.c, bpf_event_output in net/core/filter.c).
#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/event_maps.h"
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/memory.h"
#include "translator/interpreter.h"

#include <cerrno>
#include <linux/bpf.h>

namespace ujit {

uint64_t call_callback(uint64_t function, const std::array<uint64_t, 5> &args) {
  Cpu &cpu = *current_cpu;
  if (!cpu.interpreter) {
    using Native = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, const uint64_t *instance);
    return reinterpret_cast<Native>(function)(args[0], args[1], args[2], args[3], args[4], cpu.instance);
  }
  Expected<uint64_t> result = cpu.interpreter->call_back(function, args);
  if (result)
    return *result;
  cpu.callback_error.emplace(result.takeError());
  return 1; // ends the loop; the host then reports the error
}

namespace {

MapObject &map_at(uint64_t map) { return *reinterpret_cast<MapObject *>(map); }
const void *memory_at(uint64_t address) { return reinterpret_cast<const void *>(address); }
uint64_t address_of(const void *p) { return reinterpret_cast<uint64_t>(p); }

uint64_t map_lookup_elem(uint64_t map, uint64_t key, uint64_t, uint64_t, uint64_t) {
  return address_of(map_at(map).lookup(memory_at(key)));
}

uint64_t map_update_elem(uint64_t map, uint64_t key, uint64_t value, uint64_t flags, uint64_t) {
  return uint64_t(map_at(map).update(memory_at(key), memory_at(value), flags));
}

uint64_t map_delete_elem(uint64_t map, uint64_t key, uint64_t, uint64_t, uint64_t) {
  return uint64_t(map_at(map).erase(memory_at(key)));
}

uint64_t map_lookup_percpu_elem(uint64_t map, uint64_t key, uint64_t cpu, uint64_t, uint64_t) {
  return address_of(map_at(map).lookup_percpu(memory_at(key), uint32_t(cpu)));
}

uint64_t for_each_map_elem(uint64_t map, uint64_t callback, uint64_t context, uint64_t flags, uint64_t) {
  if (flags)
    return failed(EINVAL);
  return uint64_t(map_at(map).for_each([&](const void *key, void *value) {
    return long(call_callback(callback, {map, address_of(key), address_of(value), context, 0}));
  }));
}

uint64_t loop(uint64_t count, uint64_t callback, uint64_t context, uint64_t flags, uint64_t) {
  constexpr uint32_t most = 1 << 23;
  uint32_t n = uint32_t(count);
  if (flags)
    return failed(EINVAL);
  if (n > most)
    return failed(E2BIG);
  for (uint32_t i = 0; i < n; i++)
    if (call_callback(callback, {i, context, 0, 0, 0}))
      return i + 1;
  return n;
}

std::atomic_ref<uint32_t> lock_at(uint64_t lock) {
  return std::atomic_ref(*reinterpret_cast<uint32_t *>(lock));
}

uint64_t spin_lock(uint64_t lock, uint64_t, uint64_t, uint64_t, uint64_t) {
  while (lock_at(lock).exchange(1, std::memory_order_acquire))
    _mm_pause();
  return 0;
}

uint64_t spin_unlock(uint64_t lock, uint64_t, uint64_t, uint64_t, uint64_t) {
  lock_at(lock).store(0, std::memory_order_release);
  return 0;
}

/// Helper for skb and XDP programs alike; others have no packet to append.
uint64_t perf_event_output(uint64_t, uint64_t map, uint64_t flags, uint64_t data, uint64_t size) {
  Cpu &cpu = *current_cpu;
  uint64_t packet_bytes = (flags & BPF_F_CTXLEN_MASK) >> 32;
  if (flags & ~uint64_t(BPF_F_CTXLEN_MASK | BPF_F_INDEX_MASK))
    return failed(EINVAL);
  if (packet_bytes > cpu.packet.size())
    return failed(EFAULT);
  uint64_t slot = flags & BPF_F_INDEX_MASK;
  if (slot == BPF_F_CURRENT_CPU)
    slot = cpu.index;
  auto &events = static_cast<PerfEventArray &>(map_at(map));
  if (long refused = events.check_slot(slot))
    return uint64_t(refused);
  if (!cpu.record)
    return 0;
  Event event{.map = events.id(), .cpu = slot, .data = {}};
  const uint8_t *bytes = static_cast<const uint8_t *>(memory_at(data));
  event.data.assign(bytes, bytes + size);
  event.data.insert(event.data.end(), cpu.packet.data(), cpu.packet.data() + packet_bytes);
  cpu.events.push_back(std::move(event));
  return 0;
}

RingBuffer &ring_at(uint64_t map) { return static_cast<RingBuffer &>(map_at(map)); }

uint64_t ringbuf_output(uint64_t map, uint64_t data, uint64_t size, uint64_t flags, uint64_t) {
  return uint64_t(ring_at(map).output(memory_at(data), size, flags));
}

uint64_t ringbuf_reserve(uint64_t map, uint64_t size, uint64_t flags, uint64_t, uint64_t) {
  return address_of(ring_at(map).reserve(size, flags));
}

uint64_t ringbuf_submit(uint64_t sample, uint64_t, uint64_t, uint64_t, uint64_t) {
  RingBuffer::finish(reinterpret_cast<void *>(sample), false);
  return 0;
}

uint64_t ringbuf_discard(uint64_t sample, uint64_t, uint64_t, uint64_t, uint64_t) {
  RingBuffer::finish(reinterpret_cast<void *>(sample), true);
  return 0;
}

uint64_t ringbuf_query(uint64_t map, uint64_t what, uint64_t, uint64_t, uint64_t) {
  return ring_at(map).query(what);
}

constexpr HelperSymbol symbols[] = {
    {"bpf_map_lookup_elem", map_lookup_elem},
    {"bpf_map_update_elem", map_update_elem},
    {"bpf_map_delete_elem", map_delete_elem},
    {"bpf_map_lookup_percpu_elem", map_lookup_percpu_elem},
    {"bpf_for_each_map_elem", for_each_map_elem},
    {"bpf_loop", loop},
    {"bpf_spin_lock", spin_lock},
    {"bpf_spin_unlock", spin_unlock},
    {"bpf_perf_event_output", perf_event_output},
    {"bpf_skb_output", perf_event_output},
    {"bpf_xdp_output", perf_event_output},
    {"bpf_ringbuf_output", ringbuf_output},
    {"bpf_ringbuf_reserve", ringbuf_reserve},
    {"bpf_ringbuf_submit", ringbuf_submit},
    {"bpf_ringbuf_discard", ringbuf_discard},
    {"bpf_ringbuf_query", ringbuf_query},
};

} // namespace

std::span<const HelperSymbol> map_helpers() { return symbols; }

} // namespace ujit
