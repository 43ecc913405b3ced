#include "graph/digraph.h"
#include "graph/draw.h"
#include "graph/solve.h"
#include "graph_builder.h"

#include "llvm/Support/JSON.h"
#include "llvm/Support/Program.h"

#include <random>

namespace ujit::test {
namespace {

std::vector<uint64_t> indices(const CallGraph &graph, ProgId p, size_t site = 0, size_t target = 0) {
  return graph.sites_of(p)[site].targets[target].indices;
}
using Ids = std::vector<ProgId>;
using Values = std::vector<uint64_t>;

TEST(CallGraph, ConstantIndexIsOneEdge) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.program("c");
  b.fill(jmp, 3, c);
  b.call(a, jmp, constant({3}));
  auto graph = b.graph();
  ASSERT_EQ(graph.edges.size(), 1u);
  EXPECT_EQ(graph.edges[0],
            (Edge{.from = a, .site = 0, .map = jmp, .slot = 3, .to = c, .kind = EdgeKind::sealed}));
  EXPECT_EQ(graph.sites[0].index_class, IndexClass::constant);
  EXPECT_FALSE(graph.sites[0].solved);
  EXPECT_EQ(graph.depth, 1u);
  EXPECT_EQ(graph.reachable_from(a), (Ids{a, c}));
  EXPECT_EQ(graph.reachable_from(c), (Ids{c}));
}

TEST(CallGraph, TheKernelTakes32BitsOfTheIndex) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.program("c");
  b.fill(jmp, 3, c);
  b.call(a, jmp, constant({3, 0x100000003}));
  auto graph = b.graph();
  EXPECT_EQ(indices(graph, a), Values{3});
  EXPECT_EQ(graph.sites[0].index_class, IndexClass::constant);
}

TEST(CallGraph, MissesHaveNoTarget) {
  Builder b;
  auto sealed = b.array("sealed", EdgeKind::sealed, 4), open = b.array("open", EdgeKind::guarded, 4);
  auto a = b.entry("a");
  for (auto map : {sealed, open})
    for (uint64_t slot : {2, 4})
      b.call(a, map, constant({slot}));
  auto graph = b.graph();
  ASSERT_EQ(graph.edges.size(), 4u);
  for (auto &edge : graph.edges)
    EXPECT_FALSE(edge.to);
  EXPECT_EQ(graph.edges[0].kind, EdgeKind::sealed);
  EXPECT_EQ(graph.edges[1].kind, EdgeKind::sealed);
  EXPECT_EQ(graph.edges[2].kind, EdgeKind::guarded);
  EXPECT_EQ(graph.edges[3].kind, EdgeKind::sealed) << "an array never grows";
  EXPECT_EQ(count(graph).misses, 4u);
  EXPECT_EQ(graph.depth, 0u);
}

TEST(CallGraph, FewAndMergedMaps) {
  Builder b;
  auto one = b.array("one"), two = b.array("two", EdgeKind::guarded);
  auto a = b.entry("a"), c = b.program("c"), d = b.program("d"), e = b.program("e");
  b.fill(one, 4, c);
  b.fill(one, 6, d);
  b.fill(two, 0, e);
  b.call(a, one, constant({4, 6}));
  b.call(a, one, constant({4})).targets.push_back({two, constant({0})});
  auto graph = b.graph();
  EXPECT_EQ(graph.sites[0].index_class, IndexClass::few);
  EXPECT_EQ(graph.sites[1].index_class, IndexClass::few);
  EXPECT_EQ(graph.sites[1].targets.size(), 2u);
  ASSERT_EQ(graph.edges.size(), 4u);
  EXPECT_EQ(graph.edges[2].to, c);
  EXPECT_EQ(graph.edges[3].to, e);
  EXPECT_EQ(graph.edges[3].kind, EdgeKind::guarded);
}

TEST(CallGraph, DynamicIndexReachesEveryFilledSlot) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, 4);
  auto a = b.entry("a"), c = b.program("c"), d = b.program("d");
  b.fill(jmp, 1, c);
  b.fill(jmp, 2, d);
  b.fill(jmp, 3, c);
  b.call(a, jmp, run_time());
  auto graph = b.graph();
  EXPECT_EQ(graph.sites[0].index_class, IndexClass::dynamic);
  ASSERT_EQ(graph.edges.size(), 3u);
  EXPECT_EQ(graph.edges[0].kind, EdgeKind::dispatched);
  EXPECT_EQ(count(graph).edges, 2u) << "distinct pairs";
  EXPECT_EQ(graph.depth, 1u);
}

TEST(CallGraph, ManyTargetsAreLeftToTheArray) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, 100);
  auto a = b.entry("a");
  for (uint32_t i = 0; i <= max_dispatch_targets; ++i)
    b.fill(jmp, i, b.program("p" + std::to_string(i)));
  b.call(a, jmp, run_time());
  auto graph = b.graph();
  ASSERT_EQ(graph.edges.size(), 1u);
  EXPECT_EQ(graph.edges[0].kind, EdgeKind::left);
  EXPECT_TRUE(graph.edges[0].any_slot);
  EXPECT_EQ(graph.targets_of(graph.edges[0]).size(), max_dispatch_targets + 1);
  EXPECT_EQ(graph.reachable_from(a).size(), max_dispatch_targets + 2);
  EXPECT_FALSE(graph.depth) << "an open array can hold anything";
  EXPECT_EQ(graph.depth_acyclic, 1u);
}

TEST(CallGraph, UnknownMapReachesEveryArray) {
  Builder b;
  auto one = b.array("one"), two = b.array("two");
  auto a = b.entry("a"), c = b.program("c"), d = b.program("d"), e = b.program("e");
  b.fill(one, 0, c);
  b.fill(two, 0, d);
  b.call(a, std::nullopt, constant({0}));
  auto graph = b.graph();
  ASSERT_EQ(graph.edges.size(), 1u);
  EXPECT_TRUE(graph.edges[0].any_map);
  EXPECT_EQ(graph.edges[0].kind, EdgeKind::left);
  EXPECT_EQ(graph.targets_of(graph.edges[0]), (Ids{c, d}));
  EXPECT_EQ(graph.reachable_from(a), (Ids{a, c, d}));
  EXPECT_FALSE(graph.reachable[index(e)]);
  EXPECT_FALSE(graph.depth);
}

TEST(CallGraph, EmptySealedArrayIsAMiss) {
  Builder b;
  auto jmp = b.array("jmp"), open = b.array("open", EdgeKind::guarded);
  auto a = b.entry("a");
  b.call(a, jmp, run_time());
  b.call(a, open, run_time());
  auto graph = b.graph();
  ASSERT_EQ(graph.edges.size(), 2u);
  EXPECT_EQ(graph.edges[0].kind, EdgeKind::sealed);
  EXPECT_EQ(graph.edges[1].kind, EdgeKind::left);
}

TEST(Solve, ConstantsCrossTheTailCallInScratch) {
  // A preamble fills a scratch struct from frozen configuration; programs behind it jump by what is stored
  // there, the second hop through a program that does not know the slot at all.
  Builder b;
  auto jmp = b.array("jmp");
  auto scratch = b.map("scratch", MapType::percpu_array);
  auto preamble = b.entry("preamble"), mid = b.program("mid"), last = b.program("last"),
       drop = b.program("drop");
  b.fill(jmp, 1, mid);
  b.fill(jmp, 2, last);
  b.fill(jmp, 7, drop);
  StateSlot block{StateSlot::scratch, scratch, 16, 8};
  StateSlot low{StateSlot::scratch, scratch, 16, 4}, high{StateSlot::scratch, scratch, 20, 4};
  b.call(preamble, jmp, constant({1})).state = {{block, constant({(uint64_t(7) << 32) | 2})}};
  b.call(mid, jmp, at_entry(low)).clobbers = std::vector<StateRange>{{StateSlot::scratch, scratch, 0, 16}};
  b.call(last, jmp, at_entry(high));
  auto graph = b.graph();
  EXPECT_EQ(indices(graph, mid), Values{2});
  EXPECT_EQ(indices(graph, last), Values{7});
  EXPECT_TRUE(graph.sites_of(last)[0].solved);
  EXPECT_EQ(graph.sites_of(last)[0].index_class, IndexClass::constant);
  EXPECT_EQ(count(graph).solved, 2u);
  EXPECT_EQ(graph.depth, 3u);
}

TEST(Solve, WhatIsClobberedOrNotListedIsUnknown) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a");
  auto last = b.array("last"); // of its own: an unknown index reaches all of its array
  b.fill(last, 5, b.program("leaf"));
  auto link = [&](const char *name, std::optional<std::vector<StateRange>> clobbers) {
    auto p = b.program(name);
    b.call(a, jmp, p).state = {{cb(0), constant({5})}};
    auto next = b.program(std::string(name) + "_next");
    b.call(p, jmp, next).clobbers = std::move(clobbers);
    b.call(next, last, at_entry(cb(0)));
    return next;
  };
  auto kept = link("kept", std::vector<StateRange>{{StateSlot::context, {}, 52, 16}});
  auto hit = link("hit", std::vector<StateRange>{{StateSlot::context, {}, 51, 1}});
  auto unlisted = link("unlisted", std::nullopt);
  auto graph = b.graph();
  EXPECT_EQ(indices(graph, kept), Values{5});
  EXPECT_EQ(indices(graph, hit), Values{});
  EXPECT_EQ(indices(graph, unlisted), Values{});
}

TEST(Solve, CopiesBetweenSlotsAreFollowed) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.program("c"), d = b.program("d"), leaf = b.program("leaf");
  b.fill(jmp, 1, c);
  b.fill(jmp, 2, d);
  b.fill(jmp, 9, leaf);
  b.call(a, jmp, constant({1})).state = {{cb(3), constant({9})}};
  b.call(c, jmp, constant({2})).state = {{cb(0), at_entry(cb(3))}};
  b.call(d, jmp, at_entry(cb(0)));
  EXPECT_EQ(indices(b.graph(), d), Values{9});
}

TEST(Solve, CallersMeet) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, 64);
  auto a = b.entry("a"), common = b.program("common");
  b.fill(jmp, 40, common);
  auto callers = [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      auto p = b.program("caller" + std::to_string(i));
      b.call(a, jmp, p);
      b.call(p, jmp, constant({40})).state = {{cb(0), constant({i})}};
    }
  };
  b.call(common, jmp, at_entry(cb(0)));
  Builder eight = b;
  std::swap(b, eight);
  callers(8);
  EXPECT_EQ(indices(b.graph(), common), (Values{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(b.graph().sites_of(common)[0].index_class, IndexClass::few);
  std::swap(b, eight);
  callers(9);
  auto graph = b.graph();
  EXPECT_EQ(graph.sites_of(common)[0].index_class, IndexClass::dynamic) << "more values than we follow";
  EXPECT_FALSE(graph.sites_of(common)[0].solved);
}

TEST(Solve, EntriesKnowNothing) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.entry("c");
  b.fill(jmp, 1, c);
  b.call(a, jmp, constant({1})).state = {{cb(0), constant({1})}};
  b.call(c, jmp, at_entry(cb(0)));
  EXPECT_EQ(b.graph().sites_of(c)[0].index_class, IndexClass::dynamic);
}

TEST(Solve, CyclesKeepTheirConstants) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), loop = b.program("loop"), leaf = b.program("leaf");
  b.fill(jmp, 1, loop);
  b.fill(jmp, 2, leaf);
  b.call(a, jmp, constant({1})).state = {{cb(0), constant({2})}};
  b.call(loop, jmp, constant({1})).state = {{cb(0), at_entry(cb(0))}};
  b.call(loop, jmp, at_entry(cb(0)));
  auto graph = b.graph();
  EXPECT_EQ(indices(graph, loop, 1), Values{2});
  ASSERT_EQ(graph.cycles.size(), 1u);
  EXPECT_EQ(graph.cycles[0].programs, Ids{loop});
}

TEST(Solve, DeadCallersDoNotSpoilConstants) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), dead = b.program("dead"), c = b.program("c"), leaf = b.program("leaf");
  b.fill(jmp, 1, c);
  b.fill(jmp, 2, leaf);
  b.call(a, jmp, constant({1})).state = {{cb(0), constant({2})}};
  b.call(dead, jmp, constant({1})).state = {{cb(0), constant({3})}};
  b.call(c, jmp, at_entry(cb(0)));
  auto graph = b.graph();
  EXPECT_EQ(indices(graph, c), Values{2});
  EXPECT_FALSE(graph.reachable[index(dead)]);
}

TEST(Solve, StateCrossesCallsThatAreLeft) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, 32);
  auto a = b.entry("a"), user = b.program("user");
  for (uint32_t i = 0; i < 12; ++i)
    b.fill(jmp, i, b.program("p" + std::to_string(i)));
  b.fill(jmp, 12, user);
  b.call(a, jmp, run_time()).state = {{cb(0), constant({4})}};
  b.call(user, jmp, at_entry(cb(0)));
  EXPECT_EQ(indices(b.graph(), user), Values{4});
}

/// A ring of n programs behind an entry.
Builder ring(uint32_t n) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, n);
  auto entry = b.entry("entry");
  Ids ids;
  for (uint32_t i = 0; i < n; ++i)
    ids.push_back(b.program("r" + std::to_string(i)));
  b.call(entry, jmp, ids[0]);
  for (uint32_t i = 0; i < n; ++i)
    b.call(ids[i], jmp, ids[(i + 1) % n]);
  return b;
}

TEST(CallGraph, Cycles) {
  for (uint32_t n : {1u, 2u, 8u}) {
    auto graph = ring(n).graph();
    ASSERT_EQ(graph.cycles.size(), 1u);
    EXPECT_EQ(graph.cycles[0].programs.size(), n);
    EXPECT_EQ(count(graph).cycles, std::vector<uint32_t>{n});
    EXPECT_FALSE(graph.depth);
    EXPECT_EQ(graph.depth_acyclic, 1u);
  }
}

TEST(CallGraph, UnreachableCyclesDoNotUnboundTheDepth) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.program("c"), dead = b.program("dead");
  b.call(a, jmp, c);
  b.call(dead, jmp, dead);
  auto graph = b.graph();
  EXPECT_EQ(graph.cycles.size(), 1u);
  EXPECT_EQ(graph.depth, 1u);
}

TEST(CallGraph, DepthIsTheLongestChain) {
  Builder b;
  auto jmp = b.array("jmp");
  auto a = b.entry("a"), c = b.program("c"), d = b.program("d"), e = b.program("e");
  b.call(a, jmp, e);
  b.call(a, jmp, c);
  b.call(c, jmp, d);
  b.call(d, jmp, e);
  auto graph = b.graph();
  EXPECT_EQ(graph.depth, 3u);
  auto counts = count(graph);
  EXPECT_EQ(counts.edges, 4u);
  EXPECT_EQ(counts.called, 3u);
  EXPECT_EQ(counts.single_caller, 2u);
  EXPECT_EQ(counts.depth, 4u) << "in programs";
}

TEST(CallGraph, TypeMismatchNamesBoth) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, 32);
  auto a = b.entry("a"), tc = b.program("tc_prog", 10, ProgType::sched_cls);
  b.fill(jmp, 3, tc);
  b.call(a, jmp, constant({3}));
  EXPECT_NE(
      b.error().find(
          "test.o: a: insn 10: program 'a' has type xdp, but its tail call through jmp[3] reaches 'tc_prog' "
          "of type sched_cls"),
      std::string::npos)
      << b.error();
  b.summaries[0].sites[0].targets[0].index = run_time();
  EXPECT_NE(b.error().find("'tc_prog'"), std::string::npos);
  for (uint32_t i = 4; i < 20; ++i)
    b.fill(jmp, i, b.program("p" + std::to_string(i)));
  EXPECT_NE(b.error().find("'tc_prog'"), std::string::npos) << "also where the call is left to the array";
}

TEST(CallGraph, BadArraysAreRefused) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, 4);
  auto other = b.map("state", MapType::hash);
  auto a = b.entry("a"), c = b.program("c");
  b.fill(jmp, 4, a);
  EXPECT_NE(b.error().find("slot 4 of prog array 'jmp' is beyond its 4 entries"), std::string::npos)
      << b.error();
  b.pipeline.maps[0].prog_slots = {{1, a}, {1, c}};
  EXPECT_NE(b.error().find("slot 1 of prog array 'jmp' is filled twice: by 'a' and by 'c'"),
            std::string::npos);
  b.pipeline.maps[0].prog_slots = {};
  b.call(a, other, constant({0}));
  EXPECT_NE(b.error().find("tail call through map 'state', which is a hash and not a prog_array"),
            std::string::npos);
  b.summaries.pop_back();
  EXPECT_NE(b.error().find("not one summary for each program"), std::string::npos);
}

/// Programs with six random calls each, some constant, some by a slot, some dynamic.
Builder random_pipeline(uint32_t programs, uint32_t seed = 1) {
  std::mt19937 random(seed);
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, programs), small = b.array("small", EdgeKind::guarded, 8);
  for (uint32_t i = 0; i < programs; ++i) {
    auto p = i < 3 ? b.entry("e" + std::to_string(i)) : b.program("p" + std::to_string(i), random() % 300);
    b.fill(jmp, i, p);
    if (i < 8)
      b.fill(small, i, p);
  }
  for (uint32_t i = 0; i < programs; ++i)
    for (int s = 0; s < 6; ++s) {
      auto kind = random() % 100;
      auto value = kind < 70   ? constant({random() % programs})
                   : kind < 90 ? at_entry(cb(random() % 5))
                               : run_time();
      auto &site = b.call(ProgId(i), kind % 10 == 9 ? small : jmp, value);
      for (uint32_t n = 0; n < 5; ++n)
        if (auto what = random() % 3; what == 0)
          site.state.emplace_back(cb(n), constant({random() % programs}));
        else if (what == 1)
          site.state.emplace_back(cb(n), at_entry(cb(random() % 5)));
      if (random() % 2)
        site.clobbers.emplace();
    }
  return b;
}

TEST(CallGraph, WorkIsLinear) {
  auto small = random_pipeline(500).graph(), large = random_pipeline(5000).graph();
  EXPECT_LT(large.steps, 13 * small.steps);
  EXPECT_LT(large.steps, 5000u * 6 * 100);
  EXPECT_LT(large.edges.size(), 5000u * 6 * max_dispatch_targets);
}

TEST(CallGraph, ManyDynamicCallsOnAFullArrayAreNotMultipliedOut) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded, 5000);
  for (uint32_t i = 0; i < 5000; ++i) {
    auto p = i == 0 ? b.entry("entry") : b.program("p" + std::to_string(i));
    b.fill(jmp, i, p);
    b.call(p, jmp, run_time());
  }
  auto graph = b.graph();
  EXPECT_EQ(graph.edges.size(), 5000u);
  EXPECT_LT(graph.steps, 100'000u);
  ASSERT_EQ(graph.cycles.size(), 1u);
  EXPECT_EQ(graph.cycles[0].programs.size(), 5000u);
}

TEST(CallGraph, LongChainsDoNotRecurse) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::sealed, 100'000);
  auto last = b.entry("entry");
  for (uint32_t i = 0; i < 99'999; ++i) {
    auto next = b.program("p");
    b.fill(jmp, i, next);
    b.call(last, jmp, constant({i}));
    last = next;
  }
  EXPECT_EQ(b.graph().depth, 99'999u);
}

TEST(Solve, HostileNumbersOfSlotsStayBounded) {
  Builder b;
  auto jmp = b.array("jmp");
  auto scratch = b.map("scratch", MapType::percpu_array);
  auto a = b.entry("a");
  b.fill(jmp, 0, a);
  for (uint32_t i = 0; i < 2000; ++i)
    b.call(a, jmp, at_entry({StateSlot::scratch, scratch, 4 * i, 4})).clobbers.emplace();
  EXPECT_LT(b.graph().steps, 2000u * max_followed_slots * 10);
}

TEST(Draw, TheSameInputGivesTheSameText) {
  auto b = random_pipeline(60, 7);
  std::string texts[2][3];
  for (auto &text : texts) {
    auto graph = b.graph();
    llvm::raw_string_ostream t(text[0]), d(text[1]), j(text[2]);
    draw_text(b.pipeline, graph, t);
    draw_dot(b.pipeline, graph, d);
    draw_json(b.pipeline, graph, j);
  }
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(texts[0][i], texts[1][i]);
}

Builder odd_names() {
  Builder b;
  auto jmp = b.array("j\"mp\\", EdgeKind::guarded);
  auto a = b.entry("a\"b\\c\nd"), c = b.program("\xff\xfe<c>");
  b.call(a, jmp, c);
  b.call(c, jmp, c).source = "lb.c:212";
  b.call(c, std::nullopt, run_time());
  b.call(c, jmp, constant({9}));
  return b;
}

TEST(Draw, JsonIsWellFormedAndComplete) {
  auto b = odd_names();
  std::string text;
  llvm::raw_string_ostream os(text);
  draw_json(b.pipeline, b.graph(), os);
  auto json = llvm::json::parse(text);
  ASSERT_TRUE(bool(json)) << llvm::toString(json.takeError());
  auto &root = *json->getAsObject();
  EXPECT_EQ(root.getArray("programs")->size(), 2u);
  EXPECT_EQ(root.getArray("tail_calls")->size(), 4u);
  EXPECT_EQ(root.getArray("edges")->size(), 4u);
  EXPECT_EQ(root.getArray("entries")->size(), 1u);
  EXPECT_EQ(root.getArray("cycles")->size(), 1u);
  EXPECT_EQ(root.getObject("summary")->getInteger("sites"), 4);
  auto &call = *(*root.getArray("tail_calls"))[2].getAsObject();
  EXPECT_EQ(call.getString("index"), "dynamic");
  EXPECT_EQ(call.getString("reason"), "the map is not known");
  auto &entry = *(*root.getArray("entries"))[0].getAsObject();
  EXPECT_EQ(entry.getString("program"), "a\"b\\c\nd");
}

TEST(Draw, TextShowsWhyAnIndexIsNotKnown) {
  Builder b;
  auto jmp = b.array("jmp", EdgeKind::guarded);
  auto scratch = b.map("scratch", MapType::percpu_array);
  auto a = b.entry("a"), c = b.program("c");
  b.call(a, jmp, c).source = "lb.c:212";
  b.call(c, jmp, at_entry({StateSlot::scratch, scratch, 8, 4}));
  std::string text;
  llvm::raw_string_ostream os(text);
  draw_text(b.pipeline, b.graph(), os);
  EXPECT_NE(text.find("insn     10  jmp[0]  guarded  -> c  lb.c:212"), std::string::npos) << text;
  EXPECT_NE(
      text.find(
          "c: insn 10: the index is loaded from scratch+8 (4 bytes), which not all callers leave constant"),
      std::string::npos)
      << text;
}

TEST(Draw, SvgByGraphviz) {
  if (!llvm::sys::findProgramByName("dot"))
    GTEST_SKIP() << "graphviz is not installed";
  for (auto &b : {odd_names(), ring(8), random_pipeline(12)}) {
    std::string svg;
    llvm::raw_string_ostream os(svg);
    auto error = write_svg(b.pipeline, b.graph(), os);
    ASSERT_FALSE(bool(error)) << llvm::toString(std::move(error));
    EXPECT_NE(svg.find("</svg>"), std::string::npos);
  }
}

TEST(Draw, MissingGraphvizIsSaid) {
  std::string path = getenv("PATH") ? getenv("PATH") : "";
  setenv("PATH", "/nonexistent", 1);
  std::string svg;
  llvm::raw_string_ostream os(svg);
  auto b = ring(2);
  auto error = write_svg(b.pipeline, b.graph(), os);
  setenv("PATH", path.c_str(), 1);
  ASSERT_TRUE(bool(error));
  EXPECT_NE(llvm::toString(std::move(error)).find("install the package graphviz"), std::string::npos);
}

TEST(Digraph, ComponentsAreNumberedCalleesFirst) {
  Digraph g;
  for (auto successors : std::vector<std::vector<uint32_t>>{{1}, {2}, {1, 3}, {}, {4}})
    g.add_node(successors);
  auto c = strong_components(g);
  EXPECT_EQ(c.of[1], c.of[2]);
  EXPECT_GT(c.of[0], c.of[1]);
  EXPECT_GT(c.of[1], c.of[3]);
  EXPECT_TRUE(c.cyclic[c.of[1]]);
  EXPECT_TRUE(c.cyclic[c.of[4]]);
  EXPECT_FALSE(c.cyclic[c.of[0]]);
  EXPECT_EQ(reverse_postorder(g, std::vector<uint32_t>{0}), (std::vector<uint32_t>{0, 1, 2, 3}));
}

} // namespace
} // namespace ujit::test
