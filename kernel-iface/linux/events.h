// Samples that programs send to user space: through a ring buffer map, or through perf rings of which a
// perf_event_array names one for each CPU. libbpf reads both; here is who owns its readers.
#pragma once

#include "kernel-iface/linux/load.h"

#include <memory>

struct perf_buffer;
struct ring_buffer;

namespace ujit {

class EventReader {
public:
  virtual ~EventReader() = default;
  /// Takes all samples that are there now.
  virtual Expected<EventSamples> drain() = 0;
};

/// A reader of `map`, a ringbuf or a perf_event_array; for the latter it also opens the perf rings and
/// puts them into the array.
Expected<std::unique_ptr<EventReader>> open_events(const Map &map, int fd);

} // namespace ujit
