#include "graph/plan.h"
#include "graph_builder.h"

#include <algorithm>
#include <random>

namespace ujit::test {
namespace {

using Ids = std::vector<ProgId>;

LinkPlan plan_of(const Builder &b, const PlanOptions &options = {}) {
  auto plan = make_plan(b.graph(), options);
  if (plan)
    return *plan;
  ADD_FAILURE() << llvm::toString(plan.takeError());
  std::abort();
}

Treatment treatment(const LinkPlan &plan, ProgId from, size_t site = 0, size_t alternative = 0) {
  return plan.sites_of(from)[site].alternatives.at(alternative).treatment;
}

std::string text_of(const Builder &b, const LinkPlan &plan) {
  std::string text;
  llvm::raw_string_ostream os(text);
  print_plan(b.graph(), plan, os);
  return text;
}

/// entry -> p1 -> ... -> pn through a sealed array.
Builder chain_of(uint32_t n, EdgeKind edges = EdgeKind::sealed) {
  Builder b;
  auto jmp = b.array("jmp", edges, n);
  auto last = b.entry("entry");
  for (uint32_t i = 1; i <= n; ++i) {
    auto next = b.program("p" + std::to_string(i));
    b.call(last, jmp, next);
    last = next;
  }
  return b;
}

TEST(Plan, SealedChainBecomesOneFunctionWithoutCount) {
  auto b = chain_of(4);
  auto plan = plan_of(b);
  ASSERT_EQ(plan.partitions.size(), 1u);
  EXPECT_EQ(plan.partitions[0].functions, Ids{ProgId(0)});
  EXPECT_EQ(plan.partitions[0].members.size(), 5u);
  EXPECT_EQ(plan.partitions[0].cost, 500u);
  EXPECT_FALSE(plan.has_counter);
  for (uint32_t p = 0; p < 4; ++p) {
    EXPECT_EQ(treatment(plan, ProgId(p)), Treatment::inlined);
    EXPECT_FALSE(plan.sites_of(ProgId(p))[0].check_count);
    EXPECT_EQ(plan.sites_of(ProgId(p))[0].select, Select::none);
    EXPECT_EQ(plan.sites_of(ProgId(p))[0].otherwise, PlannedSite::nothing);
  }
  EXPECT_EQ(plan[ProgId(0)].role, PlannedProgram::function);
  EXPECT_EQ(plan[ProgId(4)].role, PlannedProgram::inlined);
  EXPECT_EQ(plan[ProgId(4)].count_lower, 4u);
  EXPECT_EQ(plan[ProgId(4)].count_upper, 4u);
}

TEST(Plan, GuardedEdgesCarryTheCountForWhenTheyLeave) {
  auto b = chain_of(2, EdgeKind::guarded);
  auto plan = plan_of(b);
  auto &edge = plan.sites_of(ProgId(0))[0].alternatives[0];
  EXPECT_TRUE(edge.guard);
  EXPECT_EQ(edge.treatment, Treatment::inlined);
  EXPECT_TRUE(plan[ProgId(0)].counted);
  EXPECT_FALSE(plan.sites_of(ProgId(0))[0].check_count);
  EXPECT_FALSE(plan[ProgId(2)].counted) << "makes no call";
  EXPECT_FALSE(plan_of(b, {.count_across_leave = false}).has_counter);
}

TEST(Plan, LimitsKeepProgramsOutOfLine) {
  auto b = chain_of(4);
  auto plan = plan_of(b, {.max_function_ir = 250});
  EXPECT_EQ(treatment(plan, ProgId(0)), Treatment::inlined);
  EXPECT_EQ(treatment(plan, ProgId(1)), Treatment::direct);
  EXPECT_EQ(treatment(plan, ProgId(2)), Treatment::inlined);
  EXPECT_EQ(plan[ProgId(2)].role, PlannedProgram::function);
  b.summaries[3].stack_bytes = 600;
  plan = plan_of(b, {.stack_budget = 512});
  EXPECT_EQ(treatment(plan, ProgId(2)), Treatment::direct);
  EXPECT_EQ(treatment(plan_of(b, {.inline_single_caller = false}), ProgId(0)), Treatment::direct);
}

TEST(Plan, SharedDropNotifierStaysOutOfLine) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, 64);
  auto entry = b.entry("entry");
  auto drop = b.program("drop", 58); // small, but with too many callers
  for (int i = 0; i < 20; ++i) {
    auto p = b.program("p" + std::to_string(i));
    b.call(entry, jmp, p);
    b.call(p, jmp, drop);
  }
  auto plan = plan_of(b);
  EXPECT_EQ(plan[drop].role, PlannedProgram::function);
  EXPECT_EQ(treatment(plan, ProgId(5)), Treatment::direct);
  EXPECT_EQ(plan.partitions[0].functions, (Ids{entry, drop}));
}

TEST(Plan, SmallSharedProgramsAreClonedWithWhatIsBelow) {
  Builder b;
  auto jmp = b.array("jmp");
  auto entry = b.entry("entry"), x = b.program("x"), y = b.program("y"), count = b.program("count", 20),
       leaf = b.program("leaf", 10), big = b.program("big", 500);
  b.call(entry, jmp, x);
  b.call(entry, jmp, y);
  b.call(x, jmp, count);
  b.call(y, jmp, count);
  b.call(count, jmp, leaf);
  b.call(count, jmp, big);
  auto plan = plan_of(b);
  EXPECT_EQ(treatment(plan, x), Treatment::cloned);
  EXPECT_EQ(treatment(plan, y), Treatment::cloned);
  EXPECT_EQ(treatment(plan, count), Treatment::cloned);
  EXPECT_EQ(treatment(plan, count, 1), Treatment::direct)
      << "a copy for each copy of its caller would be too much";
  EXPECT_EQ(plan[count].role, PlannedProgram::inlined);
  EXPECT_EQ(plan[big].role, PlannedProgram::function);
  ASSERT_EQ(plan.partitions.size(), 1u);
  EXPECT_EQ(plan.partitions[0].cost, 300u + 2 * 30 + 500);
  EXPECT_EQ(treatment(plan_of(b, {.clone_limit_ir = 0}), x), Treatment::direct);
}

/// What a run never did stays out of line; what it did often is copied though it is larger than others may
/// be.
TEST(Plan, MeasuredFrequenciesDecideWhatIsCopied) {
  Builder b;
  auto jmp = b.array("jmp");
  auto entry = b.entry("entry"), x = b.program("x"), y = b.program("y"), z = b.program("z"),
       shared = b.program("shared", 100);
  for (ProgId p : {x, y, z}) {
    b.call(entry, jmp, p);
    b.call(p, jmp, shared);
  }
  EXPECT_EQ(plan_of(b)[shared].role, PlannedProgram::function);
  Profile profile;
  profile.packets = 100;
  profile.programs.resize(5);
  profile.programs[index(entry)] = {
      .runs = 100, .branches = {}, .calls = {{10, jmp, 0, 60}, {20, jmp, 2, 40}}};
  profile.programs[index(x)] = {.runs = 60, .branches = {}, .calls = {{10, jmp, 1, 60}}};
  profile.programs[index(y)] = {.runs = 40, .branches = {}, .calls = {{10, jmp, 1, 3}}};
  CallGraph graph = b.graph();
  weigh(graph, profile);
  EXPECT_EQ(graph.runs_of(x), 60u);
  EXPECT_EQ(graph.runs_of(z), std::nullopt);
  auto plan = make_plan(graph, {});
  ASSERT_TRUE(bool(plan)) << llvm::toString(plan.takeError());
  EXPECT_EQ(treatment(*plan, x), Treatment::cloned);
  EXPECT_EQ(treatment(*plan, y), Treatment::cloned);
  EXPECT_EQ(treatment(*plan, entry, 0), Treatment::inlined);
  EXPECT_EQ(treatment(*plan, entry, 2), Treatment::direct) << "never called";
}

TEST(Plan, AlternativesWithOneTargetShareACopy) {
  Builder b;
  auto jmp = b.array("jmp");
  auto entry = b.entry("entry"), p = b.program("p");
  b.fill(jmp, 1, p);
  b.fill(jmp, 2, p);
  b.call(entry, jmp, constant({1, 2, 3}));
  auto plan = plan_of(b);
  auto &site = plan.sites_of(entry)[0];
  EXPECT_EQ(site.select, Select::index);
  EXPECT_EQ(site.otherwise, PlannedSite::nothing);
  ASSERT_EQ(site.alternatives.size(), 3u);
  EXPECT_EQ(site.alternatives[0].treatment, Treatment::inlined);
  EXPECT_EQ(site.alternatives[1].treatment, Treatment::inlined);
  EXPECT_EQ(site.alternatives[2].treatment, Treatment::fall_through);
  EXPECT_EQ(plan.partitions[0].cost, 200u);
}

TEST(Plan, CyclesAreCountedAndEndInACall) {
  for (uint32_t n : {1u, 2u, 8u}) {
    Builder b;
    auto jmp = b.array("jmp");
    auto entry = b.entry("entry"), front = b.program("front"), side = b.program("side");
    Ids ring;
    for (uint32_t i = 0; i < n; ++i)
      ring.push_back(b.program("r" + std::to_string(i), 10));
    auto behind = b.program("behind"), after = b.program("after");
    b.call(entry, jmp, front);
    b.call(entry, jmp, side);
    b.call(front, jmp, ring[0]);
    for (uint32_t i = 0; i < n; ++i)
      b.call(ring[i], jmp, ring[(i + 1) % n]);
    b.call(ring[n - 1], jmp, behind);
    b.call(behind, jmp, after);
    auto plan = plan_of(b);
    EXPECT_EQ(treatment(plan, front), Treatment::direct) << "the head of the loop is a function";
    EXPECT_EQ(treatment(plan, ring[n - 1]), Treatment::direct) << "so is the way back";
    if (n > 1) {
      EXPECT_EQ(treatment(plan, ring[0]), Treatment::inlined);
    }
    EXPECT_EQ(plan[ring[0]].role, PlannedProgram::function);
    EXPECT_TRUE(plan.has_counter);
    EXPECT_TRUE(plan[entry].counted) << "the count must be right when the cycle is entered";
    EXPECT_TRUE(plan[front].counted);
    EXPECT_FALSE(plan[side].counted);
    EXPECT_FALSE(plan.sites_of(front)[0].check_count);
    EXPECT_TRUE(plan.sites_of(ring[0])[0].check_count);
    EXPECT_TRUE(plan.sites_of(behind)[0].check_count) << "the cycle may have spent the count";
    EXPECT_FALSE(plan[after].counted);
    EXPECT_FALSE(plan.count_cell);
  }
}

TEST(Plan, ChainsBeyondTheLimitAreChecked) {
  EXPECT_FALSE(plan_of(chain_of(33)).has_counter);
  auto b = chain_of(34);
  auto plan = plan_of(b);
  EXPECT_TRUE(plan.has_counter);
  EXPECT_FALSE(plan.sites_of(ProgId(32))[0].check_count);
  EXPECT_TRUE(plan.sites_of(ProgId(33))[0].check_count);
  EXPECT_TRUE(plan[ProgId(0)].counted);
  EXPECT_FALSE(plan[ProgId(34)].counted);
}

TEST(Plan, EntriesThatAreCalledStayFunctions) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.entry("c", 5);
  b.call(a, jmp, c);
  auto plan = plan_of(b);
  EXPECT_EQ(treatment(plan, a), Treatment::direct);
  EXPECT_TRUE(plan[c].entry);
  EXPECT_EQ(plan[c].role, PlannedProgram::function);
  EXPECT_EQ(plan[c].count_lower, 0u);
  EXPECT_EQ(plan[c].count_upper, 1u);
}

TEST(Plan, DeadProgramsAreDropped) {
  auto b = chain_of(1);
  auto dead = b.program("dead");
  b.call(dead, MapId(0), ProgId(1));
  auto plan = plan_of(b);
  EXPECT_EQ(plan.dead, Ids{dead});
  EXPECT_EQ(plan[dead].role, PlannedProgram::dead);
  EXPECT_EQ(treatment(plan, ProgId(0)), Treatment::inlined) << "a dead caller does not count";
}

TEST(Plan, DynamicSites) {
  for (EdgeKind edges : {EdgeKind::sealed, EdgeKind::guarded}) {
    Builder b;
    auto jmp = b.array("jmp", edges);
    auto entry = b.entry("entry"), x = b.program("x"), y = b.program("y");
    b.fill(jmp, 1, x);
    b.fill(jmp, 2, y);
    b.fill(jmp, 5, x);
    b.call(entry, jmp, run_time());
    auto plan = plan_of(b);
    auto &site = plan.sites_of(entry)[0];
    if (edges == EdgeKind::sealed) {
      EXPECT_EQ(site.select, Select::index);
      EXPECT_EQ(site.otherwise, PlannedSite::fall_through);
      EXPECT_EQ(site.alternatives.size(), 3u);
      EXPECT_FALSE(plan.has_counter);
    } else {
      EXPECT_EQ(site.select, Select::program);
      EXPECT_EQ(site.otherwise, PlannedSite::leave);
      EXPECT_EQ(site.alternatives.size(), 2u);
      EXPECT_TRUE(plan.has_counter);
    }
    for (auto &a : site.alternatives)
      EXPECT_EQ(a.treatment, Treatment::inlined);
  }
}

TEST(Plan, SolvedIndicesAreStillCompared) {
  Builder b;
  auto jmp = b.array("jmp");
  auto entry = b.entry("entry"), x = b.program("x"), y = b.program("y");
  b.fill(jmp, 1, x);
  b.fill(jmp, 2, y);
  b.call(entry, jmp, constant({1})).state = {{cb(0), constant({2})}};
  b.call(x, jmp, at_entry(cb(0)));
  auto plan = plan_of(b);
  auto &site = plan.sites_of(x)[0];
  EXPECT_EQ(site.select, Select::index);
  EXPECT_EQ(site.otherwise, PlannedSite::leave);
  EXPECT_EQ(site.alternatives.at(0).treatment, Treatment::inlined);
}

TEST(Plan, CallsThatLeaveNeedSomeoneToTakeThem) {
  Builder b;
  auto many = b.array("many", EdgeKind::guarded, 32), other = b.array("other", EdgeKind::guarded);
  auto entry = b.entry("entry");
  Ids targets;
  for (uint32_t i = 0; i < 10; ++i) {
    targets.push_back(b.program("t" + std::to_string(i)));
    b.fill(many, i, targets.back());
  }
  auto below = b.program("below"), apart = b.program("apart");
  b.call(targets[0], other, below);
  b.call(entry, many, run_time());
  b.call(entry, other, apart);
  auto plan = plan_of(b);
  EXPECT_EQ(plan.sites_of(entry)[0].otherwise, PlannedSite::leave);
  EXPECT_TRUE(plan.sites_of(entry)[0].alternatives.empty());
  EXPECT_EQ(plan[targets[0]].role, PlannedProgram::unfused);
  EXPECT_FALSE(plan[targets[0]].needs_chain_copy) << "the original takes the call";
  plan = plan_of(b, {.target_left_is_supported = false});
  EXPECT_TRUE(plan[targets[9]].needs_chain_copy);
  EXPECT_TRUE(plan[below].needs_chain_copy);
  EXPECT_TRUE(plan[apart].needs_chain_copy);
  EXPECT_FALSE(plan[entry].needs_chain_copy);
  size_t copies = 0;
  for (auto &partition : plan.partitions)
    copies += partition.chain_copies.size();
  EXPECT_EQ(copies, 12u);
}

TEST(Plan, SubprogramCallsReturn) {
  Builder b;
  auto jmp = b.array("jmp"), open = b.array("open", EdgeKind::guarded);
  auto entry = b.entry("entry"), x = b.program("x"), y = b.program("y"), z = b.program("z");
  b.call(entry, jmp, x);
  b.call(x, jmp, y).subprogram = 1;
  b.call(x, jmp, z);
  auto plan = plan_of(b, {.leave_from_subprogram = false});
  EXPECT_TRUE(plan.sites_of(x)[0].in_subprogram);
  EXPECT_EQ(treatment(plan, x), Treatment::direct) << "called, not inlined";
  EXPECT_TRUE(plan.sites_of(x)[0].check_count) << "the subprogram may run many times";
  EXPECT_TRUE(plan.sites_of(x)[1].check_count);
  EXPECT_TRUE(plan.count_cell);

  b.call(x, open, z).subprogram = 1;
  EXPECT_EQ(plan_of(b)[x].role, PlannedProgram::inlined) << "a target that can leave from there";
  plan = plan_of(b, {.leave_from_subprogram = false});
  EXPECT_EQ(plan[x].role, PlannedProgram::unfused);
  EXPECT_NE(plan[x].reason.find("inside a subprogram"), std::string::npos);
  EXPECT_EQ(plan.sites_of(entry)[0].otherwise, PlannedSite::leave);
  EXPECT_EQ(plan.entries, Ids{entry});

  b.call(entry, jmp, x).subprogram = 1; // now the entry leaves from a subprogram too
  EXPECT_TRUE(plan_of(b, {.leave_from_subprogram = false}).entries.empty());
  auto refused = make_plan(b.graph(), {.target_left_is_supported = false, .leave_from_subprogram = false});
  ASSERT_FALSE(bool(refused));
  EXPECT_NE(llvm::toString(refused.takeError()).find("entry: entry cannot be fused"), std::string::npos);
}

TEST(Plan, OverridesCapASite) {
  auto b = chain_of(3);
  auto plan =
      plan_of(b, {.overrides = {{ProgId(0), 0, Treatment::direct}, {ProgId(1), 0, Treatment::leave}}});
  EXPECT_EQ(treatment(plan, ProgId(0)), Treatment::direct);
  EXPECT_EQ(plan.sites_of(ProgId(1))[0].otherwise, PlannedSite::leave);
  EXPECT_TRUE(plan.sites_of(ProgId(1))[0].alternatives.empty());
  EXPECT_EQ(plan[ProgId(2)].role, PlannedProgram::unfused);
}

TEST(Plan, ChainModeIsTheKernelsWay) {
  auto b = chain_of(3);
  b.program("dead");
  auto plan = plan_of(b, {.mode = PlanOptions::chain});
  ASSERT_EQ(plan.partitions.size(), 1u);
  EXPECT_EQ(plan.partitions[0].functions.size(), 4u);
  for (uint32_t p = 0; p < 4; ++p)
    EXPECT_TRUE(plan[ProgId(p)].role == PlannedProgram::function);
  for (uint32_t p = 0; p < 3; ++p) {
    auto &site = plan.sites_of(ProgId(p))[0];
    EXPECT_EQ(site.otherwise, PlannedSite::leave);
    EXPECT_TRUE(site.alternatives.empty());
    EXPECT_TRUE(site.check_count);
    EXPECT_TRUE(plan[ProgId(p)].counted);
  }
  EXPECT_EQ(plan.dead.size(), 1u);
}

/// What must hold of any plan.
void check_plan(const Builder &b, const LinkPlan &plan, const PlanOptions &options) {
  auto graph = b.graph();
  std::vector<int> emitted(plan.programs.size());
  for (auto &partition : plan.partitions) {
    EXPECT_TRUE(partition.cost <= options.partition_cost ||
                partition.functions.size() + partition.chain_copies.size() == 1);
    EXPECT_TRUE(std::ranges::is_sorted(partition.members));
    for (ProgId p : partition.functions) {
      ++emitted[index(p)];
      EXPECT_TRUE(std::ranges::binary_search(partition.members, p));
    }
    // Inlining within a partition ends, and finds all it needs there.
    for (ProgId root : partition.functions) {
      std::vector<std::pair<ProgId, uint32_t>> work{{root, 0}};
      while (!work.empty()) {
        auto [p, depth] = work.back();
        work.pop_back();
        ASSERT_LE(depth, 200u) << "endless inlining";
        ASSERT_TRUE(std::ranges::binary_search(partition.members, p));
        for (auto &site : plan.sites_of(p))
          for (auto &a : site.alternatives)
            if (a.treatment == Treatment::inlined || a.treatment == Treatment::cloned)
              work.emplace_back(*a.edge.to, depth + 1);
      }
    }
  }
  for (uint32_t p = 0; p < plan.programs.size(); ++p)
    EXPECT_EQ(emitted[p], plan.programs[p].role == PlannedProgram::function);
  for (auto &site : plan.sites)
    for (auto &a : site.alternatives) {
      if (a.treatment == Treatment::direct) {
        EXPECT_EQ(plan[*a.edge.to].role, PlannedProgram::function);
      }
      if (a.edge.to && a.treatment != Treatment::leave && plan[*a.edge.to].counted) {
        EXPECT_TRUE(plan[site.from].counted) << "the count has to come from somewhere";
      }
      if (site.check_count) {
        EXPECT_TRUE(plan[site.from].counted);
      }
    }
}

TEST(Plan, RandomGraphs) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    Builder b;
    uint32_t n = 2 + random() % 40;
    auto jmp = b.array("jmp", random() % 2 ? EdgeKind::sealed : EdgeKind::guarded, n + 2);
    auto few = b.array("few", EdgeKind::sealed, 4);
    for (uint32_t i = 0; i < n; ++i) {
      auto p = i == 0 || random() % 10 == 0 ? b.entry("e" + std::to_string(i), random() % 200)
                                            : b.program("p" + std::to_string(i), random() % 200);
      b.fill(jmp, i, p);
      if (i < 3)
        b.fill(few, i, p);
    }
    for (uint32_t i = 0; i < n; ++i)
      for (uint32_t s = random() % 4; s > 0; --s) {
        uint64_t forward = i + random() % (n - i + 1), any = random() % n;
        auto &site = random() % 8 == 0 ? b.call(ProgId(i), few, run_time())
                                       : b.call(ProgId(i), jmp, constant({random() % 6 ? forward : any}));
        site.subprogram = random() % 16 == 0;
      }
    PlanOptions options;
    options.partition_cost = 100 + random() % 2000;
    options.max_function_ir = 100 + random() % 2000;
    options.target_left_is_supported = random() % 2;
    auto plan = plan_of(b, options);
    check_plan(b, plan, options);
    EXPECT_EQ(text_of(b, plan), text_of(b, plan_of(b, options))) << "deterministic";
  }
}

TEST(Plan, PartitionsFollowFromCostAlone) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, 6000);
  auto entry = b.entry("entry"), shared = b.program("shared", 90);
  for (uint32_t i = 0; i < 1000; ++i) {
    auto p = b.program("p" + std::to_string(i)), q = b.program("q" + std::to_string(i));
    b.fill(jmp, i, p);
    b.fill(jmp, 2000 + i, q);
    b.call(entry, jmp, constant({i}));
    b.call(p, jmp, constant({2000 + i}));
    b.call(q, jmp, constant({5000}));
  }
  b.fill(jmp, 5000, shared);
  PlanOptions options{.max_function_ir = 1000};
  auto plan = plan_of(b, options);
  check_plan(b, plan, options);
  EXPECT_GT(plan.partitions.size(), 30u);
  EXPECT_LT(plan.partitions.size(), 45u);
}

TEST(Plan, TextNamesWhatWasDone) {
  auto b = chain_of(2, EdgeKind::guarded);
  auto text = text_of(b, plan_of(b));
  EXPECT_NE(
      text.find(
          "program entry: function, entry, counted 0..0\n  insn 10: jmp[0] -> p1 inlined if unchanged;"),
      std::string::npos)
      << text;
}

} // namespace
} // namespace ujit::test
