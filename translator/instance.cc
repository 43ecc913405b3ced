#include "translator/instance.h"

#include "translator/kernel.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace ujit {

static auto key(const InstanceSlot &s) { return std::tuple(s.kind, s.id, s.sub); }

bool is_hash_table(const Map &m) {
  return m.type == MapType::hash || m.type == MapType::percpu_hash || m.type == MapType::lru_hash ||
         m.type == MapType::lru_percpu_hash;
}

static bool is_array(const Map &m) {
  return m.type == MapType::array || m.type == MapType::percpu_array || m.type == MapType::prog_array;
}

InstanceLayout::InstanceLayout(const Pipeline &pipeline) {
  const bool search = !pipeline.kernel || pipeline.kernel->layout.search_htab;
  for (uint32_t id = 0; id < pipeline.maps.size(); id++) {
    const Map &m = pipeline.maps[id];
    if (m.is_template)
      continue;
    slots_.push_back({InstanceSlot::map, id});
    if (is_array(m) || (is_hash_table(m) && search))
      slots_.push_back({InstanceSlot::values, id});
    if (is_hash_table(m) && search && pipeline.kernel)
      slots_.push_back({InstanceSlot::table, id});
    for (uint32_t i = 0; i < m.bound.size(); i++)
      slots_.push_back({InstanceSlot::constant, id, i});
  }
  for (uint32_t id = 0; id < pipeline.programs.size(); id++)
    slots_.push_back({InstanceSlot::program, id});
  slots_.push_back({InstanceSlot::cpu});
  std::sort(slots_.begin(), slots_.end(),
            [](const InstanceSlot &a, const InstanceSlot &b) { return key(a) < key(b); });
}

uint32_t InstanceLayout::offset_of(const InstanceSlot &slot) const {
  auto it = std::lower_bound(slots_.begin(), slots_.end(), slot,
                             [](const InstanceSlot &a, const InstanceSlot &b) { return key(a) < key(b); });
  assert(it != slots_.end() && *it == slot && "the pipeline has no such map, constant or program");
  return uint32_t(it - slots_.begin()) * 8;
}

} // namespace ujit
