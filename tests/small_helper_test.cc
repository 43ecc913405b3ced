// Helpers that become code (translator/lower_helper.cc): that they do, and where they stay calls. What they
// compute is in tests/cases/helper-*.case, against the calls and the running kernel.
#include "tests/optimised_ir.h"
#include "tests/support/case_file.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

/// Whether the optimised IR of a tc program has a call of `helper`.
bool calls(const char *helper, const std::string &body, LinkOptions options = {}) {
  auto c = parse_case("-- prog entry sched_cls\nr6 = r1\n" + body + "exit\n-- packet\n00\n-- result\n0\n",
                      "small");
  if (!c) {
    ADD_FAILURE() << llvm::toString(c.takeError());
    return false;
  }
  const std::string ir = optimised_ir(c->pipeline, options);
  EXPECT_EQ(count(ir, "define "), 1u) << ir;
  return count(ir, std::string("call i64 @") + helper) != 0;
}

std::string sum(const std::string &size) {
  return "*(u64 *)(r10 - 8) = 5\n*(u64 *)(r10 - 16) = 7\nr1 = 0\nr2 = 0\nr3 = r10\nr3 += -16\nr4 = " + size +
         "\nr5 = 0\ncall csum_diff\n";
}
std::string copy(const std::string &size) {
  return "r1 = r6\nr2 = 12\nr3 = r10\nr3 += -128\nr4 = " + size +
         "\ncall skb_load_bytes\nr0 = *(u16 *)(r10 - 128)\n";
}

TEST(SmallHelpers, ConstantSizesBecomeCode) {
  EXPECT_FALSE(calls("bpf_csum_diff", sum("16")));
  EXPECT_FALSE(calls("bpf_csum_diff", sum("7")));
  EXPECT_FALSE(calls("bpf_skb_load_bytes", copy("6")));
}

TEST(SmallHelpers, OthersStayCalls) {
  EXPECT_TRUE(calls("bpf_csum_diff", "r9 = *(u32 *)(r6 + 0)\nr9 &= 7\nr9 += 1\n" + sum("r9")));
  EXPECT_TRUE(calls("bpf_skb_load_bytes", copy("100"))) << "too long";
  EXPECT_TRUE(calls("bpf_skb_load_bytes", "r9 = *(u32 *)(r6 + 0)\nr9 &= 7\nr9 += 1\n" + copy("r9")));
  LinkOptions without;
  without.disabled = {"inline-helpers"};
  EXPECT_TRUE(calls("bpf_csum_diff", sum("16"), without));
  EXPECT_TRUE(calls("bpf_skb_load_bytes", copy("6"), without));
  LinkOptions kernel; // whose sums other kernels do not fold
  kernel.target = LinkTarget::kernel;
  EXPECT_TRUE(calls("bpf_csum_diff", sum("16"), kernel));
  EXPECT_TRUE(calls("bpf_skb_load_bytes", copy("6"), kernel));
}

} // namespace
} // namespace ujit
