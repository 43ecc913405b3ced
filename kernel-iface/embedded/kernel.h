// The embedded kernel: gives the programs of a pipeline, in object form, maps, helpers and packets with
// the kernel's semantics, in this process and without privileges.
#pragma once

#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/fib.h"
#include "kernel-iface/embedded/map.h"
#include "translator/instance.h"
#include "translator/map_contents.h"

#include <map>

namespace ujit {

struct KernelOptions {
  uint32_t cpus = 1;
  std::vector<FibRoute> routes;
  std::map<uint32_t, uint32_t> mtu; ///< by interface; the loopback device 1 has 65536, others 1500
  /// Time is part of the input: it starts here and goes on by a step each packet. A step each call can be
  /// added, but then code that drops an unused call sees another time.
  uint64_t start_time_ns = 1'000'000'000'000;
  uint64_t packet_time_ns = 1'000;
  uint64_t call_time_ns = 0;
  uint64_t random_seed = 1;
  uint32_t hash_seed = 0;
  bool perf_readers = true; ///< user space has opened the perf events of all CPUs
};

/// C ABI of a program's native entry: context, instance table; r0.
using NativeEntry = uint64_t (*)(void *context, const uint64_t *instance);

class Kernel {
public:
  /// A kernel with the pipeline's maps in their initial state: data maps with their contents and bound
  /// constants, prog arrays and maps of maps with their initial slots. `pipeline` must outlive it. Each is
  /// independent; a fresh one is the way back to the initial state, and cheap: map memory is touched on use.
  /// Errors: a map that is not supported or whose description the kernel would refuse; slots out of range.
  static Expected<std::unique_ptr<Kernel>> create(const Pipeline &pipeline, KernelOptions options = {});
  ~Kernel();

  const Pipeline &pipeline() const { return pipeline_; }
  const KernelOptions &options() const { return options_; }

  /// Null for templates of inner maps, which are never created.
  MapObject *map(MapId id) const { return maps_[index(id)].get(); }
  const ProgramObject *program(ProgId id) const { return &programs_[index(id)]; }
  Cpu &cpu(uint32_t index) { return *cpus_[index]; }

  /// Values of the instance's slots for one CPU. Program entries may be set before or after.
  std::vector<uint64_t> instance_table(const InstanceLayout &layout, uint32_t cpu) const;

  /// What prog-array slots with this program lead to (see ProgramObject::entry).
  void set_program_entry(ProgId id, const void *entry) { programs_[index(id)].entry = entry; }
  /// Control-plane changes of slots; null empties one. Errors: no such slot, wrong kind of map.
  Error set_program(MapId prog_array, uint32_t slot, std::optional<ProgId> program);
  Error set_inner_map(MapId outer, std::span<const uint8_t> key, MapObject *inner);

  /// Writes entries into maps: by map name, or `outer[key in hex]` for an inner map, which is made from the
  /// outer's template if it is not there. Errors: unknown map, sizes that do not fit, an entry that the map
  /// refuses.
  Error seed(std::span<const MapSeed> seeds);
  /// All contents, in pipeline order, inner maps without a name of their own as `outer[key in hex]` behind.
  /// Not in it: prog arrays, perf event arrays, ring buffers, and array elements that are all zero.
  std::vector<MapSeed> snapshot() const;

  /// Runs a program on one packet. The thread plays CPU `cpu` meanwhile, which no other may do at that time.
  /// Errors: a packet or program type that check() of Packet refuses.
  Expected<PacketResult> run_packet(NativeEntry entry, const uint64_t *instance, ProgType type,
                                    std::span<const uint8_t> packet, uint32_t cpu = 0);

  /// The same with a runner in place of native code; its errors come back.
  Expected<PacketResult> run_packet(llvm::function_ref<Expected<uint64_t>(void *context)> run,
                                    const uint64_t *instance, ProgType type, std::span<const uint8_t> packet,
                                    uint32_t cpu = 0);

  /// For measuring: resets and runs only, `rounds` times over all packets, without keeping results. Gives the
  /// sum of the return values, so that nothing can be left out.
  Expected<uint64_t> run_batch(NativeEntry entry, const uint64_t *instance, ProgType type,
                               std::span<const std::span<const uint8_t>> packets, uint32_t rounds,
                               uint32_t cpu = 0);

  uint32_t mtu_of(uint32_t ifindex) const;

private:
  Kernel(const Pipeline &pipeline, KernelOptions options);
  Error create_maps();
  Error fill_maps();
  MapOptions map_options() const;
  Error seed_map(MapObject &map, const MapSeed &seed);
  Expected<MapObject *> find_or_make(const std::string &name);
  void begin(Cpu &cpu, const uint64_t *instance, ProgType type, std::span<const uint8_t> packet);
  PacketResult finish(Cpu &cpu, uint64_t r0);
  void drain_rings(Cpu &cpu);

  const Pipeline &pipeline_;
  KernelOptions options_;
  std::vector<std::unique_ptr<MapObject>> maps_;  ///< by MapId
  std::vector<std::unique_ptr<MapObject>> inner_; ///< made by seed()
  std::vector<ProgramObject> programs_;           ///< by ProgId
  std::vector<std::unique_ptr<Cpu>> cpus_;
  std::vector<MapId> rings_;
};

} // namespace ujit
