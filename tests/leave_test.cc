// Leaving an image in the kernel target and coming back: whatever slots look like to fused code, everything
// observable is what the interpreter gives for what the slots really hold.
#include "kernel-iface/embedded/pcap.h"
#include "lto/image_info.h"
#include "lto/load.h"
#include "lto/native_image.h"
#include "lto/report.h"
#include "lto/single_fetch.h"
#include "tests/differential/generator.h"
#include "tests/example.h"
#include "tests/paths.h"
#include "tests/support/leave_bed.h"

#include "llvm/Support/FormatVariadic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace ujit {
namespace {

using llvm::formatv;

bool has_prog_array(const Pipeline &pipeline) {
  return std::ranges::any_of(pipeline.maps, [](const Map &m) { return m.type == MapType::prog_array; });
}

LinkOptions kernel_options(const std::vector<ProgArrayPolicy> &policies) {
  LinkOptions options;
  options.policies = policies;
  options.threads = 1;
  return options;
}

/// `pipeline` with some of its slots empty, where arrays are not sealed.
Pipeline with_empty_slots(Pipeline pipeline, const CallGraph &graph, unsigned percent, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (uint32_t m = 0; m < pipeline.maps.size(); ++m)
    if (const ProgArray *array = graph.array_of(MapId(m)); array && array->edges != EdgeKind::sealed)
      std::erase_if(pipeline.maps[m].prog_slots, [&](auto &) { return random() % 100 < percent; });
  return pipeline;
}

struct Total {
  LeaveCounts counts;
  uint32_t images = 0, points = 0, runs = 0, unfused = 0, refused = 0;

  void print() const {
    std::printf("%u images, %u points, %u programs unfused, %u runs: left %lu times, came back %lu times\n",
                images, points, unfused, runs, counts.left, counts.failed);
  }
};

/// Links `pipeline` and runs it, with slots as in `running` and with fewer, in all modes of leaving.
std::vector<std::string> check(const Pipeline &pipeline, const Pipeline &running, LinkOptions options,
                               std::span<const MapSeed> seeds, std::span<const Job> jobs, uint64_t seed,
                               Total &total, bool may_reach_limit = true) {
  std::vector<std::string> problems;
  for (bool inlining : {true, false}) {
    if (!inlining)
      options.disabled = {"inline", "clone"};
    Expected<LeaveImage> image = link_for_kernel(pipeline, options);
    if (!image) {
      const std::string text = llvm::toString(image.takeError());
      if (text.find("bytes of stack at most") == std::string::npos)
        problems.push_back("link: " + text);
      else
        ++total.refused;
      continue;
    }
    // The stub's calls restart the count of fused code, as in a kernel, so on cycles all that succeed have to
    // stay inside; what is inlined has no function that resumed code could call.
    const bool cyclic = may_reach_limit && !image->result.graph.cycles.empty();
    if (cyclic && inlining)
      continue;
    ++total.images;
    for (const PlannedProgram &p : image->result.plan.programs)
      total.unfused += p.role == PlannedProgram::unfused;
    if (image->info.leave->points.empty())
      continue;
    total.points += uint32_t(image->info.leave->points.size());
    for (const LeaveMode &mode :
         {LeaveMode{0, 0}, LeaveMode{0, 100}, LeaveMode{100, 0}, LeaveMode{50, 50}, LeaveMode{20, 80}})
      for (unsigned empty : {0u, 50u, 100u}) {
        if (cyclic && mode.stranger)
          continue; // would not be compared
        LeaveMode seeded = mode;
        seeded.seed = ++seed;
        seeded.cyclic = cyclic;
        const Pipeline fewer = with_empty_slots(running, image->result.graph, empty, seed);
        ++total.runs;
        for (std::string &p : compare_leaving(fewer, seeds, jobs, *image, seeded, total.counts))
          problems.push_back(formatv("{0}, strangers {1}, vanished {2}, empty {3}: {4}",
                                     inlining ? "inlined" : "not inlined", mode.stranger, mode.vanished,
                                     empty, p));
      }
  }
  return problems;
}

std::vector<ProgArrayPolicy> policies_of(const Case &c) {
  std::vector<ProgArrayPolicy> out(c.pipeline.maps.size());
  for (auto &[map, name] : c.edges)
    for (EdgeKind kind : {EdgeKind::sealed, EdgeKind::guarded, EdgeKind::left})
      if (name_of(kind) == name)
        out[index(map)].edges = kind;
  return out;
}

std::vector<std::string> check_case_leaving(const Case &c, Total &total) {
  std::vector<Job> jobs;
  for (ProgId entry : c.pipeline.entries) {
    Job &job = jobs.emplace_back(Job{entry, {}});
    for (const CaseInput &input : c.inputs)
      job.inputs.push_back(input.bytes);
  }
  return check(c.pipeline, changed_pipeline(c), kernel_options(policies_of(c)), c.seeds, jobs, 1, total);
}

TEST(Leaving, CasesAgree) {
  auto files = find_cases(source_dir() + "/tests/cases");
  ASSERT_TRUE(bool(files));
  Total total;
  for (const std::string &path : *files) {
    auto c = read_case(path);
    ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
    if (c->error || c->options.contains("modes") || !has_prog_array(c->pipeline))
      continue;
    for (const std::string &problem : check_case_leaving(*c, total))
      ADD_FAILURE() << c->name << ": " << problem;
  }
  total.print();
  EXPECT_GT(total.counts.failed, 100u);
}

/// Tail calls in the entry program, which most samples do not have.
bool calls(const Sample &sample) {
  return std::ranges::any_of(sample.pipeline[sample.pipeline.entries[0]].insns,
                             [](const Insn &i) { return i.opcode == 0x85 && i.src == 0 && i.imm == 12; });
}

TEST(Leaving, GeneratedPipelinesAgree) {
  Total total;
  const char *more = std::getenv("UJIT_LEAVE_SEEDS"); // for longer runs
  for (uint64_t seed = 1, last = more ? std::strtoull(more, nullptr, 10) : 80; seed <= last; ++seed) {
    const Sample sample = generate(seed, "s");
    if (!calls(sample))
      continue;
    std::vector<ProgArrayPolicy> policies;
    for (uint8_t kind : sample.edges)
      policies.push_back({EdgeKind(kind)});
    Pipeline running = sample.pipeline;
    for (const Sample::Change &change : sample.changes) {
      auto &slots = running.maps[index(change.map)].prog_slots;
      std::erase_if(slots, [&](auto &slot) { return slot.first == change.slot; });
      if (change.program)
        slots.push_back({change.slot, *change.program});
      std::ranges::sort(slots);
    }
    const Job job{sample.pipeline.entries[0], sample.packets};
    for (const std::string &problem :
         check(sample.pipeline, running, kernel_options(policies), sample.seeds, {&job, 1}, seed, total))
      ADD_FAILURE() << "seed " << seed << ": " << problem;
  }
  total.print();
  EXPECT_GT(total.counts.failed, 100u);
}

// --- The example datapath ----------------------------------------------------------------------------

class LeavingEdgeLb : public testing::TestWithParam<const char *> {};

TEST_P(LeavingEdgeLb, Agrees) {
  const std::string pcap = binary_dir() + "/edge-lb/edge-lb.pcap";
  std::optional<Example> example = read_example(GetParam());
  if (!example || !std::filesystem::exists(pcap))
    GTEST_SKIP() << GetParam() << " is not built";
  auto &[manifest, pipeline, options] = *example;
  auto seeds = load_seed(manifest);
  ASSERT_TRUE(bool(seeds)) << llvm::toString(seeds.takeError());
  auto packets = read_pcap(pcap);
  ASSERT_TRUE(bool(packets)) << llvm::toString(packets.takeError());
  Job job{pipeline.entries[0], {}};
  for (size_t i = 0; i < packets->size() && job.inputs.size() < 300; i += 7)
    job.inputs.push_back((*packets)[i].bytes);
  options.policies.clear(); // everything is guarded
  Total total;
  for (const std::string &problem :
       check(pipeline, pipeline, options, *seeds, {&job, 1}, 1, total, /*may_reach_limit=*/false))
    ADD_FAILURE() << problem;
  total.print();
  auto image = link_for_kernel(pipeline, options);
  ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
  auto fetches = check_single_fetch(image->result.image.object, pipeline);
  ASSERT_TRUE(bool(fetches)) << llvm::toString(fetches.takeError());
  EXPECT_TRUE(fetches->repeated.empty());
  EXPECT_EQ(total.unfused, 0u);
  EXPECT_GT(total.counts.failed, 1000u);
  EXPECT_GT(total.counts.left, total.counts.failed);
}

INSTANTIATE_TEST_SUITE_P(Leaving, LeavingEdgeLb, testing::Values("edge-lb", "edge-lb-tc"));

// --- Single properties -------------------------------------------------------------------------------

Case parse(const std::string &text) { return llvm::cantFail(parse_case(text, "leave.case")); }

LeaveImage image_of(const Case &c, LinkOptions options) {
  return llvm::cantFail(link_for_kernel(c.pipeline, std::move(options)));
}
LeaveImage image_of(const Case &c) { return image_of(c, kernel_options(policies_of(c))); }

std::string reason_of(const LeaveImage &image, size_t program) {
  return image.result.plan.programs[program].reason;
}

/// Runs the case with all calls leaving, and those through empty slots failing.
std::vector<std::string> run_all_leaving(const Case &c, const LeaveImage &image, LeaveCounts &counts,
                                         LeaveMode mode = {.vanished = 100}) {
  Job job{c.pipeline.entries[0], {}};
  for (const CaseInput &input : c.inputs)
    job.inputs.push_back(input.bytes);
  return compare_leaving(changed_pipeline(c), c.seeds, {&job, 1}, image, mode, counts);
}

using Lines = std::vector<std::string>;

/// Live behind the call: pointers to packet, context, a map's value and the own frame (at a known and at an
/// unknown distance, in registers and spilled), bytes of all sizes.
constexpr const char everything_alive[] = R"(
-- prog entry xdp
r6 = r1
r7 = *(u32 *)(r1 + 0)
r2 = *(u32 *)(r1 + 4)
r3 = r7
r3 += 14
if r3 > r2 goto out
*(u64 *)(r10 - 8) = r7
*(u64 *)(r10 - 16) = r6
*(u32 *)(r10 - 28) = 1
r1 = map values ll
r2 = r10
r2 += -28
call map_lookup_elem
if r0 == 0 goto out
*(u64 *)(r10 - 24) = r0
*(u8 *)(r10 - 29) = 0x11
*(u16 *)(r10 - 32) = 0x2233
*(u64 *)(r10 - 48) = 5
*(u64 *)(r10 - 56) = 7
r8 = r10
r8 += -48
r1 = *(u8 *)(r7 + 0)
if r1 == 0 goto near
r8 += -8
near: r9 = r10
r9 += -64
*(u64 *)(r10 - 72) = r9
*(u64 *)(r10 - 64) = 9
*(u64 *)(r10 - 80) = r8
r1 = r6
r2 = map jmp ll
r3 = 1
call tail_call
r1 = *(u64 *)(r8 + 0)
r0 = r1
r1 = *(u64 *)(r10 - 72)
r1 = *(u64 *)(r1 + 0)
r0 += r1
r1 = *(u64 *)(r10 - 80)
*(u64 *)(r1 + 0) = 100
r1 = *(u64 *)(r8 + 0)
r0 += r1
r1 = *(u64 *)(r10 - 48)
r0 += r1
r1 = *(u64 *)(r10 - 8)
r1 = *(u8 *)(r1 + 1)
r0 += r1
r1 = *(u8 *)(r7 + 2)
r0 += r1
r1 = *(u64 *)(r10 - 24)
r2 = *(u64 *)(r1 + 0)
r0 += r2
*(u64 *)(r1 + 0) = r0
r1 = *(u8 *)(r10 - 29)
r0 += r1
r1 = *(u16 *)(r10 - 32)
r0 += r1
r1 = *(u32 *)(r10 - 28)
r0 += r1
r1 = *(u64 *)(r10 - 16)
r1 = *(u32 *)(r1 + 12)
r0 += r1
exit
out: r0 = 1
exit
-- prog leaf xdp
r0 = 2
exit
-- map values hash key=4 value=8
01000000: e803000000000000
-- map jmp prog_array
1: leaf
-- change jmp
1:
-- packet
00 10 20 00 00 00 00 00 00 00 00 00 00 00
-- packet
01 10 20 00 00 00 00 00 00 00 00 00 00 00
)";

TEST(Leaving, EverythingAliveIsRestored) {
  const Case c = parse(everything_alive);
  for (bool thunks : {false, true}) {
    LinkOptions options = kernel_options({});
    options.kernel_code = {.return_thunks = thunks, .retpolines = thunks, .ibt = thunks, .sls = thunks};
    const LeaveImage image = image_of(c, options);
    ASSERT_EQ(image.info.leave->points.size(), 1u);
    EXPECT_EQ(image.info.leave->prog_arrays, Lines{"jmp"});
    EXPECT_LE(image.info.leave->frame_bytes, 14u * 8);
    LeaveCounts counts;
    EXPECT_EQ(run_all_leaving(c, image, counts), Lines{});
    EXPECT_EQ(counts.failed, 2u);
  }
}

/// Each run of the program fails once and then calls itself.
constexpr const char misses_and_repeats[] = R"(
-- prog a sched_cls
r2 = *(u32 *)(r1 + 48)
r2 += 1
*(u32 *)(r1 + 48) = r2
r6 = r1
r2 = map jmp ll
r3 = 5
call tail_call
r1 = r6
r2 = map jmp ll
r3 = 0
call tail_call
r0 = *(u32 *)(r6 + 48)
exit
-- map jmp prog_array
0: a
-- packet
00 00 00 00 00 00 00 00 00 00 00 00 08 00
)";

TEST(Leaving, CountGoesAlong) {
  const Case c = parse(misses_and_repeats);
  for (bool failed_counts : {false, true})
    for (unsigned vanished : {0u, 50u, 100u}) {
      LinkOptions options = kernel_options({});
      options.plan.count_failed = failed_counts;
      LeaveCounts counts;
      // 34 programs, or two counts for each of them.
      LeaveMode mode{.vanished = vanished, .cyclic = true, .seed = 3, .results = {failed_counts ? 17u : 34u}};
      EXPECT_EQ(run_all_leaving(c, image_of(c, options), counts, mode), Lines{})
          << failed_counts << " " << vanished;
      if (vanished == 100) {
        EXPECT_EQ(counts.failed, failed_counts ? 17u : 33u); // at the limit no call is made
      }
      EXPECT_EQ(counts.not_compared, 0u);
    }
}

/// The program folds the call of the helper and the second tail call away; its resume function does not see
/// that r7 is 0.
TEST(Leaving, ResumeFunctionsKnowLess) {
  const Case c = parse(R"(
-- prog entry sched_cls
r6 = r1
r7 = *(u32 *)(r1 + 0)
r7 &= 0
r2 = map jmp ll
r3 = 1
call tail_call
if r7 != 0 goto other
r0 = 4
exit
other: call get_prandom_u32
r1 = r6
r2 = map jmp ll
r3 = 0
call tail_call
exit
-- prog leaf sched_cls
r0 = 2
exit
-- map jmp prog_array
0: leaf
1: leaf
-- change jmp
1:
-- packet
00 00 00 00 00 00 00 00 00 00 00 00 08 00
)");
  const LeaveImage image = image_of(c);
  EXPECT_EQ(image.info.leave->points.size(), 1u);
  EXPECT_EQ(image.info.helpers, Lines{"bpf_get_prandom_u32"});
  LeaveCounts counts;
  EXPECT_EQ(run_all_leaving(c, image, counts), Lines{});
  EXPECT_EQ(counts.failed, 1u);
}

TEST(Leaving, LargeStateStaysUnfused) {
  std::string text = "-- prog entry sched_cls\nr6 = r1\n";
  for (int offset = 8; offset <= 408; offset += 8)
    text += formatv("*(u64 *)(r10 - {0}) = {0}\n", offset);
  text += "r1 = r6\nr2 = map jmp ll\nr3 = 1\ncall tail_call\nr0 = 0\n";
  for (int offset = 8; offset <= 408; offset += 8)
    text += formatv("r1 = *(u64 *)(r10 - {0})\nr0 += r1\n", offset);
  text +=
      "exit\n-- prog small sched_cls\nr6 = r1\nr2 = map jmp ll\nr3 = 2\ncall tail_call\nr0 = 5\nexit\n"
      "-- entry entry small\n-- prog leaf sched_cls\nr0 = 3\nexit\n-- map jmp prog_array\n1: leaf\n2: leaf\n"
      "-- packet\n00 00 00 00 00 00 00 00 00 00 00 00 08 00\n";
  const Case c = parse(text);
  const LeaveImage image = image_of(c);
  EXPECT_EQ(reason_of(image, 0), "leaving at instruction 56 takes a frame of 416 bytes, the limit is 400");
  EXPECT_EQ(image.info.entries.size(), 1u);
  LeaveCounts counts;
  EXPECT_EQ(run_all_leaving(c, image, counts), Lines{});
}

constexpr const char in_subprogram[] = R"(
-- prog entry sched_cls
call sub
exit
-- sub sub
r2 = map first ll
r3 = 0
call tail_call
r0 = 1
exit
-- prog middle sched_cls
r2 = map second ll
r3 = 0
call tail_call
r0 = 2
exit
-- prog leaf sched_cls
r0 = -1
exit
-- map first prog_array edges=FIRST
0: middle
-- map second prog_array edges=SECOND
0: leaf
-- packet
00 00 00 00 00 00 00 00 00 00 00 00 08 00
)";

TEST(Leaving, SubprogramsLeaveNowhere) {
  auto with = [](const char *first, const char *second) {
    std::string text = in_subprogram;
    text.replace(text.find("FIRST"), 5, first);
    text.replace(text.find("SECOND"), 6, second);
    return parse(text);
  };
  EXPECT_EQ(reason_of(image_of(with("guarded", "sealed")), 0),
            "a tail call inside a subprogram is not sealed");
  EXPECT_EQ(reason_of(image_of(with("sealed", "guarded")), 0),
            "a tail call inside a subprogram leads to a program whose calls can leave");
  const Case sealed = with("sealed", "sealed");
  const LeaveImage image = image_of(sealed);
  EXPECT_EQ(reason_of(image, 0), "");
  EXPECT_EQ(image.info.leave->frame_bytes, 0u);
  LeaveCounts counts;
  EXPECT_EQ(run_all_leaving(sealed, image, counts), Lines{});
}

TEST(Leaving, CodeIsTheKernels) {
  const Case c = parse(everything_alive);
  LinkOptions options = kernel_options({});
  options.kernel_code = {.return_thunks = true, .retpolines = true, .ibt = true, .sls = true};
  const LeaveImage image = image_of(c, options);
  EXPECT_EQ(image.info.helpers, (Lines{"__x86_return_thunk", "bpf_map_lookup_elem"}));
  EXPECT_EQ(image.info.form, "object");
  EXPECT_LE(image.info.stack_bytes + stub_stack(image.info.leave->frame_bytes), kernel_stack_limit);
  auto code = LowImage::load(image.result.image.object);
  ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
  const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
  EXPECT_EQ(memcmp(code->find(image.info.entries.at(0).symbol), endbr64, 4), 0);

  options.kernel_code = {};
  const LeaveImage plain = image_of(c, options);
  EXPECT_EQ(plain.info.helpers, Lines{"bpf_map_lookup_elem"});
  options.threads = 2;
  EXPECT_EQ(plain.result.image.object, image_of(c, options).result.image.object);
}

TEST(Leaving, ReportNamesPointsAndFrame) {
  const LeaveImage image = image_of(parse(everything_alive));
  std::string text;
  llvm::raw_string_ostream os(text);
  print_report(make_report(parse(everything_alive).pipeline, image.result, "x"), false, os);
  EXPECT_NE(text.find(formatv("leaving     1 points through 1 prog array, frame of {0} bytes\n",
                              image.info.leave->frame_bytes)
                          .str()),
            std::string::npos)
      << text;
}

TEST(Leaving, DescriptionIsChecked) {
  const LeaveImage image = image_of(parse(everything_alive));
  const std::string good = print_image_info(image.info);
  auto same = parse_image_info(good);
  ASSERT_TRUE(bool(same)) << llvm::toString(same.takeError());
  EXPECT_EQ(*same, image.info);
  auto refusal = [&](const std::function<void(ImageLeave &)> &change) {
    ImageInfo info = image.info;
    change(*info.leave);
    auto read = parse_image_info(print_image_info(info));
    return read ? std::string() : llvm::toString(read.takeError());
  };
  const std::string start = "image description: leave.";
  EXPECT_EQ(refusal([](ImageLeave &l) { l.frame_bytes = 520; }),
            start + "frame_bytes: expected a multiple of 8, at most 512");
  EXPECT_EQ(refusal([](ImageLeave &l) { l.frame_bytes = 16; }),
            start + "points[0].frame_bytes: smaller than a frame can be, or larger than the largest");
  EXPECT_EQ(refusal([](ImageLeave &l) { l.points[0].insn = 1000; }),
            "image description: leave: entry has no instruction 1000");
  EXPECT_EQ(refusal([](ImageLeave &l) { l.points[0].program = "other"; }),
            "image description: leave: other has no instruction " +
                std::to_string(image.info.leave->points[0].insn));
  EXPECT_EQ(refusal([](ImageLeave &l) { l.prog_arrays[0] = "other"; }),
            "image description: leave: prog array other is not in the instance");
}

TEST(Leaving, ProcessesRefuseKernelImages) {
  const Case c = parse(everything_alive);
  auto loaded = load_native(c.pipeline, c.pipeline.entries[0], image_of(c).result.image.object, "x.ujit");
  ASSERT_FALSE(bool(loaded));
  EXPECT_EQ(llvm::toString(loaded.takeError()), "x.ujit: the image is for a kernel: its entries need a stub");
}

TEST(Leaving, ChainModeIsRefused) {
  LinkOptions options = kernel_options({});
  options.target = LinkTarget::kernel;
  options.plan.mode = PlanOptions::chain;
  auto linked = link(parse(everything_alive).pipeline, options);
  ASSERT_FALSE(bool(linked));
  EXPECT_EQ(llvm::toString(linked.takeError()),
            "the kernel target has no chain mode: the originals are the chain");
}

} // namespace
} // namespace ujit
