// Planted faults are found by name.
#include "lto/check_bisect.h"
#include "lto/test_hooks.h"
#include "tests/support/case_file.h"
#include "translator/helper.h"

#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

constexpr std::string_view chain_of_four = R"(-- prog entry xdp
r6 = r1
r7 = *(u32 *)(r6 + 0)
r8 = *(u32 *)(r6 + 4)
r2 = r7
r2 += 14
if r2 > r8 goto out
r3 = *(u8 *)(r7 + 12)
r3 *= 7
*(u8 *)(r7 + 0) = r3
r1 = r6
r2 = map calls ll
r3 = 1
call tail_call
out:
r0 = 1
exit
-- prog second xdp
r6 = r1
*(u64 *)(r10 - 8) = 1
*(u64 *)(r10 - 16) = 5
r1 = map seen ll
r2 = r10
r2 += -8
r3 = r10
r3 += -16
r4 = 0
call map_update_elem
r1 = r6
r2 = map calls ll
r3 = 2
call tail_call
r0 = 2
exit
-- prog third xdp
r6 = r1
r2 = map calls ll
r3 = 3
call tail_call
r0 = 3
exit
-- prog fourth xdp
r0 = *(u32 *)(r1 + 4)
r2 = *(u32 *)(r1 + 0)
r0 -= r2
r0 <<= 60
r0 s>>= 63
r0 &= 4
exit
-- map calls prog_array key=4 value=4 entries=4
1: second
2: third
3: fourth
-- map seen hash key=8 value=8 entries=4
-- packet
0102030405060708090a0b0c01000000
-- result
4
)";

class CheckBisect : public testing::Test {
protected:
  void SetUp() override {
    auto c = parse_case(chain_of_four, "t.case");
    ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
    pipeline_ = std::move(c->pipeline);
    pipeline_.entries = {ProgId(0)};
    for (size_t i = 0; i < 3; ++i) {
      packets_.emplace_back().bytes.assign(24, 0);
      packets_.back().bytes[12] = uint8_t(i + 1);
    }
  }
  void TearDown() override {
    test_hooks = {};
    effects_override_for_tests = nullptr;
  }

  std::optional<Bisection> run() {
    LinkOptions options;
    options.policies.assign(pipeline_.maps.size(), {EdgeKind::sealed});
    auto found = bisect({pipeline_, ProgId(0), packets_, {}, {}}, options);
    if (!found) {
      ADD_FAILURE() << llvm::toString(found.takeError());
      return std::nullopt;
    }
    return std::move(*found);
  }

  Pipeline pipeline_;
  std::vector<CapturedPacket> packets_;
};

TEST_F(CheckBisect, NothingDiffers) { EXPECT_FALSE(run().has_value()); }

TEST_F(CheckBisect, WrongTreatmentOfAnEdge) {
  test_hooks.planned = [](LinkPlan &plan) {
    for (PlannedSite &site : plan.sites)
      if (site.from == ProgId(2))
        for (PlannedEdge &a : site.alternatives)
          if (a.treatment != Treatment::leave)
            a.treatment = Treatment::fall_through;
  };
  auto found = run();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->executor, "fused");
  EXPECT_EQ(found->symptom, "packet 1: return value is 3, should be 4");
  ASSERT_TRUE(found->edge.has_value());
  EXPECT_EQ(found->edge->program, "third");
  EXPECT_EQ(found->edge->insn, 4u);
  ASSERT_EQ(found->edge->calls.size(), 1u);
  EXPECT_EQ(found->edge->calls[0], "calls[3] -> fourth, falls through");
  std::string text;
  llvm::raw_string_ostream os(text);
  print_bisection(*found, os);
  EXPECT_EQ(text, "fused code against the interpreter: packet 1: return value is 3, should be 4\n"
                  "  edge: third: insn 4: calls[3] -> fourth, falls through\n");
  const llvm::json::Value json = json_of(*found);
  EXPECT_EQ(json.getAsObject()->getObject("edge")->getInteger("insn"), 4);
}

TEST_F(CheckBisect, WrongRowOfHelperEffects) {
  static HelperEffects row;
  row = *find_effects(helper_map_update_elem);
  row.pure = true; // so a call whose result is not used goes
  row.touches = touch_nothing;
  effects_override_for_tests = [](uint32_t id) -> const HelperEffects * {
    return id == row.id ? &row : nullptr;
  };
  auto found = run();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->executor, "unfused"); // it is wrong in each program alone
  EXPECT_FALSE(found->edge.has_value());
  ASSERT_EQ(found->optimisations, std::vector<std::string>{"helper-effects"});
  EXPECT_EQ(found->helpers, std::vector<std::string>{"bpf_map_update_elem"});
  EXPECT_FALSE(found->pass.has_value()); // instruction selection believes it as well as any pass
}

TEST_F(CheckBisect, WrongPass) {
  test_hooks.fused_pass = [](llvm::Function &f) {
    for (llvm::Instruction &i : llvm::instructions(f))
      for (llvm::Use &operand : i.operands())
        if (auto *c = llvm::dyn_cast<llvm::ConstantInt>(operand); c && c->equalsInt(7) && i.isBinaryOp())
          operand.set(llvm::ConstantInt::get(c->getType(), 9));
  };
  auto found = run();
  ASSERT_TRUE(found.has_value());
  ASSERT_TRUE(found->pass.has_value());
  EXPECT_TRUE(llvm::StringRef(found->pass->pass).ends_with("PlantedPass")) << found->pass->pass;
  EXPECT_NE(found->pass->function.find("entry"), std::string::npos) << found->pass->function;
  EXPECT_GT(found->pass->of, found->pass->number);
  EXPECT_FALSE(found->edge.has_value());
  EXPECT_TRUE(found->optimisations.empty());
  EXPECT_LT(found->links, 60u);
}

TEST_F(CheckBisect, WrongLoweringIsNobodysFaultButTranslations) {
  test_hooks.lowered = [](llvm::Module &module) {
    for (llvm::Function &f : module)
      for (llvm::Instruction &i : llvm::instructions(f))
        if (i.getOpcode() == llvm::Instruction::AShr) {
          auto *wrong =
              llvm::BinaryOperator::CreateLShr(i.getOperand(0), i.getOperand(1), "", i.getIterator());
          i.replaceAllUsesWith(wrong);
        }
  };
  auto found = run();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->executor, "unfused");
  EXPECT_FALSE(found->edge.has_value());
  EXPECT_TRUE(found->optimisations.empty());
  EXPECT_FALSE(found->pass.has_value());
}

} // namespace
} // namespace ujit
