#include "kernel-iface/embedded/map.h"
#include "kernel-iface/embedded/memory.h"

#include "llvm/Support/FormatVariadic.h"

#include <bit>
#include <cerrno>
#include <linux/bpf.h>

namespace ujit {

static Map without_contents(Map m) {
  m.contents.clear();
  m.bound.clear();
  return m;
}

MapObject::MapObject(const Map &shape, MapId id, const MapOptions &options)
    : shape_(without_contents(shape)), id_(id), options_(options) {}

long MapObject::update(const void *, const void *, uint64_t) { return -kernel_enotsupp; }
long MapObject::erase(const void *) { return -kernel_enotsupp; }
void *MapObject::lookup_percpu(const void *, uint32_t) { return nullptr; }
bool MapObject::has_target(uint64_t) { return false; }
long MapObject::for_each(llvm::function_ref<long(const void *, void *)>) { return -EINVAL; }

long MapObject::control_update(std::span<const uint8_t> key, std::span<const std::vector<uint8_t>> values,
                               uint64_t flags) {
  return update(key.data(), values[0].data(), flags);
}

/// What the kernel's map_alloc_check() of each family demands; an empty string if `m` is fine.
static std::string check_shape(const Map &m) {
  using llvm::formatv;
  constexpr uint32_t largest = 1u << 30, largest_element = 4u << 20, largest_percpu = 32u << 10,
                     most_hashed = 1u << 28;
  bool is_percpu =
      m.type == MapType::percpu_array || m.type == MapType::percpu_hash || m.type == MapType::lru_percpu_hash;
  bool is_hash = m.type == MapType::hash || m.type == MapType::percpu_hash || m.type == MapType::lru_hash ||
                 m.type == MapType::lru_percpu_hash || m.type == MapType::hash_of_maps ||
                 m.type == MapType::devmap_hash;
  bool is_array = m.type == MapType::array || m.type == MapType::percpu_array ||
                  m.type == MapType::prog_array || m.type == MapType::array_of_maps ||
                  m.type == MapType::perf_event_array || m.type == MapType::devmap ||
                  m.type == MapType::cpumap || m.type == MapType::xskmap;
  if (m.key_size > 4096 || m.value_size > largest)
    return formatv("key of {0} or value of {1} bytes is too long", m.key_size, m.value_size);
  if ((is_percpu && m.value_size > largest_percpu) ||
      ((is_hash || m.type == MapType::lpm_trie) && m.value_size > largest_element))
    return formatv("value of {0} bytes is too long for a {1}", m.value_size, name_of(m.type));
  if ((is_hash || m.type == MapType::lpm_trie) && m.max_entries > most_hashed)
    return formatv("{0} entries are too many for a {1}", m.max_entries, name_of(m.type));
  if (m.type == MapType::ringbuf) {
    if (m.key_size || m.value_size)
      return "a ring buffer has neither keys nor values";
    if (m.max_entries < 4096 || !std::has_single_bit(m.max_entries))
      return formatv("ring of {0} bytes: must be a power of two and a multiple of the page size",
                     m.max_entries);
    return {};
  }
  if (m.max_entries == 0 && m.type != MapType::perf_event_array)
    return "max_entries is 0";
  if ((is_array || m.type == MapType::devmap_hash) && m.key_size != 4)
    return formatv("key of {0} bytes: must be 4 in a {1}", m.key_size, name_of(m.type));
  bool holds_ids = m.type == MapType::prog_array || m.type == MapType::array_of_maps ||
                   m.type == MapType::hash_of_maps || m.type == MapType::perf_event_array ||
                   m.type == MapType::xskmap;
  if (holds_ids && m.value_size != 4)
    return formatv("value of {0} bytes: must be 4 in a {1}", m.value_size, name_of(m.type));
  bool holds_targets =
      m.type == MapType::devmap || m.type == MapType::devmap_hash || m.type == MapType::cpumap;
  if (holds_targets && m.value_size != 4 && m.value_size != 8)
    return formatv("value of {0} bytes: must be 4 or 8 in a {1}", m.value_size, name_of(m.type));
  if (m.type == MapType::lpm_trie && (m.key_size < 5 || m.key_size > 4 + 256))
    return formatv("key of {0} bytes: must be 5 to 260 in an lpm_trie", m.key_size);
  if (m.type == MapType::lpm_trie && !(m.flags & BPF_F_NO_PREALLOC))
    return "an lpm_trie needs BPF_F_NO_PREALLOC";
  if (m.key_size == 0)
    return "key of 0 bytes";
  if (m.value_size == 0)
    return "value of 0 bytes";
  return {};
}

Expected<std::unique_ptr<MapObject>> create_map(const Map &shape, MapId id, const MapOptions &options) {
  using Make = std::unique_ptr<MapObject> (*)(const Map &, MapId, const MapOptions &);
  Make make = nullptr;
  switch (shape.type) {
  case MapType::array:
  case MapType::percpu_array: make = make_array_map; break;
  case MapType::hash:
  case MapType::lru_hash:
  case MapType::percpu_hash:
  case MapType::lru_percpu_hash: make = make_hash_map; break;
  case MapType::lpm_trie: make = make_lpm_trie; break;
  case MapType::prog_array: make = make_prog_array; break;
  case MapType::array_of_maps:
  case MapType::hash_of_maps: make = make_map_of_maps; break;
  case MapType::devmap:
  case MapType::devmap_hash:
  case MapType::cpumap:
  case MapType::xskmap: make = make_redirect_map; break;
  case MapType::perf_event_array: make = make_perf_event_array; break;
  case MapType::ringbuf: make = make_ring_buffer; break;
  default:
    return unsupported(llvm::formatv("map {0}: type {1} is not supported in the embedded kernel", shape.name,
                                     name_of(shape.type)))
        .error();
  }
  if (std::string why = check_shape(shape); !why.empty())
    return input_error("map " + shape.name + ": " + why).error();
  std::unique_ptr<MapObject> map = make(shape, id, options);
  if (!map)
    return input_error(llvm::formatv("map {0}: no memory for {1} entries with values of {2} bytes",
                                     shape.name, shape.max_entries, shape.value_size))
        .error();
  return map;
}

} // namespace ujit
