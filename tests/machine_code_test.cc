// Single fetch on the machine code of real and planted images.
#include "lto/codegen.h"
#include "lto/link.h"
#include "lto/optimise.h"
#include "lto/single_fetch.h"
#include "tests/example.h"
#include "tests/paths.h"
#include "tests/support/case_file.h"
#include "translator/assembler.h"
#include "translator/lower.h"

#include "llvm/IR/LLVMContext.h"
#include "llvm/IRReader/IRReader.h"
#include "llvm/Support/SourceMgr.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

std::string print(const SingleFetch &result) {
  std::string out;
  for (const RepeatedFetch &r : result.repeated) {
    llvm::raw_string_ostream os(out);
    os << llvm::format_hex(r.first, 6) << " and " << llvm::format_hex(r.second, 6) << ":";
    for (const Frame &f : r.chain)
      os << " " << f.program << " insn " << f.insn;
    os << "\n";
  }
  return out;
}

class EdgeLb : public testing::TestWithParam<std::tuple<const char *, PlanOptions::Mode>> {};

TEST_P(EdgeLb, FetchesOnce) {
  auto [name, mode] = GetParam();
  std::optional<Example> example = read_example(name);
  if (!example)
    GTEST_SKIP() << name << " is not built";
  example->options.plan.mode = mode;
  auto linked = link(example->pipeline, example->options);
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  auto result = check_single_fetch(linked->image.object, example->pipeline);
  ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
  EXPECT_GT(result->loads, 50u);
  EXPECT_LT(result->folded, (result->loads + result->folded) / 4) << "the check sees the others";
  EXPECT_EQ(print(*result), "");
}

INSTANTIATE_TEST_SUITE_P(SingleFetch, EdgeLb,
                         testing::Combine(testing::Values("edge-lb", "edge-lb-tc"),
                                          testing::Values(PlanOptions::fused, PlanOptions::chain)));

TEST(SingleFetch, LoadsThatMoveUp) {
  auto c = read_case(source_dir() + "/tests/cases/packet-load-moved-up.case");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  auto linked = link(c->pipeline, {});
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  auto result = check_single_fetch(linked->image.object, c->pipeline);
  ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
  EXPECT_EQ(print(*result), "");
  EXPECT_GE(result->loads, 3u);
}

/// An image of one program made from IR text; its program loads a packet byte at instruction 3.
class Planted : public testing::Test {
protected:
  void SetUp() override {
    Program p;
    p.name = "main";
    p.type = ProgType::xdp;
    auto code =
        assemble("r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr0 = 0\nr0 = *(u8 *)(r2 + 0)\nexit\n");
    ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
    p.insns = code->insns;
    p.subprograms = code->subprograms;
    pipeline_.programs = {p};
    pipeline_.entries = {ProgId(0)};
  }

  Expected<SingleFetch> check(const std::string &body) {
    const std::string text = R"(
define i64 @entry(ptr %data, i64 %n) !dbg !4 {
)" + body + R"(}
!llvm.module.flags = !{!0, !1}
!llvm.dbg.cu = !{!2}
!0 = !{i32 2, !"Debug Info Version", i32 3}
!1 = !{i32 2, !"Dwarf Version", i32 5}
!2 = distinct !DICompileUnit(language: DW_LANG_C, file: !3, isOptimized: true, emissionKind: LineTablesOnly, debugInfoForProfiling: true)
!3 = !DIFile(filename: "bpf", directory: "")
!4 = distinct !DISubprogram(name: "main", linkageName: "entry", scope: !3, file: !3, line: 1, type: !5, unit: !2, spFlags: DISPFlagDefinition)
!5 = !DISubroutineType(types: !{})
!6 = !DILocation(line: 4, scope: !4)
!7 = !DILocation(line: 5, scope: !4)
!8 = !DILocation(line: 3, scope: !4)
)";
    llvm::LLVMContext context;
    llvm::SMDiagnostic problem;
    auto module = llvm::parseIR(llvm::MemoryBufferRef(text, "planted"), problem, context);
    if (!module)
      return internal_error(problem.getMessage().str()).error();
    set_target(*module);
    auto tm = make_target_machine("native", Effort::full);
    if (!tm)
      return tm.takeError();
    auto object = generate_code(*module, **tm);
    if (!object)
      return object.takeError();
    ImageInfo info;
    info.entries = {{"main", "entry", ProgType::xdp}};
    info.programs = {{"main", "", "", "", 5, {}}};
    auto image = write_image({{*object}}, info);
    if (!image)
      return image.takeError();
    return check_single_fetch(*image, pipeline_);
  }

  Pipeline pipeline_;
};

TEST_F(Planted, TwoLoadsOfOneInstruction) {
  auto r = check(R"(
  %a = load volatile i8, ptr %data, !dbg !6
  %b = load volatile i8, ptr %data, !dbg !6
  %x = zext i8 %a to i64, !dbg !7
  %y = zext i8 %b to i64, !dbg !7
  %z = shl i64 %y, 8, !dbg !7
  %r = or i64 %x, %z, !dbg !7
  ret i64 %r, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->loads, 2u);
  ASSERT_EQ(r->repeated.size(), 1u);
  EXPECT_EQ(r->repeated[0].chain[0].program, "main");
  EXPECT_EQ(r->repeated[0].chain[0].insn, 3u);
  EXPECT_LT(r->repeated[0].first, r->repeated[0].second);
}

TEST_F(Planted, CheckInOneBlockAndUseInAnother) {
  auto r = check(R"(
  %a = load volatile i8, ptr %data, !dbg !6
  %c = icmp ult i8 %a, 9, !dbg !7
  br i1 %c, label %good, label %bad, !dbg !7
good:
  %b = load volatile i8, ptr %data, !dbg !6
  %r = zext i8 %b to i64, !dbg !7
  ret i64 %r, !dbg !7
bad:
  ret i64 0, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->repeated.size(), 1u);
}

TEST_F(Planted, AgainOnOneOfTwoWaysThatMeet) {
  auto r = check(R"(
  %a = load volatile i8, ptr %data, !dbg !6
  %c = icmp ult i64 %n, 9, !dbg !7
  br i1 %c, label %other, label %join, !dbg !7
other:
  store volatile i8 %a, ptr %data, !dbg !7
  %b = load volatile i8, ptr %data, !dbg !6
  br label %join, !dbg !7
join:
  %v = phi i8 [ %a, %0 ], [ %b, %other ]
  %r = zext i8 %v to i64, !dbg !7
  ret i64 %r, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->loads, 2u);
  EXPECT_EQ(r->repeated.size(), 1u);
}

TEST_F(Planted, OneOnEachPathIsNotTwo) {
  auto r = check(R"(
  %c = icmp ult i64 %n, 9, !dbg !7
  br i1 %c, label %good, label %bad, !dbg !7
good:
  %a = load volatile i8, ptr %data, !dbg !6
  %r = zext i8 %a to i64, !dbg !7
  ret i64 %r, !dbg !7
bad:
  %b = load volatile i8, ptr %data, !dbg !6
  %q = zext i8 %b to i64, !dbg !7
  %t = add i64 %q, %n, !dbg !7
  ret i64 %t, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->loads, 2u);
  EXPECT_EQ(print(*r), "");
}

TEST_F(Planted, LoopsMayLoadAgain) {
  auto r = check(R"(
  br label %loop, !dbg !7
loop:
  %i = phi i64 [ 0, %0 ], [ %j, %loop ]
  %a = load volatile i8, ptr %data, !dbg !6
  %j = add i64 %i, 1, !dbg !7
  %c = icmp ult i64 %j, %n, !dbg !7
  br i1 %c, label %loop, label %out, !dbg !7
out:
  %r = zext i8 %a to i64, !dbg !7
  ret i64 %r, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->loads, 1u);
  EXPECT_EQ(print(*r), "");
}

TEST_F(Planted, AFoldedLoadIsCounted) {
  auto r = check(R"(
  %a = load volatile i64, ptr %data, !dbg !6
  %r = add i64 %a, %n, !dbg !8
  ret i64 %r, !dbg !7
)");
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->loads, 0u);
  EXPECT_EQ(r->folded, 1u);
}

TEST_F(Planted, StrippedImagesCannotBeChecked) {
  LinkOptions options;
  options.debug_info = false;
  auto linked = link(pipeline_, options);
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  auto r = check_single_fetch(linked->image.object, pipeline_);
  ASSERT_FALSE(bool(r));
  EXPECT_NE(llvm::toString(r.takeError()).find("no debug information"), std::string::npos);
}

} // namespace
} // namespace ujit
