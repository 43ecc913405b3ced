// The profile: what is counted, kept, found again and used; and that a pipeline for which fusing loses is
// linked unfused.
#include "lto/bench.h"
#include "lto/load.h"
#include "lto/output_file.h"
#include "lto/profile.h"
#include "lto/test_hooks.h"
#include "tests/support/case_file.h"
#include "translator/lower.h"

#include "llvm/IR/IRBuilder.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// Packets whose first byte is 1 go to `often`, others to `rarely`, which calls `often` too.
constexpr const char two_ways[] = R"(-- prog entry xdp
r6 = r1
r2 = *(u32 *)(r6 + 0)
r3 = *(u32 *)(r6 + 4)
r4 = r2
r4 += 1
if r4 > r3 goto out
r0 = *(u8 *)(r2 + 0)
r2 = map calls ll
r1 = r6
if r0 != 1 goto other
r3 = 0
call tail_call
goto out
other:
r3 = 1
call tail_call
out:
r0 = 0
exit
-- prog often xdp
r0 = 1
exit
-- prog rarely xdp
r2 = map calls ll
r3 = 0
call tail_call
r0 = 2
exit
-- map calls prog_array entries=4
0: often
1: rarely
)";

Case case_of(const std::string &text) {
  Expected<Case> c = parse_case(text + "-- packet\n00\n-- result\n0\n", "profile");
  if (c)
    return std::move(*c);
  ADD_FAILURE() << llvm::toString(c.takeError());
  return {};
}

std::vector<CapturedPacket> packets(unsigned ones, unsigned others) {
  std::vector<CapturedPacket> out(ones + others);
  for (unsigned i = 0; i < out.size(); ++i)
    out[i].bytes.assign(64, i < ones ? 1 : 2);
  return out;
}

Profile count(const Pipeline &pipeline, std::span<const CapturedPacket> traffic) {
  Expected<Profile> p = count_profile({pipeline, pipeline.entries.front(), traffic, {}, {}});
  if (p)
    return std::move(*p);
  ADD_FAILURE() << llvm::toString(p.takeError());
  return {};
}

StoredProfile parse(const std::string &text, const Pipeline &pipeline) {
  Expected<StoredProfile> p = parse_profile(text, "x.profile", pipeline);
  if (p)
    return std::move(*p);
  ADD_FAILURE() << llvm::toString(p.takeError());
  return {};
}

std::string error_of(const std::string &text, const Pipeline &pipeline) {
  Expected<StoredProfile> p = parse_profile(text, "x.profile", pipeline);
  return p ? "" : llvm::toString(p.takeError());
}

TEST(Profile, CountsBranchesAndTailCalls) {
  const Case c = case_of(two_ways);
  const Profile p = count(c.pipeline, packets(30, 10));
  EXPECT_EQ(p.packets, 40u);
  ASSERT_EQ(p.programs.size(), 3u);
  ASSERT_TRUE(p.programs[0] && p.programs[1] && p.programs[2]);
  EXPECT_EQ(p.programs[0]->runs, 40u);
  EXPECT_EQ(p.programs[1]->runs, 40u);
  EXPECT_EQ(p.programs[2]->runs, 10u);
  const std::vector<ProgramProfile::Branch> branches = {{5, 0, 40}, {10, 10, 30}};
  EXPECT_EQ(p.programs[0]->branches, branches);
  const std::vector<ProgramProfile::Call> calls = {{12, MapId(0), 0, 30}, {15, MapId(0), 1, 10}};
  EXPECT_EQ(p.programs[0]->calls, calls);
}

TEST(Profile, ReadsBackWhatItWrote) {
  const Case c = case_of(two_ways);
  const Profile p = count(c.pipeline, packets(30, 10));
  const Verdict verdict = judge({{LinkForm::chain, 100, 50}, {LinkForm::fused, 90, 40.5}});
  const StoredProfile again = parse(print_profile(c.pipeline, p, &verdict), c.pipeline);
  EXPECT_EQ(again.profile, p);
  EXPECT_EQ(again.verdict, verdict);
  EXPECT_EQ(again.note, "counts of 40 packets in 3 programs");
}

/// Another order, other names and one program that is another: the others keep their counts.
TEST(Profile, IsFoundAgainByDigest) {
  const Case c = case_of(two_ways);
  const Profile p = count(c.pipeline, packets(30, 10));
  const Verdict verdict = judge({{LinkForm::chain, 100, 50}, {LinkForm::fused, 90, 40}});
  const std::string text = print_profile(c.pipeline, p, &verdict);
  Case changed = c;
  changed.pipeline.programs[1].insns[0].imm = 5;
  changed.pipeline.programs[2].name = "seldom";
  const StoredProfile again = parse(text, changed.pipeline);
  EXPECT_EQ(again.profile.programs[0], p.programs[0]);
  EXPECT_FALSE(again.profile.programs[1]);
  EXPECT_EQ(again.profile.programs[2], p.programs[2]);
  EXPECT_FALSE(again.verdict);
  EXPECT_EQ(again.note,
            "counts of 40 packets in 2 programs; 1 program is not as it was when it was counted; the "
            "pipeline is not the one that was measured");
}

TEST(Profile, RefusesWhatIsNone) {
  const Case c = case_of(two_ways);
  for (const char *text :
       {"", "[]", "{}", R"({"ujit-lto-profile": 2})", R"({"ujit-lto-profile": 1})",
        R"({"ujit-lto-profile": 1, "packets": -1, "programs": []})",
        R"({"ujit-lto-profile": 1, "packets": 1, "programs": [ 3 ]})",
        R"({"ujit-lto-profile": 1, "packets": 1, "verdict": {"best": "x"}, "programs": []})"})
    EXPECT_NE(error_of(text, c.pipeline).find("x.profile: not a profile"), std::string::npos) << text;
  EXPECT_NE(error_of(std::string(1 << 20, '['), c.pipeline).find("not a profile: nested too deeply"),
            std::string::npos);
}

TEST(Profile, BecomesBranchWeights) {
  const Case c = case_of(two_ways);
  const Profile p = count(c.pipeline, packets(30, 10));
  llvm::LLVMContext context;
  TranslateOptions options;
  options.debug_info = false;
  options.profile = &p;
  auto module = translate(c.pipeline, ProgId(0), context, options);
  ASSERT_TRUE(bool(module)) << llvm::toString(module.takeError());
  std::string ir;
  llvm::raw_string_ostream os(ir);
  (*module)->print(os, nullptr);
  EXPECT_NE(ir.find("!\"branch_weights\", i32 11, i32 31"), std::string::npos) << ir;
  EXPECT_NE(ir.find("!\"branch_weights\", i32 1, i32 41"), std::string::npos) << ir;
}

/// Calls that a run never made are not inlined; the same bytes come out on any number of threads.
TEST(Profile, DecidesWhatIsInlined) {
  const Case c = case_of(two_ways);
  const ProgId rarely = *c.pipeline.find_program("rarely");
  LinkOptions options;
  options.profile = count(c.pipeline, packets(30, 0));
  auto role = [&] {
    Expected<LinkResult> r = link(c.pipeline, options);
    return r ? r->plan[rarely].role : PlannedProgram::dead;
  };
  EXPECT_EQ(role(), PlannedProgram::function);
  options.disabled = {"profile"};
  EXPECT_EQ(role(), PlannedProgram::inlined);
  options.disabled = {};
  options.profile = count(c.pipeline, packets(30, 10));
  EXPECT_EQ(role(), PlannedProgram::inlined);
  options.threads = 1;
  Expected<LinkResult> one = link(c.pipeline, options);
  options.threads = 2;
  Expected<LinkResult> two = link(c.pipeline, options);
  ASSERT_TRUE(one && two);
  EXPECT_EQ(one->image.object, two->image.object);
}

TEST(Verdict, TheMostFusedFormThatDoesNotLose) {
  using enum LinkForm;
  EXPECT_EQ(judge({{fused, 100, 50}, {not_inlined, 100, 50}, {chain, 120, 60}}).best, fused);
  EXPECT_EQ(judge({{fused, 130, 70}, {not_inlined, 110, 55}, {chain, 120, 60}}).best, not_inlined);
  EXPECT_EQ(judge({{fused, 130, 70}, {not_inlined, 110, 65}, {chain, 120, 60}}).best, chain);
  // Where times say nothing, instructions do; where instructions are fewer and it is slower all the same,
  // time.
  EXPECT_EQ(judge({{fused, 121, 60}, {chain, 120, 60}}).best, chain);
  EXPECT_EQ(judge({{fused, 119, 61}, {chain, 120, 60}}).best, fused);
  EXPECT_EQ(judge({{fused, 90, 63}, {chain, 120, 60}}).best, chain);
}

// ---- A planted loss: fused code, and nothing else, does much more than it must.

bool fusing = false;

void plant_work(llvm::Function &f) {
  if (!fusing)
    return;
  llvm::IRBuilder<> b(&*f.getEntryBlock().getFirstNonPHIOrDbgOrAlloca());
  auto *cell = b.CreateAlloca(b.getInt64Ty());
  for (int i = 0; i < 400; ++i)
    b.CreateLoad(b.getInt64Ty(), cell, /*isVolatile=*/true);
}

struct PlantedLoss {
  PlantedLoss() {
    test_hooks.planned = [](LinkPlan &plan) { fusing = plan.mode == PlanOptions::fused; };
    test_hooks.fused_pass = plant_work;
  }
  ~PlantedLoss() { test_hooks = {}; }
};

TEST(Verdict, APipelineForWhichFusingLosesIsLinkedUnfused) {
  const Case c = case_of(two_ways);
  const std::vector<CapturedPacket> traffic = packets(300, 100);
  const Execution execution{c.pipeline, c.pipeline.entries.front(), traffic, {}, {}};
  const Profile counts = count(c.pipeline, traffic);
  BenchOptions options;
  options.placements = 2;
  options.measure.rounds = 2;
  options.kernel_jit = options.mitigations = options.ablations = false;
  options.profile = &counts;
  std::string text;
  {
    PlantedLoss loss;
    Expected<BenchResult> result = bench(execution, {}, options);
    ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
    ASSERT_TRUE(result->verdict);
    EXPECT_EQ(result->verdict->best, LinkForm::chain);
    text = print_profile(c.pipeline, counts, &*result->verdict);
  }

  llvm::SmallString<128> folder;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("profile", folder));
  Manifest manifest;
  manifest.file = (folder + "/x.ujit.yaml").str();
  ASSERT_FALSE(write_file(profile_path(manifest.file), text));
  auto linked = [&](Fuse fuse) {
    manifest.fuse = fuse;
    Expected<LinkOptions> link_with = link_options(manifest, c.pipeline);
    if (!link_with)
      return std::pair(PlanOptions::fused, llvm::toString(link_with.takeError()));
    Expected<LinkResult> result = link(c.pipeline, *link_with);
    if (!result)
      return std::pair(PlanOptions::fused, llvm::toString(result.takeError()));
    std::string notes;
    for (const std::string &note : result->stats.notes)
      notes += note + "\n";
    return std::pair(result->plan.mode, notes);
  };
  const auto [measured, said] = linked(Fuse::measured);
  EXPECT_EQ(measured, PlanOptions::chain);
  EXPECT_NE(said.find("fusing loses here, so it is linked unfused: x.ujit.profile has, a packet, fused "),
            std::string::npos)
      << said;
  const auto [forced, warned] = linked(Fuse::always);
  EXPECT_EQ(forced, PlanOptions::fused);
  EXPECT_NE(warned.find("fused, as the manifest says, though that loses"), std::string::npos) << warned;
  const auto [never, told] = linked(Fuse::never);
  EXPECT_EQ(never, PlanOptions::chain);
  EXPECT_NE(told.find("linked unfused, as the manifest says"), std::string::npos) << told;
  llvm::sys::fs::remove_directories(folder);
}

} // namespace
} // namespace ujit
