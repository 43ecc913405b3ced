// docs/memory-model.md on IR: a test for each sentence that can be read off the optimised program.
#include "lto/optimise.h"
#include "tests/support/case_file.h"
#include "translator/lower.h"

#include "llvm/IR/LLVMContext.h"
#include "llvm/Support/raw_ostream.h"

#include "gtest/gtest.h"

namespace ujit {
namespace {

/// The optimised IR of the first program of a case, without metadata definitions; or the text of the error.
std::string ir_of(std::string_view text, bool optimised = true) {
  auto c = parse_case(std::string(text) + "-- packet\n00\n-- result\n0\n", "memory");
  if (!c)
    return llvm::toString(c.takeError());
  llvm::LLVMContext context;
  TranslateOptions options;
  options.debug_info = false;
  options.scratch = c->scratch;
  auto module = translate(c->pipeline, ProgId(0), context, options);
  if (!module)
    return llvm::toString(module.takeError());
  if (optimised) {
    auto tm = make_target_machine("native", Effort::full);
    simplify_program(**module, **tm);
    optimise_fused(**module, **tm, c->pipeline, {});
  }
  std::string out;
  llvm::raw_string_ostream os(out);
  for (const llvm::Function &f : **module)
    f.print(os);
  return out;
}

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1))
    ++n;
  return n;
}

std::string xdp(const std::string &body, const std::string &maps = "") {
  return "-- prog entry xdp\nr6 = r1\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 + 4)\nr2 = r7\nr2 += 40\nif r2 "
         "> r8 goto out\n" +
         body + "exit\nout:\nr0 = 0\nexit\n" + maps;
}
/// r7: a value of map m.
std::string value(const std::string &body, const std::string &map = "hash key=8 value=64 entries=4") {
  return xdp("*(u64 *)(r10 - 8) = 1\nr1 = map m ll\nr2 = r10\nr2 += -8\ncall map_lookup_elem\nif r0 == 0 "
             "goto out\nr7 = r0\n" +
                 body,
             "-- map m " + map + "\n-- map n array key=4 value=8 entries=1\n");
}

TEST(MemoryModel, M1_StackBecomesRegisters) {
  std::string ir = ir_of(xdp("*(u64 *)(r10 - 8) = 5\nr0 = *(u64 *)(r10 - 8)\n"));
  EXPECT_EQ(count(ir, "alloca"), 0u) << ir;
}

TEST(MemoryModel, M2_UnsetBytesAreZeroOrFrozen) {
  EXPECT_EQ(count(ir_of(xdp("r0 = *(u64 *)(r10 - 8)\n")), "undef"), 0u);
  std::string large = "r0 = *(u64 *)(r10 - 200)\nr1 = 0\nr2 = 0\nr3 = r10\nr3 += -200\nr4 = 200\nr5 = 0\nr9 "
                      "= r0\ncall csum_diff\nr0 += r9\n";
  std::string ir = ir_of(xdp(large), false);
  EXPECT_EQ(count(ir, "freeze i64"), 1u) << ir;
}

TEST(MemoryModel, M3_ContextStoresAreMerged) {
  std::string ir = ir_of("-- prog entry sched_cls\n*(u32 *)(r1 + 8) = 1111\n*(u32 *)(r1 + 8) = 2222\nr0 = "
                         "*(u32 *)(r1 + 8)\nexit\n");
  EXPECT_EQ(count(ir, "1111"), 0u) << ir;
  EXPECT_EQ(count(ir, "ret i64 2222"), 1u) << ir;
}

TEST(MemoryModel, M4_PacketLoadsAreFrozenAndStoresMayBeDropped) {
  std::string ir = ir_of(xdp("*(u32 *)(r7 + 0) = 1111\n*(u32 *)(r7 + 0) = 2222\nr0 = *(u32 *)(r7 + 8)\n"));
  EXPECT_EQ(count(ir, "1111"), 0u) << ir;
  EXPECT_EQ(count(ir, "freeze i32"), 1u) << ir;
}

TEST(MemoryModel, M5_AlignedValuesAreUnordered) {
  std::string ir = ir_of(value("r0 = *(u64 *)(r7 + 8)\n*(u32 *)(r7 + 4) = 3\n"));
  EXPECT_EQ(count(ir, "load atomic i64"), 1u) << ir;
  EXPECT_EQ(count(ir, "store atomic i32 3"), 1u) << ir;
  EXPECT_EQ(count(ir, " unordered, align 8"), 1u) << ir;
}

TEST(MemoryModel, M6_TriesInnerMapsAndVariableOffsetsAreNotAligned) {
  const std::string body = "r0 = *(u64 *)(r7 + 8)\n*(u32 *)(r7 + 4) = 3\n";
  std::string trie = ir_of(value(body, "lpm_trie key=8 value=64 entries=4 flags=1"));
  EXPECT_EQ(count(trie, "unordered"), 0u) << trie;
  std::string variable = ir_of(value("r1 = *(u64 *)(r7 + 0)\nr1 &= 31\nr7 += r1\n" + body));
  EXPECT_EQ(count(variable, "unordered"), 1u) << variable;
}

TEST(MemoryModel, M7_UnalignedMapStoresAreVolatile) {
  std::string ir = ir_of(value("*(u32 *)(r7 + 2) = 1\n*(u32 *)(r7 + 2) = 2\n*(u32 *)(r7 + 6) = 3\nr0 = 0\n"));
  EXPECT_EQ(count(ir, "store volatile i32"), 3u) << ir;
}

TEST(MemoryModel, M8_OneLoadForCheckAndUse) {
  std::string packet =
      ir_of(xdp("r0 = *(u8 *)(r7 + 0)\nif r0 > 9 goto out\nr1 = r0\nr1 += r7\nr0 = *(u8 *)(r1 + 1)\n"));
  EXPECT_EQ(count(packet, "load i8"), 2u) << packet;
  std::string map =
      ir_of(value("r0 = *(u64 *)(r7 + 0)\nif r0 > 9 goto out\nr1 = r0\nr1 += r7\nr0 = *(u8 *)(r1 + 1)\n"));
  EXPECT_EQ(count(map, "load atomic i64"), 1u) << map;
}

TEST(MemoryModel, M8_TwoLoadsMayBecomeOne) {
  std::string ir = ir_of(value("r0 = *(u64 *)(r7 + 0)\nr1 = *(u64 *)(r7 + 0)\nr0 += r1\n"));
  EXPECT_EQ(count(ir, "load atomic i64"), 1u) << ir;
}

TEST(MemoryModel, M9_NothingIsInvented) {
  std::string ir = ir_of(value("r1 = *(u64 *)(r7 + 0)\nr0 = 0\nif r1 == 0 goto out\n*(u64 *)(r7 + 8) = 5\n"));
  EXPECT_EQ(count(ir, "store atomic"), 1u) << ir;
  EXPECT_EQ(count(ir, "select i1 %"), 0u) << ir;
}

TEST(MemoryModel, M10_PerCpuValuesAreShared) {
  std::string ir =
      ir_of(value("r0 = *(u64 *)(r7 + 8)\n*(u32 *)(r7 + 2) = 1\n", "percpu_hash key=8 value=64 entries=4"));
  EXPECT_EQ(count(ir, "unordered"), 1u) << ir;
  EXPECT_EQ(count(ir, "store volatile"), 1u) << ir;
}

TEST(MemoryModel, M11_ScratchIsPlainAndFrozen) {
  const std::string lookup = "*(u32 *)(r10 - 4) = 0\nr1 = map s ll\nr2 = r10\nr2 += -4\ncall "
                             "map_lookup_elem\nif r0 == 0 goto out\nr7 = r0\n";
  const std::string maps = "-- map s percpu_array key=4 value=64 entries=1 scratch\n";
  std::string ir =
      ir_of(xdp(lookup + "*(u64 *)(r7 + 0) = 1111\n*(u64 *)(r7 + 0) = 2222\nr0 = *(u64 *)(r7 + 8)\n", maps));
  EXPECT_EQ(count(ir, "1111"), 0u) << ir;
  EXPECT_EQ(count(ir, "unordered"), 0u) << ir;
  EXPECT_EQ(count(ir, "freeze i64"), 1u) << ir;
}

TEST(MemoryModel, M12_ReadOnlyDataIsConstant) {
  std::string ir = ir_of(
      xdp("r1 = map c + 4 ll\nr0 = *(u32 *)(r1 + 0)\n", "-- map c array frozen\ndata: 0100000007000000\n"));
  EXPECT_EQ(count(ir, "i64 0, i64 7"), 1u) << ir;
}

TEST(MemoryModel, M13_DomainsAreIndependent) {
  std::string ir = ir_of(value("r8 = *(u64 *)(r7 + 0)\nr2 = *(u32 *)(r6 + 0)\nr3 = *(u32 *)(r6 + 4)\nr4 = "
                               "r2\nr4 += 8\nif r4 > r3 goto out\n"
                               "*(u32 *)(r2 + 0) = 5\nr0 = *(u64 *)(r7 + 0)\nr0 -= r8\n"));
  EXPECT_EQ(count(ir, "load atomic"), 0u) << ir; // the difference is 0, the loads are gone
}

TEST(MemoryModel, M14_ValuesOfInnerMapsMayBeAnyMaps) {
  std::string program = xdp(
      "*(u64 *)(r10 - 8) = 0\nr1 = map o ll\nr2 = r10\nr2 += -8\ncall map_lookup_elem\nif r0 == 0 goto "
      "out\nr1 = r0\nr2 = r10\nr2 += -8\n"
      "call map_lookup_elem\nif r0 == 0 goto out\nr7 = r0\n*(u32 *)(r10 - 8) = 0\nr1 = map n ll\nr2 = "
      "r10\nr2 += -8\ncall map_lookup_elem\n"
      "if r0 == 0 goto out\nr9 = *(u64 *)(r0 + 0)\n*(u64 *)(r7 + 0) = 5\nr0 = *(u64 *)(r0 + 0)\nr0 -= r9\n",
      "-- map o array_of_maps key=4 value=4 entries=2 inner=t\n-- map t array key=4 value=8 entries=1 "
      "template\n"
      "-- map n array key=4 value=8 entries=1\n");
  std::string ir = ir_of(program);
  EXPECT_EQ(count(ir, "load atomic i64"), 2u) << ir;
}

TEST(MemoryModel, M15_UnknownMemoryMayBeAnything) {
  std::string ir = ir_of(value(
      "r2 = *(u32 *)(r6 + 0)\nr3 = *(u32 *)(r6 + 4)\nr4 = r2\nr4 += 8\nif r4 > r3 goto out\nr8 = *(u64 *)(r7 "
      "+ 0)\n"
      "if r8 == 3 goto store\nr2 = r7\nstore:\n*(u32 *)(r2 + 0) = 5\nr0 = *(u64 *)(r7 + 0)\nr0 -= r8\n"));
  EXPECT_EQ(count(ir, "load atomic i64"), 2u) << ir;
  EXPECT_EQ(count(ir, "store volatile i32 5"), 1u) << ir;
}

TEST(MemoryModel, M18_M19_M20_OrderingOfAtomics) {
  std::string ir =
      ir_of(value("r1 = 1\nlock *(u64 *)(r7 + 0) += r1\nr1 = atomic_fetch_add((u64 *)(r7 + 8), r1)\nr2 = 1\n"
                  "r2 = xchg_64(r7 + 16, r2)\nr0 = 1\nr0 = cmpxchg_64(r7 + 24, r0, r2)\nr0 += r1\n"));
  EXPECT_EQ(count(ir, "atomicrmw add ptr"), 2u) << ir;
  EXPECT_EQ(count(ir, "monotonic, align 8"), 1u) << ir;
  EXPECT_EQ(count(ir, "seq_cst, align 8"), 3u) << ir;
  EXPECT_EQ(count(ir, "seq_cst seq_cst, align 8"), 1u) << ir;
  ir = ir_of(value("r8 = *(u64 *)(r7 + 0)\nr0 = load_acquire((u64 *)(r7 + 8))\nr9 = *(u64 *)(r7 + 0)\n*(u64 "
                   "*)(r7 + 16) = 1\n"
                   "store_release((u64 *)(r7 + 24), r0)\n*(u64 *)(r7 + 16) = 2\nr8 -= r9\nr0 += r8\n"));
  EXPECT_EQ(count(ir, "acquire, align 8"), 1u) << ir;
  EXPECT_EQ(count(ir, "release, align 8"), 1u) << ir;
  EXPECT_EQ(count(ir, "unordered, align 8"), 4u) << ir;
}

TEST(MemoryModel, M18_NothingMovesAcrossFullOrder) {
  const std::string before = "r8 = *(u64 *)(r7 + 0)\nr1 = 1\n", behind = "r0 = *(u64 *)(r7 + 0)\nr0 -= r8\n";
  std::string fetch = ir_of(value(before + "r1 = atomic_fetch_add((u64 *)(r7 + 8), r1)\n" + behind));
  EXPECT_EQ(count(fetch, "load atomic i64"), 2u) << fetch;
}

TEST(MemoryModel, M21_OtherAtomicsAreRefused) {
  EXPECT_NE(ir_of(value("r1 = 1\nlock *(u64 *)(r7 + 4) += r1\nr0 = 0\n"))
                .find("atomic access of 8 bytes is not aligned"),
            std::string::npos);
  std::string packet = ir_of(xdp("r1 = 1\nlock *(u64 *)(r7 + 0) += r1\nr0 = 0\n"));
  EXPECT_NE(packet.find("atomic access to the packet"), std::string::npos) << packet;
}

TEST(MemoryModel, M22_SpinLocksAreBarriersForMaps) {
  std::string ir = ir_of(value("r8 = *(u64 *)(r7 + 8)\nr1 = r7\ncall spin_lock\nr9 = *(u64 *)(r7 + 8)\n*(u64 "
                               "*)(r7 + 16) = r8\nr1 = r7\ncall spin_unlock\n"
                               "r0 = *(u64 *)(r7 + 8)\nr0 += r9\n*(u64 *)(r7 + 16) = r0\n"));
  EXPECT_EQ(count(ir, "load atomic i64"), 3u) << ir;
  EXPECT_EQ(count(ir, "store atomic i64"), 2u) << ir;
}

TEST(MemoryModel, M23_HelpersAreBarriersForWhatTheyTouch) {
  const std::string update =
      "r1 = map m ll\nr2 = r10\nr2 += -8\nr3 = r10\nr3 += -72\nr4 = 0\ncall map_update_elem\n";
  std::string value_read =
      ir_of(value("r8 = *(u64 *)(r7 + 0)\n" + update + "r0 = *(u64 *)(r7 + 0)\nr0 -= r8\n"));
  EXPECT_EQ(count(value_read, "load atomic i64"), 2u) << value_read;
  std::string packet_read = ir_of(xdp("r8 = *(u32 *)(r7 + 0)\nr1 = map m ll\n*(u64 *)(r10 - 8) = 0\nr2 = "
                                      "r10\nr2 += -8\ncall map_delete_elem\n"
                                      "r0 = *(u32 *)(r7 + 0)\nr0 -= r8\n",
                                      "-- map m hash key=8 value=8 entries=1\n"));
  EXPECT_EQ(count(packet_read, "load i32"), 0u) << packet_read;
}

TEST(MemoryModel, M24_PureCallsMayBeDropped) {
  EXPECT_EQ(count(ir_of(xdp("call ktime_get_ns\nr0 = 0\n")), "call i64 @bpf_ktime_get_ns"), 0u);
  EXPECT_EQ(count(ir_of(xdp("call get_prandom_u32\nr0 = 0\n")), "call i64 @bpf_get_prandom_u32"), 1u);
}

TEST(MemoryModel, M25_LookupsAreNotMerged) {
  const std::string again = "r1 = map m ll\nr2 = r10\nr2 += -8\ncall map_lookup_elem\nif r0 == 0 goto out\n";
  std::string ir = ir_of(value(again + "r0 = *(u64 *)(r0 + 0)\n"));
  EXPECT_EQ(count(ir, "call ptr @bpf_map_lookup_elem"), 2u) << ir;
}

TEST(MemoryModel, M26_PacketPointersAreLoadedAgain) {
  std::string ir = ir_of(xdp("r1 = r6\nr2 = 4\ncall xdp_adjust_head\nr7 = *(u32 *)(r6 + 0)\nr8 = *(u32 *)(r6 "
                             "+ 4)\nr2 = r7\nr2 += 4\n"
                             "if r2 > r8 goto out\nr0 = *(u8 *)(r7 + 0)\n"));
  EXPECT_EQ(count(ir, "load ptr"), 4u) << ir;
}

TEST(MemoryModel, M27_CallbacksTouchWhatTheyTouch) {
  std::string ir = ir_of("-- prog entry xdp\n*(u64 *)(r10 - 8) = 1111\nr1 = map m ll\nr2 = func each ll\nr3 "
                         "= r10\nr3 += -8\nr4 = 0\n"
                         "call for_each_map_elem\nr0 = *(u64 *)(r10 - 8)\nexit\n-- sub each\n*(u64 *)(r4 + "
                         "0) = 2\nr0 = 0\nexit\n"
                         "-- map m hash key=8 value=8 entries=1\n");
  EXPECT_EQ(count(ir, "ret i64 1111"), 0u) << ir;
}

} // namespace
} // namespace ujit
