#include "tests/differential/generator.h"

#include "graph/call_graph.h"
#include "tests/differential/program_generator.h"

#include <algorithm>
#include <linux/bpf.h>

namespace ujit {
namespace {

Map make_map(const std::string &name, MapType type, uint32_t key, uint32_t value, uint32_t entries) {
  Map map;
  map.name = name;
  map.type = type;
  map.key_size = key;
  map.value_size = value;
  map.max_entries = entries;
  return map;
}

std::vector<uint8_t> bytes(Random &random, size_t n) {
  std::vector<uint8_t> out(n);
  for (uint8_t &b : out)
    b = uint8_t(random.one_in(3) ? 0 : random.bits());
  return out;
}

void add_maps(Random &random, Sample &sample, const std::string &prefix) {
  auto &maps = sample.pipeline.maps;
  maps.push_back(make_map(prefix + "arr", MapType::array, 4, array_value_bytes, 4));
  maps.push_back(make_map(prefix + "scr", MapType::percpu_array, 4, array_value_bytes, random.between(1, 2)));
  const MapType table = random.of({MapType::hash, MapType::hash, MapType::lru_hash, MapType::percpu_hash,
                                   MapType::lru_percpu_hash, MapType::lpm_trie});
  // Which element a full LRU map loses is up to it; others refuse the sixth.
  const bool lru = table == MapType::lru_hash || table == MapType::lru_percpu_hash;
  maps.push_back(make_map(prefix + "tab", table, 8, table_value_bytes, lru ? 1024 : 5));
  if (table == MapType::lpm_trie)
    maps.back().flags = BPF_F_NO_PREALLOC;
  maps.push_back(make_map(prefix + "dat", MapType::array, 4, array_value_bytes, 1));
  maps.push_back(make_map(prefix + "cfg", MapType::array, 4, array_value_bytes, 1));
  maps.push_back(make_map(prefix + "jmp", MapType::prog_array, 4, 4, jump_slots));
  maps.push_back(make_map(prefix + "oth", MapType::prog_array, 4, 4, jump_slots));
  maps[map_data].contents = bytes(random, array_value_bytes);
  maps[map_config].contents = bytes(random, array_value_bytes);
  maps[map_config].frozen = true;
  if (random.one_in(2))
    maps[map_config].bound.push_back({"bound", 8, random.of({1u, 2u, 4u, 8u}), random.below(8)});
  MapSeed array{maps[map_array].name, {}}, hash{maps[map_table].name, {}};
  for (uint8_t i = 0; i < 4; i++) {
    if (random.one_in(2))
      array.entries.push_back({{i, 0, 0, 0}, {bytes(random, array_value_bytes)}});
    if (random.one_in(2))
      hash.entries.push_back({{i, 0, 0, 0, 0, 0, 0, 0}, {bytes(random, table_value_bytes)}});
  }
  sample.seeds = {array, hash};
  sample.scratch.resize(maps.size());
  sample.scratch[map_scratch] = random.one_in(2);
  sample.edges.resize(maps.size(), uint8_t(EdgeKind::guarded));
}

void fill_slots(Random &random, Sample &sample, uint32_t programs) {
  for (SampleMap m : {map_jump, map_other_jump}) {
    Map &map = sample.pipeline.maps[m];
    for (uint32_t slot = 0; slot < jump_slots; slot++)
      if (!random.one_in(4))
        map.prog_slots.push_back({slot, ProgId(random.below(programs))});
    EdgeKind kind = random.of({EdgeKind::sealed, EdgeKind::guarded, EdgeKind::guarded, EdgeKind::left});
    sample.edges[m] = uint8_t(kind);
    if (kind == EdgeKind::sealed || map.prog_slots.empty() || !random.one_in(3))
      continue;
    // User space changes a slot: to a program that is in the array anyway, or to none.
    for (uint32_t n = random.between(1, 2); n > 0; n--) {
      Sample::Change change{MapId(m), random.below(jump_slots), std::nullopt};
      if (!random.one_in(3))
        change.program = map.prog_slots[random.below(uint32_t(map.prog_slots.size()))].second;
      sample.changes.push_back(change);
    }
  }
}

} // namespace

Sample generate(uint64_t seed, const std::string &prefix) {
  Random random(seed);
  Sample sample;
  add_maps(random, sample, prefix);
  const ProgType type = random.one_in(2) ? ProgType::xdp : ProgType::sched_cls;
  // Many small ones: that is where most kinds of code meet per second. Some are large.
  const uint32_t programs = random.between(1, 8);
  for (uint32_t i = 0; i < programs; i++) {
    const uint32_t statements = random.of({1u, 1u, 2u, 2u, 3u, 3u, 4u, 5u, 8u, 14u});
    sample.pipeline.programs.push_back(
        ProgramGenerator(random, type, sample.pipeline.maps[map_table].type, statements)
            .run(prefix + "p" + std::to_string(i)));
    sample.pipeline.programs.back().object = prefix + "fuzz";
  }
  sample.pipeline.entries = {ProgId(0)};
  fill_slots(random, sample, programs);
  for (int i = 0; i < 4; i++) {
    auto &packet = sample.packets.emplace_back(bytes(random, random.of({14u, 20u, 40u, 64u, 70u, 128u})));
    packet[12] = 0x88; // no protocol that the kernel looks into
    packet[13] = 0xb5;
  }
  return sample;
}

} // namespace ujit
