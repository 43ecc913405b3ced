// What becomes code in images for a kernel (lto/lookup.cc, lto/skb_helpers.cc), on IR: that it does, and what
// stays a call. What the code does is compared in the guests (linux_inline_guest_test.cc).
#include "lto/optimise.h"
#include "tests/linux_pipeline.h"
#include "translator/instance.h"
#include "translator/kernel.h"
#include "translator/lower.h"

#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/raw_ostream.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

using namespace asm_;

constexpr int32_t store_bytes = 9, l3_csum_replace = 10, l4_csum_replace = 11, load_bytes = 26,
                  pull_data = 39;

class KernelInline : public testing::Test {
protected:
  KernelInline() {
    facts_->layout.array_value = 272;
    facts_->layout.htab = {.bucket = 16, .chain = 0, .referenced = 35, .hash = 40, .key = 48};
    facts_->layout.search_htab = true;
    facts_->layout.skb = {
        .data = 200, .data_end = 80, .cloned = {126, 1}, .unreadable = {130, 4}, .summed = {128, 64}};
    facts_->layout.expand_skb_helpers = true;
    facts_->layout.update_arrays = true;
    KernelContext skb;
    skb.type = ProgType::sched_cls;
    skb.size = 232;
    skb.members = {{KernelContextMember::packet_end, 80, 8}, {KernelContextMember::packet, 200, 8}};
    facts_->layout.contexts = {skb};
    pipeline_.maps = {map("flows", MapType::hash, 12, 8, 64)};
  }

  /// As it is when memory passes and lookups are done.
  std::string ir(Code insns, const PassOptions &passes = {}, std::vector<KernelCall> calls = {}) {
    pipeline_.kernel = facts_;
    Program p = program("prog", std::move(insns), ProgType::sched_cls);
    p.kernel_calls = std::move(calls);
    pipeline_.programs = {p};
    llvm::LLVMContext context;
    TranslateOptions options;
    options.debug_info = false;
    options.inline_hash_lookups = facts_->layout.search_htab;
    options.inline_updates = facts_->layout.update_arrays;
    auto module = translate(pipeline_, ProgId{0}, context, options);
    if (!module)
      return llvm::toString(module.takeError());
    auto tm = make_target_machine("native", Effort::full);
    simplify_program(**module, **tm);
    optimise_fused(**module, **tm, pipeline_, passes);
    clean_up(**module, **tm);
    std::string out;
    llvm::raw_string_ostream os(out);
    EXPECT_FALSE(llvm::verifyModule(**module, &os)) << out;
    (*module)->print(os, nullptr);
    return out;
  }

  Pipeline pipeline_;
  std::shared_ptr<KernelFacts> facts_ = std::make_shared<KernelFacts>();
};

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1))
    ++n;
  return n;
}
#define EXPECT_COUNT(text, what, n) EXPECT_EQ(count(text, what), size_t(n)) << (text)

// --- lookups ---

Code lookup() {
  return code({store64_reg(10, 1, -16), store32(10, -8, 7), map_ref(1, MapId{0}), mov_reg(2, 10), add(2, -16),
               helper(1), jump_if_not_zero(0, 2), mov(0, 1), exit(), load64(0, 0, 0), exit()});
}
const std::vector<KernelCall> element = {{6, "__htab_map_lookup_elem", 0}};

TEST_F(KernelInline, HashTablesAreSearched) {
  const std::string text = ir(lookup(), {}, element);
  EXPECT_COUNT(text, "_map_lookup_elem", 0);
  EXPECT_COUNT(text, "alloca", 0); // the key is three words
  EXPECT_COUNT(text, "load i32, ptr @ujit.table.0", 1);
  EXPECT_COUNT(text, "@ujit.table.0, i64 4)", 1);  // the mask is not in the code
  EXPECT_COUNT(text, "acquire", 2);                // of the bucket, of the chain
  EXPECT_COUNT(text, "load atomic i64, ptr %", 4); // these, of 8 bytes of the key, and the program's own
  EXPECT_COUNT(text, "load atomic i32, ptr %", 2); // of the hash, of the key's last 4 bytes and no more
  EXPECT_COUNT(text, "i64 64\n", 1);               // key at 48, 12 bytes rounded up to 16
}

TEST_F(KernelInline, EachKindOfTable) {
  pipeline_.maps[0].type = MapType::lru_hash;
  std::string text = ir(lookup(), {}, element);
  EXPECT_COUNT(text, "i64 35\n", 1);
  EXPECT_COUNT(text, "store atomic i8 1", 1);
  pipeline_.maps[0].type = MapType::percpu_hash;
  text = ir(lookup(), {}, {{6, "htab_percpu_map_lookup_elem", 0}});
  EXPECT_COUNT(text, "ptr addrspace(256) @this_cpu_off", 1);
  EXPECT_COUNT(text, "_map_lookup_elem", 0);
  EXPECT_COUNT(text, ", 0\n  br i1", 0); // what is found is not asked for again
  EXPECT_COUNT(text, "br i1 false", 0);
  pipeline_.maps[0].type = MapType::hash_of_maps;
  const Code inner = code({store64_reg(10, 1, -16), store32(10, -8, 7), map_ref(1, MapId{0}), mov_reg(2, 10),
                           add(2, -16), helper(1), mov(0, 0), exit()});
  EXPECT_COUNT(ir(inner, {}, element), "call ptr @__htab_map_lookup_elem(", 1);
}

TEST_F(KernelInline, LongKeysAreCalls) {
  pipeline_.maps[0].key_size = longest_inline_key + 4;
  Code c = code({store64_reg(10, 1, -72), mov_reg(3, 10)});
  for (int16_t at = -72; at < 0; at = int16_t(at + 8))
    c = code({c, store64_reg(10, 1, at)});
  c = code({c, map_ref(1, MapId{0}), mov_reg(2, 10), add(2, -72), helper(1), mov(0, 0), exit()});
  EXPECT_COUNT(ir(c, {}, {{15, "__htab_map_lookup_elem", 0}}), "call ptr @__htab_map_lookup_elem(", 1);
}

TEST_F(KernelInline, TablesThatAreNotKnownAreTheKernels) {
  facts_->layout.search_htab = false;
  const std::string text = ir(lookup(), {}, element);
  EXPECT_COUNT(text, "call ptr @__htab_map_lookup_elem(", 1);
  EXPECT_COUNT(text, "@ujit.table", 0);
  const InstanceLayout layout(pipeline_);
  for (const InstanceSlot &slot : layout.slots())
    EXPECT_TRUE(slot.kind != InstanceSlot::table && slot.kind != InstanceSlot::values);
}

// --- updates of arrays ---

Code update(int32_t key = 0) {
  return code({store64_reg(10, 1, -16), store32(10, -4, key), map_ref(1, MapId{0}), mov_reg(2, 10),
               add(2, -4), mov_reg(3, 10), add(3, -16), mov(4, 0), helper(2), exit()});
}
const std::vector<KernelCall> array_update = {{9, "array_map_update_elem", 0}};

TEST_F(KernelInline, ArraysAreUpdatedInPlace) {
  pipeline_.maps = {map("m", MapType::array, 4, 8, 4)};
  std::string text = ir(update(), {}, array_update);
  EXPECT_COUNT(text, "map_update_elem", 0);
  EXPECT_COUNT(text, "ptr @ujit.values.0 unordered, align 8", 1);
  pipeline_.maps = {map("m", MapType::percpu_array, 4, 8, 1)};
  text = ir(update(), {}, array_update);
  EXPECT_COUNT(text, "ptr @ujit.percpu.0.0 unordered, align 8", 1);
  pipeline_.maps[0].max_entries = 4;
  text = ir(update(2), {}, array_update);
  EXPECT_COUNT(text, "ptr @ujit.percpu.0.2 unordered, align 8", 1);
  EXPECT_COUNT(text, "inttoptr", 0);
}

TEST_F(KernelInline, UpdatesThatMayHaveMoreToDo) {
  pipeline_.maps = {map("m", MapType::array, 4, 8, 4)};
  pipeline_.maps[0].special_fields = true;
  EXPECT_COUNT(ir(update(), {}, array_update), "call i64 @array_map_update_elem(", 1);
  pipeline_.maps[0].special_fields = false;
  facts_->layout.update_arrays = false; // another kernel
  EXPECT_COUNT(ir(update(), {}, array_update), "call i64 @array_map_update_elem(", 1);
}

// --- helpers on packets ---

/// r6 the context, r7 a number that is not known.
Code call(std::initializer_list<Code> arguments, int32_t id) {
  return code({mov_reg(6, 1), load32(7, 6, 16), store64_reg(10, 7, -16), store64_reg(10, 7, -8),
               code(arguments), mov_reg(1, 6), helper(id), exit()});
}
const Code buffer = code({mov_reg(3, 10), add(3, -16)});
constexpr std::string_view cloned = "i64 126", unreadable = "i64 130", summed = "i64 128";

TEST_F(KernelInline, HelpersThatHaveLittleToDo) {
  const struct {
    Code code;
    const char *call;
    int writes, sums;
  } rows[] = {
      {call({mov(2, 0)}, pull_data), "call i64 @bpf_skb_pull_data(", 1, 0},
      {call({mov_reg(2, 7)}, pull_data), "call i64 @bpf_skb_pull_data(", 1, 0},
      {call({mov(2, 6), buffer, mov(4, 6), mov(5, 0)}, store_bytes), "call i64 @bpf_skb_store_bytes(", 1, 0},
      {call({mov_reg(2, 7), buffer, mov(4, 16), mov(5, 0)}, store_bytes), "call i64 @bpf_skb_store_bytes(", 1,
       0},
      {call({mov(2, 14), buffer, mov(4, 8)}, load_bytes), "call i64 @bpf_skb_load_bytes(", 0, 0},
      {call({mov(2, 24), mov_reg(3, 7), mov(4, 9), mov(5, 4)}, l3_csum_replace),
       "call i64 @bpf_l3_csum_replace(", 1, 0},
      {call({mov(2, 24), mov_reg(3, 7), mov(4, 9), mov(5, 2)}, l3_csum_replace),
       "call i64 @bpf_l3_csum_replace(", 1, 0},
      {call({mov(2, 24), mov(3, 0), mov_reg(4, 7), mov(5, 0)}, l3_csum_replace),
       "call i64 @bpf_l3_csum_replace(", 1, 0},
      {call({mov(2, 36), mov_reg(3, 7), mov(4, 9), mov(5, 0x34)}, l4_csum_replace),
       "call i64 @bpf_l4_csum_replace(", 1, 1},
      // BPF_F_MARK_MANGLED_0 may depend on the packet
      {call({mov(2, 36),
             mov_reg(3, 7),
             mov(4, 9),
             mov_reg(5, 7),
             {insn(0x57, 5, 0, 0, 0x20)},
             {insn(0x47, 5, 0, 0, 0x12)}},
            l4_csum_replace),
       "call i64 @bpf_l4_csum_replace(", 1, 1},
  };
  for (const auto &row : rows) {
    const std::string text = ir(row.code);
    EXPECT_COUNT(text, row.call, 1); // for all other packets
    EXPECT_COUNT(text, cloned, row.writes);
    EXPECT_COUNT(text, unreadable, row.writes);
    EXPECT_COUNT(text, summed, row.sums);
    EXPECT_COUNT(text, "phi i64", 1);
    const std::string off = ir(row.code, {.skb_helpers = false});
    EXPECT_COUNT(off, row.call, 1);
    EXPECT_COUNT(off, "phi i64", 0);
  }
}

TEST_F(KernelInline, HelpersThatMayHaveMoreToDo) {
  const Code rows[] = {
      call({mov(2, 6), buffer, mov(4, 6), mov(5, 1)}, store_bytes), // BPF_F_RECOMPUTE_CSUM
      call({mov(2, 6), buffer, mov(4, 6), mov_reg(5, 7)}, store_bytes),
      call({mov(2, 6), buffer, mov_reg(4, 7), {insn(0x57, 4, 0, 0, 7)}, add(4, 1), mov(5, 0)}, store_bytes),
      call({mov(2, 6), buffer, mov_reg(4, 7), {insn(0x57, 4, 0, 0, 7)}, add(4, 1)}, load_bytes),
      call({mov(2, 24), mov_reg(3, 7), mov(4, 9), mov(5, 3)}, l3_csum_replace),    // -EINVAL
      call({mov(2, 24), mov_reg(3, 7), mov(4, 9), mov(5, 0x14)}, l3_csum_replace), // -EINVAL
      call({mov(2, 24), mov_reg(3, 7), mov(4, 9), mov(5, 0)}, l3_csum_replace),    // `from` has to be 0
      call({mov(2, 36), mov_reg(3, 7), mov(4, 9), mov_reg(5, 7)}, l4_csum_replace),
      call({mov(2, 36), mov_reg(3, 7), mov(4, 9), mov(5, 0x44)}, l4_csum_replace), // BPF_F_MARK_ENFORCE
  };
  for (const Code &row : rows)
    EXPECT_COUNT(ir(row), cloned, 0);
  facts_->layout.expand_skb_helpers = false; // another kernel
  EXPECT_COUNT(ir(call({mov(2, 0)}, pull_data)), cloned, 0);
}

TEST_F(KernelInline, OlderKernelsHaveNoUnreadablePackets) {
  facts_->layout.skb.unreadable = {};
  const std::string text = ir(call({mov(2, 0)}, pull_data));
  EXPECT_COUNT(text, cloned, 1);
  EXPECT_COUNT(text, unreadable, 0);
}

/// The call for the other packets has a buffer of its own: the program's stays in registers.
TEST_F(KernelInline, BuffersStayInRegisters) {
  const std::string text = ir(call({mov(2, 6), buffer, mov(4, 16), mov(5, 0)}, store_bytes));
  EXPECT_COUNT(text, "alloca", 1);
  EXPECT_COUNT(text, "alloca [16 x i8]", 1);
}

} // namespace
} // namespace ujit
