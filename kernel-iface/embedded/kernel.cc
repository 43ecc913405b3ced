#include "kernel-iface/embedded/kernel.h"
#include "kernel-iface/embedded/event_maps.h"
#include "kernel-iface/embedded/slot_maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <linux/bpf.h>

namespace ujit {

using llvm::formatv;

constinit thread_local Cpu *current_cpu = nullptr;

uint32_t this_cpu_index() { return current_cpu ? current_cpu->index : 0; }

/// xorshift64*: the upper half of the product.
uint32_t Cpu::random() {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return uint32_t(random_state * 0x2545f4914f6cdd1dull >> 32);
}

Kernel::Kernel(const Pipeline &pipeline, KernelOptions options)
    : pipeline_(pipeline), options_(std::move(options)), programs_(pipeline.programs.size()) {
  for (uint32_t id = 0; id < programs_.size(); id++)
    programs_[id].id = id;
  for (uint32_t i = 0; i < options_.cpus; i++) {
    auto cpu = std::make_unique<Cpu>();
    cpu->index = i;
    cpu->kernel = this;
    cpu->time_ns = options_.start_time_ns;
    cpu->random_state = (options_.random_seed + i) * 0x9e3779b97f4a7c15ull | 1;
    cpus_.push_back(std::move(cpu));
  }
}

Kernel::~Kernel() = default;

Expected<std::unique_ptr<Kernel>> Kernel::create(const Pipeline &pipeline, KernelOptions options) {
  if (options.cpus == 0)
    return input_error("a kernel needs at least one CPU").error();
  std::unique_ptr<Kernel> kernel(new Kernel(pipeline, std::move(options)));
  if (Error e = kernel->create_maps())
    return e;
  if (Error e = kernel->fill_maps())
    return e;
  return kernel;
}

MapOptions Kernel::map_options() const {
  return {.cpus = options_.cpus, .hash_seed = options_.hash_seed, .perf_readers = options_.perf_readers};
}

Error Kernel::create_maps() {
  maps_.resize(pipeline_.maps.size());
  for (uint32_t i = 0; i < maps_.size(); i++) {
    const Map &shape = pipeline_.maps[i];
    if (shape.is_template)
      continue;
    auto map = create_map(shape, MapId(i), map_options());
    if (!map)
      return map.takeError();
    maps_[i] = std::move(*map);
    if (shape.type == MapType::ringbuf)
      rings_.push_back(MapId(i));
  }
  return Error::success();
}

/// Data maps: the contents of the object with the instance's constants over them.
static std::vector<uint8_t> bound_contents(const Map &map) {
  std::vector<uint8_t> out = map.contents;
  for (const BoundConstant &c : map.bound)
    if (c.size <= 8 && uint64_t(c.offset) + c.size <= out.size())
      memcpy(out.data() + c.offset, &c.value, c.size);
  return out;
}

Error Kernel::fill_maps() {
  for (uint32_t i = 0; i < maps_.size(); i++) {
    const Map &shape = pipeline_.maps[i];
    if (!maps_[i])
      continue;
    if (shape.is_data()) {
      if (shape.contents.size() != shape.value_size)
        return input_error(formatv("map {0}: contents of {1} bytes for a value of {2}", shape.name,
                                   shape.contents.size(), shape.value_size))
            .error();
      std::vector<uint8_t> contents = bound_contents(shape), key(shape.key_size);
      if (long refused = maps_[i]->control_update(key, {&contents, 1}, BPF_ANY))
        return input_error(formatv("map {0}: contents refused: {1}", shape.name, strerror(int(-refused))))
            .error();
    }
    for (auto [slot, program] : shape.prog_slots)
      if (Error e = set_program(MapId(i), slot, program))
        return e;
    for (auto [slot, inner] : shape.inner_slots) {
      if (index(inner) >= maps_.size() || !maps_[index(inner)])
        return input_error(formatv("map {0}: slot {1} holds a map that is never created", shape.name, slot))
            .error();
      std::vector<uint8_t> key(shape.key_size);
      memcpy(key.data(), &slot, std::min<size_t>(key.size(), sizeof slot));
      if (Error e = set_inner_map(MapId(i), key, maps_[index(inner)].get()))
        return e;
    }
  }
  return Error::success();
}

Error Kernel::set_program(MapId prog_array, uint32_t slot, std::optional<ProgId> program) {
  auto *array = dynamic_cast<ProgArrayMap *>(map(prog_array));
  const std::string &name = pipeline_[prog_array].name;
  if (!array)
    return input_error(formatv("map {0} is not a prog array", name)).error();
  if (program && index(*program) >= programs_.size())
    return input_error(formatv("map {0}: slot {1} names no program", name, slot)).error();
  if (array->set(slot, program ? &programs_[index(*program)] : nullptr))
    return input_error(formatv("map {0}: slot {1} is out of range: it has {2}", name, slot,
                               array->shape().max_entries))
        .error();
  return Error::success();
}

Error Kernel::set_inner_map(MapId outer, std::span<const uint8_t> key, MapObject *inner) {
  auto *map_of_maps = dynamic_cast<MapOfMaps *>(map(outer));
  const std::string &name = pipeline_[outer].name;
  if (!map_of_maps)
    return input_error(formatv("map {0} is not a map of maps", name)).error();
  if (key.size() != map_of_maps->shape().key_size)
    return input_error(
               formatv("map {0}: key of {1} bytes, not {2}", name, key.size(), map_of_maps->shape().key_size))
        .error();
  if (long refused = map_of_maps->set_inner(key, inner))
    return input_error(formatv("map {0}: inner map for key {1} refused: {2}", name, to_hex(key),
                               strerror(int(-refused))))
        .error();
  return Error::success();
}

std::vector<uint64_t> Kernel::instance_table(const InstanceLayout &layout, uint32_t cpu) const {
  std::vector<uint64_t> table;
  table.reserve(layout.slots().size());
  auto address = [](const void *p) { return reinterpret_cast<uint64_t>(p); };
  for (const InstanceSlot &slot : layout.slots()) {
    switch (slot.kind) {
    case InstanceSlot::map: table.push_back(address(maps_[slot.id].get())); break;
    case InstanceSlot::values: table.push_back(address(maps_[slot.id]->values(cpu))); break;
    case InstanceSlot::constant: table.push_back(pipeline_.maps[slot.id].bound[slot.sub].value); break;
    case InstanceSlot::program: table.push_back(address(&programs_[slot.id])); break;
    case InstanceSlot::cpu: table.push_back(cpu); break;
    case InstanceSlot::table: table.push_back(0); break; // HashLayout is known here
    }
  }
  return table;
}

uint32_t Kernel::mtu_of(uint32_t ifindex) const {
  auto it = options_.mtu.find(ifindex);
  return it != options_.mtu.end() ? it->second : ifindex == 1 ? 65536 : 1500;
}

void Kernel::begin(Cpu &cpu, const uint64_t *instance, ProgType type, std::span<const uint8_t> packet) {
  current_cpu = &cpu;
  cpu.instance = instance;
  cpu.time_ns += options_.packet_time_ns;
  cpu.redirect.kind = Redirect::none;
  cpu.packet.reset(type, packet);
}

void Kernel::drain_rings(Cpu &cpu) {
  for (MapId id : rings_)
    static_cast<RingBuffer *>(map(id))->consume([&](std::span<const uint8_t> sample) {
      if (cpu.record)
        cpu.events.push_back({.map = id, .data = {sample.begin(), sample.end()}});
    });
}

/// XDP_REDIRECT and TC_ACT_REDIRECT.
static bool is_redirect(ProgType type, uint32_t verdict) {
  if (type == ProgType::xdp)
    return verdict == 4;
  return (type == ProgType::sched_cls || type == ProgType::sched_act) && verdict == 7;
}

PacketResult Kernel::finish(Cpu &cpu, uint64_t r0) {
  drain_rings(cpu);
  PacketResult result;
  result.value = uint32_t(r0);
  result.packet = cpu.packet.bytes();
  if (cpu.packet.is_xdp())
    result.metadata.assign(cpu.packet.meta(), cpu.packet.data());
  result.context = cpu.packet.context_bytes();
  if (is_redirect(cpu.type(), result.value))
    result.redirect = cpu.redirect;
  result.events = std::exchange(cpu.events, {});
  result.clones = std::exchange(cpu.clones, {});
  result.printed = std::exchange(cpu.printed, {});
  return result;
}

Expected<PacketResult> Kernel::run_packet(llvm::function_ref<Expected<uint64_t>(void *)> run,
                                          const uint64_t *instance, ProgType type,
                                          std::span<const uint8_t> packet, uint32_t cpu_index) {
  if (std::string why = Packet::check(type, packet.size()); !why.empty())
    return input_error(why).error();
  Cpu &cpu = *cpus_[cpu_index];
  begin(cpu, instance, type, packet);
  Expected<uint64_t> r0 = run(cpu.packet.context());
  current_cpu = nullptr;
  PacketResult result = finish(cpu, r0 ? *r0 : 0);
  if (!r0)
    return r0.takeError();
  return result;
}

Expected<PacketResult> Kernel::run_packet(NativeEntry entry, const uint64_t *instance, ProgType type,
                                          std::span<const uint8_t> packet, uint32_t cpu) {
  return run_packet([&](void *context) -> Expected<uint64_t> { return entry(context, instance); }, instance,
                    type, packet, cpu);
}

Expected<uint64_t> Kernel::run_batch(NativeEntry entry, const uint64_t *instance, ProgType type,
                                     std::span<const std::span<const uint8_t>> packets, uint32_t rounds,
                                     uint32_t cpu_index) {
  for (std::span<const uint8_t> packet : packets)
    if (std::string why = Packet::check(type, packet.size()); !why.empty())
      return input_error(why).error();
  Cpu &cpu = *cpus_[cpu_index];
  cpu.record = false;
  uint64_t sum = 0;
  for (uint32_t round = 0; round < rounds; round++) {
    for (std::span<const uint8_t> packet : packets) {
      begin(cpu, instance, type, packet);
      sum += uint32_t(entry(cpu.packet.context(), instance));
    }
    drain_rings(cpu);
  }
  current_cpu = nullptr;
  cpu.record = true;
  return sum;
}

} // namespace ujit
