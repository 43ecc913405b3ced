// Canonical form of captured programs: hand-made captures with the instructions that kernels leave there.
#include "kernel-iface/linux/canonical.h"
#include "kernel-iface/linux/canonical_program.h"
#include "tests/linux_pipeline.h"
#include "translator/helper.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

using namespace asm_;

constexpr uint64_t call_base = 0xffffffff81400000, array_address = 0xffff888003a00000,
                   hash_address = 0xffff888003b00000, jump_address = 0xffff888003c00000,
                   data_address = 0xffffc90000123ef0;
constexpr uint32_t array_value = 272, htab_key = 48, lru_ref = 26;

Code wide(unsigned dst, uint64_t value) {
  return {insn(0x18, dst, 0, 0, int32_t(uint32_t(value))), insn(0, 0, 0, 0, int32_t(value >> 32))};
}
Code per_cpu_move() { return {insn(0xbf, 0, 0, -1, 0)}; }
Code filler(unsigned n) { return Code(n, insn(0x05, 0, 0, 0, 0)); }
Code one(Insn i) { return {i}; }

CapturedMap captured_map(uint32_t id, uint64_t address, std::string name, MapType type, uint32_t key,
                         uint32_t value, uint32_t entries) {
  CapturedMap m;
  m.id = id;
  m.address = address;
  m.name = std::move(name);
  m.type = type;
  m.key_size = key;
  m.value_size = value;
  m.max_entries = entries;
  return m;
}

/// A kernel in which one program is captured.
class Canonical : public testing::Test {
protected:
  Canonical() {
    auto facts = std::make_shared<KernelFacts>();
    facts->layout.array_value = array_value;
    facts->layout.htab.key = htab_key;
    facts->layout.htab.referenced = lru_ref;
    capture_.kernel = facts;
    capture_.call_base = call_base;
    capture_.maps.push_back(captured_map(11, array_address, "counters", MapType::array, 4, 12, 8));
    capture_.maps.push_back(captured_map(12, hash_address, "flows", MapType::hash, 12, 8, 64));
    capture_.maps.push_back(captured_map(13, jump_address, "jmp", MapType::prog_array, 4, 4, 8));
    capture_.maps.push_back(captured_map(14, data_address, "config", MapType::array, 4, 20, 1));
  }

  /// A call of the kernel function `symbol`, as the verifier leaves it.
  Code kernel_call(const std::string &symbol, unsigned src = 0) {
    auto known = std::find_if(capture_.symbols.begin(), capture_.symbols.end(),
                              [&](const auto &s) { return s.second == symbol; });
    uint64_t address =
        known != capture_.symbols.end() ? known->first : call_base + 0x1000 * (capture_.symbols.size() + 1);
    capture_.symbols[address] = symbol;
    return {insn(0x85, 0, src, 0, int32_t(address - call_base))};
  }

  size_t add_program(std::string name, Code insns, std::vector<uint32_t> map_ids = {11, 12, 13, 14},
                     std::vector<uint32_t> lengths = {}) {
    CapturedProgram p;
    p.id = uint32_t(100 + capture_.programs.size());
    p.name = name;
    p.type = ProgType::xdp;
    p.map_ids = std::move(map_ids);
    if (lengths.empty())
      lengths = {uint32_t(insns.size())};
    uint32_t start = 0;
    for (uint32_t n : lengths) {
      p.functions.push_back({start, n, 0xffffffffc0000000 + start, start ? "" : name});
      start += n;
    }
    p.insns = std::move(insns);
    capture_.programs.push_back(std::move(p));
    return capture_.programs.size() - 1;
  }

  Program program(Code insns, std::vector<uint32_t> lengths = {}) {
    size_t i = add_program("prog", std::move(insns), {11, 12, 13, 14}, std::move(lengths));
    Expected<Program> p = canonical_program(capture_, capture_.programs[i]);
    EXPECT_TRUE(bool(p));
    if (!p) {
      ADD_FAILURE() << llvm::toString(p.takeError());
      return {};
    }
    return std::move(*p);
  }
  Code canonical(Code insns) { return program(std::move(insns)).insns; }

  std::string refusal(Code insns) {
    size_t i = add_program("prog", std::move(insns));
    Expected<Program> p = canonical_program(capture_, capture_.programs[i]);
    return p ? "accepted" : llvm::toString(p.takeError());
  }

  Capture capture_;
};

#define EXPECT_REFUSED(code, text) EXPECT_NE(refusal(code).find(text), std::string::npos) << refusal(code)

const Code end = code({mov(0, 2), exit()});

// --- lookups -------------------------------------------------------------------------------------------

Code array_lookup(int32_t entries, Insn scale) {
  return code({one(insn(0x07, 1, 0, 0, array_value)), load32(0, 2, 0), one(insn(0x35, 0, 0, 3, entries)),
               one(scale), add_reg(0, 1), one(insn(0x05, 0, 0, 1, 0)), mov(0, 0)});
}

TEST_F(Canonical, ArrayLookup) {
  Code shifted = code({wide(1, array_address), array_lookup(8, insn(0x67, 0, 0, 0, 4)), exit()});
  EXPECT_EQ(canonical(shifted), code({map_ref(1, MapId{0}), helper(1), filler(6), exit()}));
}

TEST_F(Canonical, ArrayLookupOfOddStride) {
  capture_.maps[0].value_size = 24;
  Code multiplied = code({wide(1, array_address), array_lookup(8, insn(0x27, 0, 0, 0, 24)), exit()});
  EXPECT_EQ(canonical(multiplied), code({map_ref(1, MapId{0}), helper(1), filler(6), exit()}));
}

TEST_F(Canonical, LookupThatAJumpEntersIsNone) {
  Code lookup = array_lookup(8, insn(0x67, 0, 0, 0, 4));
  Code entered = code({mov(0, 0), jump_if_not_zero(0, 4), wide(1, array_address), lookup, exit()});
  EXPECT_EQ(canonical(entered),
            code({mov(0, 0), jump_if_not_zero(0, 4), map_ref(1, MapId{0}), lookup, exit()}));
}

TEST_F(Canonical, LookupWithNumbersOfAnotherMapIsNone) {
  Code lookup = array_lookup(9, insn(0x67, 0, 0, 0, 4));
  EXPECT_EQ(canonical(code({wide(1, array_address), lookup, exit()})),
            code({map_ref(1, MapId{0}), lookup, exit()}));
}

TEST_F(Canonical, MaskedLookupIsNone) {
  Code masked = code({wide(1, array_address), one(insn(0x07, 1, 0, 0, array_value)), load32(0, 2, 0),
                      one(insn(0x35, 0, 0, 4, 8)), one(insn(0x54, 0, 0, 0, 7)), one(insn(0x67, 0, 0, 0, 4)),
                      add_reg(0, 1), one(insn(0x05, 0, 0, 1, 0)), mov(0, 0), exit()});
  EXPECT_NE(canonical(masked)[2], helper(1)[0]);
}

TEST_F(Canonical, PerCpuArrayLookup) {
  capture_.maps[0].type = MapType::percpu_array;
  Code c = code({wide(1, array_address), one(insn(0x07, 1, 0, 0, array_value)), load32(0, 2, 0),
                 one(insn(0x35, 0, 0, 5, 8)), one(insn(0x67, 0, 0, 0, 3)), add_reg(0, 1), load64(0, 0, 0),
                 per_cpu_move(), one(insn(0x05, 0, 0, 1, 0)), mov(0, 0), exit()});
  EXPECT_EQ(canonical(c), code({map_ref(1, MapId{0}), helper(1), filler(8), exit()}));
}

TEST_F(Canonical, ArrayOfMapsLookup) {
  capture_.maps[0].type = MapType::array_of_maps;
  Code c = code({wide(1, array_address), one(insn(0x07, 1, 0, 0, array_value)), load32(0, 2, 0),
                 one(insn(0x35, 0, 0, 5, 8)), one(insn(0x67, 0, 0, 0, 3)), add_reg(0, 1), load64(0, 0, 0),
                 one(insn(0x15, 0, 0, 1, 0)), one(insn(0x05, 0, 0, 1, 0)), mov(0, 0), exit()});
  EXPECT_EQ(canonical(c), code({map_ref(1, MapId{0}), helper(1), filler(8), exit()}));
}

constexpr int32_t value_of_flow = htab_key + 16;

TEST_F(Canonical, HashLookups) {
  const Code to_value = add(0, value_of_flow);
  struct {
    MapType type;
    Code tail;
  } const cases[] = {
      {MapType::hash, code({one(insn(0x15, 0, 0, 1, 0)), to_value})},
      {MapType::lru_hash, code({one(insn(0x15, 0, 0, 4, 0)), one(insn(0x71, 1, 0, lru_ref, 0)),
                                one(insn(0x55, 1, 0, 1, 0)), one(insn(0x72, 0, 0, lru_ref, 1)), to_value})},
      {MapType::hash_of_maps, code({one(insn(0x15, 0, 0, 2, 0)), to_value, load64(0, 0, 0)})},
      {MapType::percpu_hash, code({one(insn(0x15, 0, 0, 3, 0)), to_value, load64(0, 0, 0), per_cpu_move()})},
  };
  for (const auto &c : cases) {
    capture_.maps[1].type = c.type;
    Program p = program(code({wide(1, hash_address), kernel_call("__htab_map_lookup_elem"), c.tail, exit()}));
    EXPECT_EQ(p.insns, code({map_ref(1, MapId{1}), helper(1), filler(unsigned(c.tail.size())), exit()}))
        << std::string(name_of(c.type));
    EXPECT_EQ(p.kernel_calls, std::vector<KernelCall>({{2, "__htab_map_lookup_elem", 0}}));
  }
}

TEST_F(Canonical, HashLookupThatIsNotInTheSource) {
  EXPECT_REFUSED(code({wide(1, hash_address), kernel_call("__htab_map_lookup_elem"), exit()}),
                 "insn 2: lookup in a hash table that is not as this kernel's source has it");
  EXPECT_REFUSED(code({wide(1, hash_address), kernel_call("__htab_map_lookup_elem"),
                       one(insn(0x15, 0, 0, 1, 0)), add(0, value_of_flow + 8), exit()}),
                 "lookup in a hash table");
}

// --- 64-bit immediates -----------------------------------------------------------------------------------

TEST_F(Canonical, MapsAndValues) {
  EXPECT_EQ(canonical(code({wide(1, jump_address), wide(2, data_address + array_value + 17), end})),
            code({map_ref(1, MapId{2}), value_ref(2, MapId{3}, 17), end}));
}

TEST_F(Canonical, ConstantsStay) {
  const Code constants = code({wide(1, 0x123456789abcdef0), wide(2, 0xffffffff00000000),
                               wide(3, 0xffffff0000000000), wide(4, 0xffffffffffffff00), wide(5, 11), end});
  EXPECT_EQ(canonical(constants), constants);
}

TEST_F(Canonical, ValuesOfArraysWithSeveralElementsAreNoReferences) {
  EXPECT_REFUSED(code({wide(1, array_address + array_value), end}),
                 "insn 0: address of something in the kernel");
}

TEST_F(Canonical, KernelVariable) {
  capture_.symbols[0xffffffff82345678] = "bpf_prog_active";
  Program p = program(code({wide(1, 0xffffffff82345678), one(insn(0x21, 0, 1, 8, 0)), exit()}));
  EXPECT_EQ(p.insns,
            code({{insn(0x18, 1, 3, 0, 0), insn(0, 0, 0, 0, 0)}, one(insn(0x21, 0, 1, 8, 0)), exit()}));
  EXPECT_EQ(p.kernel_calls, std::vector<KernelCall>({{0, "bpf_prog_active", 0}}));
}

TEST_F(Canonical, UnknownAddress) {
  EXPECT_REFUSED(code({wide(1, 0xffff888001234560), end}), "insn 0: address of something in the kernel");
}

TEST_F(Canonical, Jiffies) {
  capture_.symbols[0xffffffff82005000] = "jiffies";
  EXPECT_EQ(canonical(code({wide(0, 0xffffffff82005000), load64(0, 0, 0), exit()})),
            code({helper(118), filler(2), exit()}));
}

TEST_F(Canonical, Callback) {
  Code raw = {insn(0x18, 2, 4, 0, 3), insn(0, 0, 0, 0, 1)};
  Code caller = code({raw, end});
  EXPECT_EQ(program(code({caller, one(insn(0xb7, 1, 0, 0, 0)), end}), {4, 3}).insns.size(), 7u);
  Code wrong = code({Code{insn(0x18, 2, 4, 0, 3), insn(0, 0, 0, 0, 1)}, end, end});
  EXPECT_REFUSED(wrong, "number and distance differ");
}

// --- calls -----------------------------------------------------------------------------------------------

TEST_F(Canonical, Helpers) {
  Program p = program(code({kernel_call("bpf_ktime_get_ns"), kernel_call("bpf_xdp_fib_lookup"),
                            kernel_call("trie_lookup_elem"), kernel_call("bpf_skb_event_output"), exit()}));
  EXPECT_EQ(p.insns, code({helper(5), helper(69), helper(1), helper(25), exit()}));
  EXPECT_EQ(p.kernel_calls,
            std::vector<KernelCall>(
                {{1, "bpf_xdp_fib_lookup", 0}, {2, "trie_lookup_elem", 0}, {3, "bpf_skb_event_output", 0}}));
}

TEST_F(Canonical, EveryImplementationHasAHelper) {
  for (const char *symbol :
       {"bpf_skb_fib_lookup", "htab_map_update_elem", "dev_map_redirect", "bpf_for_each_hash_elem",
        "htab_percpu_map_lookup_percpu_elem", "bpf_user_rnd_u32"})
    EXPECT_TRUE(helper_of_symbol(ProgType::xdp, symbol)) << symbol;
  EXPECT_FALSE(helper_of_symbol(ProgType::tracing, "bpf_skb_event_output"));
  EXPECT_FALSE(helper_of_symbol(ProgType::xdp, "bpf_timer_start"));
  EXPECT_FALSE(helper_of_symbol(ProgType::xdp, "commit_creds"));
}

TEST_F(Canonical, CallsThatAreRefused) {
  EXPECT_REFUSED(code({kernel_call("bpf_timer_start"), exit()}), "call of bpf_timer_start");
  EXPECT_REFUSED(code({kernel_call("nf_conntrack_x [nf_conntrack]", 2), exit()}), "functions of modules");
  EXPECT_REFUSED(code({one(insn(0x85, 0, 0, 0, 0x77777)), exit()}), "whose name is not known");
  EXPECT_REFUSED(code({kernel_call("bpf_throw", 2), exit()}), "call of bpf_throw");
}

TEST_F(Canonical, KernelFunction) {
  Program p = program(code({kernel_call("bpf_xdp_metadata_rx_hash", 2), exit()}));
  EXPECT_EQ(p.insns, code({one(insn(0x85, 0, 2, 0, 0)), exit()}));
  EXPECT_EQ(p.kernel_calls, std::vector<KernelCall>({{0, "bpf_xdp_metadata_rx_hash", 0}}));
}

TEST_F(Canonical, TailCall) {
  EXPECT_EQ(canonical(code({wide(2, jump_address), mov(3, 1), one(insn(0xf5, 0, 0, 0, 4)), end})),
            code({map_ref(2, MapId{2}), mov(3, 1), helper(12), end}));
}

TEST_F(Canonical, SubprogramByNumber) {
  // 70,000 slots between call and callee: the offset has lost its upper bits.
  Code main = {insn(0x85, 0, 1, int16_t(70'002), 1)};
  main.insert(main.end(), 70'000, mov(7, 0)[0]);
  main = code({main, end});
  const uint32_t length = uint32_t(main.size());
  main[0].offset = int16_t(length - 1);
  Program p = program(code({main, end}), {length, 2});
  EXPECT_EQ(p.insns[0], call(int32_t(length - 1))[0]);
  main[0].offset ^= 1;
  size_t i = add_program("wrong", code({main, end}), {}, {length, 2});
  Expected<Program> wrong = canonical_program(capture_, capture_.programs[i]);
  ASSERT_FALSE(bool(wrong));
  EXPECT_NE(llvm::toString(wrong.takeError()).find("number and distance differ"), std::string::npos);
}

// --- what kernels use among themselves ---------------------------------------------------------------------

TEST_F(Canonical, CpuNumber) {
  for (uint8_t mov_imm : {0xb4, 0xb7}) { // 6.10 on, 6.14 on
    capture_.addresses = {{"pcpu_hot", 0x2c8d0}};
    Program p =
        program(code({one(insn(mov_imm, 0, 0, 0, 0x2c8dc)), per_cpu_move(), load32(0, 0, 0), exit()}));
    EXPECT_EQ(p.insns, code({one(insn(0xbf, 0, 0, -2, 0)), filler(2), exit()}));
    EXPECT_EQ(p.kernel_calls, std::vector<KernelCall>({{0, "pcpu_hot", 12}}));
  }
}

TEST_F(Canonical, UnsetRegisterSetToZero) {
  EXPECT_EQ(canonical(code({one(insn(0xaf, 2, 2, 0, 0)), one(insn(0xac, 0, 0, 0, 0)), exit()})),
            code({mov(2, 0), one(insn(0xb4, 0, 0, 0, 0)), exit()}));
}

TEST_F(Canonical, ScratchRegisterIsOne) {
  const Code c = code({one(insn(0x61, 11, 1, 8, 0)), one(insn(0x55, 11, 0, 0, 0)), end});
  EXPECT_EQ(canonical(c), c);
}

TEST_F(Canonical, RefusedByName) {
  EXPECT_REFUSED(code({one(insn(0xc2, 0, 0, 0, 0)), end}), "insn 0: speculation barrier");
  EXPECT_REFUSED(code({one(insn(0xb4, 11, 0, 0, 63)), end}), "mask against speculation");
  EXPECT_REFUSED(code({per_cpu_move(), end}), "per-CPU address outside of a lookup");
  EXPECT_REFUSED(code({one(insn(0xbf, 1, 1, 1, 1)), end}), "cast between address spaces");
  EXPECT_REFUSED(code({one(insn(0xa1, 1, 1, 0, 0)), end}), "access to an arena");
  EXPECT_REFUSED(code({one(insn(0xbf, 0, 0, -2, 0)), end}), "instruction that is not known");
  EXPECT_REFUSED(code({one(insn(0xe5, 0, 0, 1, 0)), mov(0, 0), end}), "may_goto");
  EXPECT_REFUSED(code({one(insn(0xff, 0, 0, 0, 0)), end}), "instruction that is not known: opcode 0xff");
  capture_.maps[0].bypass_spec_v1 = false;
  EXPECT_REFUSED(end, "map 'counters' needs index masks");
}

// --- pipelines ---------------------------------------------------------------------------------------------

Code jumps(uint64_t array) { return code({wide(2, array), mov(3, 0), one(insn(0xf5, 0, 0, 0, 1)), end}); }

TEST_F(Canonical, PipelineInTheOrderOfDiscovery) {
  add_program("entry", jumps(jump_address), {13});
  add_program("same", end, {});                                     // slot 3
  add_program("same", code({wide(1, hash_address), end}), {12});    // slot 1
  add_program("bad", code({one(insn(0xc2, 0, 0, 0, 0)), end}), {}); // slot 2
  capture_.programs[0].insns.front().dst = 2;
  capture_.entries = 1;
  capture_.maps[2].prog_slots = {{1, 102}, {2, 103}, {3, 101}, {4, 100}};
  CanonicalPipeline c = llvm::cantFail(canonicalise(capture_));
  ASSERT_EQ(c.pipeline.programs.size(), 3u);
  EXPECT_EQ(c.programs, std::vector<size_t>({0, 2, 1}));
  EXPECT_EQ(c.pipeline.programs[1].name, "same");
  EXPECT_EQ(c.pipeline.programs[2].name, "same.2");
  EXPECT_EQ(c.maps, std::vector<size_t>({2, 1})); // others are not reached
  EXPECT_EQ(c.pipeline.programs[1].insns[0].imm, 1);
  using Slots = std::vector<std::pair<uint32_t, ProgId>>;
  EXPECT_EQ(c.pipeline.maps[0].prog_slots, Slots({{1, ProgId{1}}, {3, ProgId{2}}, {4, ProgId{0}}}));
  EXPECT_EQ(c.pipeline.entries, std::vector<ProgId>({ProgId{0}}));
  ASSERT_EQ(c.unfused.size(), 1u);
  EXPECT_EQ(c.unfused[0].program, 3u);
  EXPECT_NE(c.unfused[0].reason.find("speculation barrier"), std::string::npos);
}

TEST_F(Canonical, EntryThatIsRefused) {
  add_program("entry", end, {});
  capture_.entries = 1;
  capture_.programs[0].refused = "a freplace is attached to it";
  Expected<CanonicalPipeline> c = canonicalise(capture_);
  ASSERT_FALSE(bool(c));
  std::string text = llvm::toString(c.takeError());
  EXPECT_NE(text.find("entry: a freplace is attached to it"), std::string::npos) << text;
}

TEST_F(Canonical, FrozenContents) {
  capture_.maps[3].frozen = true;
  capture_.maps[3].flags = 1u << 7; // BPF_F_RDONLY_PROG
  capture_.maps[3].contents = std::vector<uint8_t>(20, 7);
  add_program("entry", code({wide(1, data_address + array_value), end}), {14});
  capture_.entries = 1;
  CanonicalPipeline c = llvm::cantFail(canonicalise(capture_));
  EXPECT_TRUE(c.pipeline.maps[0].frozen);
  EXPECT_EQ(c.pipeline.maps[0].contents, std::vector<uint8_t>(20, 7));
  capture_.maps[3].flags = 0; // a program may write it
  EXPECT_FALSE(llvm::cantFail(canonicalise(capture_)).pipeline.maps[0].frozen);
}

TEST_F(Canonical, InnerMapIsATemplateUnlessNamed) {
  capture_.maps.push_back(captured_map(15, 0xffff888003d00000, "outer", MapType::hash_of_maps, 4, 4, 4));
  capture_.maps[4].inner_id = 12;
  add_program("entry", code({wide(1, 0xffff888003d00000), end}), {15});
  capture_.entries = 1;
  CanonicalPipeline c = llvm::cantFail(canonicalise(capture_));
  EXPECT_EQ(c.pipeline.maps[0].inner, MapId{1});
  EXPECT_TRUE(c.pipeline.maps[1].is_template);
  capture_.programs[0].map_ids = {15, 12};
  EXPECT_FALSE(llvm::cantFail(canonicalise(capture_)).pipeline.maps[1].is_template);
}

} // namespace
} // namespace ujit
