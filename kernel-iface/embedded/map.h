// Maps of the embedded kernel. A MapObject is what InstanceSlot::map holds and what helpers take; its
// program side follows the kernel's helpers to the error number, its control side the bpf() system call.
//
// Threads: any number of CPUs may use one map at the same time. Lookups take no lock; the address of a
// value stays valid for the life of the kernel, and stays the value's for the life of the element.
#pragma once

#include "translator/map_contents.h"
#include "translator/program.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <memory>

namespace ujit {

/// ENOTSUPP of the kernel; not in <cerrno>.
constexpr long kernel_enotsupp = 524;

struct MapOptions {
  uint32_t cpus = 1;
  uint32_t hash_seed = 0;
  bool perf_readers = true; ///< perf_event_array slots of existing CPUs have an open event
};

class MapObject {
public:
  MapObject(const Map &shape, MapId id, const MapOptions &options);
  virtual ~MapObject() = default;
  MapObject(const MapObject &) = delete;

  /// Description that the map was made from, without contents.
  const Map &shape() const { return shape_; }
  MapId id() const { return id_; }
  uint32_t cpus() const { return options_.cpus; }

  // The program side. Keys and values have the map's sizes; per-CPU maps work on the current CPU's copy.

  /// Address of the value, or null. Maps in maps give the inner MapObject.
  virtual void *lookup(const void *key) = 0;
  /// 0 or a negative errno; `flags`: BPF_ANY, BPF_NOEXIST, BPF_EXIST.
  virtual long update(const void *key, const void *value, uint64_t flags);
  virtual long erase(const void *key);
  /// Value on another CPU; null for maps that are not per CPU.
  virtual void *lookup_percpu(const void *key, uint32_t cpu);
  /// bpf_redirect_map: whether the slot leads somewhere.
  virtual bool has_target(uint64_t key);
  /// Calls `visit(key, value)` for the elements until it returns nonzero; number of calls, or -EINVAL.
  virtual long for_each(llvm::function_ref<long(const void *key, void *value)> visit);

  // The control side.

  /// Whether contents can be written down and given: not for prog arrays, event and ring buffers.
  virtual bool has_contents() const { return true; }
  virtual bool is_percpu() const { return false; }
  /// Bytes of a value as the control side sees it: of one CPU, without padding.
  virtual uint32_t control_value_size() const { return shape_.value_size; }
  /// Sets an element; `values` has one value for all CPUs, or one for each. 0 or a negative errno.
  virtual long control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                              uint64_t flags);
  virtual long control_erase(std::span<const uint8_t> key) { return erase(key.data()); }
  /// All elements, sorted by key. Elements of arrays that are all zero are left out: they all exist.
  virtual MapContents contents() const = 0;
  /// Address of element 0 (of this CPU), for InstanceSlot::values; null where there is none.
  virtual void *values(uint32_t cpu) { return nullptr; }

protected:
  Map shape_;
  MapId id_;
  MapOptions options_;
};

/// A new empty map, or an error that names it: a type that is not supported, sizes that the kernel refuses,
/// memory that is not to be had.
Expected<std::unique_ptr<MapObject>> create_map(const Map &shape, MapId id, const MapOptions &options);

/// CPU that this thread plays: which copy of a per-CPU value is "this CPU's". 0 outside of runs.
uint32_t this_cpu_index();

// Constructors by family, used by create_map() once sizes are checked. Null: no memory.
std::unique_ptr<MapObject> make_array_map(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_hash_map(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_lpm_trie(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_prog_array(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_map_of_maps(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_redirect_map(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_perf_event_array(const Map &, MapId, const MapOptions &);
std::unique_ptr<MapObject> make_ring_buffer(const Map &, MapId, const MapOptions &);

} // namespace ujit
