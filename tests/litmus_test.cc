// docs/memory-model.md with two threads on native code: what must not be seen is not seen.
#include "lto/link.h"
#include "lto/native_image.h"
#include "tests/support/case_file.h"

#include "gtest/gtest.h"

#include <atomic>
#include <thread>

namespace ujit {
namespace {

constexpr std::string_view map = "-- map m array key=4 value=64 entries=1\n-- packet\n00\n-- result\n0\n";

/// r7: the value of map m; `out` returns 0.
std::string program(const std::string &name, const std::string &body) {
  return "-- prog " + name +
         " xdp\nr6 = r1\n*(u32 *)(r10 - 4) = 0\nr1 = map m ll\nr2 = r10\nr2 += -4\ncall map_lookup_elem\n"
         "if r0 == 0 goto out\nr7 = r0\n" +
         body + "exit\nout:\nr0 = 0\nexit\n";
}

/// One or two programs on one kernel; CPU n runs program n.
/// At any time, so also while the kernel puts the next packet there.
__attribute__((no_sanitize("thread"))) void write_as_a_device(volatile uint8_t *shared) {
  *shared = 3;
  *shared = 200;
}

class Litmus : public testing::Test {
protected:
  void load(const std::string &text) {
    auto c = parse_case(text + std::string(map), "litmus");
    ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
    case_ = std::move(*c);
    case_.pipeline.entries.clear();
    for (uint32_t p = 0; p < case_.pipeline.programs.size(); ++p)
      case_.pipeline.entries.push_back(ProgId(p));
    auto linked = link(case_.pipeline, {});
    ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
    auto kernel = Kernel::create(case_.pipeline, {.cpus = 2});
    ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
    kernel_ = std::move(*kernel);
    for (uint32_t p = 0; p < case_.pipeline.programs.size(); ++p) {
      auto image = load_native(case_.pipeline, ProgId(p), linked->image.object, "litmus");
      ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
      images_.push_back(std::move(*image));
      tables_.push_back(kernel_->instance_table(InstanceLayout(case_.pipeline), p));
    }
    value_ = static_cast<uint64_t *>(kernel_->map(MapId(0))->values(0));
    ASSERT_NE(value_, nullptr);
  }

  uint32_t run(uint32_t p) {
    static const std::vector<uint8_t> packet(64);
    auto r = kernel_->run_packet(images_[p].entry, tables_[p].data(), ProgType::xdp, packet, p);
    return r ? r->value : (llvm::consumeError(r.takeError()), ~0u);
  }

  /// Runs program 0 `rounds` times while `disturb` runs again and again on another thread; results go to
  /// `see`.
  template <class F, class G>
  void under(F disturb, uint32_t rounds, G see) {
    std::atomic<bool> stop{false};
    std::thread hostile([&] {
      while (!stop.load(std::memory_order_relaxed))
        disturb();
    });
    for (uint32_t i = 0; i < rounds; ++i)
      see(run(0));
    stop = true;
    hostile.join();
  }

  Case case_;
  std::unique_ptr<Kernel> kernel_;
  std::vector<NativeImage> images_;
  std::vector<std::vector<uint64_t>> tables_;
  uint64_t *value_ = nullptr;
};

TEST_F(Litmus, M5_AlignedValuesAreNotTorn) {
  load(program(
      "reader",
      "r1 = *(u64 *)(r7 + 8)\nr0 = 1\nif r1 == 0 goto done\nr1 += 1\nif r1 == 0 goto done\nr0 = 2\ndone:\n"));
  volatile uint64_t *shared = value_ + 1;
  under(
      [&] {
        *shared = 0;
        *shared = ~0ull;
      },
      20'000, [](uint32_t r) { ASSERT_EQ(r, 1u); });
}

TEST_F(Litmus, M8_CheckedMapValueIsTheUsedOne) {
  load(program("reader", "r1 = *(u64 *)(r7 + 8)\nif r1 > 7 goto out\nr2 = r1\nr2 += r7\nr2 = *(u8 *)(r2 + "
                         "16)\nr0 = r1\nr0 += 10\n"));
  volatile uint64_t *shared = value_ + 1;
  under(
      [&] {
        *shared = 3;
        *shared = 1'000'000;
      },
      20'000, [](uint32_t r) { ASSERT_TRUE(r == 0 || (r >= 10 && r <= 17)) << r; });
}

TEST_F(Litmus, M8_CheckedPacketByteIsTheUsedOne) {
  load(program("reader",
               "r7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr2 = r7\nr2 += 40\nif r2 > r8 goto out\nr1 = "
               "*(u8 *)(r7 + 9)\n"
               "if r1 > 7 goto out\nr2 = r1\nr2 += r7\nr2 = *(u8 *)(r2 + 16)\nr0 = r1\nr0 += 10\n"));
  run(0);
  volatile uint8_t *shared = kernel_->cpu(0).packet.data() + 9;
  under([&] { write_as_a_device(shared); }, 20'000,
        [](uint32_t r) { ASSERT_TRUE(r == 0 || (r >= 10 && r <= 17)) << r; });
}

TEST_F(Litmus, M20_MessagePassing) {
  load(program("writer", "r1 = *(u64 *)(r7 + 0)\nr1 += 1\n*(u64 *)(r7 + 0) = r1\nstore_release((u64 *)(r7 + "
                         "32), r1)\nr0 = 1\n") +
       program("reader", "r1 = load_acquire((u64 *)(r7 + 32))\nr2 = *(u64 *)(r7 + 0)\nr0 = 1\nif r2 >= r1 "
                         "goto done\nr0 = 2\ndone:\n"));
  std::atomic<uint32_t> wrong{0};
  under([&] { wrong += run(1) != 1; }, 20'000, [](uint32_t r) { ASSERT_EQ(r, 1u); });
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(value_[0], 20'000u);
}

TEST_F(Litmus, M18_StoreBuffering) {
  auto side = [](const char *name, int mine, int other) {
    return program(name,
                   "*(u64 *)(r7 + " + std::to_string(mine) +
                       ") = 1\nr1 = 1\nr1 = atomic_fetch_add((u64 *)(r7 + 48), r1)\nr0 = *(u64 *)(r7 + " +
                       std::to_string(other) + ")\n");
  };
  load(side("left", 0, 24) + side("right", 24, 0));
  constexpr uint32_t rounds = 3'000;
  std::atomic<uint32_t> round{0}, arrived{0};
  uint32_t left = 0, right = 0, both_missed = 0;
  std::thread other([&] {
    for (uint32_t i = 1; i <= rounds; ++i) {
      while (round.load() < i)
        std::this_thread::yield();
      right = run(1);
      ++arrived;
    }
  });
  for (uint32_t i = 1; i <= rounds; ++i) {
    value_[0] = value_[3] = 0;
    round = i;
    left = run(0);
    while (arrived.load() < i)
      std::this_thread::yield();
    both_missed += left == 0 && right == 0;
  }
  other.join();
  EXPECT_EQ(both_missed, 0u);
  EXPECT_EQ(value_[6], 2 * rounds);
}

TEST_F(Litmus, M19_AtomicsWithoutFetchLoseNothing) {
  const std::string add = "r1 = 1\nlock *(u64 *)(r7 + 0) += r1\nr0 = 1\n";
  load(program("left", add) + program("right", add));
  uint64_t others = 0;
  under([&] { others += run(1); }, 20'000, [](uint32_t) {});
  EXPECT_EQ(value_[0], 20'000 + others);
}

TEST_F(Litmus, SpinLock) { // M22
  const std::string both = "r1 = r7\ncall spin_lock\nr1 = *(u64 *)(r7 + 8)\nr2 = *(u64 *)(r7 + 16)\nr1 += "
                           "1\nr2 += 1\n*(u64 *)(r7 + 8) = r1\n"
                           "*(u64 *)(r7 + 16) = r2\nr8 = r1\nr8 -= r2\nr1 = r7\ncall spin_unlock\nr0 = 1\nif "
                           "r8 == 0 goto done\nr0 = 2\ndone:\n";
  load(program("left", both) + program("right", both));
  uint64_t others = 0, wrong = 0;
  under([&] { wrong += run(1) != 1, ++others; }, 20'000, [](uint32_t r) { ASSERT_EQ(r, 1u); });
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(value_[1], 20'000 + others);
  EXPECT_EQ(value_[2], 20'000 + others);
}

} // namespace
} // namespace ujit
