// Images, workers, capture files and routes of the embedded kernel, and programs that run in it.
#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/loader.h"
#include "kernel-iface/embedded/pcap.h"
#include "kernel-iface/embedded/worker.h"
#include "tests/sanitizer.h"
#include "translator/assembler.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <csignal>
#include <cstring>
#include <fstream>
#include <linux/bpf.h>
#include <unistd.h>

namespace ujit {
namespace {

using Bytes = std::vector<uint8_t>;

/// An object file from IR.
llvm::SmallVector<char, 0> compile(const char *ir) {
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseAssemblyString(ir, diagnostic, context);
  EXPECT_TRUE(module) << diagnostic.getMessage().str();
  std::string error;
  const std::string triple = "x86_64-pc-linux-gnu";
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, error);
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(triple, "x86-64", "", {}, llvm::Reloc::PIC_));
  module->setDataLayout(machine->createDataLayout());
  llvm::SmallVector<char, 0> out;
  llvm::raw_svector_ostream os(out);
  llvm::legacy::PassManager passes;
  machine->addPassesToEmitFile(passes, os, nullptr, llvm::CodeGenFileType::ObjectFile);
  passes.run(*module);
  return out;
}

llvm::MemoryBufferRef buffer(const llvm::SmallVector<char, 0> &object) {
  return {llvm::StringRef(object.data(), object.size()), "test.ujit"};
}

constexpr const char *counting_image = R"(
  declare i64 @bpf_map_lookup_elem(ptr, ptr)
  define i64 @count(ptr %ctx, ptr %instance) {
    %key = alloca i32
    store i32 1, ptr %key
    %map = load ptr, ptr %instance
    %v = call ptr @bpf_map_lookup_elem(ptr %map, ptr %key)
    %n = load i64, ptr %v
    %n1 = add i64 %n, 1
    store i64 %n1, ptr %v
    %packet.p = getelementptr i8, ptr %ctx, i64 24
    %packet = load ptr, ptr %packet.p
    store i8 90, ptr %packet
    ret i64 8589934594
  }
  define internal i64 @crash() { store volatile i64 1, ptr inttoptr (i64 64 to ptr)  ret i64 0 }
  define i64 @fault(ptr, ptr) { %r = call i64 @crash()  ret i64 %r }
  define i64 @spin(ptr, ptr) { br label %l
  l: br label %l }
)";

Pipeline one_array() {
  Pipeline p;
  Map m;
  m.name = "counters";
  m.type = MapType::array;
  m.key_size = 4;
  m.value_size = 8;
  m.max_entries = 2;
  p.maps.push_back(m);
  return p;
}

TEST(Loader, RunsCodeWithHelpersMapsAndPackets) {
  auto object = compile(counting_image);
  auto image = load_image(buffer(object));
  ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
  Pipeline p = one_array();
  auto kernel = Kernel::create(p);
  std::vector<uint64_t> table = (*kernel)->instance_table(InstanceLayout(p), 0);
  auto entry = reinterpret_cast<NativeEntry>(const_cast<void *>(image->find("count")));
  Bytes packet(60, 1);
  for (int i = 0; i < 3; i++) {
    auto result = (*kernel)->run_packet(entry, table.data(), ProgType::xdp, packet);
    ASSERT_TRUE(bool(result)) << llvm::toString(result.takeError());
    EXPECT_EQ(result->value, 2u);
    EXPECT_EQ(result->packet[0], 90);
    EXPECT_EQ(result->packet.size(), 60u);
  }
  std::span<const uint8_t> view(packet);
  auto sum = (*kernel)->run_batch(entry, table.data(), ProgType::xdp, {&view, 1}, 10);
  ASSERT_TRUE(bool(sum));
  EXPECT_EQ(*sum, 20u);
  EXPECT_EQ((*kernel)->snapshot()[0].entries, (MapContents{{{1, 0, 0, 0}, {{13, 0, 0, 0, 0, 0, 0, 0}}}}));
  EXPECT_EQ(image->find("nothing"), nullptr);
  EXPECT_EQ(llvm::toString(image->require("nothing").takeError()), "the image has no symbol nothing");
}

TEST(Loader, NamesUnknownHelpers) {
  auto object = compile("declare i64 @bpf_zz()\ndeclare i64 @bpf_aa()\n"
                        "define i64 @f() { %a = call i64 @bpf_zz() %b = call i64 @bpf_aa() ret i64 %b }");
  auto image = load_image(buffer(object));
  ASSERT_FALSE(bool(image));
  std::string why = llvm::toString(image.takeError());
  EXPECT_LT(why.find("test.ujit: helper bpf_aa is not supported in the embedded kernel"),
            why.find("test.ujit: helper bpf_zz is not supported in the embedded kernel"));
  auto known = [](uint64_t) { return uint64_t(4); };
  ImageSymbol extra[] = {{"bpf_zz", reinterpret_cast<const void *>(+known)},
                         {"bpf_aa", reinterpret_cast<const void *>(+known)}};
  auto again = load_image(buffer(object), extra);
  ASSERT_TRUE(bool(again)) << llvm::toString(again.takeError());
  EXPECT_EQ(reinterpret_cast<uint64_t (*)()>(const_cast<void *>(again->find("f")))(), 4u);
}

TEST(Loader, RefusesWhatIsNoImage) {
  auto why = [](llvm::StringRef bytes) {
    auto image = load_image({bytes, "bad"});
    return image ? "" : llvm::toString(image.takeError());
  };
  EXPECT_NE(why(""), "");
  EXPECT_NE(why("\177ELF"), "");
  auto object = compile(counting_image);
  for (size_t size = 1; size < object.size(); size += 37)
    EXPECT_NE(why(llvm::StringRef(object.data(), size)), "") << size;
}

TEST(Worker, HandsBackBytes) {
  Bytes big(300'000, 7);
  auto result = run_in_worker([&] { return big; });
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(std::get<Bytes>(*result), big);
}

TEST(Worker, FaultsAreLocatedInTheImage) {
  auto object = compile(counting_image);
  auto image = load_image(buffer(object));
  ASSERT_TRUE(bool(image));
  auto entry = reinterpret_cast<NativeEntry>(const_cast<void *>(image->find("fault")));
  auto result = run_in_worker([&] {
    entry(nullptr, nullptr);
    return Bytes{};
  });
  ASSERT_TRUE(bool(result));
  auto &fault = std::get<WorkerFault>(*result);
  EXPECT_EQ(fault.kind, WorkerFault::signal);
  EXPECT_EQ(fault.number, SIGSEGV);
  EXPECT_EQ(fault.address, 64u);
  auto place = image->locate(fault.pc);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->section, ".text");
  EXPECT_EQ(place->symbol, "crash");
  EXPECT_FALSE(image->locate(1).has_value());
  EXPECT_TRUE(describe(fault).starts_with("SIGSEGV at address 0x40 (pc 0x"));
}

WorkerFault fault(llvm::function_ref<Bytes()> work, WorkerLimits limits = {}) {
  auto result = run_in_worker(work, limits);
  EXPECT_TRUE(bool(result));
  return std::get<WorkerFault>(*result);
}

TEST(Worker, EveryEndIsAValue) {
  WorkerLimits short_time;
  short_time.time = std::chrono::milliseconds(100);
  auto spin = []() -> Bytes {
    for (volatile bool on = true; on;) {
    }
    return {};
  };
  auto sleep = []() -> Bytes {
    while (true)
      pause();
  };
  EXPECT_EQ(fault(spin, short_time).kind, WorkerFault::timed_out);
  EXPECT_EQ(fault(sleep, short_time).kind, WorkerFault::timed_out);
  EXPECT_EQ(fault([]() -> Bytes { __builtin_trap(); }).number, SIGILL);
  EXPECT_EQ(fault([]() -> Bytes { _exit(3); }), (WorkerFault{.kind = WorkerFault::exited, .number = 3}));
  EXPECT_EQ(fault([]() -> Bytes {
              raise(SIGKILL);
              return {};
            }).number,
            SIGKILL);
}

TEST(Worker, MemoryIsLimited) {
#if UJIT_ASAN || UJIT_TSAN
  GTEST_SKIP() << "sanitizers end a process whose memory is used up before we can";
#endif
  WorkerLimits small;
  small.memory_bytes = 64 << 20;
  EXPECT_EQ(fault([] { return Bytes(1 << 30, 1); }, small).kind, WorkerFault::no_memory);
}

std::string temporary(const char *name) { return testing::TempDir() + name + std::to_string(getpid()); }

TEST(Pcap, WhatIsWrittenIsRead) {
  std::vector<CapturedPacket> packets = {{1'600'000'000'123'456'789ull, Bytes(60, 1), 60},
                                         {5, Bytes(1514, 2), 9000}};
  std::string path = temporary("ujit_pcap");
  ASSERT_EQ(llvm::toString(write_pcap(path, packets)), "");
  auto read = read_pcap(path);
  ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
  EXPECT_EQ(*read, packets);

  std::ifstream in(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  std::ofstream(path, std::ios::binary) << bytes.substr(0, bytes.size() - 10);
  auto cut = read_pcap(path);
  ASSERT_FALSE(bool(cut));
  EXPECT_NE(llvm::toString(cut.takeError()).find("packet 2: "), std::string::npos);
  unlink(path.c_str());
}

/// A capture file with microseconds, by hand.
void write_old_pcap(const std::string &path, uint32_t link_type, const Bytes &packet) {
  const uint32_t header[] = {0xa1b2c3d4,
                             4u << 16 | 2,
                             0,
                             0,
                             65535,
                             link_type,
                             7,
                             5,
                             uint32_t(packet.size()),
                             uint32_t(packet.size())};
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char *>(header), sizeof header);
  out.write(reinterpret_cast<const char *>(packet.data()), std::streamsize(packet.size()));
}

TEST(Pcap, MicrosecondsAreTimesToo) {
  std::string path = temporary("ujit_pcap_us");
  Bytes packet(20, 9);
  write_old_pcap(path, 1, packet);
  auto read = read_pcap(path);
  ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
  EXPECT_EQ(*read, (std::vector<CapturedPacket>{{7'000'005'000, packet, 20}}));
  unlink(path.c_str());
}

TEST(Pcap, RefusesOtherLinksAndFiles) {
  std::string path = temporary("ujit_pcap_raw");
  write_old_pcap(path, 101, Bytes(20));
  auto raw = read_pcap(path);
  ASSERT_FALSE(bool(raw));
  EXPECT_EQ(llvm::toString(raw.takeError()), path + ": link type RAW (#12) is not supported, only Ethernet");
  std::ofstream(path) << "no capture at all, but long enough for a header";
  EXPECT_NE(llvm::toString(read_pcap(path).takeError()).find("not a capture file"), std::string::npos);
  unlink(path.c_str());
  EXPECT_EQ(llvm::toString(read_pcap("/nonexistent/x").takeError()),
            "/nonexistent/x: cannot be opened: No such file or directory");
  EXPECT_NE(llvm::toString(write_pcap("/nonexistent/x", {})), "");
}

// --- Programs
// ------------------------------------------------------------------------------------------------

Map map_of(std::string name, MapType type, uint32_t key, uint32_t value, uint32_t entries) {
  Map m;
  m.name = std::move(name);
  m.type = type;
  m.key_size = key;
  m.value_size = value;
  m.max_entries = entries;
  return m;
}

class EmbeddedPrograms : public testing::Test {
protected:
  void add(const std::string &name, const std::string &text, ProgType type = ProgType::xdp) {
    AssemblerOptions options;
    options.name = name;
    options.find_map = [&](std::string_view map) { return pipeline.find_map(map); };
    auto code = assemble(text, options);
    ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
    Program program;
    program.name = name;
    program.type = type;
    program.insns = std::move(code->insns);
    program.subprograms = std::move(code->subprograms);
    pipeline.programs.push_back(std::move(program));
  }

  PacketResult run(KernelOptions options = {}, const std::vector<MapSeed> &seeds = {}) {
    auto made = Kernel::create(pipeline, std::move(options));
    EXPECT_TRUE(bool(made)) << llvm::toString(made.takeError());
    kernel = std::move(*made);
    EXPECT_EQ(llvm::toString(kernel->seed(seeds)), "");
    EmbeddedHost host(*kernel);
    Interpreter interpreter(host, interpreter_options(pipeline.programs[0].type));
    auto result = run_interpreted(*kernel, interpreter, ProgId(0), packet);
    error = result ? "" : llvm::toString(result.takeError());
    return result ? *result : PacketResult{};
  }

  Pipeline pipeline;
  std::unique_ptr<Kernel> kernel;
  Bytes packet = Bytes(64, 3);
  std::string error;
};

TEST_F(EmbeddedPrograms, TailCallsAndMisses) {
  Map jump = map_of("jump", MapType::prog_array, 4, 4, 4);
  jump.prog_slots = {{1, ProgId(1)}};
  pipeline.maps.push_back(jump);
  const char *text = "r6 = r1\nr2 = map jump ll\nr3 = 0\ncall tail_call\nr1 = r6\nr2 = map jump ll\nr3 = 1\n"
                     "call tail_call\nr0 = 1\nexit";
  add("main", text);
  add("leaf", "r0 = 2\nexit");
  EXPECT_EQ(run().value, 2u) << error;
  pipeline.maps[0].prog_slots.clear();
  EXPECT_EQ(run().value, 1u) << error;
}

TEST_F(EmbeddedPrograms, EventsReachTheResult) {
  pipeline.maps.push_back(map_of("events", MapType::perf_event_array, 4, 4, 8));
  pipeline.maps.push_back(map_of("ring", MapType::ringbuf, 0, 0, 4096));
  add("main",
      "r6 = r1\nr1 = 0x11223344\n*(u64 *)(r10 - 8) = r1\n"
      "r1 = map ring ll\nr2 = r10\nr2 += -8\nr3 = 4\nr4 = 0\ncall ringbuf_output\n"
      "r1 = r6\nr2 = map events ll\nr3 = 0x4ffffffff ll\nr4 = r10\nr4 += -8\nr5 = 8\ncall perf_event_output\n"
      "exit");
  PacketResult result = run();
  EXPECT_EQ(result.value, 0u) << error;
  EXPECT_EQ(result.events,
            (std::vector<Event>{{MapId(0), 0, {0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 3, 3, 3, 3}},
                                {MapId(1), 0, {0x44, 0x33, 0x22, 0x11}}}));
  KernelOptions nobody;
  nobody.perf_readers = false;
  EXPECT_EQ(int(run(nobody).value), -ENOENT);
}

TEST_F(EmbeddedPrograms, RedirectThroughMaps) {
  pipeline.maps.push_back(map_of("ports", MapType::devmap, 4, 8, 4));
  add("main", "r1 = map ports ll\nr2 = 2\nr3 = 1\ncall redirect_map\nexit");
  EXPECT_EQ(run().value, uint32_t(XDP_DROP)) << "an empty slot gives the flags' action";
  PacketResult result = run({}, {{"ports", {{{2, 0, 0, 0}, {{9, 0, 0, 0, 0, 0, 0, 0}}}}}});
  EXPECT_EQ(result.value, uint32_t(XDP_REDIRECT));
  EXPECT_EQ(result.redirect.kind, Redirect::map);
  EXPECT_EQ(result.redirect.key, 2u);
  EXPECT_EQ(result.redirect.target, 9u);
}

TEST_F(EmbeddedPrograms, CallbacksAndTheirErrors) {
  add("main", "r1 = 5\nr2 = func step ll\nr3 = r10\nr3 += -8\n*(u64 *)(r10 - 8) = r1\nr4 = 0\ncall loop\n"
              "r1 = *(u64 *)(r10 - 8)\nr0 *= 100\nr0 += r1\nexit\n"
              "sub step:\nr3 = *(u64 *)(r2 + 0)\nr3 += r1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nif r1 != 3 goto "
              "on\nr0 = 1\n"
              "on:\nexit");
  EXPECT_EQ(run().value, 400u + 5 + 0 + 1 + 2 + 3) << error;
  pipeline.programs.clear();
  add("main", "r1 = 5\nr2 = func step ll\nr3 = 0\nr4 = 0\ncall loop\nr0 = 0\nexit\n"
              "sub step:\nr0 = *(u64 *)(r2 + 0)\nexit");
  run();
  EXPECT_NE(error, "") << "a bad access in a callback ends the run";
}

TEST_F(EmbeddedPrograms, UnknownHelperIsNamed) {
  add("main", "call get_current_comm\nexit");
  run();
  EXPECT_NE(error.find("helper bpf_get_current_comm (#16) is not supported in the embedded kernel"),
            std::string::npos)
      << error;
}

TEST_F(EmbeddedPrograms, RunsRepeat) {
  add("main", "call get_prandom_u32\nr6 = r0\ncall ktime_get_ns\nr0 ^= r6\nexit");
  uint32_t first = run().value;
  EXPECT_EQ(run().value, first);
  KernelOptions other;
  other.random_seed = 2;
  EXPECT_NE(run(other).value, first);
}

TEST_F(EmbeddedPrograms, PrintsAsTheKernelDoes) {
  add("main",
      "r1 = 0x78250a6425 ll\n*(u64 *)(r10 - 8) = r1\nr1 = r10\nr1 += -8\nr2 = 6\nr3 = -5\nr4 = 255\nr5 = 0\n"
      "call trace_printk\nexit");
  PacketResult result = run();
  EXPECT_EQ(result.printed, (std::vector<std::string>{"-5\nff"})) << error;
  EXPECT_EQ(result.value, 5u);
}

TEST_F(EmbeddedPrograms, PacketsThatDoNotFitAreRefused) {
  add("main", "r0 = 2\nexit");
  packet.resize(13);
  run();
  EXPECT_EQ(error, "packet of 13 bytes: shorter than an Ethernet header");
  packet.resize(4000);
  run();
  EXPECT_EQ(error, "packet of 4000 bytes: at most 3520 fit a buffer for xdp programs");
  pipeline.programs.clear();
  add("main", "r0 = 2\nexit", ProgType::kprobe);
  run();
  EXPECT_EQ(error, "programs of type kprobe do not run on packets");
}

TEST(Fib, LongestPrefixWins) {
  std::vector<FibRoute> routes;
  for (auto [prefix, ifindex, gateway] :
       {std::tuple("0.0.0.0/0", 1, "10.9.9.9"), std::tuple("10.0.0.0/8", 2, ""),
        std::tuple("10.1.128.0/17", 3, ""), std::tuple("2001:db8::/33", 4, "")}) {
    auto route = make_route(prefix, uint32_t(ifindex), "02:00:00:00:00:01", "02:00:00:00:00:0a", gateway);
    ASSERT_TRUE(bool(route)) << llvm::toString(route.takeError());
    routes.push_back(*route);
  }
  bpf_fib_lookup params = {};
  auto look_up = [&](const char *address) {
    params = {};
    params.family = strchr(address, ':') ? AF_INET6 : AF_INET;
    inet_pton(params.family, address, params.family == AF_INET6 ? (void *)params.ipv6_dst : &params.ipv4_dst);
    long result = fib_lookup(routes, params, sizeof params, 0, 0);
    return result == 0 ? int(params.ifindex) : -int(result);
  };
  EXPECT_EQ(look_up("10.1.200.1"), 3);
  EXPECT_EQ(params.dmac[5], 0x0a);
  EXPECT_EQ(look_up("10.1.100.1"), 2);
  EXPECT_EQ(look_up("8.8.8.8"), 1);
  EXPECT_EQ(params.ipv4_dst, inet_addr("10.9.9.9"));
  EXPECT_EQ(look_up("2001:db8:7fff::1"), 4);
  EXPECT_EQ(look_up("2001:db8:8000::1"), -BPF_FIB_LKUP_RET_NOT_FWDED);
  params.family = 77;
  EXPECT_EQ(fib_lookup(routes, params, sizeof params, 0, 0), -EAFNOSUPPORT);
  EXPECT_EQ(fib_lookup(routes, params, 10, 0, 0), -EINVAL);
  params.family = AF_INET;
  params.tot_len = 1501;
  EXPECT_EQ(fib_lookup(routes, params, sizeof params, 0, 0), BPF_FIB_LKUP_RET_FRAG_NEEDED);
}

TEST(Fib, WrongRoutesAreNamed) {
  auto why = [](const char *prefix, const char *mac = "02:00:00:00:00:01", const char *gateway = "") {
    return llvm::toString(make_route(prefix, 1, mac, "02:00:00:00:00:01", gateway).takeError());
  };
  EXPECT_EQ(why("10.0.0.0/33"), "route 10.0.0.0/33: wrong prefix length");
  EXPECT_EQ(why("10.0.0/8"), "route 10.0.0/8: not an IP prefix");
  EXPECT_EQ(why("10.0.0.0/8", "02:00"), "route 10.0.0.0/8: '02:00' is not a MAC address");
  EXPECT_NE(why("10.0.0.0/8", "02:00:00:00:00:01", "::1"), "");
}

} // namespace
} // namespace ujit
