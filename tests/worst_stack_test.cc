#include "tests/image_bed.h"

namespace ujit {
namespace {

using namespace image_bed;

uint32_t depth(const Bytes &object, std::vector<std::string> roots) {
  auto bytes = worst_stack(object, roots);
  if (!bytes) {
    ADD_FAILURE() << llvm::toString(bytes.takeError());
    return 0;
  }
  return *bytes;
}

TEST(WorstStack, KnownFrames) {
  // rbp and the buffer; entry also saves the five registers that a preserve_none callee does not
  const uint32_t next = 8 + 200, leaf = 8 + 100, own = 8, entry = 8 + 5 * 8 + 104;
  Bytes image = merged(three_objects(), info_of({"entry"}, {"bpf_helper"}));
  EXPECT_EQ(depth(image, {"own"}), 8 + own);
  EXPECT_EQ(depth(image, {"next"}), 8 + next);
  EXPECT_EQ(depth(image, {"leaf"}), 8 + std::max(leaf, next)); // the jump replaces the frame
  EXPECT_EQ(depth(image, {"entry"}), 8 + entry + 8 + std::max(leaf, next));
  EXPECT_EQ(depth(image, {"own", "next"}), 8 + next);
  EXPECT_EQ(depth(image, {}), 0u);
  EXPECT_EQ(depth(compile(third_ir), {"next"}), 8 + next); // also before the merge
}

TEST(WorstStack, HelperCostsItsReturnAddress) {
  Bytes object =
      compile("declare i64 @bpf_helper(i64)\n"
              "define i64 @f(i64 %x) #0 { %r = call i64 @bpf_helper(i64 %x) %s = add i64 %r, 1 ret i64 %s }\n"
              "define i64 @g(i64 %x, ptr %p) #0 { %r = call i64 %p(i64 %x) %s = add i64 %r, 1 ret i64 %s }" +
              attributes);
  EXPECT_EQ(depth(object, {"f"}), 8u + 8 + 8);
  EXPECT_EQ(depth(object, {"g"}), 8u + 8 + 8);
}

TEST(WorstStack, DecodesVectorCode) {
  std::string ir =
      "define void @f(ptr %p) #0 { %v = load <16 x i32>, ptr %p %w = mul <16 x i32> %v, %v\n"
      "call void asm sideeffect \"vaddps %zmm0, %zmm1, %zmm2\", \"\"()\n"
      "store <16 x i32> %w, ptr %p ret void }\n"
      "attributes #0 = { noredzone nounwind \"target-features\"=\"+avx512f\" \"frame-pointer\"=\"all\" }";
  EXPECT_EQ(depth(compile(ir), {"f"}), 8u + 8);
}

TEST(WorstStack, JumpsMayGoInCirclesCallsMayNot) {
  const std::string jumps = R"(
define internal preserve_nonecc i64 @a(i64 %x) #0 {
  %buffer = alloca [100 x i8]
  call void asm sideeffect "", "r"(ptr %buffer)
  %r = musttail call preserve_nonecc i64 @b(i64 %x)
  ret i64 %r
}
define internal preserve_nonecc i64 @b(i64 %x) #0 {
  %buffer = alloca [300 x i8]
  call void asm sideeffect "", "r"(ptr %buffer)
  %done = icmp eq i64 %x, 0
  br i1 %done, label %out, label %on
on:
  %y = sub i64 %x, 1
  %r = musttail call preserve_nonecc i64 @a(i64 %y)
  ret i64 %r
out:
  ret i64 %x
}
define i64 @f(i64 %x) #0 {
  %r = call preserve_nonecc i64 @a(i64 %x)
  %s = add i64 %r, 1
  ret i64 %s
}
)";
  uint32_t a = depth(compile(jumps + attributes), {"a"});
  EXPECT_GE(a, 8u + 300);
  EXPECT_LE(a, 8u + 8 + 304);
  EXPECT_EQ(depth(compile(jumps + attributes), {"b"}), a);
  EXPECT_GT(depth(compile(jumps + attributes), {"f"}), a + 8);

  std::string calls = jumps;
  calls.replace(calls.rfind("musttail"), 8, "notail");
  EXPECT_EQ(message(worst_stack(compile(calls + attributes), std::vector<std::string>{"f"})),
            "functions call each other without a bound: a, b");
}

TEST(WorstStack, UnknownSizesAreErrors) {
  Bytes object = compile(
      "define void @f(i64 %n) #0 { %p = alloca i8, i64 %n call void asm sideeffect \"\", \"r\"(ptr %p) "
      "ret void }" +
      attributes);
  EXPECT_EQ(message(worst_stack(object, std::vector<std::string>{"f"})),
            "function f: its frame has no known size");
  EXPECT_EQ(message(worst_stack(object, std::vector<std::string>{"g"})),
            "stack depth of g: no such function");
}

} // namespace
} // namespace ujit
