// Lookups and helpers on packets that are code in an image (lto/lookup.cc, lto/skb_helpers.cc) against the
// kernel's own, in the kernel they run in: each program runs as original and as image, on the same maps and
// packets, and nothing that can be seen may differ.
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

#include <atomic>
#include <random>
#include <thread>

namespace ujit {
namespace {

using namespace asm_;

constexpr MapId table{0}, counts{1};
constexpr int16_t key_at = 16, wanted_at = 96, packet_bytes = 128;
constexpr uint32_t entries = 16;

Code one(Insn i) { return {i}; }

/// `counts[index]++`.
Code count(int32_t index) {
  return code({value_ref(1, counts, 8 * index), mov(2, 1), one(insn(0xdb, 1, 2, 0, 0))});
}

/// r7 = start of the packet, of which packet_bytes are there; else the program ends with 0.
Code packet() {
  return code({mov_reg(6, 1), load32(7, 6, 0), load32(8, 6, 4), mov_reg(2, 7), add(2, packet_bytes),
               one(insn(0xbd, 2, 8, 2, 0)), mov(0, 0), exit()});
}

/// Copies bytes of the packet to the stack: in the largest pieces.
Code copy_to_stack(int16_t from, int16_t to, uint32_t size) {
  Code out;
  for (uint32_t at = 0; at < size;) {
    const uint32_t n = size - at >= 8 ? 8 : size - at >= 4 ? 4 : size - at >= 2 ? 2 : 1;
    const uint8_t width = n == 8 ? 0x18 : n == 4 ? 0x00 : n == 2 ? 0x08 : 0x10;
    out.push_back(insn(0x61 | width, 3, 7, int16_t(from + int(at)), 0));
    out.push_back(insn(0x63 | width, 10, 3, int16_t(to + int(at)), 0));
    at += n;
  }
  return out;
}

/// Looks the packet's key up. 1: it is not there; else the value's lower half. Counts misses, values that are
/// not the wanted one, and those that are.
Pipeline lookup_pipeline(MapType type, uint32_t key_size, uint32_t flags) {
  Pipeline p;
  p.maps = {map("table", type, key_size, 8, entries, flags),
            data_map("counts", std::vector<uint8_t>(24), false)};
  const Code missing = code({count(0), mov(0, 1), exit()});
  const Code wrong = code({count(1), mov_reg(0, 7), exit()});
  p.programs = {program(
      "lookup",
      code({packet(), copy_to_stack(key_at, -72, key_size), load64(9, 7, wanted_at), map_ref(1, table),
            mov_reg(2, 10), add(2, -72), helper(1), jump_if_not_zero(0, int16_t(missing.size())), missing,
            load64(7, 0, 0), one(insn(0x1d, 7, 9, int16_t(wrong.size()), 0)), wrong, count(2), mov_reg(0, 7),
            exit()}))};
  p.entries = {ProgId{0}};
  return p;
}

/// A pipeline in the kernel, with its image beside it.
class Installed {
public:
  static Expected<Installed> make(const Pipeline &pipeline, std::vector<std::string> disabled = {},
                                  bool known_kernel = true) {
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
      facts->layout.search_htab = facts->layout.expand_skb_helpers = false;
      k.capture.kernel = k.canonical.pipeline.kernel = facts;
    }
    LinkOptions options = k.options;
    options.disabled = std::move(disabled);
    Expected<KernelImage> image = link_for_kernel(k, *kernel, options);
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

  LoadedPipeline &loaded() { return *source_->loaded; }
  int fd(MapId m) { return loaded().fd(m); }
  int stub() const { return live_.entries.front().stub.get(); }
  const KernelLayout &layout() const { return source_->pipelines.at(0).capture.kernel->layout; }
  bool calls(const std::string &symbol) const { return std::ranges::find(called_, symbol) != called_.end(); }

  TestRunResult original(std::span<const uint8_t> packet, TestRunOptions options = {}) {
    return llvm::cantFail(loaded().run(ProgId{0}, packet, options));
  }
  TestRunResult image(std::span<const uint8_t> packet, TestRunOptions options = {}) {
    options.instead = stub();
    return llvm::cantFail(loaded().run(ProgId{0}, packet, options));
  }
  uint64_t counted(unsigned i) {
    uint64_t values[3] = {};
    uint32_t zero = 0;
    EXPECT_EQ(bpf_map_lookup_elem(fd(counts), &zero, values), 0);
    return values[i];
  }

private:
  Installed() = default;
  std::unique_ptr<KernelSource> source_; ///< the image refers to it
  LiveImage live_;
  std::vector<std::string> called_;
};

bool skip_here(std::string &why) {
  static const Capabilities capabilities = probe_capabilities();
  if (!capabilities.bpf.ok) {
    why = "bpf(): " + capabilities.bpf.reason;
    return true;
  }
  static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
  why = "no modules here: " + kernel.refusal;
  return !kernel.refusal.empty();
}

struct Table {
  const char *name;
  MapType type;
  uint32_t key_size;
  uint32_t flags = 0;
};
void PrintTo(const Table &t, std::ostream *os) { *os << t.name << t.key_size; }

class LinuxInlineLookup : public testing::TestWithParam<Table> {
protected:
  void SetUp() override {
    if (std::string why; skip_here(why))
      GTEST_SKIP() << why;
  }

  std::vector<uint8_t> key(uint32_t n) const {
    std::vector<uint8_t> out(GetParam().key_size);
    for (uint32_t i = 0; i < out.size(); ++i)
      out[i] = uint8_t((n + 1) * (2 * i + 77) >> (i % 3));
    return out;
  }
  static uint64_t value(uint32_t n, uint32_t cpu = 0) { return 0x5000000000 + 1000 * cpu + n + 2; }

  std::vector<uint8_t> packet(uint32_t n, uint32_t cpu = 0) const {
    std::vector<uint8_t> out(packet_bytes);
    const std::vector<uint8_t> k = key(n);
    std::copy(k.begin(), k.end(), out.begin() + key_at);
    const uint64_t v = value(n, cpu);
    memcpy(out.data() + wanted_at, &v, sizeof v);
    return out;
  }

  bool put(int map, uint32_t n) const {
    std::vector<uint64_t> values;
    const bool each = is_per_cpu(GetParam().type);
    for (int cpu = 0; cpu < (each ? libbpf_num_possible_cpus() : 1); ++cpu)
      values.push_back(value(n, each ? uint32_t(cpu) : 0));
    return bpf_map_update_elem(map, key(n).data(), values.data(), BPF_ANY) == 0;
  }

  static Pipeline pipeline() {
    return lookup_pipeline(GetParam().type, GetParam().key_size, GetParam().flags);
  }

  static bool calls_lookup(const Installed &i) {
    return i.calls("__htab_map_lookup_elem") || i.calls("htab_percpu_map_lookup_elem") ||
           i.calls("htab_lru_percpu_map_lookup_elem");
  }

  void compare(Installed &i) {
    const bool each = is_per_cpu(GetParam().type);
    for (uint32_t n = 0; n < 2 * entries; ++n)
      for (unsigned cpu = 0; cpu < (each ? 2u : 1u); ++cpu) {
        TestRunOptions options;
        options.cpu = cpu;
        const uint32_t wanted = i.original(packet(n, each ? cpu : 0), options).retval;
        EXPECT_EQ(i.image(packet(n, each ? cpu : 0), options).retval, wanted) << "key " << n;
      }
  }
};

INSTANTIATE_TEST_SUITE_P(Tables, LinuxInlineLookup,
                         testing::Values(Table{"hash", MapType::hash, 1}, Table{"hash", MapType::hash, 4},
                                         Table{"hash", MapType::hash, 8}, Table{"hash", MapType::hash, 13},
                                         Table{"hash", MapType::hash, 40}, Table{"hash", MapType::hash, 64},
                                         Table{"hash_no_prealloc", MapType::hash, 20, BPF_F_NO_PREALLOC},
                                         Table{"lru", MapType::lru_hash, 4},
                                         Table{"lru", MapType::lru_hash, 40},
                                         Table{"percpu", MapType::percpu_hash, 4},
                                         Table{"percpu", MapType::percpu_hash, 24},
                                         Table{"lru_percpu", MapType::lru_percpu_hash, 12}),
                         [](const auto &info) { return testing::PrintToString(info.param); });

/// As many buckets as elements, so that chains are long.
TEST_P(LinuxInlineLookup, FindsWhatTheKernelFinds) {
  auto installed = Installed::make(pipeline());
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_FALSE(calls_lookup(*installed));
  compare(*installed); // empty
  for (uint32_t n = 0; n < entries; ++n)
    put(installed->fd(table), n);
  compare(*installed);
  for (uint32_t n = 0; n < entries; n += 3)
    bpf_map_delete_elem(installed->fd(table), key(n).data());
  compare(*installed);
  for (uint32_t n = entries; n < entries + 4; ++n) // into elements that were used before
    put(installed->fd(table), n);
  compare(*installed);
}

class LinuxCalledLookup : public LinuxInlineLookup {};
INSTANTIATE_TEST_SUITE_P(Tables, LinuxCalledLookup,
                         testing::Values(Table{"lru", MapType::lru_hash, 4},
                                         Table{"percpu", MapType::percpu_hash, 24}),
                         [](const auto &info) { return testing::PrintToString(info.param); });

TEST_P(LinuxCalledLookup, InAKernelThatIsNotKnown) {
  auto installed = Installed::make(pipeline(), {}, false);
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_TRUE(calls_lookup(*installed));
  for (uint32_t n = 0; n < entries; ++n)
    put(installed->fd(table), n);
  compare(*installed);
}

/// Another CPU moves elements between chains all the time; a key that stays is found each time, with its value.
TEST_P(LinuxInlineLookup, WhileOthersChangeTheTable) {
  if (GetParam().type == MapType::lru_hash || GetParam().type == MapType::lru_percpu_hash)
    GTEST_SKIP() << "an LRU map may drop any key";
  auto installed = Installed::make(pipeline());
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  const int map = installed->fd(table);
  ASSERT_TRUE(put(map, 0));
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
        put(map, n);
      else
        bpf_map_delete_elem(map, key(n).data());
    }
  });
  constexpr uint32_t rounds = 20, each = 1000;
  TestRunOptions options;
  options.cpu = 0;
  options.repeat = each;
  for (uint32_t i = 0; i < rounds; ++i)
    installed->image(packet(0), options);
  done = true;
  changes.join();
  EXPECT_EQ(installed->counted(0), 0u) << "not found";
  EXPECT_EQ(installed->counted(1), 0u) << "another value";
  EXPECT_EQ(installed->counted(2), uint64_t(rounds) * each);
}

// --- what is known of a kernel ---

TEST(LinuxInline, KernelsAreKnownByTrial) {
  if (const Capabilities c = probe_capabilities(); !c.bpf.ok)
    GTEST_SKIP() << "bpf(): " << c.bpf.reason;
  const std::shared_ptr<KernelFacts> facts = llvm::cantFail(read_kernel_facts());
  if (!sources_were_read(facts->release))
    GTEST_SKIP() << "the sources of this kernel were not read: " << facts->release;
  KernelReader reader = llvm::cantFail(KernelReader::load());
  const HashLayout right = facts->layout.htab;
  EXPECT_TRUE(can_search_tables(reader, right, facts->release));
  EXPECT_TRUE(can_expand_skb_helpers(facts->release));
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

/// The packet's bytes are operands: at 16 `from`, at 24 `to`, at 32 the offset, at 40 flags.
/// As packet(), with the offsets of __sk_buff: data at 76, data_end at 80.
Code skb_packet() {
  return code({mov_reg(6, 1), load32(7, 6, 76), load32(8, 6, 80), mov_reg(2, 7), add(2, packet_bytes),
               one(insn(0xbd, 2, 8, 2, 0)), mov(0, 0), exit()});
}

struct Helper {
  const char *name;
  const char *symbol;
  Code arguments; ///< r1 is the context
  int32_t id;
};
void PrintTo(const Helper &h, std::ostream *os) { *os << h.name; }

class LinuxInlineHelper : public testing::TestWithParam<Helper> {
protected:
  void SetUp() override {
    if (std::string why; skip_here(why))
      GTEST_SKIP() << why;
  }
  static Pipeline pipeline(bool clone) {
    Pipeline p;
    Code body = clone ? code({mov(2, 1), mov(3, 0), helper(BPF_FUNC_clone_redirect), mov_reg(1, 6)}) : Code();
    p.programs = {program("helper",
                          code({skb_packet(), copy_to_stack(16, -32, 32), mov_reg(1, 6), body,
                                GetParam().arguments, helper(GetParam().id),
                                // what it read and what is in the packet now take part in the result
                                load32(3, 10, -32), one(insn(0xaf, 0, 3, 0, 0)), exit()}),
                          ProgType::sched_cls)};
    p.entries = {ProgId{0}};
    return p;
  }

  void compare(Installed &i) {
    std::mt19937_64 random(7);
    constexpr uint64_t edges[] = {0, 1, 0xffff, 0x10000, 0xffff0000, 0xffffffff, 0x8000000000000000};
    auto operand = [&] { return random() % 3 ? random() : edges[random() % std::size(edges)]; };
    for (unsigned n = 0; n < 200; ++n) {
      std::vector<uint8_t> packet(packet_bytes);
      for (uint8_t &b : packet)
        b = uint8_t(random() % 4 ? random() : random() % 2 * 255);
      packet[12] = 8, packet[13] = 0;
      const uint64_t words[] = {operand(), operand(),
                                random() % 4 ? random() % (packet_bytes + 4) : operand(),
                                random() % 2 * 0x20};
      memcpy(packet.data() + 16, words, sizeof words);
      const TestRunResult wanted = i.original(packet), got = i.image(packet);
      ASSERT_EQ(got.retval, wanted.retval) << "packet " << n;
      ASSERT_EQ(got.packet, wanted.packet) << "packet " << n;
    }
  }
};

Code from_to() { return code({load64(3, 10, -32), load64(4, 10, -24)}); }
Code at_operand() { return load64(2, 10, -16); }
/// Of the flags operand only BPF_F_MARK_MANGLED_0 is taken.
Code flags(int32_t also) {
  return code({load64(5, 10, -8), one(insn(0x57, 5, 0, 0, 0x20)), one(insn(0x47, 5, 0, 0, also))});
}
Code buffer() { return code({mov_reg(3, 10), add(3, -32)}); }

INSTANTIATE_TEST_SUITE_P(
    Helpers, LinuxInlineHelper,
    testing::Values(Helper{"pull_all", "bpf_skb_pull_data", mov(2, 0), BPF_FUNC_skb_pull_data},
                    Helper{"pull", "bpf_skb_pull_data", at_operand(), BPF_FUNC_skb_pull_data},
                    Helper{"store", "bpf_skb_store_bytes",
                           code({at_operand(), buffer(), mov(4, 13), mov(5, 0)}), BPF_FUNC_skb_store_bytes},
                    Helper{"store_mac", "bpf_skb_store_bytes",
                           code({mov(2, 6), buffer(), mov(4, 6), mov(5, 0)}), BPF_FUNC_skb_store_bytes},
                    Helper{"load", "bpf_skb_load_bytes", code({at_operand(), buffer(), mov(4, 7)}),
                           BPF_FUNC_skb_load_bytes},
                    Helper{"l3_diff", "bpf_l3_csum_replace",
                           code({at_operand(), mov(3, 0), load64(4, 10, -24), mov(5, 0)}),
                           BPF_FUNC_l3_csum_replace},
                    Helper{"l3_2", "bpf_l3_csum_replace", code({at_operand(), from_to(), mov(5, 2)}),
                           BPF_FUNC_l3_csum_replace},
                    Helper{"l3_4", "bpf_l3_csum_replace", code({at_operand(), from_to(), mov(5, 4)}),
                           BPF_FUNC_l3_csum_replace},
                    Helper{"l4_diff", "bpf_l4_csum_replace",
                           code({at_operand(), mov(3, 0), load64(4, 10, -24), flags(0x10)}),
                           BPF_FUNC_l4_csum_replace},
                    Helper{"l4_2", "bpf_l4_csum_replace", code({at_operand(), from_to(), flags(2)}),
                           BPF_FUNC_l4_csum_replace},
                    Helper{"l4_4", "bpf_l4_csum_replace", code({at_operand(), from_to(), flags(4 | 0x10)}),
                           BPF_FUNC_l4_csum_replace},
                    Helper{"l4_4_mangled", "bpf_l4_csum_replace",
                           code({at_operand(), from_to(), mov(5, 4 | 0x20)}), BPF_FUNC_l4_csum_replace}),
    [](const auto &info) { return std::string(info.param.name); });

TEST_P(LinuxInlineHelper, DoesWhatTheKernelDoes) {
  auto installed = Installed::make(pipeline(false));
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  compare(*installed);
}

/// The skb has a clone, so the kernel copies what is to be written.
TEST_P(LinuxInlineHelper, LeavesClonesAlone) {
  auto network = PrivateNetwork::enter();
  ASSERT_TRUE(bool(network)) << llvm::toString(network.takeError());
  auto installed = Installed::make(pipeline(true));
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  compare(*installed);
}

class LinuxCalledHelper : public LinuxInlineHelper {};
INSTANTIATE_TEST_SUITE_P(Helpers, LinuxCalledHelper,
                         testing::Values(Helper{"l4_4", "bpf_l4_csum_replace",
                                                code({at_operand(), from_to(), flags(4 | 0x10)}),
                                                BPF_FUNC_l4_csum_replace}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST_P(LinuxCalledHelper, InAKernelThatIsNotKnown) {
  auto installed = Installed::make(pipeline(false), {}, false);
  ASSERT_TRUE(bool(installed)) << llvm::toString(installed.takeError());
  EXPECT_TRUE(installed->calls(GetParam().symbol));
  compare(*installed);
}

} // namespace
} // namespace ujit
