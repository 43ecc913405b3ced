// The fuzzer finds what it is there for: faults that are planted into the linker show in few programs, and
// what is left of them after minimising is small enough to read.
#include "lto/test_hooks.h"
#include "tests/differential/compare.h"

#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"

#include "gtest/gtest.h"

#include <algorithm>

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

/// Of two stores of a block into the same memory, the second.
void later_store_lost(llvm::Function &f) {
  for (llvm::BasicBlock &b : f) {
    std::set<llvm::Value *> stored;
    for (llvm::Instruction &i : llvm::make_early_inc_range(b))
      if (auto *store = llvm::dyn_cast<llvm::StoreInst>(&i);
          store && !stored.insert(store->getPointerOperand()->stripInBoundsConstantOffsets()).second)
        store->eraseFromParent();
  }
}

struct Planted {
  const char *name;
  void (*plant)();
};

const Planted faults[] = {
    {"ArithmeticShift", [] { test_hooks.lowered = logical_instead_of_arithmetic_shift; }},
    {"SignExtension", [] { test_hooks.lowered = zero_instead_of_sign_extension; }},
    {"LaterStore", [] { test_hooks.fused_pass = later_store_lost; }},
};

class Differential : public testing::TestWithParam<Planted> {
protected:
  void TearDown() override { test_hooks = {}; }
};

TEST_P(Differential, FindsAndMinimisesWhatIsPlanted) {
  constexpr uint64_t pipelines = 256, at_once = 16;
  GetParam().plant();
  for (uint64_t first = 1; first < pipelines; first += at_once) {
    std::vector<Sample> samples;
    for (uint64_t seed = first; seed < first + at_once; seed++)
      samples.push_back(generate(seed, "s" + std::to_string(seed) + "_"));
    auto fails = [&](const Sample &s) { return is_determined(s) && !compare_images({&s, 1}, first).empty(); };
    std::vector<Finding> found = compare_images(samples, first);
    if (found.empty())
      continue;
    if (found[0].whole_batch) // a fault that ended it: whose?
      found[0].sample = size_t(std::ranges::find_if(samples, fails) - samples.begin());
    ASSERT_LT(found[0].sample, samples.size()) << found[0].text;
    const Sample small = minimise(samples[found[0].sample], fails);
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

} // namespace
} // namespace ujit
