// Updates of array elements that become stores (translator/lower_array.cc): that they do, what the stores
// are, and where they stay calls. What they do is in tests/cases/array-update*.case, against the calls and
// the running kernel.
#include "tests/optimised_ir.h"
#include "tests/support/case_file.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

constexpr std::string_view one_array = "array key=4 value=16 entries=4",
                           one_percpu = "percpu_array key=4 value=16 entries=1";

/// An update of element 0 with r7 and 77; r7 is not known.
std::string update(const std::string &flags = "r4 = 0", const std::string &key = "0") {
  return "r7 = *(u32 *)(r1 + 12)\n*(u64 *)(r10 - 24) = r7\n*(u32 *)(r10 - 16) = 77\n*(u32 *)(r10 - 12) = 78\n"
         "*(u32 *)(r10 - 4) = " +
         key + "\nr1 = map m ll\nr2 = r10\nr2 += -4\nr3 = r10\nr3 += -24\n" + flags +
         "\ncall map_update_elem\n";
}
constexpr const char *lookup =
    "r1 = map m ll\nr2 = r10\nr2 += -4\ncall map_lookup_elem\nif r0 == 0 goto out\n"
    "r0 = *(u32 *)(r0 + 12)\nout: exit\n";

/// The optimised IR of an XDP program that uses map m.
std::string ir_of(std::string_view map, const std::string &body, LinkOptions options = {},
                  bool special_fields = false) {
  auto c = parse_case("-- prog entry xdp\n" + body + "exit\n-- map m " + std::string(map) +
                          "\n-- packet\n00\n-- result\n0\n",
                      "update");
  if (!c)
    return llvm::toString(c.takeError());
  c->pipeline.maps[0].special_fields = special_fields;
  options.scratch = c->scratch;
  return optimised_ir(c->pipeline, options);
}

constexpr std::string_view call = "call i64 @bpf_map_update_elem";

TEST(ArrayUpdate, BecomesStores) {
  for (std::string_view map : {one_array, one_percpu}) {
    const std::string ir = ir_of(map, update());
    EXPECT_EQ(count(ir, call), 0u) << ir;
    EXPECT_EQ(count(ir, "alloca"), 0u) << "the value never is on the stack:\n" << ir;
    EXPECT_EQ(count(ir, "store atomic i64"), 2u) << "whole words, which do not tear:\n" << ir;
    EXPECT_EQ(count(ir, " unordered, align 8"), 2u) << ir;
    EXPECT_EQ(count(ir, "ret i64 0"), 1u) << ir;
  }
  const std::string rest = ir_of("array key=4 value=15 entries=4", update());
  EXPECT_EQ(count(rest, "store atomic i64"), 1u) << rest;
  EXPECT_EQ(count(rest, "store atomic i32"), 1u) << rest;
  EXPECT_EQ(count(rest, "store atomic i16"), 1u) << rest;
  EXPECT_EQ(count(rest, "store atomic i8"), 1u) << rest;
}

TEST(ArrayUpdate, IsForwardedToTheLookup) {
  for (std::string_view map : {one_array, one_percpu}) {
    const std::string ir = ir_of(map, update() + lookup);
    EXPECT_EQ(count(ir, "ret i64 78"), 1u) << ir;
    EXPECT_EQ(count(ir, "load atomic"), 0u) << ir;
  }
}

TEST(ArrayUpdate, TellsErrors) {
  for (const auto &[flags, result] : {std::pair("r4 = 1", "ret i64 -17"), std::pair("r4 = 3", "ret i64 -22"),
                                      std::pair("r4 = -1", "ret i64 -22")}) {
    const std::string ir = ir_of(one_array, update(flags));
    EXPECT_EQ(count(ir, result), 1u) << ir;
    EXPECT_EQ(count(ir, call) + count(ir, "store"), 0u) << ir;
  }
  EXPECT_EQ(count(ir_of(one_array, update("r4 = 0", "4")), "ret i64 -7"), 1u);
  EXPECT_EQ(count(ir_of(one_array, update("r4 = 1", "-1")), "ret i64 -7"), 1u);
}

TEST(ArrayUpdate, OthersStayCalls) {
  auto calls = [](std::string_view map, const std::string &body, LinkOptions options = {},
                  bool fields = false) { return count(ir_of(map, body, options, fields), call); };
  EXPECT_EQ(calls(one_array, update("r4 = *(u32 *)(r10 - 16)\nr4 = r7")), 1u) << "flags are not known";
  EXPECT_EQ(calls(one_array, update("r4 = 4")), 1u) << "BPF_F_LOCK";
  EXPECT_EQ(
      calls(
          "array key=4 value=136 entries=4",
          "r3 = r10\nr3 += -136\n" +
              [] {
                std::string fill;
                for (int at = 8; at <= 136; at += 8)
                  fill += "*(u64 *)(r10 - " + std::to_string(at) + ") = 1\n";
                return fill;
              }() +
              "*(u32 *)(r10 - 140) = 0\nr1 = map m ll\nr2 = r10\nr2 += -140\nr4 = 0\ncall map_update_elem\n"),
      1u)
      << "too long";
  EXPECT_EQ(calls("hash key=4 value=16 entries=4", update()), 1u);
  EXPECT_EQ(calls(one_array, update(), {}, true), 1u) << "a lock in the value is left alone";
  LinkOptions without;
  without.disabled = {"inline-updates"};
  EXPECT_EQ(calls(one_array, update(), without), 1u);
  LinkOptions kernel; // which nobody has looked at
  kernel.target = LinkTarget::kernel;
  EXPECT_EQ(calls(one_array, update(), kernel), 1u);
}

} // namespace
} // namespace ujit
