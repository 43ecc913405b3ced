#include "kernel-iface/linux/events.h"

#include "kernel-iface/linux/maps.h"

#include <bpf/libbpf.h>

#include <cerrno>
#include <utility>

namespace ujit {
namespace {

constexpr size_t perf_ring_pages = 64; ///< a CPU; a power of 2

class RingbufReader final : public EventReader {
public:
  explicit RingbufReader(int fd) : ring_(ring_buffer__new(fd, &take, this, nullptr), ring_buffer__free) {}
  bool ok() const { return ring_ != nullptr; }

  Expected<EventSamples> drain() override {
    if (int result = ring_buffer__consume(ring_.get()); result < 0)
      return bpf_error(-result, "reading a ring buffer").error();
    return std::exchange(samples_, {});
  }

private:
  static int take(void *self, void *data, size_t size) {
    auto *bytes = static_cast<const uint8_t *>(data);
    static_cast<RingbufReader *>(self)->samples_.samples.emplace_back(bytes, bytes + size);
    return 0;
  }

  EventSamples samples_;
  std::unique_ptr<ring_buffer, decltype(&ring_buffer__free)> ring_;
};

class PerfReader final : public EventReader {
public:
  explicit PerfReader(int fd)
      : rings_(perf_buffer__new(fd, perf_ring_pages, &take, &lose, this, nullptr), perf_buffer__free) {}
  bool ok() const { return rings_ != nullptr; }

  Expected<EventSamples> drain() override {
    for (size_t i = 0; i < perf_buffer__buffer_cnt(rings_.get()); i++)
      if (int result = perf_buffer__consume_buffer(rings_.get(), i); result < 0)
        return bpf_error(-result, "reading a perf ring").error();
    return std::exchange(samples_, {});
  }

private:
  static void take(void *self, int cpu, void *data, uint32_t size) {
    auto *bytes = static_cast<const uint8_t *>(data);
    static_cast<PerfReader *>(self)->samples_.samples.emplace_back(bytes, bytes + size);
  }
  static void lose(void *self, int cpu, unsigned long long count) {
    static_cast<PerfReader *>(self)->samples_.lost += count;
  }

  EventSamples samples_;
  std::unique_ptr<perf_buffer, decltype(&perf_buffer__free)> rings_;
};

template <typename Reader>
Expected<std::unique_ptr<EventReader>> open(const Map &map, int fd) {
  auto reader = std::make_unique<Reader>(fd);
  if (!reader->ok())
    return bpf_error(errno, "cannot read events of map '" + map.name + "'").error();
  return reader;
}

} // namespace

Expected<std::unique_ptr<EventReader>> open_events(const Map &map, int fd) {
  if (map.type == MapType::ringbuf)
    return open<RingbufReader>(map, fd);
  return open<PerfReader>(map, fd);
}

} // namespace ujit
