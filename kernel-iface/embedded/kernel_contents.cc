// The kernel's maps as values: seeding and snapshots.
#include "kernel-iface/embedded/kernel.h"
#include "kernel-iface/embedded/slot_maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <cstring>
#include <linux/bpf.h>

namespace ujit {

using llvm::formatv;

Error Kernel::seed_map(MapObject &map, const MapSeed &seed) {
  auto refuse = [&](const MapEntry &entry, std::string why) {
    return input_error(formatv("map {0}: key {1}: {2}", seed.map, to_hex(entry.key), why)).error();
  };
  if (!map.has_contents() && !seed.entries.empty())
    return input_error(formatv("map {0}: a {1} cannot be given entries", seed.map, name_of(map.shape().type)))
        .error();
  for (const MapEntry &entry : seed.entries) {
    if (entry.key.size() != map.shape().key_size)
      return refuse(entry,
                    formatv("{0} bytes, the map's keys have {1}", entry.key.size(), map.shape().key_size));
    size_t values = entry.values.size();
    if (values != 1 && !(map.is_percpu() && values == options_.cpus))
      return refuse(entry,
                    formatv("{0} values where the map has {1}", values, map.is_percpu() ? options_.cpus : 1));
    for (const std::vector<uint8_t> &value : entry.values)
      if (value.size() != map.control_value_size())
        return refuse(entry, formatv("value of {0} bytes, the map's values have {1}", value.size(),
                                     map.control_value_size()));
    if (long refused = map.control_update(entry.key, entry.values, BPF_ANY))
      return refuse(entry, formatv("refused: {0}", strerror(int(-refused))));
  }
  return Error::success();
}

/// The map called `name`; `outer[key]` is the inner map there, which is made if there is none.
Expected<MapObject *> Kernel::find_or_make(const std::string &name) {
  if (std::optional<MapId> id = pipeline_.find_map(name); id && map(*id))
    return map(*id);
  size_t bracket = name.find('[');
  std::optional<MapId> outer_id = pipeline_.find_map(name.substr(0, bracket));
  auto *outer = outer_id ? dynamic_cast<MapOfMaps *>(map(*outer_id)) : nullptr;
  if (bracket == std::string::npos || name.back() != ']' || !outer)
    return input_error(formatv("there is no map called {0}", name)).error();
  std::optional<std::vector<uint8_t>> key =
      from_hex(std::string_view(name).substr(bracket + 1, name.size() - bracket - 2));
  if (!key || key->size() != outer->shape().key_size)
    return input_error(
               formatv("map {0}: the key in brackets is not {1} bytes in hex", name, outer->shape().key_size))
        .error();
  if (void *inner = outer->lookup(key->data()))
    return static_cast<MapObject *>(inner);
  if (!outer->shape().inner)
    return input_error(
               formatv("map {0}: nothing says what inner maps of {1} look like", name, outer->shape().name))
        .error();
  MapId shape_id = *outer->shape().inner;
  Map shape = pipeline_[shape_id];
  shape.name = name;
  auto made = create_map(shape, shape_id, map_options());
  if (!made)
    return made.takeError();
  inner_.push_back(std::move(*made));
  if (Error e = set_inner_map(*outer_id, *key, inner_.back().get()))
    return e;
  return inner_.back().get();
}

Error Kernel::seed(std::span<const MapSeed> seeds) {
  for (const MapSeed &seed : seeds) {
    Expected<MapObject *> map = find_or_make(seed.map);
    if (!map)
      return map.takeError();
    if (Error e = seed_map(**map, seed))
      return e;
  }
  return Error::success();
}

std::vector<MapSeed> Kernel::snapshot() const {
  std::vector<MapSeed> out;
  std::vector<MapSeed> unnamed;
  for (uint32_t i = 0; i < maps_.size(); i++) {
    if (!maps_[i])
      continue;
    if (auto *outer = dynamic_cast<MapOfMaps *>(maps_[i].get())) {
      for (auto &[key, inner] : outer->inner_maps())
        if (inner->has_contents() &&
            (index(inner->id()) >= maps_.size() || maps_[index(inner->id())].get() != inner))
          unnamed.push_back({pipeline_.maps[i].name + "[" + to_hex(key) + "]", inner->contents()});
    } else if (maps_[i]->has_contents()) {
      out.push_back({pipeline_.maps[i].name, maps_[i]->contents()});
    }
  }
  for (MapSeed &seed : unnamed)
    out.push_back(std::move(seed));
  return out;
}

} // namespace ujit
