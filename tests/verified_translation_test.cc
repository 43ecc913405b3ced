// Verified form to IR: one test for each form that only kernels produce, and programs of the running kernel.
#include "kernel-iface/linux/canonical.h"
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/load.h"
#include "lto/digest.h"
#include "tests/linux_pipeline.h"
#include "translator/lower.h"

#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/raw_ostream.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

using namespace asm_;

// --- hand-made -------------------------------------------------------------------------------------------

Code one(Insn i) { return {i}; }

class VerifiedTranslation : public testing::Test {
protected:
  VerifiedTranslation() {
    auto facts = std::make_shared<KernelFacts>();
    facts->layout.array_value = 272;
    facts->layout.htab.key = 48;
    facts->layout.htab.referenced = 26;
    KernelContext xdp;
    xdp.type = ProgType::xdp;
    xdp.size = 56;
    xdp.members = {{KernelContextMember::packet, 0, 8},
                   {KernelContextMember::packet_end, 8, 8},
                   {KernelContextMember::packet_meta, 16, 8},
                   {KernelContextMember::pointer, 32, 8}};
    facts->layout.contexts = {xdp};
    pipeline_.kernel = facts;
    pipeline_.maps = {map("counters", MapType::array, 4, 16, 8),
                      map("scratch", MapType::percpu_array, 4, 64, 1),
                      map("stats", MapType::percpu_array, 4, 16, 256), map("flows", MapType::hash, 4, 8, 64),
                      map("trie", MapType::lpm_trie, 9, 8, 64)};
  }

  /// The IR's functions, or the text of the error.
  std::string ir(Code insns, std::vector<KernelCall> calls = {}) {
    Program p = program("prog", std::move(insns));
    p.kernel_calls = std::move(calls);
    pipeline_.programs = {p};
    llvm::LLVMContext context;
    TranslateOptions options;
    options.debug_info = false;
    auto module = translate(pipeline_, ProgId{0}, context, options);
    if (!module)
      return llvm::toString(module.takeError());
    std::string out;
    llvm::raw_string_ostream os(out);
    EXPECT_FALSE(llvm::verifyModule(**module, &os)) << out;
    (*module)->print(os, nullptr);
    return out;
  }

  Pipeline pipeline_;
};

bool has(const std::string &text, std::string_view what) { return text.find(what) != text.npos; }
#define EXPECT_HAS(text, what) EXPECT_TRUE(has(text, what)) << (text)

Code lookup(MapId m) {
  return code({store32(10, -4, 0), map_ref(1, m), mov_reg(2, 10), add(2, -4), helper(1)});
}
const Code end = code({mov(0, 2), exit()});

TEST_F(VerifiedTranslation, ContextHasTheKernelsOffsets) {
  std::string packet = ir(code({load64(2, 1, 0), load64(3, 1, 8), mov_reg(4, 2), add(4, 14),
                                jump_if_greater(4, 3, 1), one(insn(0x71, 0, 2, 13, 0)), end}));
  EXPECT_HAS(packet, "load i8, ptr");
  EXPECT_HAS(packet, "!\"packet\"");
  std::string scalar = ir(code({load32(0, 1, 48), exit()}));
  EXPECT_HAS(scalar, "getelementptr i8, ptr %0, i64 48");
}

TEST_F(VerifiedTranslation, KernelObjectsAreFollowed) {
  std::string text = ir(code({load64(1, 1, 32), load64(1, 1, 0), load32(0, 1, 224), exit()}));
  EXPECT_FALSE(has(text, "inttoptr")) << text;
}

TEST_F(VerifiedTranslation, ContextRefusals) {
  EXPECT_HAS(ir(code({load32(0, 1, 56), exit()})), "insn 0: context access at offset 56");
  EXPECT_HAS(ir(code({store64_reg(1, 1, 32), end})), "write to the pointer at offset 32");
  EXPECT_HAS(ir(code({load32(2, 1, 48), add_reg(1, 2), load32(0, 1, 0), exit()})), "variable offset");
}

TEST_F(VerifiedTranslation, ProbeLoad) {
  std::string text = ir(code({load64(1, 1, 48), one(insn(0x29, 0, 1, 10, 0)), exit()}));
  EXPECT_HAS(text, "@copy_from_kernel_nofault(ptr nocapture %probed");
  EXPECT_HAS(text, "select i1");
  EXPECT_HAS(ir(code({load64(1, 1, 48), one(insn(0x49, 0, 1, 10, 0)), exit()})), "sext i16");
}

TEST_F(VerifiedTranslation, PrivateInstructionsAreRefusedInObjectForm) {
  pipeline_.kernel = nullptr;
  EXPECT_HAS(ir(code({one(insn(0x29, 0, 1, 10, 0)), exit()})), "insn 0: unknown opcode 0x29");
  EXPECT_HAS(ir(code({one(insn(0xbf, 0, 0, -2, 0)), exit()})),
             "insn 0: opcode 0xbf has no form with offset -2");
  EXPECT_HAS(ir(code({one(insn(0xb7, 11, 0, 0, 1)), end})), "register r11 does not exist");
}

TEST_F(VerifiedTranslation, CpuNumber) {
  const Code c = code({one(insn(0xbf, 0, 0, -2, 0)), exit()});
  EXPECT_HAS(ir(c, {{0, "pcpu_hot", 12}}),
             "load i32, ptr addrspace(256) getelementptr (i8, ptr addrspace(256) @pcpu_hot, i64 12)");
  EXPECT_HAS(ir(c), "call i64 @bpf_get_smp_processor_id()");
  // It is no call: r1 to r5 survive.
  EXPECT_HAS(ir(code({one(insn(0xbf, 0, 0, -2, 0)), load32(0, 1, 48), exit()})), "ret i64");
  EXPECT_HAS(ir(code({helper(8), exit()})), "@bpf_get_smp_processor_id()");
}

TEST_F(VerifiedTranslation, Lookups) {
  std::string array = ir(code({lookup(MapId{0}), mov(0, 0), exit()}));
  EXPECT_HAS(array, "@ujit.values.0");
  std::string scratch = ir(code({lookup(MapId{1}), mov(0, 0), exit()}));
  EXPECT_HAS(scratch, "select i1 %");
  EXPECT_HAS(scratch, "ptr @ujit.percpu.1.0, ptr null");
  std::string percpu = ir(code({lookup(MapId{2}), mov(0, 0), exit()}));
  EXPECT_HAS(percpu, "getelementptr inbounds i64, ptr @ujit.values.2");
  EXPECT_HAS(percpu, "ptr addrspace(256) @this_cpu_off");
  std::string plain = ir(code({lookup(MapId{3}), mov(0, 0), exit()}), {{5, "htab_map_lookup_elem", 0}});
  EXPECT_HAS(plain, "call ptr @htab_map_lookup_elem(");
}

TEST_F(VerifiedTranslation, HashLookups) {
  const Code c = code({lookup(MapId{3}), mov(0, 0), exit()});
  const std::vector<KernelCall> element = {{5, "__htab_map_lookup_elem", 0}};
  std::string hash = ir(c, element);
  EXPECT_HAS(hash, "call ptr @__htab_map_lookup_elem(");
  EXPECT_HAS(hash, "i64 56"); // key at 48, 4 bytes rounded up to 8
  pipeline_.maps[3].type = MapType::lru_hash;
  std::string lru = ir(c, element);
  EXPECT_HAS(lru, "i64 26");
  EXPECT_HAS(lru, "store atomic i8 1");
  pipeline_.maps[3].type = MapType::percpu_hash;
  EXPECT_HAS(ir(c, element), "@this_cpu_off");
  pipeline_.maps[3].type = MapType::hash_of_maps;
  EXPECT_HAS(ir(c, element), "load atomic ptr");
}

TEST_F(VerifiedTranslation, LookupInAnInnerMapIsTheHelper) {
  pipeline_.maps[3].type = MapType::hash_of_maps;
  pipeline_.maps[3].inner = MapId{0};
  std::string text = ir(code({lookup(MapId{3}), jump_if_not_zero(0, 2), end, mov_reg(1, 0), mov_reg(2, 10),
                              add(2, -4), helper(1), end}),
                        {{5, "__htab_map_lookup_elem", 0}, {12, "__htab_map_lookup_elem", 0}});
  EXPECT_HAS(text, "call ptr @bpf_map_lookup_elem(");
}

TEST_F(VerifiedTranslation, LookupInWhatIsNoMap) {
  EXPECT_HAS(ir(code({load64(1, 1, 32), store32(10, -4, 0), mov_reg(2, 10), add(2, -4), helper(1), end})),
             "lookup in a map that cannot be followed");
}

TEST_F(VerifiedTranslation, KernelFunctionsAndVariables) {
  std::string call = ir(code({one(insn(0x85, 0, 2, 0, 0)), exit()}), {{0, "bpf_xdp_metadata_rx_hash", 0}});
  EXPECT_HAS(call, "call i64 @bpf_xdp_metadata_rx_hash(i64 %");
  std::string variable = ir(code({{insn(0x18, 1, 3, 0, 0), insn(0, 0, 0, 0, 0)}, load32(0, 1, 4), exit()}),
                            {{0, "bpf_stats_enabled_key", 0}});
  EXPECT_HAS(variable, "@bpf_stats_enabled_key");
}

TEST_F(VerifiedTranslation, WhatCannotBeFollowedIsAccessedAsItIs) {
  // A stack address through memory that the analysis gives up on: the frame stays one object.
  std::string text =
      ir(code({store64_reg(10, 10, -8), mov_reg(3, 10), load64(4, 1, 48), one(insn(0x57, 4, 0, 0, 8)),
               one(insn(0x1f, 3, 4, 0, 0)), load64(5, 3, -8), load64(0, 5, -64), exit()}));
  EXPECT_HAS(text, "[512 x i8]");
}

TEST_F(VerifiedTranslation, AtomicsInTriesAreRefused) {
  auto add_to = [&](MapId m) {
    return ir(code({store64_reg(10, 1, -16), store32(10, -12, 0), store32(10, -8, 0), store32(10, -4, 0),
                    map_ref(1, m), mov_reg(2, 10), add(2, -12), helper(1), jump_if_not_zero(0, 2), end,
                    mov(1, 1), one(insn(0xdb, 0, 1, 0, 0)), end}));
  };
  EXPECT_HAS(add_to(MapId{4}), "lpm_trie");
  EXPECT_HAS(add_to(MapId{3}), "atomicrmw add");
}

// --- the running kernel ------------------------------------------------------------------------------------

class VerifiedOnHost : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
  }

  static CanonicalPipeline take(const Pipeline &object) {
    LoadedPipeline loaded = llvm::cantFail(load_into_kernel(object));
    std::vector<int> fds;
    for (uint32_t i = 0; i < object.programs.size(); i++)
      fds.push_back(loaded.fd(ProgId(i)));
    CaptureOptions options;
    for (const std::string &symbol : translation_symbols())
      options.symbols.push_back(symbol);
    Capture captured = llvm::cantFail(capture(fds, options));
    return llvm::cantFail(canonicalise(captured));
  }

  /// Loads it twice; both must be the same, nothing refused, and all of it IR.
  static CanonicalPipeline check(const Pipeline &object) {
    CanonicalPipeline first = take(object), second = take(object);
    EXPECT_EQ(first.pipeline.programs, second.pipeline.programs);
    EXPECT_EQ(first.pipeline.maps, second.pipeline.maps);
    EXPECT_EQ(pipeline_digest(first.pipeline), pipeline_digest(second.pipeline));
    EXPECT_EQ(first.pipeline.programs.size(), object.programs.size());
    for (const auto &unfused : first.unfused)
      ADD_FAILURE() << unfused.reason;
    for (uint32_t i = 0; i < first.pipeline.programs.size(); i++) {
      llvm::LLVMContext context;
      auto module = translate(first.pipeline, ProgId(i), context, {});
      EXPECT_TRUE(bool(module));
      if (!module) {
        ADD_FAILURE() << llvm::toString(module.takeError());
        continue;
      }
      std::string text;
      llvm::raw_string_ostream os(text);
      EXPECT_FALSE(llvm::verifyModule(**module, &os)) << text;
    }
    return first;
  }

  static size_t helper_calls(const Program &p, uint32_t id) {
    return size_t(std::ranges::count(p.insns, insn(0x85, 0, 0, 0, int32_t(id))));
  }
};

TEST_F(VerifiedOnHost, EveryKindOfLookup) {
  const MapType types[] = {MapType::array,    MapType::percpu_array, MapType::hash,
                           MapType::lru_hash, MapType::percpu_hash,  MapType::lru_percpu_hash};
  Pipeline p;
  for (MapType type : types) {
    const MapId id{uint32_t(p.maps.size())};
    p.maps.push_back(map("map" + std::to_string(index(id)), type, 4, 16, 8));
    p.programs.push_back(
        program("prog" + std::to_string(index(id)),
                code({lookup(id), jump_if_not_zero(0, 2), end, load64(6, 0, 8), mov(0, 1), exit()})));
    p.entries.push_back(ProgId(index(id)));
  }
  CanonicalPipeline c = check(p);
  for (const Program &program : c.pipeline.programs)
    EXPECT_EQ(helper_calls(program, 1), 1u) << program.name;
}

TEST_F(VerifiedOnHost, MapsInMaps) {
  Pipeline p;
  p.maps = {map("outer", MapType::array_of_maps, 4, 4, 4), map("inner", MapType::hash, 4, 8, 4),
            map("table", MapType::hash_of_maps, 4, 4, 4)};
  p.maps[0].inner = p.maps[2].inner = MapId{1};
  p.maps[0].inner_slots = p.maps[2].inner_slots = {{0, MapId{1}}};
  for (uint32_t outer : {0u, 2u}) {
    p.programs.push_back(
        program("prog" + std::to_string(outer),
                code({lookup(MapId{outer}), jump_if_not_zero(0, 2), end, mov_reg(1, 0), mov_reg(2, 10),
                      add(2, -4), helper(1), jump_if_not_zero(0, 2), end, load64(6, 0, 0), end})));
    p.entries.push_back(ProgId(uint32_t(p.programs.size() - 1)));
  }
  CanonicalPipeline c = check(p);
  for (const Program &program : c.pipeline.programs)
    EXPECT_EQ(helper_calls(program, 1), 2u) << program.name;
}

TEST_F(VerifiedOnHost, TailCallsAndSubprograms) {
  Pipeline p;
  p.maps = {map("jmp", MapType::prog_array, 4, 4, 4)};
  p.maps[0].prog_slots = {{1, ProgId{1}}};
  Program leaf = program("leaf", code({call(2), add(0, 1), exit(), mov(0, 7), exit()}));
  leaf.subprograms = {{"leaf", 0, 3, 0}, {"seven", 3, 5, 0}};
  p.programs = {program("entry", code({mov_reg(6, 1), tail_call(MapId{0}, 1), mov(0, 1), exit()})), leaf};
  p.entries = {ProgId{0}};
  CanonicalPipeline c = check(p);
  using Slots = std::vector<std::pair<uint32_t, ProgId>>;
  EXPECT_EQ(c.pipeline.maps[0].prog_slots, Slots({{1, ProgId{1}}}));
  EXPECT_EQ(c.pipeline.programs[1].insns, leaf.insns);

  const std::optional<ProgId> verified[] = {ProgId{0}, std::nullopt};
  std::vector<DigestLink> chain = digest_chain(p, c.pipeline, verified);
  EXPECT_EQ(chain, std::vector<DigestLink>(
                       {{"entry", program_digest(p, ProgId{0}), program_digest(c.pipeline, ProgId{0})}}));
}

TEST_F(VerifiedOnHost, ContextAndData) {
  Pipeline p;
  p.maps = {data_map("lb.rodata", std::vector<uint8_t>(16, 3), true),
            data_map("lb.bss", std::vector<uint8_t>(16), false)};
  p.programs = {
      program("xdp",
              code({load32(2, 1, 0), load32(3, 1, 4), load32(4, 1, 12), mov_reg(5, 2), add(5, 14),
                    jump_if_greater(5, 3, 2), one(insn(0x71, 0, 2, 13, 0)), exit(), value_ref(6, MapId{0}, 4),
                    load32(0, 6, 0), value_ref(6, MapId{1}, 8), store64_reg(6, 4, 0), exit()})),
  };
  p.entries = {ProgId{0}};
  CanonicalPipeline c = check(p);
  ASSERT_EQ(c.pipeline.maps.size(), 2u);
  EXPECT_TRUE(std::ranges::any_of(c.pipeline.maps, [](const Map &m) { return m.frozen; }));
}

TEST_F(VerifiedOnHost, SchedClsWithPrologue) {
  // A program that writes the packet gets the prologue that makes the packet its own.
  Pipeline p;
  p.programs = {program("tc",
                        code({load32(2, 1, 76), load32(3, 1, 80), mov_reg(5, 2), add(5, 14),
                              jump_if_greater(5, 3, 1), store8(2, 0, 1), load32(4, 1, 48),
                              store32_reg(1, 4, 52), load32(4, 1, 40), helper(8), mov(0, 0), exit()}),
                        ProgType::sched_cls)};
  p.entries = {ProgId{0}};
  CanonicalPipeline c = check(p);
  EXPECT_EQ(helper_calls(c.pipeline.programs[0], 39), 1u); // skb_pull_data
}

} // namespace
} // namespace ujit
