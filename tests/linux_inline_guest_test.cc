// Lookups and helpers on packets that are code in an image (lto/lookup.cc, lto/skb_helpers.cc) against the
// kernel's own, in the kernel they run in: each program runs as original and as image, on the same maps and
// packets, and nothing that can be seen may differ.
#include "kernel-iface/linux/array_updates.h"
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/hash_tables.h"
#include "kernel-iface/linux/kernel_version.h"
#include "kernel-iface/linux/lifecycle.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/private_network.h"
#include "kernel-iface/linux/skb_helpers.h"
#include "lto/kernel_pipeline.h"
#include "tests/linux_pipeline.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <random>
#include <thread>

namespace ujit {
namespace {

using namespace asm_;

constexpr int16_t key_at = 16, wanted_at = 96, packet_bytes = 128;
constexpr uint32_t entries = 16;

Code one(Insn i) { return {i}; }

/// Copies bytes of the packet, which r7 points to, to the stack: in the largest pieces.
Code copy_to_stack(int16_t from, int16_t to, uint32_t size) {
  Code out;
  for (uint32_t at = 0; at < size;) {
    const uint32_t n = std::min(8u, std::bit_floor(size - at));
    const uint8_t width = n == 8 ? 0x18 : n == 4 ? 0x00 : n == 2 ? 0x08 : 0x10;
    out.push_back(insn(0x61 | width, 3, 7, int16_t(from + int(at)), 0));
    out.push_back(insn(0x63 | width, 10, 3, int16_t(to + int(at)), 0));
    at += n;
  }
  return out;
}

/// r6 = the context, r7 = the packet, of which packet_bytes are there; else the program ends with 0.
Code packet_in(int16_t data) { // the packet's end is behind its start in both kinds of context
  return code({mov_reg(6, 1), load32(7, 6, data), load32(8, 6, int16_t(data + 4)), mov_reg(2, 7),
               add(2, packet_bytes), one(insn(0xbd, 2, 8, 2, 0)), mov(0, 0), exit()});
}

/// A pipeline in the kernel, each of its programs an entry, with its image beside it.
class Installed {
public:
  static Expected<Installed> make(const Pipeline &pipeline, bool known_kernel = true) {
    Expected<ModuleKernel> kernel = read_module_kernel();
    if (!kernel)
      return kernel.takeError();
    Manifest manifest;
    manifest.name = "inline";
    Expected<KernelSource> source = load_and_capture(manifest, pipeline);
    if (!source)
      return source.takeError();
    Installed out;
    out.source_ = std::make_unique<KernelSource>(std::move(*source));
    KernelPipeline &k = out.source_->pipelines.at(0);
    if (!known_kernel) {
      auto facts = std::make_shared<KernelFacts>(*k.capture.kernel);
      facts->layout.search_htab = facts->layout.expand_skb_helpers = facts->layout.update_arrays = false;
      k.capture.kernel = k.canonical.pipeline.kernel = facts;
    }
    Expected<KernelImage> image = link_for_kernel(k, *kernel, k.options);
    if (!image)
      return image.takeError();
    out.called_ = image->info.helpers;
    Expected<Fd> kill_switch = make_kill_switch();
    if (!kill_switch)
      return kill_switch.takeError();
    Expected<LiveImage> live = bring_up(k, *image, *kernel, *kill_switch);
    if (!live)
      return live.takeError();
    out.live_ = std::move(*live);
    for (uint32_t i = 0; i < pipeline.programs.size(); ++i)
      for (size_t n = 0; n < k.entries.size(); ++n)
        if (k.canonical.pipeline[k.entries[n].program].name == pipeline.programs[i].name)
          out.entry_of_.push_back(n);
    EXPECT_EQ(out.entry_of_.size(), pipeline.programs.size());
    return out;
  }
  Installed(Installed &&) = default;
  ~Installed() {
    if (live_.module.name.empty())
      return;
    live_.entries.clear();
    live_.module.btf = Fd();
    EXPECT_EQ(llvm::toString(remove_module(live_.module.name)), "");
  }

  int fd(MapId m) { return source_->loaded->fd(m); }
  bool calls(const std::string &symbol) const { return std::ranges::find(called_, symbol) != called_.end(); }

  TestRunResult original(uint32_t program, std::span<const uint8_t> packet, TestRunOptions options = {}) {
    return llvm::cantFail(source_->loaded->run(ProgId(program), packet, options));
  }
  TestRunResult image(uint32_t program, std::span<const uint8_t> packet, TestRunOptions options = {}) {
    options.instead = live_.entries[entry_of_[program]].stub.get();
    return llvm::cantFail(source_->loaded->run(ProgId(program), packet, options));
  }

private:
  Installed() = default;
  std::unique_ptr<KernelSource> source_; ///< the image refers to it
  LiveImage live_;
  std::vector<std::string> called_;
  std::vector<size_t> entry_of_; ///< by program
};

class LinuxInline : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
    static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
    if (!kernel.refusal.empty())
      GTEST_SKIP() << "no modules here: " << kernel.refusal;
  }
};

// --- lookups ---

struct Table {
  const char *name;
  MapType type;
  uint32_t key_size;
  uint32_t flags = 0;
  bool per_cpu() const { return is_per_cpu(type); }
  bool may_drop_keys() const { return type == MapType::lru_hash || type == MapType::lru_percpu_hash; }
};
constexpr Table tables[] = {{"hash1", MapType::hash, 1},
                            {"hash4", MapType::hash, 4},
                            {"hash8", MapType::hash, 8},
                            {"hash13", MapType::hash, 13},
                            {"hash40", MapType::hash, 40},
                            {"hash64", MapType::hash, 64},
                            {"not_preallocated", MapType::hash, 20, BPF_F_NO_PREALLOC},
                            {"lru4", MapType::lru_hash, 4},
                            {"lru40", MapType::lru_hash, 40},
                            {"percpu4", MapType::percpu_hash, 4},
                            {"percpu24", MapType::percpu_hash, 24},
                            {"lru_percpu12", MapType::lru_percpu_hash, 12}};
constexpr uint32_t table_count = std::size(tables);
constexpr MapId counts{table_count};
enum Counter { missed, wrong, right, counters };

/// Program i looks the packet's key up in map i. 1: it is not there; else the value's lower half. It counts
/// misses, values that are not the wanted one, and those that are.
Pipeline lookup_pipeline() {
  Pipeline p;
  auto count = [](Counter c) {
    return code({value_ref(1, counts, 8 * c), mov(2, 1), one(insn(0xdb, 1, 2, 0, 0))});
  };
  const Code missing = code({count(missed), mov(0, 1), exit()});
  const Code other = code({count(wrong), mov_reg(0, 7), exit()});
  for (const Table &t : tables) {
    p.maps.push_back(map(t.name, t.type, t.key_size, 8, entries, t.flags));
    p.programs.push_back(program(
        std::string("in_") + t.name,
        code({packet_in(0), copy_to_stack(key_at, -72, t.key_size), load64(9, 7, wanted_at),
              map_ref(1, MapId(p.programs.size())), mov_reg(2, 10), add(2, -72), helper(1),
              jump_if_not_zero(0, int16_t(missing.size())), missing, load64(7, 0, 0),
              one(insn(0x1d, 7, 9, int16_t(other.size()), 0)), other, count(right), mov_reg(0, 7), exit()})));
    p.entries.push_back(ProgId(p.programs.size() - 1));
  }
  p.maps.push_back(data_map("counts", std::vector<uint8_t>(8 * counters), false));
  return p;
}

std::vector<uint8_t> key(const Table &t, uint32_t n) {
  std::vector<uint8_t> out(t.key_size);
  for (uint32_t i = 0; i < out.size(); ++i)
    out[i] = uint8_t((n + 1) * (2 * i + 77) >> (i % 3));
  return out;
}

uint64_t value(uint32_t n, uint32_t cpu) { return 0x5000000000 + 1000 * cpu + n + 2; }

std::vector<uint8_t> packet_with(const Table &t, uint32_t n, uint32_t cpu = 0) {
  std::vector<uint8_t> out(packet_bytes);
  std::ranges::copy(key(t, n), out.begin() + key_at);
  const uint64_t v = value(n, cpu);
  std::memcpy(out.data() + wanted_at, &v, sizeof v);
  return out;
}

bool put(const Table &t, int map, uint32_t n) {
  std::vector<uint64_t> values{value(n, 0)};
  for (int cpu = 1; t.per_cpu() && cpu < libbpf_num_possible_cpus(); ++cpu)
    values.push_back(value(n, uint32_t(cpu)));
  return bpf_map_update_elem(map, key(t, n).data(), values.data(), BPF_ANY) == 0;
}

void compare(Installed &i, uint32_t table) {
  const Table &t = tables[table];
  for (uint32_t n = 0; n < 2 * entries; ++n)
    for (unsigned cpu = 0; cpu < (t.per_cpu() ? 2u : 1u); ++cpu) {
      TestRunOptions options;
      options.cpu = cpu;
      const std::vector<uint8_t> packet = packet_with(t, n, cpu);
      EXPECT_EQ(i.image(table, packet, options).retval, i.original(table, packet, options).retval)
          << t.name << ", key " << n;
    }
}

bool looks_up_by_calls(const Installed &i) {
  return i.calls("__htab_map_lookup_elem") || i.calls("htab_percpu_map_lookup_elem") ||
         i.calls("htab_lru_percpu_map_lookup_elem");
}

/// As many elements as buckets, so that some chains are long.
TEST_F(LinuxInline, LookupsFindWhatTheKernelFinds) {
  auto installed = Installed::make(lookup_pipeline());
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_FALSE(looks_up_by_calls(*installed));
  for (uint32_t i = 0; i < table_count; ++i) {
    const Table &t = tables[i];
    const int map = installed->fd(MapId(i));
    compare(*installed, i); // empty
    for (uint32_t n = 0; n < entries; ++n)
      put(t, map, n);
    compare(*installed, i);
    for (uint32_t n = 0; n < entries; n += 3)
      bpf_map_delete_elem(map, key(t, n).data());
    compare(*installed, i);
    for (uint32_t n = entries; n < entries + 4; ++n) // into elements that were used before
      put(t, map, n);
    compare(*installed, i);
  }
}

TEST_F(LinuxInline, LookupsAreCallsInAKernelThatIsNotKnown) {
  auto installed = Installed::make(lookup_pipeline(), false);
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_TRUE(looks_up_by_calls(*installed));
  for (uint32_t i = 0; i < table_count; ++i) {
    for (uint32_t n = 0; n < entries; ++n)
      put(tables[i], installed->fd(MapId(i)), n);
    compare(*installed, i);
  }
}

/// Another CPU moves elements between chains all the time; a key that stays is found each time, with its
/// value.
TEST_F(LinuxInline, LookupsWhileOthersChangeTheTable) {
  auto installed = Installed::make(lookup_pipeline());
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  for (uint32_t i = 0; i < table_count; ++i) {
    const Table &t = tables[i];
    if (t.may_drop_keys())
      continue;
    const int map = installed->fd(MapId(i));
    ASSERT_TRUE(put(t, map, 0));
    uint32_t zero = 0;
    uint64_t counted[counters] = {};
    bpf_map_update_elem(installed->fd(counts), &zero, counted, BPF_ANY);
    std::atomic<bool> done{false};
    std::thread changes([&] {
      cpu_set_t other;
      CPU_ZERO(&other);
      CPU_SET(1, &other);
      sched_setaffinity(0, sizeof other, &other);
      std::mt19937 random(1);
      while (!done) {
        const uint32_t n = 1 + random() % (entries - 1);
        if (random() % 2)
          put(t, map, n);
        else
          bpf_map_delete_elem(map, key(t, n).data());
      }
    });
    constexpr uint32_t rounds = 5, each = 2000;
    TestRunOptions options;
    options.cpu = 0;
    options.repeat = each;
    for (uint32_t round = 0; round < rounds; ++round)
      installed->image(i, packet_with(t, 0), options);
    done = true;
    changes.join();
    EXPECT_EQ(bpf_map_lookup_elem(installed->fd(counts), &zero, counted), 0);
    EXPECT_EQ(counted[missed], 0u) << t.name;
    EXPECT_EQ(counted[wrong], 0u) << t.name;
    EXPECT_EQ(counted[right], uint64_t(rounds) * each) << t.name;
  }
}

// --- updates of arrays ---

struct Array {
  const char *name;
  MapType type;
  uint32_t value_size, entries;
};
constexpr Array arrays[] = {{"array8", MapType::array, 8, 4},
                            {"array15", MapType::array, 15, 3},
                            {"array128", MapType::array, 128, 2},
                            {"percpu_one", MapType::percpu_array, 12, 1},
                            {"percpu_more", MapType::percpu_array, 24, 3}};
constexpr int32_t update_flags[] = {BPF_ANY, BPF_NOEXIST, BPF_EXIST, 3, -1};

/// For each array and flags a program that updates the element at the packet's key with the packet's first
/// bytes.
Pipeline update_pipeline() {
  Pipeline p;
  for (const Array &a : arrays) {
    p.maps.push_back(map(a.name, a.type, 4, a.value_size, a.entries));
    const auto m = MapId(p.maps.size() - 1);
    for (int32_t flags : update_flags) {
      p.programs.push_back(
          program(std::string(a.name) + "_" + std::to_string(flags & 0xff),
                  code({packet_in(0), load32(3, 7, wanted_at), store32_reg(10, 3, -4), map_ref(1, m),
                        mov_reg(2, 10), add(2, -4), mov_reg(3, 7), mov(4, flags), helper(2), exit()})));
      p.entries.push_back(ProgId(p.programs.size() - 1));
    }
  }
  return p;
}

/// All bytes of all elements of all CPUs.
std::vector<uint8_t> contents(int fd, const Array &a) {
  const bool per_cpu = a.type == MapType::percpu_array;
  const size_t copies = per_cpu ? size_t(libbpf_num_possible_cpus()) : 1, stride = (a.value_size + 7) & ~7u;
  std::vector<uint8_t> out;
  for (uint32_t k = 0; k < a.entries; ++k) {
    std::vector<uint8_t> values(copies * stride);
    EXPECT_EQ(bpf_map_lookup_elem(fd, &k, values.data()), 0);
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

void compare_updates(Installed &installed) {
  std::mt19937 random(3);
  for (uint32_t program = 0; program < std::size(arrays) * std::size(update_flags); ++program) {
    const Array &a = arrays[program / std::size(update_flags)];
    const int fd = installed.fd(MapId(program / std::size(update_flags)));
    for (uint32_t key : {0u, 1u, a.entries - 1, a.entries, 0x80000000u, UINT32_MAX})
      for (unsigned cpu : {0u, 1u}) {
        TestRunOptions options;
        options.cpu = cpu;
        std::vector<uint8_t> first(packet_bytes), second(packet_bytes);
        for (uint32_t i = 0; i < packet_bytes; ++i)
          first[i] = uint8_t(random()), second[i] = uint8_t(random());
        std::memcpy(first.data() + wanted_at, &key, sizeof key);
        std::memcpy(second.data() + wanted_at, &key, sizeof key);
        // What the image makes of the element, then what the original does: both after the same `first`.
        installed.original(program, first, options);
        const TestRunResult got = installed.image(program, second, options);
        const std::vector<uint8_t> after_image = contents(fd, a);
        installed.original(program, first, options);
        const TestRunResult wanted = installed.original(program, second, options);
        EXPECT_EQ(got.retval, wanted.retval) << a.name << ", program " << program << ", key " << key;
        EXPECT_EQ(after_image, contents(fd, a)) << a.name << ", program " << program << ", key " << key;
      }
  }
}

TEST_F(LinuxInline, UpdatesDoWhatTheKernelDoes) {
  auto installed = Installed::make(update_pipeline());
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_FALSE(installed->calls("array_map_update_elem"));
  compare_updates(*installed);
}

TEST_F(LinuxInline, UpdatesAreCallsInAKernelThatIsNotKnown) {
  auto installed = Installed::make(update_pipeline(), false);
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_TRUE(installed->calls("array_map_update_elem"));
  compare_updates(*installed);
}

// --- what is known of a kernel: needs no module ---

TEST(LinuxInlineTrial, TellsWhetherAKernelIsKnown) {
  if (const Capabilities c = probe_capabilities(); !c.bpf.ok)
    GTEST_SKIP() << "bpf(): " << c.bpf.reason;
  const std::shared_ptr<KernelFacts> facts = llvm::cantFail(read_kernel_facts());
  if (!sources_were_read(facts->release))
    GTEST_SKIP() << "the sources of this kernel were not read: " << facts->release;
  KernelReader reader = llvm::cantFail(KernelReader::load());
  const HashLayout right = facts->layout.htab;
  EXPECT_TRUE(can_search_tables(reader, right, facts->release));
  EXPECT_TRUE(can_expand_skb_helpers(facts->release));
  const uint32_t values = facts->layout.array_value;
  EXPECT_TRUE(can_update_arrays(reader, values, facts->release));
  EXPECT_FALSE(can_update_arrays(reader, values, "7.99.0"));
  EXPECT_FALSE(can_update_arrays(reader, values + 8, facts->release));
  EXPECT_FALSE(can_search_tables(reader, right, "7.99.0"));
  EXPECT_FALSE(can_expand_skb_helpers("7.99.0"));
  EXPECT_FALSE(can_search_tables(reader, right, "unheard of"));
  for (uint32_t HashLayout::*member :
       {&HashLayout::bucket, &HashLayout::hash, &HashLayout::key, &HashLayout::chain}) {
    HashLayout wrong = right;
    wrong.*member += 8;
    EXPECT_FALSE(can_search_tables(reader, wrong, facts->release));
  }
}

// --- helpers on packets ---

struct Helper {
  const char *name;
  Code arguments; ///< r1 is the context
  int32_t id;
};

// Operands come from the packet: at 16 `from`, at 24 `to`, at 32 the offset, at 40 flags.
Code from_to() { return code({load64(3, 10, -32), load64(4, 10, -24)}); }
Code at_operand() { return load64(2, 10, -16); }
/// Of the flags operand only BPF_F_MARK_MANGLED_0 is taken.
Code flags(int32_t also) {
  return code({load64(5, 10, -8), one(insn(0x57, 5, 0, 0, 0x20)), one(insn(0x47, 5, 0, 0, also))});
}
Code buffer() { return code({mov_reg(3, 10), add(3, -32)}); }

std::vector<Helper> helpers() {
  const int32_t pull = BPF_FUNC_skb_pull_data, store = BPF_FUNC_skb_store_bytes,
                load = BPF_FUNC_skb_load_bytes, l3 = BPF_FUNC_l3_csum_replace, l4 = BPF_FUNC_l4_csum_replace;
  return {{"pull_all", mov(2, 0), pull},
          {"pull", at_operand(), pull},
          {"store", code({at_operand(), buffer(), mov(4, 13), mov(5, 0)}), store},
          {"store_mac", code({mov(2, 6), buffer(), mov(4, 6), mov(5, 0)}), store},
          {"load", code({at_operand(), buffer(), mov(4, 7)}), load},
          {"l3_diff", code({at_operand(), mov(3, 0), load64(4, 10, -24), mov(5, 0)}), l3},
          {"l3_2", code({at_operand(), from_to(), mov(5, 2)}), l3},
          {"l3_4", code({at_operand(), from_to(), mov(5, 4)}), l3},
          {"l4_diff", code({at_operand(), mov(3, 0), load64(4, 10, -24), flags(0x10)}), l4},
          {"l4_2", code({at_operand(), from_to(), flags(2)}), l4},
          {"l4_4", code({at_operand(), from_to(), flags(4 | 0x10)}), l4},
          {"l4_4_mangled", code({at_operand(), from_to(), mov(5, 4 | 0x20)}), l4}};
}

/// One program for each. `clone`: the skb has a clone when the helper gets it.
Pipeline helper_pipeline(bool clone) {
  Pipeline p;
  const Code cloned =
      clone ? code({mov(2, 1), mov(3, 0), helper(BPF_FUNC_clone_redirect), mov_reg(1, 6)}) : Code();
  for (const Helper &h : helpers()) {
    p.programs.push_back(program(
        h.name,
        code({packet_in(76), copy_to_stack(16, -32, 32), mov_reg(1, 6), cloned, h.arguments, helper(h.id),
              // what it wrote to the stack is part of the result
              load32(3, 10, -32), one(insn(0xaf, 0, 3, 0, 0)), exit()}),
        ProgType::sched_cls));
    p.entries.push_back(ProgId(p.programs.size() - 1));
  }
  return p;
}

void compare_helpers(Installed &installed, unsigned packets) {
  std::mt19937_64 random(7);
  constexpr uint64_t edges[] = {0, 1, 0xffff, 0x10000, 0xffff0000, 0xffffffff, 0x8000000000000000};
  auto operand = [&] { return random() % 3 ? random() : edges[random() % std::size(edges)]; };
  for (unsigned n = 0; n < packets; ++n) {
    std::vector<uint8_t> packet(packet_bytes);
    for (uint8_t &b : packet)
      b = uint8_t(random() % 4 ? random() : random() % 2 * 255);
    packet[12] = 8, packet[13] = 0;
    const uint64_t words[] = {operand(), operand(), random() % 4 ? random() % (packet_bytes + 4) : operand(),
                              random() % 2 * 0x20};
    std::memcpy(packet.data() + 16, words, sizeof words);
    for (uint32_t i = 0; i < helpers().size(); ++i) {
      const TestRunResult wanted = installed.original(i, packet), got = installed.image(i, packet);
      ASSERT_EQ(got.retval, wanted.retval) << helpers()[i].name << ", packet " << n;
      ASSERT_EQ(got.packet, wanted.packet) << helpers()[i].name << ", packet " << n;
    }
  }
}

TEST_F(LinuxInline, HelpersDoWhatTheKernelDoes) {
  auto installed = Installed::make(helper_pipeline(false));
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  compare_helpers(*installed, 200);
}

/// The kernel copies what is to be written then.
TEST_F(LinuxInline, HelpersLeaveClonesAlone) {
  auto network = PrivateNetwork::enter();
  ASSERT_TRUE(bool(network)) << llvm::toString(network.takeError());
  auto installed = Installed::make(helper_pipeline(true));
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  compare_helpers(*installed, 50);
}

} // namespace
} // namespace ujit
