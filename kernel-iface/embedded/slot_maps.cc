#include "kernel-iface/embedded/slot_maps.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {

bool ProgArrayMap::allocate() {
  memory_ = LazyMemory(uint64_t(shape_.max_entries) * sizeof(ProgramObject *));
  return memory_.ok();
}

long ProgArrayMap::set(uint32_t slot, const ProgramObject *program) {
  if (slot >= shape_.max_entries)
    return -E2BIG;
  std::atomic_ref(slots()[slot]).store(program, std::memory_order_release);
  return 0;
}

const ProgramObject *ProgArrayMap::get(uint32_t slot) const {
  return slot < shape_.max_entries ? std::atomic_ref(slots()[slot]).load(std::memory_order_acquire) : nullptr;
}

long MapOfMaps::control_update(std::span<const uint8_t>, std::span<const std::vector<uint8_t>>, uint64_t) {
  return -EINVAL;
}

namespace {

class ArrayOfMaps final : public MapOfMaps {
public:
  using MapOfMaps::MapOfMaps;
  bool allocate() {
    memory_ = LazyMemory(uint64_t(shape_.max_entries) * sizeof(MapObject *));
    return memory_.ok();
  }

  void *lookup(const void *key) override {
    uint32_t i;
    memcpy(&i, key, 4);
    return i < shape_.max_entries ? std::atomic_ref(slots()[i]).load(std::memory_order_acquire) : nullptr;
  }

  long set_inner(std::span<const uint8_t> key, MapObject *inner) override {
    uint32_t i;
    memcpy(&i, key.data(), 4);
    if (i >= shape_.max_entries)
      return -E2BIG;
    std::atomic_ref(slots()[i]).store(inner, std::memory_order_release);
    return 0;
  }

  std::vector<std::pair<std::vector<uint8_t>, MapObject *>> inner_maps() const override {
    std::vector<std::pair<std::vector<uint8_t>, MapObject *>> out;
    for (uint32_t i = 0; i < shape_.max_entries; i++)
      if (MapObject *inner = slots()[i]) {
        std::vector<uint8_t> key(4);
        memcpy(key.data(), &i, 4);
        out.emplace_back(std::move(key), inner);
      }
    std::sort(out.begin(), out.end());
    return out;
  }

private:
  MapObject **slots() const { return reinterpret_cast<MapObject **>(memory_.data()); }
  LazyMemory memory_;
};

/// A hash whose values are pointers to the inner maps.
class HashOfMaps final : public MapOfMaps {
public:
  using MapOfMaps::MapOfMaps;
  bool allocate() {
    Map shape = shape_;
    shape.type = MapType::hash;
    shape.value_size = sizeof(MapObject *);
    table_ = make_hash_map(shape, id_, options_);
    return table_ != nullptr;
  }

  void *lookup(const void *key) override {
    void *value = table_->lookup(key);
    return value ? *static_cast<MapObject **>(value) : nullptr;
  }

  long set_inner(std::span<const uint8_t> key, MapObject *inner) override {
    return inner ? table_->update(key.data(), &inner, BPF_ANY) : table_->erase(key.data());
  }

  std::vector<std::pair<std::vector<uint8_t>, MapObject *>> inner_maps() const override {
    std::vector<std::pair<std::vector<uint8_t>, MapObject *>> out;
    for (MapEntry &entry : table_->contents()) {
      MapObject *inner;
      memcpy(&inner, entry.values[0].data(), sizeof inner);
      out.emplace_back(std::move(entry.key), inner);
    }
    return out;
  }

private:
  std::unique_ptr<MapObject> table_;
};

template <class T>
std::unique_ptr<MapObject> make(const Map &shape, MapId id, const MapOptions &options) {
  auto map = std::make_unique<T>(shape, id, options);
  return map->allocate() ? std::move(map) : nullptr;
}

} // namespace

std::unique_ptr<MapObject> make_prog_array(const Map &shape, MapId id, const MapOptions &options) {
  return make<ProgArrayMap>(shape, id, options);
}

std::unique_ptr<MapObject> make_map_of_maps(const Map &shape, MapId id, const MapOptions &options) {
  return shape.type == MapType::array_of_maps ? make<ArrayOfMaps>(shape, id, options)
                                              : make<HashOfMaps>(shape, id, options);
}

} // namespace ujit
