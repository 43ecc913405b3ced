// Arrays: elements lie one behind the other, array_stride() bytes apart; per-CPU arrays have one such block
// for each CPU. Code of ours indexes them directly (InstanceSlot::values), so this layout is an interface.
#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"
#include "translator/instance.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {
namespace {

class ArrayMap final : public MapObject {
public:
  ArrayMap(const Map &shape, MapId id, const MapOptions &options)
      : MapObject(shape, id, options), stride_(array_stride(shape.value_size)),
        copies_(shape.type == MapType::percpu_array ? options.cpus : 1),
        block_((stride_ * shape.max_entries + 63) & ~uint64_t(63)), memory_(block_ * copies_) {}

  bool ok() const { return memory_.ok(); }

  void *lookup(const void *key) override {
    return element(index_of(key), is_percpu() ? this_cpu_index() : 0);
  }

  void *lookup_percpu(const void *key, uint32_t cpu) override {
    return is_percpu() && cpu < copies_ ? element(index_of(key), cpu) : nullptr;
  }

  long update(const void *key, const void *value, uint64_t flags) override {
    if (long refused = check_update(index_of(key), flags))
      return refused;
    memcpy(lookup(key), value, shape_.value_size);
    return 0;
  }

  long erase(const void *) override { return -EINVAL; }

  long for_each(llvm::function_ref<long(const void *, void *)> visit) override {
    for (uint32_t i = 0; i < shape_.max_entries; i++)
      if (visit(&i, lookup(&i)))
        return i + 1;
    return shape_.max_entries;
  }

  bool is_percpu() const override { return shape_.type == MapType::percpu_array; }

  long control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                      uint64_t flags) override {
    uint32_t i = index_of(key.data());
    if (long refused = check_update(i, flags))
      return refused;
    for (uint32_t cpu = 0; cpu < copies_; cpu++)
      memcpy(element(i, cpu), values[values.size() == 1 ? 0 : cpu].data(), shape_.value_size);
    return 0;
  }

  MapContents contents() const override {
    MapContents out;
    for (uint32_t i = 0; i < shape_.max_entries; i++) {
      MapEntry entry;
      bool all_zero = true;
      for (uint32_t cpu = 0; cpu < copies_; cpu++) {
        const uint8_t *at = element(i, cpu);
        all_zero = all_zero && std::all_of(at, at + shape_.value_size, [](uint8_t b) { return b == 0; });
        entry.values.emplace_back(at, at + shape_.value_size);
      }
      if (all_zero)
        continue;
      entry.key.resize(4);
      memcpy(entry.key.data(), &i, 4);
      out.push_back(std::move(entry));
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  void *values(uint32_t cpu) override { return memory_.data() + block_ * (is_percpu() ? cpu : 0); }

private:
  static uint32_t index_of(const void *key) {
    uint32_t i;
    memcpy(&i, key, 4);
    return i;
  }

  uint8_t *element(uint32_t i, uint32_t cpu) const {
    return i < shape_.max_entries ? memory_.data() + block_ * cpu + stride_ * i : nullptr;
  }

  long check_update(uint32_t i, uint64_t flags) const {
    if ((flags & ~uint64_t(BPF_F_LOCK)) > BPF_EXIST)
      return -EINVAL;
    if (i >= shape_.max_entries)
      return -E2BIG;
    if (flags & BPF_NOEXIST)
      return -EEXIST;
    return flags & BPF_F_LOCK ? -EINVAL : 0;
  }

  uint64_t stride_;
  uint32_t copies_;
  uint64_t block_; ///< bytes of one CPU's copy, cache lines apart
  LazyMemory memory_;
};

} // namespace

std::unique_ptr<MapObject> make_array_map(const Map &shape, MapId id, const MapOptions &options) {
  auto map = std::make_unique<ArrayMap>(shape, id, options);
  return map->ok() ? std::move(map) : nullptr;
}

} // namespace ujit
