// Maps that bpf_redirect_map goes through: device, CPU and AF_XDP socket maps. Targets are names only (no
// device is behind them), so any interface or CPU number is taken; value 0 empties a slot, as in the kernel.
#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/bpf.h>
#include <mutex>

namespace ujit {
namespace {

/// Longest queue that a cpumap entry may ask for (kernel/bpf/cpumap.c).
constexpr uint32_t max_cpumap_queue = 16384;

/// devmap, cpumap, xskmap: an array of 8-byte values, present if the first word is not 0.
class RedirectArray final : public MapObject {
public:
  RedirectArray(const Map &shape, MapId id, const MapOptions &options)
      : MapObject(shape, id, options), slots_(uint64_t(shape.max_entries) * 8) {}

  bool ok() const { return slots_.ok(); }

  void *lookup(const void *key) override {
    uint32_t i;
    memcpy(&i, key, 4);
    return has_target(i) ? slot(i) : nullptr;
  }

  bool has_target(uint64_t key) override {
    return key < shape_.max_entries && std::atomic_ref(*reinterpret_cast<uint32_t *>(slot(uint32_t(key))))
                                               .load(std::memory_order_acquire) != 0;
  }

  long control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                      uint64_t flags) override {
    uint32_t i, target;
    memcpy(&i, key.data(), 4);
    memcpy(&target, values[0].data(), 4);
    if (flags > BPF_EXIST)
      return -EINVAL;
    if (i >= shape_.max_entries)
      return -E2BIG;
    if (flags == BPF_NOEXIST)
      return -EEXIST;
    if (shape_.type == MapType::cpumap && target > max_cpumap_queue)
      return -EOVERFLOW;
    memset(slot(i), 0, 8);
    if (target != 0)
      memcpy(slot(i), values[0].data(), shape_.value_size);
    return 0;
  }

  long control_erase(std::span<const uint8_t> key) override {
    uint32_t i;
    memcpy(&i, key.data(), 4);
    if (i >= shape_.max_entries)
      return -EINVAL;
    memset(slot(i), 0, 8);
    return 0;
  }

  MapContents contents() const override {
    MapContents out;
    for (uint32_t i = 0; i < shape_.max_entries; i++) {
      uint32_t target;
      memcpy(&target, slot(i), 4);
      if (target == 0)
        continue;
      MapEntry entry;
      entry.key.resize(4);
      memcpy(entry.key.data(), &i, 4);
      entry.values.emplace_back(slot(i), slot(i) + shape_.value_size);
      out.push_back(std::move(entry));
    }
    std::sort(out.begin(), out.end());
    return out;
  }

private:
  uint8_t *slot(uint32_t i) const { return slots_.data() + uint64_t(i) * 8; }
  LazyMemory slots_;
};

/// devmap_hash: the same over a hash of interface indices.
class RedirectHash final : public MapObject {
public:
  using MapObject::MapObject;
  bool allocate() {
    Map shape = shape_;
    shape.type = MapType::hash;
    table_ = make_hash_map(shape, id_, options_);
    return table_ != nullptr;
  }

  void *lookup(const void *key) override { return table_->lookup(key); }

  bool has_target(uint64_t key) override {
    uint32_t i = uint32_t(key);
    return table_->lookup(&i) != nullptr;
  }

  long control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                      uint64_t flags) override {
    uint32_t target;
    memcpy(&target, values[0].data(), 4);
    if (flags > BPF_EXIST || target == 0)
      return -EINVAL;
    return table_->update(key.data(), values[0].data(), flags == BPF_NOEXIST ? BPF_NOEXIST : BPF_ANY);
  }

  long control_erase(std::span<const uint8_t> key) override { return table_->erase(key.data()); }
  MapContents contents() const override { return table_->contents(); }

private:
  std::unique_ptr<MapObject> table_;
};

} // namespace

std::unique_ptr<MapObject> make_redirect_map(const Map &shape, MapId id, const MapOptions &options) {
  if (shape.type == MapType::devmap_hash) {
    auto map = std::make_unique<RedirectHash>(shape, id, options);
    return map->allocate() ? std::move(map) : nullptr;
  }
  auto map = std::make_unique<RedirectArray>(shape, id, options);
  return map->ok() ? std::move(map) : nullptr;
}

} // namespace ujit
