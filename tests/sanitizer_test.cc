// That what is left out of the sanitizers' reports (tests/sanitizers/) hides nothing of ours. Only in builds
// with one: elsewhere there is nothing to test.
#include "lto/test_hooks.h"
#include "tests/differential/compare.h"
#include "tests/sanitizer.h"

#include "gtest/gtest.h"

#if UJIT_TSAN

namespace ujit {
namespace {

int counted; ///< by all tasks at once

void count_without_atomics(llvm::Module &) { ++counted; }

void link_on_two_threads() {
  std::vector<Sample> samples;
  for (uint64_t seed = 1; seed <= 32; seed++)
    samples.push_back(generate(seed, "s" + std::to_string(seed) + "_"));
  Batch batch = make_batch(samples);
  batch.options.threads = 2;
  llvm::consumeError(link_each(batch.pipeline, batch.options, variation(1).plans).takeError());
}

TEST(SanitizerDeathTest, RacesBetweenTasksAreSeen) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        link_on_two_threads(); // without a finding
        test_hooks.lowered = count_without_atomics;
        link_on_two_threads();
        _exit(0);
      },
      testing::ExitedWithCode(66), "data race.*count_without_atomics");
}

} // namespace
} // namespace ujit

#endif
