// Programs of sizes that no example has: which rung of the ladder each goes to, and that it stays the program
// it was. How long a link takes is not asked for here; without the rungs some of these would take minutes.
#include "tests/support/modes.h"

#include "llvm/ADT/StringExtras.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

constexpr const char jump_table[] = "-- map jmp prog_array\n1: leaf\n";

/// A hash over packet bytes: per block a bounds check, a load, a branch on what was loaded and, in some, a
/// store into the packet. 10 instructions a block. Blocks leave on the spot, as distances have 16 bits.
std::string mixing(const std::string &name, unsigned blocks, const std::string &last) {
  std::string text =
      "-- prog " + name + " xdp\nr6 = r1\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr9 = 7\n";
  for (unsigned b = 0; b < blocks; ++b) {
    const unsigned at = b * 13 % 56;
    const std::string n = std::to_string(b), offset = std::to_string(at);
    text += "r2 = r7\nr2 += " + std::to_string(at + 4) + "\nif r2 <= r8 goto in" + n + "\nr0 = 1\nexit\nin" +
            n + ":\nw3 = *(u32 *)(r7 + " + offset +
            ")\nw9 ^= w3\nw9 *= " + std::to_string(0x9e3779b1 % 0x7ffffff + b) + "\nif w9 > " +
            std::to_string(0x40000000 + b * 4097) + " goto skip" + n + "\nw9 += w3\nskip" + n + ":\n";
    if (b % 8 == 0)
      text += "*(u32 *)(r7 + " + offset + ") = w9\n";
  }
  return text + last + "w0 = w9\nexit\n";
}

std::string two_programs(unsigned blocks) {
  return mixing("entry", blocks, "r1 = r6\nr2 = map jmp ll\nr3 = 1\ncall tail_call\n") +
         mixing("leaf", blocks, "") + jump_table;
}

/// `loops` loops of one round, each by a jump back.
std::string jumping_back(unsigned loops) {
  std::string text = "-- prog entry xdp\nr1 = *(u32 *)(r1 + 0)\nr0 = 0\n";
  for (unsigned i = 0; i < loops; ++i) {
    const std::string n = std::to_string(i);
    text += "again" + n + ":\nr0 += 1\nif r0 < " + n + " goto again" + n + "\n";
  }
  return text + "exit\n";
}

struct Fused {
  std::string notes;
  std::vector<std::string> problems; ///< what differs from the interpreter, fused and one by one
};

/// Runs a case by interpreter, one by one and fused, on packets of 20 and 60 bytes.
Expected<Fused> fuse(const std::string &text) {
  std::string packets;
  for (unsigned size : {20, 60}) {
    packets += "-- packet\n";
    for (unsigned i = 0; i < size; ++i)
      packets += llvm::utohexstr(16 + (i * 37 + size) % 240) + " ";
    packets += "\n";
  }
  Expected<Case> c = parse_case(text + packets, "long");
  if (!c)
    return c.takeError();
  std::vector<Job> jobs(1);
  for (const CaseInput &input : c->inputs)
    jobs[0].inputs.push_back(input.bytes);
  auto wanted = run_jobs(c->pipeline, {}, jobs, nullptr);
  if (!wanted)
    return wanted.takeError();
  Fused out;
  for (auto mode : {PlanOptions::chain, PlanOptions::fused}) {
    if (mode == PlanOptions::chain && c->pipeline.programs.size() == 1)
      continue; // the same code
    LinkOptions options = standalone_options(*c);
    options.plan.mode = mode;
    options.debug_info = false;
    Expected<LinkedImage> image = link_and_load(c->pipeline, options);
    if (!image)
      return image.takeError();
    auto got = run_jobs(c->pipeline, {}, jobs, &*image);
    if (!got)
      return got.takeError();
    for (const std::string &problem : differences(c->pipeline, (*wanted)[0], (*got)[0]))
      out.problems.push_back((mode == PlanOptions::chain ? "one by one: " : "fused: ") + problem);
    out.notes.clear();
    for (const std::string &note : image->result.stats.notes)
      out.notes += note + "\n";
  }
  return out;
}

void expect(const std::string &text, const std::string &effort) {
  Expected<Fused> fused = fuse(text);
  ASSERT_TRUE(bool(fused)) << llvm::toString(fused.takeError());
  EXPECT_EQ(fused->problems, std::vector<std::string>());
  EXPECT_EQ(fused->notes, effort.empty() ? "" : "partition 0: " + effort + " optimisation, for its size\n");
}

TEST(LongProgram, OfTwelveThousandInstructionsIsFullyOptimised) { expect(two_programs(1'000), ""); }
TEST(LongProgram, BeyondTheFullPipelineIsReduced) { expect(mixing("entry", 9'500, ""), "reduced"); }
TEST(LongProgram, BeyondPhisKeepsItsRegistersInMemory) { expect(mixing("entry", 12'000, ""), "minimal"); }
TEST(LongProgram, OfAThousandJumpsBackIsFullyOptimised) { expect(jumping_back(1'000), ""); }
TEST(LongProgram, OfMoreJumpsBackKeepsItsRegistersInMemory) { expect(jumping_back(1'001), "minimal"); }

} // namespace
} // namespace ujit
