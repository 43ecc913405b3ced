// Maps of the embedded kernel: against the running kernel where bpf() is allowed, and by themselves.
#include "kernel-iface/embedded/event_maps.h"
#include "kernel-iface/embedded/kernel.h"
#include "kernel-iface/embedded/slot_maps.h"

#include <gtest/gtest.h>

#include <bpf/bpf.h>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <unistd.h>

namespace ujit {
namespace {

Map shape(MapType type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags = 0) {
  Map m;
  m.name = "m";
  m.type = type;
  m.key_size = key;
  m.value_size = value;
  m.max_entries = entries;
  m.flags = flags;
  return m;
}

std::unique_ptr<MapObject> make(const Map &m, uint32_t cpus = 1) {
  auto map = create_map(m, MapId(0), {.cpus = cpus});
  EXPECT_TRUE(bool(map)) << llvm::toString(map.takeError());
  return std::move(*map);
}

// --- Against the kernel --------------------------------------------------------------------------------

class Oracle {
public:
  explicit Oracle(const Map &m) {
    LIBBPF_OPTS(bpf_map_create_opts, options);
    options.map_flags = m.flags;
    fd_ =
        bpf_map_create(bpf_map_type(m.type), "ujit_test", m.key_size, m.value_size, m.max_entries, &options);
    error_ = errno;
  }
  ~Oracle() {
    if (fd_ >= 0)
      close(fd_);
  }
  bool ok() const { return fd_ >= 0; }
  const char *why() const { return strerror(error_); }

  long update(const void *key, const void *value, uint64_t flags) {
    return bpf_map_update_elem(fd_, key, value, flags) ? -errno : 0;
  }
  long erase(const void *key) { return bpf_map_delete_elem(fd_, key) ? -errno : 0; }
  bool lookup(const void *key, void *value) { return bpf_map_lookup_elem(fd_, key, value) == 0; }

private:
  int fd_;
  int error_;
};

uint32_t possible_cpus() {
  int n = sysconf(_SC_NPROCESSORS_CONF);
  FILE *f = fopen("/sys/devices/system/cpu/possible", "r");
  unsigned last = 0;
  if (f && fscanf(f, "0-%u", &last) == 1)
    n = int(last) + 1;
  if (f)
    fclose(f);
  return uint32_t(n);
}

struct Sequence {
  Map map;
  uint32_t keys; ///< size of the key space
};

class AgainstKernel : public testing::TestWithParam<Sequence> {};

TEST_P(AgainstKernel, SameOperationsGiveTheSame) {
  const auto &[m, keys] = GetParam();
  Oracle oracle(m);
  if (!oracle.ok())
    GTEST_SKIP() << "bpf() is not allowed: " << oracle.why();
  const uint32_t cpus = possible_cpus();
  auto map = make(m, cpus);
  const uint32_t copies = map->is_percpu() ? cpus : 1;
  const size_t stride = map->is_percpu() ? (m.value_size + 7) / 8 * 8 : m.value_size;
  std::mt19937 random(1);
  for (int step = 0; step < 3000; step++) {
    std::vector<uint8_t> key(m.key_size), value(stride * copies), read(stride * copies);
    uint32_t k = random() % keys;
    if (m.type == MapType::lpm_trie) {
      uint32_t bits = random() % (m.key_size * 8 - 32 + 2);
      memcpy(key.data(), &bits, 4);
      key[4] = uint8_t(k << 5);
      key.back() ^= uint8_t(random() % 2);
    } else {
      memcpy(key.data(), &k, std::min<size_t>(4, key.size()));
    }
    std::vector<std::vector<uint8_t>> values;
    for (uint32_t cpu = 0; cpu < copies; cpu++) {
      for (uint32_t i = 0; i < m.value_size; i++)
        value[cpu * stride + i] = uint8_t(random());
      values.emplace_back(value.begin() + cpu * stride, value.begin() + cpu * stride + m.value_size);
    }
    switch (random() % 4) {
    case 0:
    case 1: {
      uint64_t flags = random() % 16 == 0 ? 3 : random() % 3;
      ASSERT_EQ(map->control_update(key, values, flags), oracle.update(key.data(), value.data(), flags))
          << "update " << to_hex(key) << " flags " << flags << " step " << step;
      break;
    }
    case 2:
      ASSERT_EQ(map->control_erase(key), oracle.erase(key.data()))
          << "delete " << to_hex(key) << " step " << step;
      break;
    case 3: {
      bool there = oracle.lookup(key.data(), read.data());
      void *mine = map->lookup(key.data());
      ASSERT_EQ(mine != nullptr, there) << "lookup " << to_hex(key) << " step " << step;
      for (uint32_t cpu = 0; there && cpu < copies; cpu++) {
        void *copy = map->is_percpu() ? map->lookup_percpu(key.data(), cpu) : mine;
        ASSERT_EQ(memcmp(copy, &read[cpu * stride], m.value_size), 0)
            << "value " << to_hex(key) << " step " << step;
      }
    }
    }
  }
  for (const MapEntry &entry : map->contents()) {
    std::vector<uint8_t> read(stride * copies);
    ASSERT_TRUE(oracle.lookup(entry.key.data(), read.data())) << to_hex(entry.key);
    for (uint32_t cpu = 0; cpu < copies; cpu++)
      EXPECT_EQ(memcmp(entry.values[cpu].data(), &read[cpu * stride], m.value_size), 0);
  }
}

constexpr uint32_t no_prealloc = 1;

INSTANTIATE_TEST_SUITE_P(
    Maps, AgainstKernel,
    testing::Values(
        Sequence{shape(MapType::array, 4, 8, 10), 13}, Sequence{shape(MapType::array, 4, 5, 10), 13},
        Sequence{shape(MapType::percpu_array, 4, 12, 10), 13}, Sequence{shape(MapType::hash, 4, 8, 10), 20},
        Sequence{shape(MapType::hash, 3, 7, 10), 20},
        Sequence{shape(MapType::hash, 17, 40, 100, no_prealloc), 150},
        Sequence{shape(MapType::hash, 16, 4, 64), 100}, Sequence{shape(MapType::percpu_hash, 8, 9, 10), 20},
        Sequence{shape(MapType::percpu_hash, 8, 8, 10, no_prealloc), 20},
        // Far from full: when the kernel's LRU evicts depends on its per-CPU free lists.
        Sequence{shape(MapType::lru_hash, 4, 8, 4096), 50},
        Sequence{shape(MapType::lru_percpu_hash, 20, 8, 4096), 50},
        Sequence{shape(MapType::lpm_trie, 8, 8, 500, no_prealloc), 8},
        Sequence{shape(MapType::lpm_trie, 8, 3, 6, no_prealloc), 8},
        Sequence{shape(MapType::lpm_trie, 20, 8, 40, no_prealloc), 8}),
    [](const auto &info) {
      const Map &m = info.param.map;
      return std::string(name_of(m.type)) + "_" + std::to_string(m.key_size) + "_" +
             std::to_string(m.value_size) + "_" + std::to_string(m.max_entries) +
             (m.flags ? "_no_prealloc" : "");
    });

// --- By themselves ---------------------------------------------------------------------------------------

template <class T>
void *find(MapObject &map, T key) {
  return map.lookup(&key);
}
long put(MapObject &map, uint32_t key, uint64_t value, uint64_t flags = 0) {
  return map.update(&key, &value, flags);
}

TEST(EmbeddedMaps, ArrayElementsLieOneStrideApart) {
  auto map = make(shape(MapType::array, 4, 5, 3));
  auto *base = static_cast<uint8_t *>(map->values(0));
  for (uint32_t i = 0; i < 3; i++)
    EXPECT_EQ(find(*map, i), base + i * array_stride(5));
  EXPECT_EQ(find(*map, 3u), nullptr);
}

TEST(EmbeddedMaps, PerCpuArrayGivesEachCpuItsCopy) {
  auto map = make(shape(MapType::percpu_array, 4, 8, 2), 3);
  uint32_t key = 1;
  for (uint32_t cpu = 0; cpu < 3; cpu++)
    EXPECT_EQ(map->lookup_percpu(&key, cpu), static_cast<uint8_t *>(map->values(cpu)) + 8);
  EXPECT_EQ(map->lookup_percpu(&key, 3), nullptr);
  EXPECT_EQ(find(*map, 1u), map->lookup_percpu(&key, 0));
}

/// A program that holds a value's address across an update of the same key still sees the old value.
TEST(EmbeddedMaps, UpdatedHashElementMoves) {
  for (uint32_t flags : {0u, no_prealloc}) {
    auto map = make(shape(MapType::hash, 4, 8, 4, flags));
    put(*map, 1, 10);
    auto *old = static_cast<uint64_t *>(find(*map, 1u));
    put(*map, 1, 20);
    EXPECT_EQ(*old, 10u);
    EXPECT_EQ(*static_cast<uint64_t *>(find(*map, 1u)), 20u);
  }
}

TEST(EmbeddedMaps, LruEvictsWhatNobodyLookedAt) {
  auto map = make(shape(MapType::lru_hash, 4, 8, 100));
  for (uint32_t k = 0; k < 100; k++)
    ASSERT_EQ(put(*map, k, k), 0);
  for (uint32_t k = 0; k < 10; k++)
    ASSERT_NE(find(*map, k), nullptr);
  for (uint32_t k = 1000; k < 1080; k++)
    ASSERT_EQ(put(*map, k, k), 0);
  for (uint32_t k = 0; k < 10; k++)
    EXPECT_NE(find(*map, k), nullptr) << k << " was in use";
  EXPECT_EQ(find(*map, 10u), nullptr) << "the oldest unused one goes first";
  EXPECT_EQ(map->contents().size(), 100u);
}

TEST(EmbeddedMaps, LruNeverRefusesAndNeverGrows) {
  auto map = make(shape(MapType::lru_hash, 4, 8, 7));
  std::mt19937 random(5);
  for (int i = 0; i < 10000; i++) {
    uint32_t k = random() % 50;
    if (random() % 4 == 0) {
      map->erase(&k);
    } else {
      ASSERT_EQ(put(*map, k, k), 0);
      ASSERT_NE(find(*map, k), nullptr);
    }
    ASSERT_LE(map->contents().size(), 7u);
  }
}

TEST(EmbeddedMaps, ForEachStopsWhenAsked) {
  auto map = make(shape(MapType::hash, 4, 8, 10));
  for (uint32_t k = 0; k < 5; k++)
    put(*map, k, k);
  EXPECT_EQ(map->for_each([](const void *, void *) { return 0; }), 5);
  EXPECT_EQ(map->for_each([n = 0](const void *, void *) mutable { return ++n == 3; }), 3);
  auto trie = make(shape(MapType::lpm_trie, 8, 8, 4, no_prealloc));
  EXPECT_EQ(trie->for_each([](const void *, void *) { return 0; }), -EINVAL);
}

TEST(EmbeddedMaps, RingBufferFillsDrainsAndWraps) {
  auto object = make(shape(MapType::ringbuf, 0, 0, 4096));
  auto &ring = static_cast<RingBuffer &>(*object);
  std::vector<std::vector<uint8_t>> sent, got;
  auto take = [&](std::span<const uint8_t> sample) { got.emplace_back(sample.begin(), sample.end()); };
  EXPECT_EQ(ring.reserve(4096, 0), nullptr);
  EXPECT_EQ(ring.reserve(8, 1), nullptr);
  std::mt19937 random(3);
  for (int i = 0; i < 500; i++) {
    std::vector<uint8_t> sample(random() % 700, uint8_t(i));
    if (ring.output(sample.data(), sample.size(), 0) == 0) {
      sent.push_back(sample);
    } else {
      ring.consume(take);
      EXPECT_EQ(ring.query(0), 0u);
    }
  }
  void *open = ring.reserve(16, 0), *dropped = ring.reserve(16, 0);
  ring.consume(take);
  EXPECT_EQ(got, sent);
  EXPECT_EQ(ring.query(0), 48u) << "a busy record holds up what is behind it";
  RingBuffer::finish(dropped, true);
  memset(open, 7, 16);
  RingBuffer::finish(open, false);
  ring.consume(take);
  EXPECT_EQ(got.size(), sent.size() + 1) << "a discarded record is not seen";
  EXPECT_EQ(ring.output("x", 1, 4), -EINVAL);
}

TEST(EmbeddedMaps, SeveralCpusShareAHash) {
  for (MapType type : {MapType::hash, MapType::lru_hash}) {
    auto map = make(shape(type, 4, 8, 64), 1);
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 2; t++)
      threads.emplace_back([&, t] {
        std::mt19937 random(t);
        for (int i = 0; i < 20000; i++) {
          uint32_t k = (random() % 32) * 2 + t; // keys of its own: others come and go around them
          if (random() % 3 == 0) {
            map->erase(&k);
            ASSERT_EQ(map->lookup(&k), nullptr);
          } else if (put(*map, k, k) == 0 && type == MapType::hash) {
            ASSERT_NE(map->lookup(&k), nullptr);
          }
        }
      });
    for (std::thread &t : threads)
      t.join();
    EXPECT_LE(map->contents().size(), 64u);
  }
}

std::string refusal(const Map &m) {
  auto map = create_map(m, MapId(0), {});
  return map ? "" : llvm::toString(map.takeError());
}

TEST(EmbeddedMaps, RefusesWhatTheKernelRefuses) {
  EXPECT_EQ(refusal(shape(MapType::sockmap, 4, 4, 4)),
            "map m: type sockmap is not supported in the embedded kernel");
  EXPECT_EQ(refusal(shape(MapType::array, 8, 4, 4)), "map m: key of 8 bytes: must be 4 in a array");
  EXPECT_EQ(refusal(shape(MapType::hash, 4, 4, 0)), "map m: max_entries is 0");
  EXPECT_EQ(refusal(shape(MapType::hash, 4, 4, 1u << 29)),
            "map m: 536870912 entries are too many for a hash");
  EXPECT_EQ(refusal(shape(MapType::lpm_trie, 8, 4, 4)), "map m: an lpm_trie needs BPF_F_NO_PREALLOC");
  EXPECT_NE(refusal(shape(MapType::ringbuf, 0, 0, 5000)), "");
  EXPECT_NE(refusal(shape(MapType::hash, 4, 0xffffffff, 4)), "");
  EXPECT_NE(refusal(shape(MapType::hash, 4, 1 << 30, 0xffffffff)), "");
  EXPECT_NE(refusal(shape(MapType::array, 4, 1 << 30, 0xffffffff)), "");
}

// --- Contents
// ------------------------------------------------------------------------------------------------

Pipeline two_level() {
  Pipeline p;
  p.maps.push_back(shape(MapType::hash, 4, 8, 10));
  p.maps.push_back(shape(MapType::array, 4, 4, 4));
  p.maps[1].name = "inner_shape";
  p.maps[1].is_template = true;
  p.maps.push_back(shape(MapType::hash_of_maps, 2, 4, 4));
  p.maps[2].name = "outer";
  p.maps[2].inner = MapId(1);
  p.maps.push_back(shape(MapType::array, 4, 16, 1));
  p.maps[3].name = ".rodata";
  p.maps[3].contents = std::vector<uint8_t>(16, 0xaa);
  p.maps[3].bound = {{"id", 4, 4, 0x01020304}};
  return p;
}

TEST(EmbeddedContents, SeedAndSnapshotAreInverse) {
  Pipeline p = two_level();
  auto kernel = Kernel::create(p);
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  std::vector<MapSeed> seeds = {
      {"m", {{{0, 0, 0, 1}, {{1, 2, 3, 4, 5, 6, 7, 8}}}, {{0, 0, 0, 2}, {{8, 7, 6, 5, 4, 3, 2, 1}}}}},
      {"outer[0102]", {{{3, 0, 0, 0}, {{9, 9, 9, 9}}}}}};
  ASSERT_EQ(llvm::toString((*kernel)->seed(seeds)), "");
  std::vector<MapSeed> got = (*kernel)->snapshot();
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0], seeds[0]);
  EXPECT_EQ(got[2], seeds[1]);
  std::vector<uint8_t> rodata(16, 0xaa);
  rodata[4] = 4, rodata[5] = 3, rodata[6] = 2, rodata[7] = 1;
  EXPECT_EQ(got[1].entries, (MapContents{{{0, 0, 0, 0}, {rodata}}}))
      << "bound constants lie over the contents";

  auto read = parse_map_seeds(print_map_seeds(got), "test");
  ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
  auto other = Kernel::create(p);
  ASSERT_EQ(llvm::toString((*other)->seed(*read)), "");
  EXPECT_EQ((*other)->snapshot(), got);
}

TEST(EmbeddedContents, WrongSeedsAreNamed) {
  Pipeline p = two_level();
  auto kernel = Kernel::create(p);
  auto why = [&](MapSeed seed) { return llvm::toString((*kernel)->seed({&seed, 1})); };
  EXPECT_EQ(why({"none", {}}), "there is no map called none");
  EXPECT_EQ(why({"m", {{{1}, {{1}}}}}), "map m: key 01: 1 bytes, the map's keys have 4");
  EXPECT_EQ(why({"m", {{{1, 0, 0, 0}, {{1}}}}}),
            "map m: key 01000000: value of 1 bytes, the map's values have 8");
  EXPECT_EQ(why({"outer", {{{1, 0}, {{1, 0, 0, 0}}}}}), "map outer: a hash_of_maps cannot be given entries");
  EXPECT_EQ(why({"outer[01]", {}}), "map outer[01]: the key in brackets is not 2 bytes in hex");
  EXPECT_EQ(why({"outer[0102]", {{{9, 0, 0, 0}, {{1, 0, 0, 0}}}}}),
            "map outer[0102]: key 09000000: refused: Argument list too long");
}

TEST(EmbeddedContents, InstanceTableHoldsAddresses) {
  Pipeline p = two_level();
  p.programs.resize(1);
  p.maps.push_back(shape(MapType::prog_array, 4, 4, 3));
  p.maps[4].name = "jump";
  p.maps[4].prog_slots = {{2, ProgId(0)}};
  KernelOptions options;
  options.cpus = 2;
  auto kernel = Kernel::create(p, options);
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  InstanceLayout layout(p);
  std::vector<uint64_t> table = (*kernel)->instance_table(layout, 1);
  auto at = [&](InstanceSlot slot) { return table[layout.offset_of(slot) / 8]; };
  EXPECT_EQ(at({InstanceSlot::map, 0}), uint64_t((*kernel)->map(MapId(0))));
  EXPECT_EQ(at({InstanceSlot::constant, 3, 0}), 0x01020304u);
  EXPECT_EQ(at({InstanceSlot::cpu}), 1u);
  EXPECT_EQ(at({InstanceSlot::program, 0}), uint64_t((*kernel)->program(ProgId(0))));
  auto *slots = reinterpret_cast<const ProgramObject **>(at({InstanceSlot::values, 4}));
  EXPECT_EQ(slots[2], (*kernel)->program(ProgId(0)));
  EXPECT_EQ(slots[0], nullptr);
  (*kernel)->set_program_entry(ProgId(0), &p);
  EXPECT_EQ(slots[2]->entry, &p);
  EXPECT_EQ(llvm::toString((*kernel)->set_program(MapId(4), 3, ProgId(0))),
            "map jump: slot 3 is out of range: it has 3");
  EXPECT_EQ(llvm::toString((*kernel)->set_program(MapId(4), 2, std::nullopt)), "");
  EXPECT_EQ(slots[2], nullptr);
}

} // namespace
} // namespace ujit
