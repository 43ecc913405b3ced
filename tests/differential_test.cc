// The fuzzer finds what it is there for: faults that are planted into the linker show in few programs, and
// what is left of them after minimising is small enough to read.
#include "lto/test_hooks.h"
#include "tests/differential/compare.h"
#include "translator/helper.h"

#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <linux/bpf.h>
#include <utility>

namespace ujit {
namespace {

/// `change(instruction)` for each of a function, which it may erase.
template <class F>
void for_each_instruction(llvm::Function &f, F change) {
  for (llvm::Instruction &i : llvm::make_early_inc_range(llvm::instructions(f)))
    change(i);
}

void logical_instead_of_arithmetic_shift(llvm::Module &module) {
  for (llvm::Function &f : module)
    for_each_instruction(f, [](llvm::Instruction &i) {
      if (i.getOpcode() == llvm::Instruction::AShr)
        i.replaceAllUsesWith(
            llvm::BinaryOperator::CreateLShr(i.getOperand(0), i.getOperand(1), "", i.getIterator()));
    });
}

void zero_instead_of_sign_extension(llvm::Module &module) {
  for (llvm::Function &f : module)
    for_each_instruction(f, [](llvm::Instruction &i) {
      if (auto *extend = llvm::dyn_cast<llvm::SExtInst>(&i))
        i.replaceAllUsesWith(
            llvm::CastInst::CreateZExtOrBitCast(extend->getOperand(0), i.getType(), "", i.getIterator()));
    });
}

/// Constants are stored one too large.
void wrong_constant_stored(llvm::Function &f) {
  for_each_instruction(f, [](llvm::Instruction &i) {
    auto *store = llvm::dyn_cast<llvm::StoreInst>(&i);
    if (auto *value = store ? llvm::dyn_cast<llvm::ConstantInt>(store->getValueOperand()) : nullptr)
      store->setOperand(0, llvm::ConstantInt::get(value->getType(), value->getValue() + 1));
  });
}

/// bpf_map_update_elem touches no memory, says its row. (The rows of helpers that become code do not matter.)
const HelperEffects *update_with_nothing(uint32_t id) {
  static const HelperEffects row = [] {
    HelperEffects lie =
        *std::ranges::find(effects_table(), uint32_t(BPF_FUNC_map_update_elem), &HelperEffects::id);
    lie.args.fill(Arg::scalar);
    lie.touches = touch_nothing;
    return lie;
  }();
  return id == BPF_FUNC_map_update_elem ? &row : nullptr;
}

struct Planted {
  const char *name;
  void (*plant)();
};

const Planted faults[] = {
    {"ArithmeticShift", [] { test_hooks.lowered = logical_instead_of_arithmetic_shift; }},
    {"SignExtension", [] { test_hooks.lowered = zero_instead_of_sign_extension; }},
    {"StoredConstant", [] { test_hooks.fused_pass = wrong_constant_stored; }},
    {"HelperRow", [] { effects_override_for_tests = update_with_nothing; }},
};

class Differential : public testing::TestWithParam<Planted> {
protected:
  void TearDown() override {
    test_hooks = {};
    effects_override_for_tests = nullptr;
  }
};

TEST_P(Differential, FindsAndMinimisesWhatIsPlanted) {
  constexpr uint64_t pipelines = 256, at_once = 16;
  GetParam().plant();
  for (uint64_t first = 1; first < pipelines; first += at_once) {
    std::vector<Sample> samples;
    for (uint64_t seed = first; seed < first + at_once; seed++)
      samples.push_back(generate(seed, "s" + std::to_string(seed) + "_"));
    auto fails = [&](const Sample &s) {
      const EffectsOverride lie = std::exchange(effects_override_for_tests, nullptr);
      const bool determined = is_determined(s); // by the true rows
      effects_override_for_tests = lie;
      return determined && !compare_images({&s, 1}, first).empty();
    };
    const std::vector<Finding> found = compare_images(samples, first);
    if (found.empty())
      continue;
    // One that shows alone too.
    const auto sample = std::ranges::find_if(samples, fails);
    if (sample == samples.end())
      continue;
    const Sample small = minimise(*sample, fails);
    EXPECT_TRUE(fails(small));
    size_t insns = 0;
    for (const Program &p : small.pipeline.programs)
      insns += p.insns.size();
    EXPECT_LE(insns, 60u) << case_text(small, found[0].text);
    return;
  }
  ADD_FAILURE() << "not found in " << pipelines << " pipelines";
}

INSTANTIATE_TEST_SUITE_P(Planted, Differential, testing::ValuesIn(faults),
                         [](const auto &info) { return std::string(info.param.name); });

void endless_in_one(llvm::Module &module) {
  if (module.getName().starts_with("s3_"))
    for (volatile bool go_on = true; go_on;)
      ;
}

void fatal_in_one(llvm::Module &module) {
  if (module.getName().starts_with("s5_"))
    __builtin_trap();
}

class DifferentialFatal : public testing::Test {
protected:
  void TearDown() override { test_hooks = {}; }
};

TEST_F(DifferentialFatal, EndlessAndCrashingLinksAreFound) {
  constexpr uint64_t one_thread = 1;
  ASSERT_FALSE(variation(one_thread).other_threads);
  std::vector<Sample> samples;
  for (uint64_t seed = 1; seed < 7; seed++)
    samples.push_back(generate(seed, "s" + std::to_string(seed) + "_"));
  const std::chrono::seconds time(8);
  EXPECT_FALSE(find_fatal(samples, one_thread, time));

  test_hooks.lowered = endless_in_one;
  std::optional<Finding> endless = find_fatal(samples, one_thread, time);
  ASSERT_TRUE(endless);
  EXPECT_EQ(endless->sample, 2u);
  EXPECT_NE(endless->text.find("it did not end in time"), std::string::npos) << endless->text;

  test_hooks.lowered = fatal_in_one;
  std::optional<Finding> fatal = find_fatal(samples, one_thread, time);
  ASSERT_TRUE(fatal);
  EXPECT_EQ(fatal->sample, 4u);
  EXPECT_NE(fatal->text.find("alone: SIG"), std::string::npos) << fatal->text;
}

} // namespace
} // namespace ujit
