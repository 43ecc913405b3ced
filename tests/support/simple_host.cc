#include "tests/support/simple_host.h"

#include "translator/context.h"
#include "translator/helper.h"
#include "translator/instance.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {
namespace {


constexpr uint32_t helper_ktime_get_ns = 5, helper_get_smp_processor_id = 8;

uint64_t address_of(const void *p) { return reinterpret_cast<uint64_t>(p); }

std::vector<uint8_t> index_key(uint32_t slot) {
  std::vector<uint8_t> key(4);
  std::memcpy(key.data(), &slot, 4);
  return key;
}

} // namespace

bool SimpleHost::is_array(const Map &shape) {
  return shape.type == MapType::array || shape.type == MapType::percpu_array;
}

SimpleHost::SimpleHost(const Pipeline &pipeline, std::span<const MapSeed> seeds) : pipeline_(pipeline) {
  for (const Map &shape : pipeline.maps) {
    auto &map = *maps_.emplace_back(std::make_unique<HostMap>(HostMap{&shape, {}, {}}));
    if (is_array(shape))
      for (uint32_t i = 0; i < shape.max_entries; i++)
        map.values[index_key(i)].reset(new uint8_t[array_stride(shape.value_size)]());
    if (shape.is_data() && !map.values.empty()) {
      uint8_t *value = map.values.begin()->second.get();
      std::copy_n(shape.contents.begin(), std::min<size_t>(shape.contents.size(), shape.value_size), value);
      for (const BoundConstant &bound : shape.bound)
        if (bound.size <= 8 && uint64_t(bound.offset) + bound.size <= shape.value_size)
          std::memcpy(value + bound.offset, &bound.value, bound.size);
    }
  }
  for (const MapSeed &seed : seeds)
    if (auto id = pipeline.find_map(seed.map))
      for (const MapEntry &entry : seed.entries) {
        HostMap &map = *maps_[index(*id)];
        Bytes key = entry.key, value = entry.values.empty() ? Bytes() : entry.values[0];
        key.resize(map.shape->key_size);
        value.resize(map.shape->value_size);
        update(map, key, value.data(), 0);
      }
}

SimpleHost::~SimpleHost() = default;

SimpleHost::HostMap *SimpleHost::find(uint64_t address) {
  auto map = std::ranges::find_if(maps_, [&](auto &m) { return address_of(m.get()) == address; });
  return map == maps_.end() ? nullptr : map->get();
}

SimpleHost::Bytes SimpleHost::key_at(const HostMap &map, uint64_t address) {
  auto *p = reinterpret_cast<const uint8_t *>(address);
  return Bytes(p, p + map.shape->key_size);
}

int64_t SimpleHost::update(HostMap &map, const Bytes &key, const void *value, uint64_t flags) {
  auto it = map.values.find(key);
  bool exists = it != map.values.end();
  if (is_array(*map.shape)) {
    if ((flags & ~uint64_t(BPF_F_LOCK)) > BPF_EXIST)
      return -EINVAL;
    if (!exists)
      return -E2BIG;
    if (!(flags & BPF_NOEXIST) && flags & BPF_F_LOCK)
      return -EINVAL;
  }
  if (flags & BPF_NOEXIST && exists)
    return -EEXIST;
  if (flags == 2 && !exists)
    return -ENOENT;
  if (!exists) {
    if (map.values.size() >= map.shape->max_entries)
      return -E2BIG;
    it = map.values.emplace(key, new uint8_t[array_stride(map.shape->value_size)]()).first;
  }
  std::memcpy(it->second.get(), value, map.shape->value_size);
  return 0;
}

Expected<uint64_t> SimpleHost::map_address(MapId map) {
  if (index(map) >= maps_.size())
    return input_error(llvm::formatv("map {0} does not exist", index(map))).error();
  return address_of(maps_[index(map)].get());
}

Expected<uint64_t> SimpleHost::map_value_address(MapId map, uint64_t offset) {
  if (index(map) >= maps_.size() || maps_[index(map)]->values.empty() || !is_array(*maps_[index(map)]->shape))
    return input_error(llvm::formatv("map {0} has no value to point to", index(map))).error();
  if (offset >= maps_[index(map)]->shape->value_size)
    return input_error(llvm::formatv("offset {0} is outside of the value", offset)).error();
  return address_of(maps_[index(map)]->values.begin()->second.get()) + offset;
}

Expected<uint64_t> SimpleHost::call_helper(Interpreter &interpreter, uint32_t id,
                                           const std::array<uint64_t, 5> &args) {
  auto map_of = [&]() -> Expected<HostMap *> {
    HostMap *map = find(args[0]);
    if (!map)
      return input_error("r1 is no map").error();
    return map;
  };
  switch (id) {
  case helper_map_lookup_elem: {
    auto map = map_of();
    if (!map)
      return map.takeError();
    auto it = (*map)->values.find(key_at(**map, args[1]));
    return it == (*map)->values.end() ? 0 : address_of(it->second.get());
  }
  case helper_map_update_elem: {
    auto map = map_of();
    if (!map)
      return map.takeError();
    return uint64_t(update(**map, key_at(**map, args[1]), reinterpret_cast<const void *>(args[2]), args[3]));
  }
  case helper_map_delete_elem: {
    auto map = map_of();
    if (!map)
      return map.takeError();
    if (is_array(*(*map)->shape))
      return uint64_t(-EINVAL);
    auto it = (*map)->values.find(key_at(**map, args[1]));
    if (it == (*map)->values.end())
      return uint64_t(-ENOENT);
    (*map)->deleted.push_back(std::move(it->second));
    (*map)->values.erase(it);
    return 0;
  }
  case helper_for_each_map_elem: {
    auto map = map_of();
    if (!map)
      return map.takeError();
    std::vector<Bytes> keys; // callbacks may delete what they visit
    for (auto &[key, value] : (*map)->values)
      keys.push_back(key);
    uint64_t visited = 0;
    for (Bytes &key : keys) {
      auto it = (*map)->values.find(key);
      if (it == (*map)->values.end())
        continue;
      visited++;
      visited_key_ = key;
      auto stop = interpreter.call_back(
          args[1], {args[0], address_of(visited_key_.data()), address_of(it->second.get()), args[2], 0});
      if (!stop)
        return stop;
      if (*stop)
        break;
    }
    return visited;
  }
  case helper_loop: {
    if (args[3])
      return uint64_t(-EINVAL);
    if (args[0] > 8u << 20)
      return uint64_t(-E2BIG);
    for (uint64_t i = 0; i < uint32_t(args[0]); i++) {
      auto stop = interpreter.call_back(args[1], {i, args[2], 0, 0, 0});
      if (!stop)
        return stop;
      if (*stop)
        return i + 1;
    }
    return uint32_t(args[0]);
  }
  case helper_ktime_get_ns:
  case helper_get_smp_processor_id: return 0;
  default: return unsupported(llvm::formatv("helper {0} is not supported here", id)).error();
  }
}

const Program *SimpleHost::tail_call_target(uint64_t address, uint32_t slot) {
  HostMap *map = find(address);
  if (!map || slot >= map->shape->max_entries)
    return nullptr;
  for (auto [number, program] : map->shape->prog_slots)
    if (number == slot)
      return &pipeline_[program];
  return nullptr;
}

std::optional<uint64_t> SimpleHost::load_packet(uint64_t, int32_t offset, unsigned bits) {
  if (offset < 0 || uint64_t(offset) + bits / 8 > memory_.size())
    return std::nullopt;
  uint64_t value = 0;
  for (unsigned i = 0; i < bits / 8; i++)
    value = value << 8 | memory_[size_t(offset) + i];
  return value;
}

bool SimpleHost::may_access(uint64_t address, uint32_t size, bool write) {
  auto inside = [&](const void *start, uint64_t bytes) {
    return address >= address_of(start) && size <= bytes && address - address_of(start) <= bytes - size;
  };
  if (inside(memory_.data(), memory_.size()) || inside(visited_key_.data(), visited_key_.size()))
    return true;
  for (auto &map : maps_) {
    if (write && map->shape->frozen)
      continue;
    for (auto &[key, value] : map->values)
      if (inside(value.get(), map->shape->value_size))
        return true;
    for (auto &value : map->deleted)
      if (inside(value.get(), map->shape->value_size))
        return true;
  }
  return false;
}

MapSeed SimpleHost::contents(MapId id) const {
  const HostMap &map = *maps_[index(id)];
  MapSeed seed{map.shape->name, {}};
  for (auto &[key, value] : map.values)
    seed.entries.push_back({key, {Bytes(value.get(), value.get() + map.shape->value_size)}});
  return seed;
}

namespace {

/// A packet's context, for the types that have one.
struct PacketContext {
  XdpContext xdp;
  SkbContext skb;

  /// Address and size of the struct for a program type.
  std::pair<uint64_t, uint32_t> set(ProgType type, std::span<uint8_t> packet) {
    uint8_t *end = packet.data() + packet.size();
    if (type == ProgType::xdp) {
      xdp = {};
      xdp.packet = xdp.packet_meta = packet.data();
      xdp.packet_end = end;
      return {address_of(&xdp), sizeof(xdp)};
    }
    skb = {};
    uint32_t length = uint32_t(packet.size());
    std::memcpy(skb.uapi, &length, 4);
    skb.packet = skb.packet_meta = packet.data();
    skb.packet_end = end;
    return {address_of(&skb), sizeof(skb)};
  }
};

} // namespace

Expected<CaseRun> run_interpreted(const Case &c, InterpreterOptions options) {
  if (Error e = check_case(c))
    return e;
  const Program &entry = c.pipeline[c.pipeline.entries[0]];
  SimpleHost host(c.pipeline, c.seeds);
  CaseRun run;
  for (const CaseInput &input : c.inputs) {
    std::vector<uint8_t> bytes = input.bytes;
    host.set_memory(bytes);
    PacketContext context;
    uint64_t r1 = bytes.empty() ? 0 : address_of(bytes.data()), r2 = bytes.size();
    if (c.packets) {
      std::tie(r1, options.context_size) = context.set(entry.type, bytes);
      r2 = 0;
    }
    Interpreter interpreter(host, options);
    auto result = interpreter.run(entry, r1, r2);
    if (!result)
      return result.takeError();
    run.results.push_back(*result);
    run.outs.push_back(std::move(bytes));
  }
  for (const MapSeed &wanted : c.maps_out)
    run.maps.push_back(host.contents(*c.pipeline.find_map(wanted.map)));
  return run;
}

} // namespace ujit
