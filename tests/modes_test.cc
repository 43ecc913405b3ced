// Every file in tests/cases is a test of its own: it runs in all modes, and all must agree.
#include "kernel-iface/embedded/kernel.h"
#include "tests/paths.h"
#include "tests/support/modes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace ujit {
namespace {

class CaseTest : public testing::Test {
public:
  explicit CaseTest(std::string path) : path_(std::move(path)) {}

  void TestBody() override {
    auto c = read_case(path_);
    ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
    for (const ModeOutcome &o : run_all_modes(*c))
      for (const std::string &problem : o.problems)
        ADD_FAILURE() << o.mode << ": " << problem;
  }

private:
  std::string path_;
};

std::string test_name(const std::string &path) {
  std::string name = std::filesystem::path(path).stem();
  std::ranges::replace_if(name, [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

const bool registered = [] {
  auto files = find_cases(source_dir() + "/tests/cases");
  if (!files) {
    llvm::consumeError(files.takeError());
    return false;
  }
  for (const std::string &path : *files)
    testing::RegisterTest("Cases", test_name(path).c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [path]() -> CaseTest * { return new CaseTest(path); });
  return true;
}();

TEST(Modes, CasesWereFound) { EXPECT_TRUE(registered); }

/// Adds a bound constant to a hash entry, then goes through a slot that the constant selects.
constexpr const char two_instances[] = R"(
-- prog entry sched_cls
r6 = r1
*(u32 *)(r10 - 4) = 1
r2 = r10
r2 += -4
r1 = map table ll
call map_lookup_elem
if r0 == 0 goto out
r4 = map config + 0 ll
r3 = *(u32 *)(r4 + 0)
r2 = *(u64 *)(r0 + 0)
r2 += r3
*(u64 *)(r0 + 0) = r2
r1 = r6
r2 = map jmp ll
call tail_call
r0 = 1
exit
out: r0 = 2
exit
-- prog one sched_cls
r0 = 11
exit
-- prog two sched_cls
r0 = 12
exit
-- map config array frozen
data: 01000000
bound: slot 0 4 1
-- map table hash key=4 value=8
01000000: 6400000000000000
-- map jmp prog_array
1: one
2: two
)";

TEST(Modes, InstancesOfOneImageRunSideBySide) {
  auto c = parse_case(two_instances, "two.case");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  auto image = link_and_load(c->pipeline, standalone_options(*c));
  ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
  auto entry = image->code.require(image->info.entries.at(0).symbol);
  ASSERT_TRUE(bool(entry)) << llvm::toString(entry.takeError());

  struct Instance {
    Pipeline pipeline;
    std::unique_ptr<Kernel> kernel;
    std::vector<uint64_t> table;
  } instances[2];
  for (uint32_t i = 0; i < 2; i++) {
    Instance &instance = instances[i];
    instance.pipeline = c->pipeline;
    instance.pipeline.maps[0].bound[0].value = i + 1;
    auto kernel = Kernel::create(instance.pipeline);
    ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
    instance.kernel = std::move(*kernel);
    llvm::cantFail(instance.kernel->seed(c->seeds));
    instance.table = instance.kernel->instance_table(InstanceLayout(instance.pipeline), 0);
  }
  const std::vector<uint8_t> packet(14);
  for (int round = 0; round < 3; round++)
    for (uint32_t i = 0; i < 2; i++) {
      auto result = instances[i].kernel->run_packet(reinterpret_cast<NativeEntry>(const_cast<void *>(*entry)),
                                                    instances[i].table.data(), ProgType::sched_cls, packet);
      ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
      EXPECT_EQ(result->value, 11 + i);
    }
  for (uint64_t i = 0; i < 2; i++) {
    uint32_t key = 1;
    EXPECT_EQ(*static_cast<uint64_t *>(instances[i].kernel->map(MapId(1))->lookup(&key)), 100 + 3 * (i + 1));
  }
}

} // namespace
} // namespace ujit
