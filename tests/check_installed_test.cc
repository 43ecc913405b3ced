// What decides whether an installed image counts as equal: contexts, paths as the kernel takes them, and what
// the originals' own two runs do not agree on.
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/helper_calls.h"
#include "kernel-iface/linux/module.h"
#include "lto/check_installed.h"
#include "lto/entrance.h"
#include "lto/footprints.h"
#include "lto/load.h"
#include "lto/noise.h"
#include "lto/test_hooks.h"
#include "tests/linux_pipeline.h"
#include "tests/paths.h"

#include "llvm/IR/Constants.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Module.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <cstddef>
#include <cstring>

namespace ujit {
namespace {

using namespace asm_;
using Bytes = std::vector<uint8_t>;

constexpr ProgType tc = ProgType::sched_cls;
constexpr int ktime_get_ns = 5, map_update_elem = 2;

std::string parse_error(std::string_view json) {
  auto parsed = parse_contexts(json, "c.json");
  return parsed ? "no error" : llvm::toString(parsed.takeError());
}

TEST(Contexts, FieldsBecomeTheStruct) {
  auto parsed = parse_contexts(
      R"({ "contexts": [ { "entry": "e", "mark": 3840, "cb": [1, 2] }, { "ingress_ifindex": 7 } ] })", "c");
  ASSERT_TRUE(bool(parsed)) << llvm::toString(parsed.takeError());
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ((*parsed)[0].entry, "e");
  const Bytes bytes = llvm::cantFail(context_bytes((*parsed)[0], tc));
  __sk_buff skb;
  ASSERT_EQ(bytes.size(), sizeof skb);
  std::memcpy(&skb, bytes.data(), sizeof skb);
  EXPECT_EQ(skb.mark, 3840u);
  EXPECT_EQ(skb.cb[1], 2u);
  const Bytes xdp = llvm::cantFail(context_bytes((*parsed)[1], ProgType::xdp));
  EXPECT_EQ(xdp[offsetof(xdp_md, ingress_ifindex)], 7);
  EXPECT_TRUE(llvm::cantFail(context_bytes({}, tc)).empty());
  auto no_words = parse_contexts(R"({ "contexts": [ { "cb": [] } ] })", "c");
  ASSERT_TRUE(bool(no_words)) << llvm::toString(no_words.takeError());
  EXPECT_EQ(llvm::cantFail(context_bytes(no_words->front(), tc)), Bytes(sizeof(__sk_buff)));
}

TEST(Contexts, Tunnels) {
  auto parsed = parse_contexts(
      R"({ "contexts": [ { "tunnel": { "id": 5, "remote": "10.0.0.2", "local": "10.0.0.1" } } ] })", "c");
  ASSERT_TRUE(bool(parsed)) << llvm::toString(parsed.takeError());
  ASSERT_TRUE(parsed->front().tunnel);
  EXPECT_EQ(parsed->front().tunnel->id, 5u);
  EXPECT_EQ(parsed->front().tunnel->remote, (Bytes{10, 0, 0, 2}));
  auto xdp = context_bytes(parsed->front(), ProgType::xdp);
  ASSERT_FALSE(bool(xdp));
  EXPECT_NE(llvm::toString(xdp.takeError()).find("know no tunnels"), std::string::npos);
  for (const char *tunnel :
       {"1", R"({"id": 5, "remote": "10.0.0.2"})", R"({"id": 5, "remote": "10.0.0.2", "local": "::1"})",
        R"({"id": 5, "remote": "here", "local": "there"})"})
    EXPECT_NE(parse_error(R"({"contexts": [{"tunnel": )" + std::string(tunnel) + "}]}").find("'tunnel' has"),
              std::string::npos)
        << tunnel;
}

TEST(Contexts, WrongOnesAreRefused) {
  EXPECT_NE(parse_error("[").find("not JSON"), std::string::npos);
  EXPECT_NE(parse_error("{}").find("there must be one member, 'contexts'"), std::string::npos);
  EXPECT_NE(parse_error(std::string(1 << 20, '[')).find("nested too deeply"), std::string::npos);
  EXPECT_NE(parse_error(R"({"contexts": [1]})").find("context 1 must be an object"), std::string::npos);
  EXPECT_NE(parse_error(R"({"contexts": [{"mark": -1}]})").find("'mark' must be a number"),
            std::string::npos);
  EXPECT_NE(parse_error(R"({"contexts": [{"entry": 1}]})").find("'entry' must be a name"), std::string::npos);
  for (const char *text : {R"({"contexts": [{"no": 1}]})", R"({"contexts": [{"cb": [1,2,3,4,5,6]}]})"}) {
    auto parsed = parse_contexts(text, "c");
    ASSERT_TRUE(bool(parsed)) << llvm::toString(parsed.takeError());
    auto bytes = context_bytes(parsed->front(), tc);
    ASSERT_FALSE(bool(bytes)) << text;
    EXPECT_NE(llvm::toString(bytes.takeError()).find("take no '"), std::string::npos);
  }
}

TEST(MapSizes, ComeFromTheManifest) {
  auto load = [](const std::string &maps) -> std::string {
    auto manifest = parse_manifest("ujit-lto: 1\nobjects: [ { path: " + binary_dir() +
                                       "/tests/install_tc.bpf.o } ]\nmaps: [ " + maps + " ]\n",
                                   "m");
    auto pipeline = load_pipeline(llvm::cantFail(std::move(manifest)));
    if (!pipeline)
      return llvm::toString(pipeline.takeError());
    std::string out;
    for (const Map &m : pipeline->maps)
      out += m.name + ":" + std::to_string(m.max_entries) + " ";
    return out;
  };
  EXPECT_NE(load("{ map: lengths, max-entries: 77 }").find("lengths:77 "), std::string::npos);
  EXPECT_NE(load("{ map: calls, max-entries: 1 }").find("map 'calls' has slots beyond 1 entries"),
            std::string::npos);
  EXPECT_NE(load("{ map: nothing, max-entries: 1 }").find("map 'nothing' does not exist"), std::string::npos);
}

Bytes words(std::initializer_list<uint32_t> values) {
  Bytes out(4 * values.size());
  std::memcpy(out.data(), std::data(values), out.size());
  return out;
}

Trace trace_of(Bytes packet, MapContents map) {
  Trace out;
  out.packets.resize(1);
  out.packets[0].result.packet = std::move(packet);
  out.maps = {{"m", std::move(map)}};
  return out;
}

TEST(Noise, OnlyWhatTheOriginalsDisagreeOnIsForgiven) {
  const Pipeline none;
  const Trace before = trace_of(words({1, 10, 3}), {{{1}, {words({7, 100})}}});
  const Trace after = trace_of(words({1, 12, 3}), {{{1}, {words({7, 102})}}});
  Trace same = trace_of(words({1, 11, 3}), {{{1}, {words({7, 101})}}});
  const auto varied = level_noise(none, before, same, after);
  EXPECT_EQ(varied, (std::map<std::string, size_t>{{"packet", 1}, {"m", 1}}));
  EXPECT_EQ(compare(none, before, same).total, 0u);
  // Words next to those that vary still count.
  Trace wrong = trace_of(words({2, 11, 3}), {{{1}, {words({8, 101})}}});
  level_noise(none, before, wrong, after);
  EXPECT_EQ(compare(none, before, wrong).total, 2u);
}

TEST(Noise, KeysThatVary) {
  const Pipeline none;
  const MapEntry one{{1}, {{1}}}, two{{2}, {{2}}}, three{{3}, {{3}}}, four{{4}, {{4}}};
  Trace between = trace_of({}, {one, four});
  level_noise(none, trace_of({}, {one, two}), between, trace_of({}, {one, three}));
  EXPECT_EQ(between.maps[0].entries, (MapContents{one, two}));
  // Where the originals agree on the keys, one too few or too many is a difference.
  const Trace before = trace_of({}, {one, two});
  for (const MapContents &wrong : {MapContents{one}, MapContents{one, two, three}}) {
    Trace t = trace_of({}, wrong);
    EXPECT_TRUE(level_noise(none, before, t, before).empty());
    EXPECT_EQ(compare(none, before, t).total, 1u);
  }
}

/// tc: `entry` calls slot (mark & 3) and gives 9 where it is empty; `clock` writes the time down, `loop`
/// calls itself until the count is spent.
Pipeline example() {
  const MapId calls{0}, times{1};
  Pipeline p;
  p.maps = {map("calls", MapType::prog_array, 4, 4, 4), map("times", MapType::hash, 4, 16, 8)};
  p.programs = {program("entry",
                        code({mov_reg(6, 1),
                              load32(3, 6, offsetof(__sk_buff, mark)),
                              {insn(0x57, 3, 0, 0, 3)},
                              mov_reg(1, 6),
                              map_ref(2, calls),
                              helper(12),
                              mov(0, 9),
                              exit()}),
                        tc),
                program("clock",
                        code({helper(ktime_get_ns),
                              store64_reg(10, 0, -16),
                              mov(1, 5),
                              store64_reg(10, 1, -8),
                              mov(1, 0),
                              {insn(0x63, 10, 1, -20, 0)},
                              map_ref(1, times),
                              mov_reg(2, 10),
                              add(2, -20),
                              mov_reg(3, 10),
                              add(3, -16),
                              mov(4, 0),
                              helper(map_update_elem),
                              mov(0, 1),
                              exit()}),
                        tc),
                program("loop", code({mov_reg(6, 1), tail_call(calls, 2), mov(0, 2), exit()}), tc)};
  p.maps[0].prog_slots = {{1, ProgId(1)}, {2, ProgId(2)}};
  p.entries = {ProgId(0)};
  return p;
}

std::vector<WayIn> marks(std::initializer_list<uint32_t> values) {
  std::vector<WayIn> out;
  for (uint32_t mark : values) {
    RunContext c;
    c.fields = {{"mark", {mark}}};
    out.push_back({ProgId(0), llvm::cantFail(context_bytes(c, tc)), {}, "mark " + std::to_string(mark)});
  }
  return out;
}

class LinuxCheckInstalled : public testing::Test {
protected:
  void SetUp() override {
    const Capabilities c = probe_capabilities();
    if (!c.bpf.ok)
      GTEST_SKIP() << "bpf(): " << c.bpf.reason;
    if (!c.test_run.ok)
      GTEST_SKIP() << "test run: " << c.test_run.reason;
    for (CapturedPacket &packet : packets)
      packet.bytes.assign(64, 0);
  }
  std::array<CapturedPacket, 2> packets;
};

TEST_F(LinuxCheckInstalled, FootprintsShowThePath) {
  const Pipeline p = example();
  Witness witness = llvm::cantFail(Witness::load(p, {}));
  const std::pair<uint32_t, size_t> wanted[] = {{0, 1}, {1, 2}, {2, 34}};
  for (const auto &[mark, programs] : wanted) {
    ASSERT_FALSE(bool(witness.forget()));
    TestRunOptions options;
    options.context = marks({mark})[0].context;
    const TestRunResult r = llvm::cantFail(witness.loaded().run(ProgId(0), packets[0].bytes, options));
    EXPECT_EQ(r.retval, mark ? mark : 9);
    const std::vector<ProgId> path = llvm::cantFail(witness.path());
    ASSERT_EQ(path.size(), programs) << mark;
    EXPECT_EQ(index(path[0]), 0u);
    if (mark) {
      EXPECT_EQ(index(path.back()), mark);
    }
  }
}

/// The program gives the tunnel's remote address back, or 0.
TEST_F(LinuxCheckInstalled, TunnelKeysAreSeen) {
  constexpr int get_tunnel_key = 20;
  Pipeline p;
  p.programs = {program("entry",
                        code({mov_reg(2, 10), add(2, -48), mov(3, 44), mov(4, 0), helper(get_tunnel_key),
                              jump_if_not_zero(0, 2), load32(0, 10, -44), exit(), mov(0, 0), exit()}),
                        tc)};
  p.entries = {ProgId(0)};
  LoadedPipeline loaded = llvm::cantFail(load_into_kernel(p, {}));
  TunnelKey key;
  key.remote = {10, 0, 0, 2};
  key.local = {10, 0, 0, 1};
  for (const bool with_key : {false, true}) {
    const Entrance entrance =
        llvm::cantFail(Entrance::make(with_key ? std::optional(key) : std::nullopt, loaded.fd(ProgId(0))));
    TestRunOptions options;
    options.instead = entrance.fd();
    EXPECT_EQ(llvm::cantFail(loaded.run(ProgId(0), packets[0].bytes, options)).retval,
              with_key ? 0x0a000002u : 0u);
  }
}

TEST_F(LinuxCheckInstalled, DryRunTellsWhatIsReached) {
  const Pipeline p = example();
  Manifest manifest;
  const Execution x{p, ProgId(0), packets, {}, {}};
  auto r = check_reach(x, marks({0, 1}), manifest);
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->packets, 4u);
  EXPECT_EQ(r->possible.programs, (std::set<std::string>{"entry", "clock", "loop"}));
  EXPECT_EQ(r->possible.edges.size(), 3u);
  EXPECT_EQ(r->reached.programs, (std::set<std::string>{"entry", "clock"}));
  EXPECT_EQ(r->reached.edges.size(), 1u);
  EXPECT_EQ(r->paths.size(), 2u);
}

/// Why this kernel takes no image, or an empty string.
std::string no_images() {
  Expected<ModuleKernel> kernel = read_module_kernel();
  return kernel ? kernel->refusal : llvm::toString(kernel.takeError());
}

void nine_becomes_eight(llvm::Module &module) {
  for (llvm::Function &f : module)
    for (llvm::Instruction &i : llvm::instructions(f))
      for (llvm::Use &operand : i.operands())
        if (auto *c = llvm::dyn_cast<llvm::ConstantInt>(operand); c && c->equalsInt(9))
          operand.set(llvm::ConstantInt::get(c->getType(), 8));
}

TEST_F(LinuxCheckInstalled, ClocksAreNoDifference) {
  if (const std::string why = no_images(); !why.empty())
    GTEST_SKIP() << why;
  const Pipeline p = example();
  Manifest manifest;
  const Execution x{p, ProgId(0), packets, {}, {}};
  auto r = check_installed(x, marks({0, 1, 2, 3}), manifest, {});
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->comparison.total, 0u);
  EXPECT_EQ(r->varied.count("times"), 1u);
  EXPECT_EQ(r->packets, 8u);
  EXPECT_EQ(r->not_run, 0u);
  EXPECT_EQ(r->reached.programs, r->facts.possible.programs);
  EXPECT_EQ(r->reached.edges, r->facts.possible.edges);
  EXPECT_EQ(r->paths.size(), 3u);
}

/// What no test run shows. An image that redirects to 8 where the chain redirects to 9.
TEST_F(LinuxCheckInstalled, RedirectsAreSeen) {
  if (const std::string why = no_images(); !why.empty())
    GTEST_SKIP() << why;
  constexpr int redirect = 23;
  Pipeline p;
  p.programs = {program("entry", code({mov(1, 9), mov(2, 0), helper(redirect), exit()}), tc)};
  p.entries = {ProgId(0)};
  {
    LoadedPipeline loaded = llvm::cantFail(load_into_kernel(p, {}));
    auto calls = HelperCalls::watch();
    if (!calls)
      GTEST_SKIP() << llvm::toString(calls.takeError());
    TunnelKey key;
    key.id = 5;
    key.remote = key.local = {10, 0, 0, 2};
    const Entrance entrance = llvm::cantFail(Entrance::make(key, loaded.fd(ProgId(0))));
    TestRunOptions options;
    options.instead = entrance.fd();
    ASSERT_FALSE(bool(calls->forget()));
    llvm::cantFail(loaded.run(ProgId(0), packets[0].bytes, options));
    const std::vector<std::string> seen = llvm::cantFail(calls->take());
    ASSERT_EQ(seen.size(), 2u);
    EXPECT_TRUE(llvm::StringRef(seen[0]).starts_with("bpf_skb_set_tunnel_key(0x2c, 0x0, 05000000"))
        << seen[0];
    EXPECT_EQ(seen[1], "bpf_redirect(0x9, 0x0)");
  }
  test_hooks.lowered = nine_becomes_eight;
  Manifest manifest;
  const Execution x{p, ProgId(0), packets, {}, {}};
  auto r = check_installed(x, marks({0}), manifest, {});
  test_hooks = {};
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  EXPECT_EQ(r->no_calls, "");
  ASSERT_EQ(r->comparison.total, 2u);
  EXPECT_EQ(r->comparison.differences[0].field, "helper calls (mark 0)");
  EXPECT_EQ(r->comparison.differences[0].right_value, "bpf_redirect(0x8, 0x0)");
}

/// An image that gives 8 where the chain gives 9.
TEST_F(LinuxCheckInstalled, WrongCodeIsADifference) {
  if (const std::string why = no_images(); !why.empty())
    GTEST_SKIP() << why;
  test_hooks.lowered = nine_becomes_eight;
  const Pipeline p = example();
  Manifest manifest;
  const Execution x{p, ProgId(0), packets, {}, {}};
  auto r = check_installed(x, marks({0, 1}), manifest, {});
  test_hooks = {};
  ASSERT_TRUE(bool(r)) << llvm::toString(r.takeError());
  ASSERT_EQ(r->comparison.total, 2u);
  EXPECT_EQ(r->comparison.differences[1].packet, 1u);
  EXPECT_EQ(r->comparison.differences[1].field, "return value (mark 0)");
  EXPECT_EQ(r->comparison.differences[1].right_value, "8");
}

} // namespace
} // namespace ujit
