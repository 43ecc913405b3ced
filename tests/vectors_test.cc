// Which code uses vector registers: loops in a process, nothing in a kernel; and what a loop over words is
// made of.
#include "lto/image.h"
#include "lto/link.h"
#include "lto/native_image.h"
#include "lto/optimise.h"
#include "lto/single_fetch.h"
#include "tests/machine_steps.h"
#include "tests/optimised_ir.h"
#include "tests/support/case_file.h"

#include "gtest/gtest.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Regex.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

namespace ujit {
namespace {

/// The sum of 16-bit words of a map's value, and what `in_loop` does besides, for `words` words at r7.
std::string sum(const std::string &in_loop = "", int words = 64) {
  return "-- prog entry xdp\nr6 = r1\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map values ll\n"
         "call map_lookup_elem\nif r0 == 0 goto out\nr7 = r0\nr3 = 0\nr0 = 0\nagain:\nr1 = r7\nr1 += r3\n"
         "r2 = *(u16 *)(r1 + 0)\n" +
         in_loop + "r0 += r2\nr3 += 2\nif r3 != " + std::to_string(2 * words) +
         " goto again\nexit\nout:\nr0 = 0\nexit\n"
         "-- map values array key=4 value=1504 entries=1\n-- packet\n00\n-- result\n0\n";
}

Expected<LinkResult> link_text(const std::string &text, LinkOptions options, Pipeline &pipeline) {
  auto c = parse_case(text, "vectors");
  if (!c)
    return c.takeError();
  pipeline = c->pipeline;
  return link(pipeline, options);
}

/// Machine instructions with vector registers.
size_t vectors_in(const std::string &text, const LinkOptions &options) {
  Pipeline pipeline;
  auto linked = link_text(text, options, pipeline);
  if (!linked) {
    ADD_FAILURE() << llvm::toString(linked.takeError());
    return 0;
  }
  return count_steps(linked->image.object, [](const MachineStep &s) { return s.vectors; });
}

LinkOptions without(const std::string &optimisation) {
  LinkOptions options;
  options.disabled = {optimisation};
  return options;
}

TEST(Vectors, LoopsHaveThemInAProcess) {
  EXPECT_GT(vectors_in(sum(), {}), 0u);
  EXPECT_EQ(vectors_in(sum(), without("vectors")), 0u);
  EXPECT_EQ(vectors_in(sum(), without("loops")), 0u);
}

TEST(Vectors, NothingHasThemInAKernel) {
  LinkOptions options;
  options.target = LinkTarget::kernel;
  EXPECT_EQ(vectors_in(sum(), options), 0u);
  options.cpu = "x86-64-v4";
  EXPECT_EQ(vectors_in(sum(), options), 0u);
  std::string text = "-- prog entry xdp\n"; // memory is set to 0 by vectors where there are any
  for (int at = 8; at <= 256; at += 8)
    text += llvm::formatv("*(u64 *)(r10 - {0}) = 0\n", at);
  text += "r1 = r10\nr1 += -256\nr2 = 256\nr3 = 0\nr4 = 0\nr5 = 0\ncall trace_printk\nexit\n"
          "-- packet\n00\n-- result\n0\n";
  EXPECT_EQ(vectors_in(text, options), 0u);
}

TEST(Vectors, StoresThatLaterRoundsReadKeepTheLoopScalar) {
  EXPECT_EQ(vectors_in(sum("*(u16 *)(r1 + 2) = r2\n"), {}), 0u);
}

TEST(Vectors, EachElementIsReadOnce) {
  for (int words : {5, 64, 100, 700}) {
    Pipeline pipeline;
    auto linked = link_text(sum("", words), {}, pipeline);
    ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
    auto fetched = check_single_fetch(linked->image.object, pipeline);
    ASSERT_TRUE(bool(fetched)) << llvm::toString(fetched.takeError());
    EXPECT_GT(fetched->loads + fetched->folded, 0u);
    EXPECT_TRUE(fetched->repeated.empty()) << words << " words";
  }
}

/// A page between two that cannot be read.
class GuardedPage {
public:
  GuardedPage()
      : begin_(
            static_cast<uint8_t *>(mmap(nullptr, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    EXPECT_NE(static_cast<void *>(begin_), MAP_FAILED);
    EXPECT_EQ(mprotect(begin_ + size, size, PROT_READ | PROT_WRITE), 0);
  }
  ~GuardedPage() { munmap(begin_, 3 * size); }
  GuardedPage(const GuardedPage &) = delete;
  GuardedPage &operator=(const GuardedPage &) = delete;

  static constexpr size_t size = 4096;
  uint8_t *begin() const { return begin_ + size; }

private:
  uint8_t *begin_;
};

/// M9: a vector load may read what lies between two elements, but nothing before the first or behind the
/// last.
TEST(Vectors, NothingOutsideOfTheElementsIsRead) {
  constexpr int step = 4, words = 999, offset = 2;
  const std::string text =
      llvm::formatv("-- prog entry xdp\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map values ll\n"
                    "call map_lookup_elem\nif r0 == 0 goto out\nr7 = r0\nr3 = 0\nr0 = 0\nagain:\nr1 = r7\n"
                    "r1 += r3\nr2 = *(u16 *)(r1 + {0})\nr0 += r2\nr3 += {1}\nif r3 != {2} goto again\nexit\n"
                    "out:\nr0 = 0\nexit\n-- map values array key=4 value=4096 entries=1\n-- packet\n00\n"
                    "-- result\n0\n",
                    offset, step, step * words);
  EXPECT_GT(vectors_in(text, {}), 0u);
  Pipeline pipeline;
  auto linked = link_text(text, {}, pipeline);
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  auto kernel = Kernel::create(pipeline, {});
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  auto image = load_native(pipeline, ProgId(0), linked->image.object, "guarded");
  ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());

  const GuardedPage page;
  std::memset(page.begin(), 0, page.size);
  uint8_t *const first_at_begin = page.begin();
  uint8_t *const last_at_end = page.begin() + page.size - 2 - step * (words - 1);
  for (uint8_t *first : {first_at_begin, last_at_end}) {
    for (int i = 0; i < words; ++i)
      first[step * i] = 1;
    std::vector<uint64_t> table = (*kernel)->instance_table(InstanceLayout(pipeline), 0);
    const auto value = reinterpret_cast<uintptr_t>((*kernel)->map(MapId(0))->values(0));
    ASSERT_EQ(std::ranges::count(table, value), 1);
    std::ranges::replace(table, value, reinterpret_cast<uintptr_t>(first - offset));
    auto result =
        (*kernel)->run_packet(image->entry, table.data(), ProgType::xdp, std::vector<uint8_t>(64), 0);
    ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
    EXPECT_EQ(result->value, uint32_t(words));
    std::memset(page.begin(), 0, page.size);
  }
}

TEST(Rotates, OfAMixedWord) {
  // h ^ k for a k of less than 52 bits: the upper 13 bits of both are the same; with 53 bits of k they are
  // not.
  auto mixed = [](int times) {
    return llvm::formatv("-- prog entry xdp\nr7 = *(u32 *)(r1 + 16)\nr6 = *(u32 *)(r1 + 12)\nr6 *= 77777\n"
                         "r6 *= r6\nr7 *= {0}\nr7 ^= r6\nr0 = r7\nr0 <<= 13\nr6 >>= 51\nr0 |= r6\nexit\n"
                         "-- packet\n00\n-- result\n0\n",
                         times)
        .str();
  };
  auto rotates = [&](const std::string &text, const LinkOptions &options) {
    const std::string ir = optimised_ir(llvm::cantFail(parse_case(text, "rotates")).pipeline, options);
    EXPECT_EQ(count(ir, "define "), 1u) << ir;
    llvm::Regex same("fshl\\.i64\\(i64 (%[^,]+), i64 (%[^,]+), i64 13\\)");
    llvm::SmallVector<llvm::StringRef> operands;
    return same.match(ir, &operands) && operands[1] == operands[2];
  };
  EXPECT_TRUE(rotates(mixed(77777), {}));
  EXPECT_FALSE(rotates(mixed(77777), without("rotates")));
  EXPECT_FALSE(rotates(mixed(1048577), {}));
}

} // namespace
} // namespace ujit
