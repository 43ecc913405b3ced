#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/dump.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/private_network.h"
#include "tests/linux_pipeline.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace ujit {
namespace {

using namespace asm_;

std::vector<uint8_t> bytes32(uint32_t value) {
  std::vector<uint8_t> out(4);
  std::memcpy(out.data(), &value, 4);
  return out;
}
std::vector<uint8_t> bytes64(uint64_t value) {
  std::vector<uint8_t> out(8);
  std::memcpy(out.data(), &value, 8);
  return out;
}
std::vector<uint8_t> packet_of(size_t size) {
  std::vector<uint8_t> out(size);
  for (size_t i = 0; i < size; i++)
    out[i] = uint8_t(i);
  return out;
}
size_t open_fds() {
  auto dir = std::filesystem::directory_iterator("/proc/self/fd");
  return std::distance(begin(dir), end(dir));
}

class LinuxLoad : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
    if (!capabilities.test_run.ok)
      GTEST_SKIP() << "test run: " << capabilities.test_run.reason;
  }
  static LoadedPipeline load(const Pipeline &pipeline, const LoadOptions &options = {}) {
    return llvm::cantFail(load_into_kernel(pipeline, options));
  }
  static std::string error_of(const Pipeline &pipeline, const LoadOptions &options = {}) {
    Expected<LoadedPipeline> loaded = load_into_kernel(pipeline, options);
    return loaded ? "loaded" : llvm::toString(loaded.takeError());
  }
  static uint32_t result(const LoadedPipeline &loaded, ProgId id = ProgId{0}) {
    TestRunResult run = llvm::cantFail(loaded.run(id, packet_of(64)));
    EXPECT_EQ(run.not_runnable, "");
    return run.retval;
  }
};

// --- tail calls
// ---------------------------------------------------------------------------------------------

Pipeline chain() {
  Pipeline p;
  p.maps = {map("jmp", MapType::prog_array, 4, 4, 4)};
  p.maps[0].prog_slots = {{1, ProgId{1}}};
  p.programs = {
      program("entry", code({mov_reg(6, 1), tail_call(MapId{0}, 1), mov(0, 1), exit()})),
      program("leaf", code({mov(0, 7), exit()})),
      program("misses",
              code({mov_reg(6, 1), tail_call(MapId{0}, 2), tail_call(MapId{0}, 9), mov(0, 3), exit()})),
  };
  return p;
}

TEST_F(LinuxLoad, tail_call_reaches_its_slot) { EXPECT_EQ(result(load(chain())), 7u); }

TEST_F(LinuxLoad, tail_call_falls_through_empty_and_out_of_range_slots) {
  EXPECT_EQ(result(load(chain()), ProgId{2}), 3u);
}

TEST_F(LinuxLoad, a_program_tail_calls_itself_33_times) {
  Pipeline p;
  p.maps = {map("jmp", MapType::prog_array, 4, 4, 1), map("count", MapType::array, 4, 8, 1)};
  p.maps[0].prog_slots = {{0, ProgId{0}}};
  p.maps[1].contents.assign(8, 0);
  p.programs = {program("self", code({mov_reg(6, 1), value_ref(7, MapId{1}, 0), load64(0, 7, 0), add(0, 1),
                                      store64_reg(7, 0, 0), tail_call(MapId{0}, 0), value_ref(7, MapId{1}, 0),
                                      load64(0, 7, 0), exit()}))};
  EXPECT_EQ(result(load(p)), 34u); // the first run and 33 tail calls
}

TEST_F(LinuxLoad, many_programs_in_one_prog_array) {
  Pipeline p;
  p.maps = {map("jmp", MapType::prog_array, 4, 4, 100)};
  for (uint32_t i = 0; i < 100; i++) {
    p.programs.push_back(
        program("leaf_with_a_long_name_" + std::to_string(i), code({mov(0, int32_t(i)), exit()})));
    p.maps[0].prog_slots.push_back({i, ProgId{i}});
  }
  p.programs.push_back(program("entry", code({mov_reg(6, 1), tail_call(MapId{0}, 73), mov(0, -1), exit()})));
  EXPECT_EQ(result(load(p), ProgId{100}), 73u);
}

TEST_F(LinuxLoad, slot_of_another_program_type_is_refused) {
  Pipeline p = chain();
  p.programs[1].type = ProgType::sched_cls;
  EXPECT_EQ(error_of(p),
            "test.o: leaf: slot 1 of map 'jmp' (4 entries) does not take the program: Invalid argument\n"
            ">>> programs that share a prog array must agree in type, attach type and XDP frags");
}

// --- maps
// ---------------------------------------------------------------------------------------------------

struct RoundTrip {
  const char *name;
  MapType type;
  uint32_t flags;
};
class LinuxMaps : public LinuxLoad, public testing::WithParamInterface<RoundTrip> {};

TEST_P(LinuxMaps, entries_come_back_as_they_were_written) {
  MapType type = GetParam().type;
  bool array = type == MapType::array || type == MapType::percpu_array;
  bool per_cpu =
      type == MapType::percpu_array || type == MapType::percpu_hash || type == MapType::lru_percpu_hash;
  bool trie = type == MapType::lpm_trie;
  Pipeline p;
  p.maps = {map("m", type, trie ? 8 : 4, 6, 8, GetParam().flags)}; // 6: per-CPU values are padded in transit
  LoadedPipeline loaded = load(p);
  MapContents wanted;
  for (uint32_t i = 0; i < (array ? 8u : 3u); i++) {
    MapEntry entry{trie ? std::vector<uint8_t>{uint8_t(8 + i), 0, 0, 0, 10, 0, 0, 0} : bytes32(i), {}};
    for (unsigned cpu = 0; cpu < (per_cpu ? possible_cpus() : 1); cpu++)
      entry.values.push_back({uint8_t(i), uint8_t(cpu), 3, 4, 5, 6});
    wanted.push_back(entry);
  }
  ASSERT_EQ(llvm::toString(loaded.write(MapId{0}, wanted)), "");
  EXPECT_EQ(llvm::cantFail(loaded.read(MapId{0})), wanted);
}

INSTANTIATE_TEST_SUITE_P(types, LinuxMaps,
                         testing::Values(RoundTrip{"array", MapType::array, 0},
                                         RoundTrip{"hash", MapType::hash, 0},
                                         RoundTrip{"percpu_array", MapType::percpu_array, 0},
                                         RoundTrip{"percpu_hash", MapType::percpu_hash, 0},
                                         RoundTrip{"lru_hash", MapType::lru_hash, 0},
                                         RoundTrip{"lru_percpu_hash", MapType::lru_percpu_hash, 0},
                                         RoundTrip{"lpm_trie", MapType::lpm_trie, BPF_F_NO_PREALLOC}),
                         [](const auto &info) { return info.param.name; });

/// r0 = the 4 bytes that key 0 of map 0 has on this CPU, plus one; written back.
Pipeline counter(MapType type) {
  Pipeline p;
  p.maps = {map("m", type, 4, 4, 4)};
  p.programs = {program("count", code({store32(10, -4, 0), mov_reg(2, 10), add(2, -4), map_ref(1, MapId{0}),
                                       helper(1), jump_if_not_zero(0, 2), mov(0, -1), exit(), mov_reg(1, 0),
                                       load32(0, 1, 0), add(0, 1), store32_reg(1, 0, 0), exit()}))};
  return p;
}

TEST_F(LinuxLoad, seeds_are_there_before_the_first_run) {
  LoadOptions options;
  options.seeds = llvm::cantFail(parse_map_seeds(
      R"({"maps":[{"name":"m","entries":[{"key":"00000000","value":"29000000"}]}]})", "seed.json"));
  EXPECT_EQ(result(load(counter(MapType::hash), options)), 42u);
}

TEST_F(LinuxLoad, array_elements_that_are_all_zero_are_left_out) {
  Pipeline p;
  p.maps = {map("m", MapType::array, 4, 4, 100)};
  LoadedPipeline loaded = load(p);
  MapContents one{{bytes32(42), {bytes32(1)}}};
  ASSERT_EQ(llvm::toString(loaded.write(MapId{0}, one)), "");
  EXPECT_EQ(llvm::cantFail(loaded.read(MapId{0})), one);
}

TEST_F(LinuxLoad, one_seed_value_goes_to_every_cpu_and_a_run_changes_only_its_own) {
  LoadOptions options;
  options.seeds = {{"m", {{bytes32(0), {bytes32(10)}}}}};
  LoadedPipeline loaded = load(counter(MapType::percpu_array), options);
  TestRunOptions last;
  last.cpu = possible_cpus() - 1;
  Expected<TestRunResult> run = loaded.run(ProgId{0}, packet_of(60), last);
  ASSERT_TRUE(bool(run)) << llvm::toString(run.takeError());
  EXPECT_EQ(run->retval, 11u);
  EXPECT_EQ(run->cpu, *last.cpu);
  MapEntry first = llvm::cantFail(loaded.read(MapId{0})).front();
  for (unsigned cpu = 0; cpu < possible_cpus(); cpu++)
    EXPECT_EQ(first.values[cpu], bytes32(cpu == *last.cpu ? 11 : 10)) << "CPU " << cpu;
}

TEST_F(LinuxLoad, seed_errors_name_map_and_key) {
  Pipeline p = counter(MapType::hash);
  LoadOptions options;
  options.seeds = {{"nowhere", {}}};
  EXPECT_EQ(error_of(p, options), "seed for map 'nowhere', which the pipeline does not have");
  options.seeds = {{"m", {{{1, 2}, {bytes32(0)}}}}};
  EXPECT_EQ(error_of(p, options), "map 'm': key 0102: 2 bytes of key, where the map has 4");
  options.seeds = {{"m", {{bytes32(1), {bytes64(0)}}}}};
  EXPECT_EQ(error_of(p, options), "map 'm': key 01000000: 8 bytes of value, where the map has 4");
}

TEST_F(LinuxLoad, frozen_data_is_constant_for_the_verifier_and_bound_constants_lie_over_it) {
  // The load of address 1 behind the branch is dead only if the verifier knows the flag.
  Pipeline p;
  p.maps = {data_map(".rodata", {5, 0, 0, 0, 0, 0, 0, 0}, true)};
  p.programs = {program("config", code({value_ref(1, MapId{0}, 4), load32(0, 1, 0), jump_if_not_zero(0, 2),
                                        mov(1, 1), load32(0, 1, 0), exit()}))};
  EXPECT_NE(error_of(p), "loaded");
  p.maps[0].bound = {{"flag", 4, 4, 9}};
  LoadedPipeline loaded = load(p);
  EXPECT_EQ(result(loaded), 9u);
  EXPECT_NE(llvm::toString(loaded.write(MapId{0}, {{bytes32(0), {std::vector<uint8_t>(8)}}})), "");
  p.maps[0].frozen = false;
  EXPECT_NE(error_of(p), "loaded");
}

TEST_F(LinuxLoad, map_in_map_with_an_inner_map_and_an_empty_slot) {
  for (bool template_only : {false, true}) {
    Pipeline p;
    p.maps = {map("outer", MapType::array_of_maps, 4, 4, 2), map("inner", MapType::array, 4, 4, 1),
              map("one", MapType::array, 4, 4, 1)};
    p.maps[0].inner = MapId{1};
    p.maps[1].is_template = template_only;
    p.maps[0].inner_slots = {{1, MapId{2}}};
    p.maps[2].contents = {77, 0, 0, 0};
    auto lookup = [](int32_t slot) {
      return code({store32(10, -4, slot), mov_reg(2, 10), add(2, -4), map_ref(1, MapId{0}), helper(1),
                   jump_if_not_zero(0, 2), mov(0, 5), exit(), store32(10, -4, 0), mov_reg(1, 0),
                   mov_reg(2, 10), add(2, -4), helper(1), jump_if_not_zero(0, 2), mov(0, 6), exit(),
                   load32(0, 0, 0), exit()});
    };
    p.programs = {program("hit", lookup(1)), program("miss", lookup(0))};
    LoadedPipeline loaded = load(p);
    EXPECT_EQ(result(loaded, ProgId{0}), 77u);
    EXPECT_EQ(result(loaded, ProgId{1}), 5u);
    EXPECT_EQ(llvm::toString(loaded.read(MapId{0}).takeError()),
              "entries of map 'outer' (array_of_maps) cannot be read or written as bytes");
  }
}

TEST_F(LinuxLoad, a_map_that_the_kernel_cannot_create_is_named) {
  Pipeline p;
  p.maps = {map("odd", MapType::array, 3, 4, 1)};
  EXPECT_EQ(error_of(p), "the kernel cannot create map 'odd' (array, key 3, value 4, 1 entries, flags 0x0): "
                         "Invalid argument");
  p.maps[0].is_template = true;
  p.programs = {program("user", code({map_ref(1, MapId{0}), mov(0, 0), exit()}))};
  EXPECT_EQ(error_of(p), "test.o: user: insn 0: reference to map 'odd', which only describes inner maps");
}

TEST_F(LinuxLoad, samples_of_rings_come_back) {
  Pipeline p;
  p.maps = {map("ring", MapType::ringbuf, 0, 0, 4096), map("perf", MapType::perf_event_array, 4, 4, 0)};
  p.programs = {program("ring_out", code({store32(10, -8, 0x11223344), map_ref(1, MapId{0}), mov_reg(2, 10),
                                          add(2, -8), mov(3, 4), mov(4, 0), helper(130), exit()})),
                program("perf_out", code({store32(10, -8, 0x55667788),
                                          map_ref(2, MapId{1}),
                                          {insn(0x18, 3, 0, 0, -1), insn(0, 0, 0, 0, 0)}, // BPF_F_CURRENT_CPU
                                          mov_reg(4, 10),
                                          add(4, -8),
                                          mov(5, 4),
                                          helper(25),
                                          exit()}))};
  LoadedPipeline loaded = load(p);
  for (int i = 0; i < 2; i++)
    EXPECT_EQ(result(loaded, ProgId{0}), 0u);
  EventSamples ring = llvm::cantFail(loaded.drain_events(MapId{0}));
  EXPECT_EQ(ring.samples, (std::vector<std::vector<uint8_t>>(2, bytes32(0x11223344))));
  EXPECT_EQ(result(loaded, ProgId{1}), 0u);
  EventSamples perf = llvm::cantFail(loaded.drain_events(MapId{1}));
  ASSERT_EQ(perf.samples.size(), 1u);
  ASSERT_GE(perf.samples[0].size(), 4u);
  EXPECT_EQ(std::vector<uint8_t>(perf.samples[0].begin(), perf.samples[0].begin() + 4), bytes32(0x55667788));
  EXPECT_EQ(perf.lost, 0u);
  EXPECT_TRUE(llvm::cantFail(loaded.drain_events(MapId{1})).samples.empty());
}

// --- functions
// ----------------------------------------------------------------------------------------------

TEST_F(LinuxLoad, subprograms_are_called) {
  Pipeline p;
  p.programs = {program("main", code({mov(1, 20), call(1), exit(), mov_reg(0, 1), add(0, 2), exit()}))};
  p.programs[0].subprograms = {{"main", 0, 3, 0}, {"plus two", 3, 6, 0}};
  LoadedPipeline loaded = load(p);
  EXPECT_EQ(result(loaded), 22u);
}

TEST_F(LinuxLoad, bpf_loop_calls_back) {
  Pipeline p;
  // The callback counts in the main function's stack: r2 points there.
  p.programs = {
      program("main", code({store32(10, -8, 0), store32(10, -4, 0), mov(1, 10), func_ref(2, 7),
                            mov_reg(3, 10), add(3, -8), mov(4, 0), helper(181), load64(0, 10, -8), exit(),
                            load64(1, 2, 0), add(1, 3), store64_reg(2, 1, 0), mov(0, 0), exit()}))};
  p.programs[0].subprograms = {{"main", 0, 11, 0}, {"callback", 11, 16, 0}};
  EXPECT_EQ(result(load(p)), 30u);
}

// --- contexts and packets
// -----------------------------------------------------------------------------------

TEST_F(LinuxLoad, sched_cls_context_goes_in_and_out) {
  Pipeline p;
  constexpr int16_t cb = offsetof(__sk_buff, cb), mark = offsetof(__sk_buff, mark);
  p.programs = {program("tc",
                        code({load32(0, 1, cb), add(0, 1), store32_reg(1, 0, cb + 4), load32(2, 1, mark),
                              add_reg(0, 2), store32_reg(1, 0, mark), exit()}),
                        ProgType::sched_cls)};
  LoadedPipeline loaded = load(p);
  ASSERT_EQ(reported_context(ProgType::sched_cls).size(), 4u);
  __sk_buff context{};
  context.cb[0] = 100;
  context.mark = 1000;
  TestRunOptions options;
  auto *raw = reinterpret_cast<const uint8_t *>(&context);
  options.context.assign(raw, raw + sizeof context);
  TestRunResult run = llvm::cantFail(loaded.run(ProgId{0}, packet_of(64), options));
  EXPECT_EQ(run.not_runnable, "");
  EXPECT_EQ(run.retval, 1101u);
  EXPECT_EQ(run.packet, packet_of(64));
  ASSERT_EQ(run.context.size(), sizeof context);
  std::memcpy(&context, run.context.data(), sizeof context);
  EXPECT_EQ(context.cb[1], 101u);
  EXPECT_EQ(context.mark, 1101u);
}

/// Reserves 4 bytes of metadata, writes them, and the first byte of the packet.
Program writes_metadata() {
  return program("meta", code({mov_reg(6, 1), mov(2, -4), helper(54), jump_if_not_zero(0, 11), // adjust_meta
                               load32(2, 6, 8), load32(3, 6, 0), load32(4, 6, 4), // meta, data, end
                               mov_reg(5, 2), add(5, 4), jump_if_greater(5, 3, 5), store32(2, 0, 0x01020304),
                               mov_reg(5, 3), add(5, 1), jump_if_greater(5, 4, 1), store8(3, 0, 0xee),
                               mov(0, 2), exit()}));
}

TEST_F(LinuxLoad, xdp_metadata_comes_back_apart_from_the_packet) {
  Pipeline p;
  p.programs = {writes_metadata()};
  TestRunResult run = llvm::cantFail(load(p).run(ProgId{0}, packet_of(60)));
  std::vector<uint8_t> wanted = packet_of(60);
  wanted[0] = 0xee;
  EXPECT_EQ(run.retval, 2u);
  EXPECT_EQ(run.packet, wanted);
  EXPECT_EQ(run.metadata, bytes32(0x01020304));
  TestRunOptions options;
  options.metadata = {9, 9, 9, 9};
  run = llvm::cantFail(load(p).run(ProgId{0}, packet_of(60), options));
  EXPECT_EQ(run.metadata, (std::vector<uint8_t>{4, 3, 2, 1, 9, 9, 9, 9}));
  EXPECT_EQ(run.packet, wanted);
}

TEST_F(LinuxLoad, packets_that_test_runs_do_not_take_are_no_errors) {
  Pipeline p;
  p.programs = {program("xdp", code({mov(0, 2), exit()})),
                program("tc", code({mov(0, 2), exit()}), ProgType::sched_cls)};
  LoadedPipeline loaded = load(p);
  for (ProgId id : {ProgId{0}, ProgId{1}}) {
    EXPECT_EQ(llvm::cantFail(loaded.run(id, packet_of(13))).not_runnable,
              "13 bytes are shorter than an Ethernet header");
    EXPECT_EQ(llvm::cantFail(loaded.run(id, packet_of(14))).not_runnable, "");
    EXPECT_EQ(llvm::cantFail(loaded.run(id, packet_of(3000))).packet.size(), 3000u);
    EXPECT_NE(llvm::cantFail(loaded.run(id, packet_of(100000))).not_runnable, "");
  }
  EXPECT_EQ(llvm::cantFail(loaded.run(ProgId{0}, packet_of(3521))).not_runnable,
            "3521 bytes do not fit into one page");
  std::vector<uint8_t> cut = packet_of(33);
  cut[12] = 0x08, cut[13] = 0x00; // 19 bytes of IPv4
  EXPECT_EQ(llvm::cantFail(loaded.run(ProgId{0}, cut)).not_runnable, "");
  std::string reason = llvm::cantFail(loaded.run(ProgId{1}, cut)).not_runnable;
  EXPECT_TRUE(reason.empty() || reason == "the packet ends inside of its IP header") << reason;
}

TEST_F(LinuxLoad, runs_that_cannot_be_are_errors) {
  Pipeline p;
  p.programs = {program("probe", code({mov(0, 0), exit()}), ProgType::kprobe),
                program("xdp", code({mov(0, 2), exit()}))};
  LoadedPipeline loaded = load(p);
  EXPECT_EQ(llvm::toString(loaded.run(ProgId{0}, packet_of(64)).takeError()),
            "test.o: probe: programs of type kprobe have no test run on packets");
  TestRunOptions options;
  options.cpu = 100000;
  EXPECT_NE(llvm::toString(loaded.run(ProgId{1}, packet_of(64), options).takeError()).find("CPU 100000"),
            std::string::npos);
}

// --- refusals
// -----------------------------------------------------------------------------------------------

TEST_F(LinuxLoad, verifier_refusals_name_instruction_source_line_and_log) {
  Pipeline p;
  p.programs = {program("good", code({mov(0, 2), exit()})),
                program("bad", code({mov(0, 0), load32(0, 1, 200), exit()}))};
  p.programs[1].lines = {{0, "bad.c", 3, "int bad(struct xdp_md *ctx) {"},
                         {1, "bad.c", 4, "  return ctx->nothing;"}};
  std::string text = error_of(p);
  EXPECT_EQ(
      text.substr(0, text.find("\n>>> verifier")),
      "test.o: bad: insn 1: the kernel's verifier refuses the program: invalid bpf_context access off=200 "
      "size=4\n>>> bad.c:4: return ctx->nothing;");
  EXPECT_NE(text.find(">>> verifier: 1: (61) r0 = *(u32 *)(r1 +200)"), std::string::npos) << text;
}

TEST_F(LinuxLoad, all_refused_programs_are_reported_in_order) {
  Pipeline p;
  for (const char *name : {"b", "a"})
    p.programs.push_back(program(name, code({exit()})));
  p.programs.push_back(program("c", code({exit()}), ProgType::unspec));
  std::string text = error_of(p);
  size_t a = text.find("test.o: a: insn 0"), b = text.find("test.o: b: insn 0"),
         c = text.find("test.o: c: a program");
  ASSERT_NE(c, std::string::npos) << text;
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
}

TEST_F(LinuxLoad, spin_locks_are_refused_with_a_hint) {
  Pipeline p;
  p.maps = {data_map("locks", std::vector<uint8_t>(8), false)};
  p.programs = {program("locks", code({value_ref(1, MapId{0}, 0), helper(93), mov(0, 0), exit()}))};
  std::string text = error_of(p);
  EXPECT_NE(text.find("insn 2: the kernel's verifier refuses the program: map 'locks' has to have BTF"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(">>> hint: maps with a spin lock or timer"), std::string::npos) << text;
}

TEST_F(LinuxLoad, without_privileges_the_error_says_what_is_missing) {
  if (geteuid() != 0)
    GTEST_SKIP() << "needs root to give privileges up";
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0)
      _exit(1);
    std::string text = error_of(chain());
    Capabilities capabilities = probe_capabilities();
    text += capabilities.bpf.ok ? "\nbpf ok" : "\nprobe: " + capabilities.bpf.reason;
    _exit(write(pipe_fds[1], text.data(), text.size()) == ssize_t(text.size()) ? 0 : 1);
  }
  close(pipe_fds[1]);
  std::string text(4096, 0);
  text.resize(std::max<ssize_t>(0, read(pipe_fds[0], text.data(), text.size())));
  close(pipe_fds[0]);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  EXPECT_NE(
      text.find("map 'jmp' (prog_array, key 4, value 4, 4 entries, flags 0x0): Operation not permitted\n"
                ">>> bpf() is not allowed here: missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("probe: Operation not permitted: missing CAP_BPF"), std::string::npos) << text;
}

TEST_F(LinuxLoad, a_private_network_has_no_interfaces_but_loopback) {
  auto interfaces = [] {
    struct if_nameindex *all = if_nameindex();
    size_t count = 0;
    while (all && all[count].if_index)
      count++;
    if_freenameindex(all);
    return count;
  };
  size_t before = interfaces();
  {
    Expected<PrivateNetwork> network = PrivateNetwork::enter();
    if (!network)
      GTEST_SKIP() << llvm::toString(network.takeError());
    EXPECT_EQ(interfaces(), 1u);
    EXPECT_EQ(result(load(chain())), 7u);
    Pipeline tc;
    tc.programs = {
        program("tc", code({load32(0, 1, offsetof(__sk_buff, ifindex)), exit()}), ProgType::sched_cls)};
    EXPECT_EQ(result(load(tc)), 1u);
  }
  EXPECT_EQ(interfaces(), before);
}

// --- ownership
// ----------------------------------------------------------------------------------------------

TEST_F(LinuxLoad, nothing_is_left_behind) {
  size_t before = open_fds();
  {
    Pipeline p = chain();
    p.maps.push_back(map("perf", MapType::perf_event_array, 4, 4, 0));
    LoadedPipeline loaded = load(p);
    EXPECT_GT(open_fds(), before);
    LoadedPipeline moved = std::move(loaded);
    EXPECT_EQ(result(moved), 7u);
    loaded = std::move(moved);
    EXPECT_EQ(result(loaded), 7u);
    p.programs[1].insns = code({exit()});
    EXPECT_NE(error_of(p), "loaded");
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(LinuxLoad, dump_shows_functions_code_and_maps) {
  Pipeline p;
  p.maps = {data_map(".data", {1, 2, 3, 4}, false)};
  p.programs = {program("main", code({value_ref(1, MapId{0}, 0), load32(1, 1, 0), call(1), exit(),
                                      mov_reg(0, 1), add(0, 2), exit()}))};
  LoadedPipeline loaded = load(p);
  Expected<ProgramDump> dump = dump_program(loaded.fd(ProgId{0}));
  if (!dump)
    GTEST_SKIP() << llvm::toString(dump.takeError());
  EXPECT_EQ(dump->name, "main");
  EXPECT_GE(dump->xlated.size(), p.programs[0].insns.size());
  EXPECT_EQ(dump->map_ids.size(), 1u);
  ASSERT_EQ(dump->functions.size(), 2u);
  for (const JitedFunction &function : dump->functions) {
    EXPECT_NE(function.address, 0u);
    EXPECT_FALSE(function.code.empty());
  }
  Expected<KernelSymbols> symbols = KernelSymbols::read();
  if (!symbols)
    GTEST_SKIP() << llvm::toString(symbols.takeError());
  std::optional<std::string> name = symbols->name_at(dump->functions[0].address);
  ASSERT_TRUE(name.has_value());
  EXPECT_TRUE(llvm::StringRef(*name).starts_with("bpf_prog_") && llvm::StringRef(*name).ends_with("_main"))
      << *name;
  EXPECT_EQ(symbols->address_of(*name), dump->functions[0].address);
}

} // namespace
} // namespace ujit
