// Leaving an image in the kernel target and coming back: whatever slots look like to fused code, everything
// observable is what the interpreter gives for what the slots really hold.
#include "tests/differential/generator.h"
#include "tests/support/leave_bed.h"

#include "llvm/Support/FormatVariadic.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  uint32_t images = 0, points = 0, runs = 0;
};

/// Links `pipeline` and runs it, with slots as in `running` and with fewer, in all modes of leaving.
std::vector<std::string> check(const Pipeline &pipeline, const Pipeline &running, LinkOptions options,
                               std::span<const MapSeed> seeds, std::span<const Job> jobs, uint64_t seed,
                               Total &total) {
  std::vector<std::string> problems;
  for (bool inlining : {true, false}) {
    if (!inlining)
      options.disabled = {"inline", "clone"};
    Expected<LeaveImage> image = link_for_kernel(pipeline, options);
    if (!image) {
      problems.push_back("link: " + llvm::toString(image.takeError()));
      continue;
    }
    // The stub's calls restart the count of fused code, as in a kernel, so on cycles all that succeed have to
    // stay inside; what is inlined has no function that resumed code could call.
    const bool cyclic = !image->result.graph.cycles.empty();
    if (cyclic && inlining)
      continue;
    ++total.images;
    total.points += uint32_t(image->info.leave->points.size());
    for (const LeaveMode &mode :
         {LeaveMode{0, 0}, LeaveMode{0, 100}, LeaveMode{100, 0}, LeaveMode{50, 50}, LeaveMode{20, 80}})
      for (unsigned empty : {0u, 50u, 100u}) {
        if (cyclic && mode.stranger)
          continue;
        LeaveMode seeded = mode;
        seeded.seed = ++seed;
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
  auto files = find_cases(UJIT_SOURCE_DIR "/tests/cases");
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
  RecordProperty("left", int(total.counts.left));
  std::printf("%u images, %u points, %u runs: left %lu times, came back %lu times\n", total.images,
              total.points, total.runs, total.counts.left, total.counts.failed);
  EXPECT_GT(total.counts.failed, 100u);
}

TEST(Leaving, GeneratedPipelinesAgree) {
  Total total;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const Sample sample = generate(seed, "s");
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
  std::printf("%u images, %u points, %u runs: left %lu times, came back %lu times\n", total.images,
              total.points, total.runs, total.counts.left, total.counts.failed);
  EXPECT_GT(total.counts.failed, 100u);
}

} // namespace
} // namespace ujit
