// Peeling cycles: what the first pass is, what is there twice, and where it is not done.
#include "graph/peel.h"

#include "graph/plan.h"
#include "tests/graph_builder.h"

namespace ujit {
namespace {

using namespace test;

struct Ring : Builder {
  MapId jmp = array("jmp");
  ProgId before = entry("before"), head = program("head"), tail = program("tail"), behind = program("behind"),
         aside = program("aside");

  Ring() {
    call(before, jmp, aside);
    call(before, jmp, head);
    call(head, jmp, tail);
    call(tail, jmp, head);
    call(tail, jmp, behind);
  }
};

std::vector<std::string> names(const CallGraph &graph) {
  std::vector<std::string> out;
  for (const Summary &s : graph.summaries)
    out.push_back(s.name);
  return out;
}

std::vector<std::string> calls_of(const CallGraph &graph, ProgId p) {
  std::vector<std::string> out;
  for (const Edge &e : graph.edges_of(p))
    out.push_back(graph.summaries[index(*e.to)].name);
  return out;
}

TEST(Peel, CopiesWhatACycleComesBackTo) {
  const Ring b;
  const std::optional<CallGraph> peeled = peel_cycles(b.graph(), 1000);
  ASSERT_TRUE(peeled);
  using Names = std::vector<std::string>;
  EXPECT_EQ(names(*peeled),
            (Names{"before", "head", "tail", "behind", "aside", "head.again", "tail.again", "behind.again"}));
  EXPECT_EQ(calls_of(*peeled, b.before), (Names{"aside", "head"}));
  EXPECT_EQ(calls_of(*peeled, b.head), Names{"tail"});
  EXPECT_EQ(calls_of(*peeled, b.tail), (Names{"head.again", "behind"}));
  EXPECT_EQ(calls_of(*peeled, ProgId(5)), Names{"tail.again"});
  EXPECT_EQ(calls_of(*peeled, ProgId(6)), (Names{"head.again", "behind.again"}));
  ASSERT_EQ(peeled->cycles.size(), 1u);
  EXPECT_EQ(peeled->cycles[0].programs, (std::vector<ProgId>{ProgId(5), ProgId(6)}));
  for (uint32_t p = 0; p < 5; ++p)
    EXPECT_EQ(peeled->summaries[p].program, ProgId(p));
  EXPECT_EQ(peeled->summaries[6].program, b.tail);
}

TEST(Peel, TheFirstPassComparesNoCount) {
  const Ring b;
  const std::optional<CallGraph> peeled = peel_cycles(b.graph(), 1000);
  ASSERT_TRUE(peeled);
  Expected<LinkPlan> plan = make_plan(*peeled, {});
  ASSERT_TRUE(bool(plan));
  for (ProgId p : {b.head, b.tail, b.behind}) {
    EXPECT_EQ((*plan)[p].role, PlannedProgram::inlined);
    EXPECT_FALSE(plan->is_copy(p));
    for (const PlannedSite &site : plan->sites_of(p))
      EXPECT_FALSE(site.check_count);
  }
  EXPECT_TRUE((*plan)[b.tail].counted) << "it hands the count on to the copies";
  EXPECT_FALSE((*plan)[b.behind].counted);
  EXPECT_TRUE(plan->is_copy(ProgId(5)));
  EXPECT_EQ((*plan)[ProgId(5)].role, PlannedProgram::function);
  EXPECT_EQ(plan->sites_of(b.tail)[0].alternatives[0].treatment, Treatment::direct);
  EXPECT_TRUE(plan->sites_of(ProgId(5))[0].check_count);
  EXPECT_EQ(planned_name(b.pipeline, *plan, ProgId(6)), "tail.again");
}

TEST(Peel, ResumedCodeOfTheFirstPassGetsItsCount) {
  Ring b;
  const MapId changing = b.array("changing", EdgeKind::guarded);
  b.call(b.behind, changing, b.aside);
  const std::optional<CallGraph> peeled = peel_cycles(b.graph(), 1000);
  ASSERT_TRUE(peeled);
  PlanOptions options;
  options.count_across_leave = false;
  options.leave_frame_limit = 400;
  Expected<LinkPlan> plan = make_plan(*peeled, options);
  ASSERT_TRUE(bool(plan));
  const ProgId again{7};
  ASSERT_EQ((*plan)[again].origin, b.behind);
  EXPECT_TRUE((*plan)[again].counted);
  EXPECT_TRUE((*plan)[b.behind].counted) << "it may go on as its copy, which compares the count";
  EXPECT_FALSE(plan->sites_of(b.behind)[0].check_count);
}

TEST(Peel, NotWithoutCyclesAndNotBeyondTheLimit) {
  EXPECT_FALSE(peel_cycles(Ring().graph(), 299)) << "three programs of 100 each are there twice";
  EXPECT_TRUE(peel_cycles(Ring().graph(), 300));
  Builder line;
  const MapId jmp = line.array("jmp");
  const ProgId a = line.entry("a"), c = line.program("c");
  line.call(a, jmp, c);
  EXPECT_FALSE(peel_cycles(line.graph(), 1000));
}

TEST(Peel, NotForCyclesThatNobodyReaches) {
  Builder b;
  const MapId jmp = b.array("jmp");
  b.entry("entry");
  const ProgId island = b.program("island");
  b.call(island, jmp, island);
  EXPECT_FALSE(peel_cycles(b.graph(), 1000));
}

TEST(Peel, AnEntryThatIsComeBackToStaysTheEntry) {
  Builder b;
  const MapId jmp = b.array("jmp");
  const ProgId self = b.entry("self");
  b.call(self, jmp, self);
  const std::optional<CallGraph> peeled = peel_cycles(b.graph(), 1000);
  ASSERT_TRUE(peeled);
  Expected<LinkPlan> plan = make_plan(*peeled, {});
  ASSERT_TRUE(bool(plan));
  EXPECT_EQ(plan->entries, std::vector<ProgId>{self});
  EXPECT_FALSE((*plan)[ProgId(1)].entry);
  EXPECT_FALSE(plan->sites_of(self)[0].check_count);
  EXPECT_TRUE(plan->sites_of(ProgId(1))[0].check_count);
}

} // namespace
} // namespace ujit
