// That each optimisation of fused code fires, on IR; what is said of it.
#include "lto/explain.h"
#include "lto/optimise.h"
#include "lto/passes.h"
#include "tests/optimised_ir.h"
#include "tests/support/case_file.h"
#include "translator/lower.h"
#include "translator/make_insn.h"

#include "gtest/gtest.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/SourceMgr.h"

namespace ujit {
namespace {

std::string print(const llvm::Module &module) {
  std::string out;
  llvm::raw_string_ostream os(out);
  for (const llvm::Function &f : module)
    f.print(os);
  return out;
}

std::string ir_of(std::string_view text, const PassOptions &passes = {}, bool inline_hash_lookups = true) {
  auto c = parse_case(std::string(text) + "-- packet\n00\n-- result\n0\n", "optimise");
  if (!c)
    return llvm::toString(c.takeError());
  llvm::LLVMContext context;
  TranslateOptions options;
  options.debug_info = false;
  options.inline_hash_lookups = inline_hash_lookups;
  auto module = translate(c->pipeline, ProgId(0), context, options);
  if (!module)
    return llvm::toString(module.takeError());
  auto tm = make_target_machine("native", Effort::full);
  simplify_program(**module, **tm);
  optimise_fused(**module, **tm, c->pipeline, passes);
  EXPECT_FALSE(llvm::verifyModule(**module, &llvm::errs()));
  return print(**module);
}

std::string xdp(const std::string &body, const std::string &maps = "") {
  return "-- prog entry xdp\nr6 = r1\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr2 = r7\nr2 += 40\nif r2 "
         "> r8 goto out\n" +
         body + "exit\nout:\nr0 = 0\nexit\n" + maps;
}

TEST(InlineHashLookups, SearchTheTable) {
  const std::string body =
      "*(u64 *)(r10 - 16) = r7\n*(u64 *)(r10 - 8) = 1\nr1 = map m ll\nr2 = r10\nr2 += -16\n"
      "call map_lookup_elem\nif r0 == 0 goto out\nr0 = *(u64 *)(r0 + 0)\n";
  for (std::string type : {"hash", "lru_hash", "percpu_hash", "lru_percpu_hash"}) {
    const std::string text = xdp(body, "-- map m " + type + " key=16 value=8 entries=4\n");
    std::string ir = ir_of(text);
    EXPECT_EQ(count(ir, "bpf_map_lookup_elem"), 0u) << ir;
    EXPECT_EQ(count(ir, "ujit.lookup"), 0u) << ir;
    EXPECT_EQ(count(ir, "alloca"), 0u) << "a key of 16 bytes is two values:\n" << ir;
    EXPECT_EQ(count(ir, "icmp eq ptr") + count(ir, "icmp ne ptr"), 0u) << "what is found is not null:\n"
                                                                       << ir;
    EXPECT_EQ(count(ir, "acquire"), 2u) << "the first link, and those behind it:\n" << ir;
    EXPECT_EQ(count(ir, "store atomic i8 1"), type.starts_with("lru") ? 1u : 0u) << ir;
    EXPECT_EQ(count(ir, "@ujit.cpu"), type.ends_with("percpu_hash") ? 1u : 0u) << ir;
    EXPECT_EQ(count(ir_of(text, {}, false), "call ptr @bpf_map_lookup_elem"), 1u);
  }
}

TEST(InlineHashLookups, LongKeysAreCalls) {
  std::string body;
  for (int at = -72; at < 0; at += 8)
    body += "*(u64 *)(r10 - " + std::to_string(-at) + ") = r7\n";
  body += "r1 = map m ll\nr2 = r10\nr2 += -72\ncall map_lookup_elem\nif r0 == 0 goto out\nr0 = *(u64 *)(r0 + "
          "0)\n";
  EXPECT_EQ(
      count(ir_of(xdp(body, "-- map m hash key=72 value=8 entries=4\n")), "call ptr @bpf_map_lookup_elem"),
      1u);
}

/// A function's text in that of a module.
std::string function(const std::string &ir, const std::string &name) {
  const size_t at = ir.find("@" + name + "("), begin = ir.rfind("define", at);
  return at == ir.npos ? "" : ir.substr(begin, ir.find("\n}", begin) - begin);
}

TEST(InlineHashLookups, WhatOnlyAChangedSlotReachesCalls) {
  const std::string lookup = "*(u64 *)(r10 - 8) = 1\nr1 = map m ll\nr2 = r10\nr2 += -8\n"
                             "call map_lookup_elem\nif r0 == 0 goto out\nr7 = *(u64 *)(r0 + 0)\n";
  std::string text;
  for (int p = 0; p < 4; ++p) {
    const std::string n = std::to_string(p), next = std::to_string(p + 1);
    text += "-- prog p" + n + " xdp\nr6 = r1\n" + lookup +
            (p == 3 ? "" : "r1 = r6\nr2 = map jmp ll\nr3 = " + next + "\ncall tail_call\n") +
            "r0 = r7\nexit\nout:\nr0 = 0\nexit\n";
  }
  text += "-- map m hash key=8 value=8\n-- map jmp prog_array\n1: p1\n2: p2\n3: p3\n-- packet\n00\n-- "
          "result\n0\n";
  auto c = parse_case(text, "chain");
  ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
  LinkOptions options;
  options.plan.target_left_is_supported = false; // so that slots lead to copies in the image
  const std::string ir = optimised_ir(c->pipeline, options);
  EXPECT_EQ(count(ir, "call fastcc ptr @ujit.lookup.0("), 3u) << ir;
  for (std::string p : {"p1", "p2", "p3"})
    EXPECT_EQ(count(function(ir, "ujit.chain." + p), "call fastcc ptr @ujit.lookup.0("), 1u) << ir;
}

TEST(ForwardState, AnOffsetThatBecomesConstantIsCheckedOnce) {
  const std::string text = "-- prog entry sched_cls\n"
                           "r6 = r1\nr7 = *(u32 *)(r6 + 76)\nr8 = *(u32 *)(r6 + 80)\n"
                           "r2 = r7\nr2 += 34\nif r2 > r8 goto out\n"
                           "r2 = 60129542144 ll\n*(u64 *)(r6 + 56) = r2\n" // cb[2] = 0, cb[3] = 14
                           "r3 = *(u8 *)(r7 + 23)\nif r3 != 17 goto join\n*(u32 *)(r6 + 56) = r3\n"
                           "join:\nr4 = *(u32 *)(r6 + 60)\nif r4 > 64 goto out\n"
                           "r5 = *(u32 *)(r6 + 76)\nr9 = *(u32 *)(r6 + 80)\n"
                           "r5 += r4\nr2 = r5\nr2 += 20\nif r2 > r9 goto out\n"
                           "r0 = *(u8 *)(r5 + 12)\nexit\nout:\nr0 = 0\nexit\n";
  EXPECT_EQ(count(ir_of(text), "icmp ugt ptr"), 1u) << ir_of(text);
  EXPECT_EQ(count(ir_of(text, {.forward_state = false}), "icmp ugt ptr"), 2u);
}

TEST(MergeBytes, AWordInEitherByteOrder) {
  const std::string little = xdp("r0 = *(u8 *)(r7 + 13)\nr0 <<= 8\nr1 = *(u8 *)(r7 + 12)\nr0 |= r1\n");
  EXPECT_EQ(count(ir_of(little), "load i16"), 1u);
  EXPECT_EQ(count(ir_of(little), "load i8"), 0u);
  EXPECT_EQ(count(ir_of(little, {.merge_bytes = false}), "load i8"), 2u);
  const std::string big = xdp("r0 = *(u8 *)(r7 + 12)\nr0 <<= 8\nr1 = *(u8 *)(r7 + 13)\nr0 |= r1\n");
  EXPECT_EQ(count(ir_of(big), "load i16"), 1u);
  EXPECT_GE(count(ir_of(big), "bswap"), 1u);
}

TEST(MergeBytes, ByteStoredBetweenIsNotReadEarly) {
  std::string ir =
      ir_of(xdp("r0 = *(u8 *)(r7 + 12)\nr2 = 7\n*(u8 *)(r7 + 13) = r2\nr1 = *(u8 *)(r8 - 1)\nr1 <<= "
                "8\nr0 |= r1\n"));
  EXPECT_EQ(count(ir, "load i16"), 0u) << ir;
}

std::string copy(int from, int to, int bytes) {
  std::string body;
  for (int i = 0; i < bytes; ++i)
    body += "r1 = *(u8 *)(r7 + " + std::to_string(from + i) + ")\n*(u8 *)(r7 + " + std::to_string(to + i) +
            ") = r1\n";
  return body + "r0 = 0\n";
}

TEST(MergeBytes, ACopyOfSixBytesIsTwoWords) {
  std::string ir = ir_of(xdp(copy(0, 6, 6)));
  EXPECT_EQ(count(ir, "load i8") + count(ir, "store i8"), 0u) << ir;
  EXPECT_EQ(count(ir, "load i32"), 1u) << ir;
  EXPECT_EQ(count(ir, "store i16"), 1u) << ir;
}

TEST(MergeBytes, AnOverlappingCopyKeepsItsOrder) {
  // Each byte is written before it is read: all become the first.
  std::string ir = ir_of(xdp(copy(0, 1, 4)));
  EXPECT_EQ(count(ir, "load i32") + count(ir, "load i16"), 0u) << ir;
}

/// Stores to the value of an array, in r9.
std::string to_value(const std::string &stores) {
  return ir_of(xdp("*(u32 *)(r10 - 4) = 0\nr1 = map m ll\nr2 = r10\nr2 += -4\ncall map_lookup_elem\n"
                   "if r0 == 0 goto out\nr9 = r0\n" +
                       stores + "r0 = 2\n",
                   "-- map m array key=4 value=24 entries=2\n"));
}

TEST(MergeBytes, FieldsThatAreSetToConstantsAreSetByWords) {
  std::string ir =
      to_value("*(u32 *)(r9 + 4) = 0\n*(u16 *)(r9 + 10) = 3\n*(u32 *)(r9 + 0) = 7\n*(u16 *)(r9 + 8) = 1\n");
  EXPECT_EQ(count(ir, "store atomic i64 7, "), 1u) << ir;
  EXPECT_EQ(count(ir, "store atomic i32 196609, "), 1u) << ir;
  EXPECT_EQ(count(ir, "store atomic"), 2u) << ir;
  // Not what would not be aligned, what is read in between, and what is set behind a barrier.
  auto words = [](int at, const std::string &between) {
    auto set = [](int field) { return "*(u32 *)(r9 + " + std::to_string(field) + ") = 0\n"; };
    return count(to_value(set(at + 4) + between + set(at)), "store atomic i64 0");
  };
  EXPECT_EQ(words(0, ""), 1u);
  EXPECT_EQ(words(4, ""), 0u);
  EXPECT_EQ(words(0, "r2 = *(u64 *)(r9 + 0)\n*(u64 *)(r7 + 0) = r2\n"), 0u);
  EXPECT_EQ(words(0, "r2 = 1\nr2 = atomic_fetch_add((u32 *)(r9 + 16), r2)\n*(u32 *)(r7 + 0) = r2\n"), 0u);
}

/// The search of a value of r2 in [low, high), as compilers write it; each has an end of its own.
std::string search(int low, int high, bool note_upper_half = false) {
  if (high - low == 1)
    return "r0 = " + std::to_string(low * low + 3) + "\n*(u8 *)(r7 + " + std::to_string(low % 40) +
           ") = r0\nexit\n";
  const int middle = (low + high) / 2;
  const std::string n = std::to_string(middle);
  return "if r2 >= " + n + " goto from" + n + "\n" + search(low, middle, note_upper_half) + "from" + n +
         ":\n" + (note_upper_half ? "*(u8 *)(r7 + 39) = " + n + "\n" : "") +
         search(middle, high, note_upper_half);
}

std::string switching(const std::string &body, bool switches = true) {
  return ir_of(xdp("r2 = *(u8 *)(r7 + 0)\n" + body), {.switches = switches});
}

void expect_cases(const std::string &ir, int low, int high) {
  EXPECT_EQ(count(ir, "switch "), 1u) << ir;
  for (int value = low; value < high; ++value)
    EXPECT_EQ(count(ir, " " + std::to_string(value) + ", label"), 1u) << value << "\n" << ir;
}

TEST(Switches, ASearchOfAllValuesNeedsNoDefault) {
  const std::string ir = switching("r2 &= 15\n" + search(0, 16));
  expect_cases(ir, 0, 16);
  EXPECT_EQ(count(ir, "unreachable"), 1u) << ir;
  EXPECT_EQ(count(switching("r2 &= 15\n" + search(0, 16), false), "switch "), 0u);
}

TEST(Switches, OtherValuesAreTheDefault) {
  const std::string ir = switching("if r2 < 100 goto out\nif r2 >= 116 goto out\n" + search(100, 116));
  expect_cases(ir, 100, 116);
  EXPECT_EQ(count(ir, "unreachable"), 0u) << ir;
}

TEST(Switches, FewComparisonsStay) { EXPECT_EQ(count(switching("r2 &= 3\n" + search(0, 4)), "switch "), 0u); }

TEST(Switches, SparseOnesStay) {
  std::string body = "r2 = *(u32 *)(r7 + 4)\n";
  for (int i = 1; i < 10; ++i) {
    const std::string n = std::to_string(i);
    body += "if r2 > " + std::to_string(i * i * i * i) + " goto over" + n +
            "\nr0 = " + std::to_string(i * 7) + "\n*(u8 *)(r7 + " + n + ") = r0\nexit\nover" + n + ":\n";
  }
  EXPECT_EQ(count(switching(body + "r0 = 1\nexit\n"), "switch "), 0u);
}

TEST(Switches, WhatIsDoneBetweenComparisonsStaysBetween) {
  const std::string ir = switching("r2 &= 15\n" + search(0, 16, true));
  EXPECT_EQ(count(ir, "switch "), 0u) << ir;
}

TEST(Loops, ATailCallOfItselfIsABranch) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic why;
  auto module = llvm::parseAssemblyString(R"(
    define preserve_nonecc i64 @f(ptr %context, ptr %instance, i64 %count) {
      %more = icmp ult i64 %count, 33
      br i1 %more, label %again, label %done
    again:
      %next = add i64 %count, 1
      %r = musttail call preserve_nonecc i64 @f(ptr %context, ptr %instance, i64 %next)
      ret i64 %r
    done:
      ret i64 7
    })",
                                          why, context);
  ASSERT_TRUE(module) << why.getMessage().str();
  EXPECT_TRUE(loop_self_calls(*module->getFunction("f")));
  EXPECT_FALSE(llvm::verifyModule(*module, &llvm::errs()));
  const std::string ir = print(*module);
  EXPECT_EQ(count(ir, "call"), 0u) << ir;
  EXPECT_EQ(count(ir, " phi "), 1u) << "only the count changes:\n" << ir;
}

TEST(Loops, AreUnrolled) {
  // 16-bit sum over 40 bytes, by a counted loop.
  const std::string text = xdp("r1 = r7\nr3 = r7\nr3 += 40\nr0 = 0\nagain:\nr2 = *(u16 *)(r1 + 0)\nr0 += "
                               "r2\nr1 += 2\nif r1 != r3 goto again\n");
  EXPECT_GT(count(ir_of(text), "load i16"), 1u);
  EXPECT_EQ(count(ir_of(text, {.loops = false}), "load i16"), 1u);
}

/// Each optimisation would be another link.
TEST(Explain, LargePipelinesAreNotLinkedAgain) {
  Pipeline pipeline;
  Program &p = pipeline.programs.emplace_back();
  p.name = "main";
  p.type = ProgType::xdp;
  p.insns = {make_insn(0xb7, 0, 0, 0, 1)};
  p.insns.resize(most_explained_insns, make_insn(0x07, 0, 0, 0, 1));
  p.insns.push_back(make_insn(0x95, 0, 0, 0, 0));
  p.subprograms = {{p.name, 0, uint32_t(p.insns.size()), 0}};
  pipeline.entries = {ProgId(0)};
  LinkOptions options;
  options.disabled = {"loops"};
  auto linked = link(pipeline, options);
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());
  auto effects = explain_optimisations(pipeline, *linked, options);
  ASSERT_TRUE(bool(effects)) << llvm::toString(effects.takeError());
  EXPECT_EQ(effects->size(), optimisation_names().size());
  for (const OptimisationEffect &e : *effects)
    EXPECT_EQ(e.why, e.name == "loops" ? "switched off"
                                       : "not tried, as 10001 instructions are more than 10000: compare with "
                                         "--no-opt " +
                                             e.name);
}

size_t weighted(std::string_view function, std::initializer_list<uint64_t> drops) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic why;
  auto module = llvm::parseAssemblyString(function, why, context);
  if (!module) {
    ADD_FAILURE() << why.getMessage().str();
    return 0;
  }
  llvm::Function *f = module->getFunction("f");
  const size_t before = count(print(*module), "!prof");
  const bool changed = weigh_ends(*f, std::vector<uint64_t>(drops));
  const size_t after = count(print(*module), "!prof");
  EXPECT_EQ(changed, after > before);
  return after;
}

constexpr const char *ends = R"(
  define i64 @f(i64 %a, i64 %b) {
    %bad = icmp eq i64 %a, 1
    br i1 %bad, label %out, label %more
  more:
    %worse = icmp eq i64 %b, 1
    br i1 %worse, label %count, label %pass
  count:
    call void @g()
    br label %out
  pass:
    call void @g()
    br label %out
  out:
    %r = phi i64 [ 1, %0 ], [ 2, %count ], [ 3, %pass ]
    ret i64 %r
  }
  declare void @g()
)";

TEST(RareEnds, DropsAreLessLikely) {
  EXPECT_EQ(weighted(ends, {1}), 1u);
  EXPECT_EQ(weighted(ends, {1, 2}), 2u);
}

TEST(RareEnds, OthersAreLeftAlone) {
  EXPECT_EQ(weighted(ends, {}), 0u);
  EXPECT_EQ(weighted(ends, {7}), 0u);
  EXPECT_EQ(weighted(ends, {2, 3}), 0u) << "both ways drop, and the first branch asks again";
  const std::string known = std::string(ends).replace(
      std::string(ends).find("label %more"), 11, "label %more, !prof !{!\"branch_weights\", i32 7, i32 1}");
  EXPECT_EQ(weighted(known, {2}), 2u);
  EXPECT_EQ(weighted(known, {7}), 1u) << "what is there stays";
}

} // namespace
} // namespace ujit
