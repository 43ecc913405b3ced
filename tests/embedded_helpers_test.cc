// Helpers and contexts of the embedded kernel: the same programs, by the interpreter there and by
// BPF_PROG_TEST_RUN in the running kernel, must leave the same packet, return value and results.
#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/linux/load.h"
#include "translator/assembler.h"

#include "llvm/Support/FormatVariadic.h"

#include <gtest/gtest.h>

#include <cstring>
#include <linux/bpf.h>
#include <random>

namespace ujit {
namespace {

using llvm::formatv;
using Bytes = std::vector<uint8_t>;

constexpr uint32_t result_count = 64;

/// A program in assembler text, with an array `out` of 64 numbers for what it wants to tell.
class Script {
public:
  explicit Script(ProgType type) : type_(type) {
    text_ = "r6 = r1\n";
    for (int at = -64; at < 0; at += 8) {
      line(formatv("r1 = {0}", at * 0x1234567 & 0x7fffffff));
      line("r1 *= r1");
      line(formatv("*(u64 *)(r10 - {0}) = r1", -at));
    }
  }

  void line(const std::string &text) { text_ += text + "\n"; }

  /// Calls a helper with the context and these arguments ("7", "r10 - 8") and keeps the result.
  void call(const std::string &name, std::vector<std::string> args, bool with_context = true) {
    unsigned reg = 1;
    if (with_context)
      line(formatv("r{0} = r6", reg++));
    for (const std::string &arg : args) {
      if (arg.starts_with("r10")) {
        line(formatv("r{0} = r10", reg));
        line(formatv("r{0} += {1}", reg, arg.substr(3)));
      } else {
        line(formatv("r{0} = {1}", reg, arg));
      }
      reg++;
    }
    line("call " + name);
    keep();
  }

  /// Keeps r0.
  void keep() {
    line(formatv("r1 = map out + {0} ll", 8 * kept_++));
    line("*(u64 *)(r1 + 0) = r0");
  }
  void keep_stack(int at) {
    line(formatv("r0 = *(u64 *)(r10 - {0})", -at));
    keep();
  }
  void keep_context(size_t offset, unsigned bits = 32) {
    line(formatv("r0 = *(u{0} *)(r6 + {1})", bits, offset));
    keep();
  }
  /// Copies `count` words from a packet pointer of the context, after a check against another.
  void keep_packet(size_t from, size_t end, unsigned count) {
    std::string label = formatv("short{0}", kept_);
    line(formatv("r7 = *(u32 *)(r6 + {0})", from));
    line(formatv("r8 = *(u32 *)(r6 + {0})", end));
    line("r9 = r7");
    line(formatv("r9 += {0}", count * 4));
    line(formatv("if r9 > r8 goto {0}", label));
    for (unsigned i = 0; i < count; i++) {
      line(formatv("r0 = *(u32 *)(r7 + {0})", i * 4));
      keep();
    }
    line(label + ":");
  }
  bool full() const { return kept_ + 20 > result_count; }
  const std::string &text() const { return text_; }

  Pipeline finish(int verdict) {
    line(formatv("r0 = {0}", verdict));
    line("exit");
    Pipeline p;
    Map out;
    out.name = "out";
    out.type = MapType::array;
    out.key_size = 4;
    out.value_size = result_count * 8;
    out.max_entries = 1;
    p.maps.push_back(out);
    AssemblerOptions options;
    options.find_map = [](std::string_view) { return MapId(0); };
    auto code = assemble(text_, options);
    EXPECT_TRUE(bool(code)) << llvm::toString(code.takeError()) << text_;
    Program program;
    program.name = "main";
    program.object = "test";
    program.type = type_;
    program.insns = std::move(code->insns);
    program.subprograms = std::move(code->subprograms);
    p.programs.push_back(std::move(program));
    p.entries = {ProgId(0)};
    return p;
  }

private:
  ProgType type_;
  std::string text_;
  unsigned kept_ = 0;
};

/// What both kernels tell about a run.
struct Outcome {
  uint32_t value = 0;
  Bytes packet, metadata;
  std::vector<uint64_t> out;
};

/// Where the embedded kernel differs, by field; empty if nowhere.
std::string difference(const Outcome &got, const Outcome &expected) {
  std::string out;
  auto differ = [&](const std::string &what, const std::string &a, const std::string &b) {
    if (a != b)
      out += what + ": " + a + " instead of " + b + "\n";
  };
  differ("return value", std::to_string(got.value), std::to_string(expected.value));
  differ("packet", to_hex(got.packet), to_hex(expected.packet));
  differ("metadata", to_hex(got.metadata), to_hex(expected.metadata));
  for (size_t i = 0; i < result_count; i++)
    differ(formatv("result {0}", i), formatv("{0:x}", got.out[i]), formatv("{0:x}", expected.out[i]));
  return out;
}

std::vector<uint64_t> numbers(const MapContents &contents) {
  std::vector<uint64_t> out(result_count);
  if (!contents.empty())
    memcpy(out.data(), contents[0].values[0].data(), result_count * 8);
  return out;
}

Expected<Outcome> in_linux(const Pipeline &p, const Bytes &packet) {
  auto loaded = load_into_kernel(p);
  if (!loaded)
    return loaded.takeError();
  auto result = loaded->run(ProgId(0), packet);
  if (!result)
    return result.takeError();
  auto contents = loaded->read(MapId(0));
  if (!contents)
    return contents.takeError();
  return Outcome{result->retval, result->packet, result->metadata, numbers(*contents)};
}

Expected<Outcome> embedded(const Pipeline &p, const Bytes &packet) {
  auto kernel = Kernel::create(p);
  if (!kernel)
    return kernel.takeError();
  EmbeddedHost host(**kernel);
  Interpreter interpreter(host, interpreter_options(p.programs[0].type));
  auto result = run_interpreted(**kernel, interpreter, ProgId(0), packet);
  if (!result)
    return result.takeError();
  return Outcome{result->value, result->packet, result->metadata, numbers((*kernel)->snapshot()[0].entries)};
}

/// An IPv4 or IPv6 packet, with or without VLAN tag, otherwise random.
Bytes some_packet(std::mt19937 &random) {
  Bytes packet(60 + random() % 100);
  for (uint8_t &b : packet)
    b = uint8_t(random());
  static constexpr uint8_t types[][2] = {{8, 0}, {8, 0}, {0x86, 0xdd}, {0x81, 0}, {0x88, 0xa8}, {0, 40}};
  memcpy(&packet[12], types[random() % std::size(types)], 2);
  memcpy(&packet[16], types[random() % 3], 2);
  if (random() % 3 == 0)
    memset(packet.data(), 0, 6);
  return packet;
}

class AgainstTestRun : public testing::TestWithParam<int> {
protected:
  void SetUp() override {
    Script script(ProgType::xdp);
    Pipeline p = script.finish(2);
    if (auto probe = in_linux(p, Bytes(64)); !probe)
      GTEST_SKIP() << llvm::toString(probe.takeError());
  }

  void compare(Script &script, int verdict, const Bytes &packet) {
    Pipeline p = script.finish(verdict);
    auto expected = in_linux(p, packet);
    ASSERT_TRUE(bool(expected)) << llvm::toString(expected.takeError()) << "\n" << script.text();
    auto got = embedded(p, packet);
    ASSERT_TRUE(bool(got)) << llvm::toString(got.takeError()) << "\n" << script.text();
    EXPECT_EQ(difference(*got, *expected), "") << script.text() << "packet " << to_hex(packet);
  }
};

std::string number(std::mt19937 &random, std::initializer_list<int> choices) {
  return std::to_string(*(choices.begin() + random() % choices.size()));
}
std::string below(std::mt19937 &random, unsigned limit) { return std::to_string(random() % limit); }
std::string word(std::mt19937 &random) { return std::to_string(int32_t(random())); }

TEST_P(AgainstTestRun, XdpHelpers) {
  std::mt19937 random(GetParam());
  Script script(ProgType::xdp);
  while (!script.full()) {
    switch (random() % 6) {
    case 0:
      script.call("xdp_adjust_head", {number(random, {-4, 4, 20, -20, -100, 60, -250, 4000, -50})});
      break;
    case 1: script.call("xdp_adjust_meta", {number(random, {-4, -8, 4, -3, -32, -252, -300, 2})}); break;
    case 2:
      script.call("xdp_adjust_tail", {number(random, {-4, 10, -60, 300, 3400, -10000, 4000, -20})});
      break;
    case 3: script.call("xdp_get_buff_len", {}); break;
    case 4:
      script.call("xdp_load_bytes", {below(random, 200), "r10 - 8", "8"});
      script.keep_stack(-8);
      break;
    case 5: script.call("xdp_store_bytes", {below(random, 200), "r10 - 24", "13"}); break;
    }
    if (random() % 2)
      script.keep_packet(offsetof(xdp_md, data), offsetof(xdp_md, data_end), 2);
    else if (random() % 2)
      script.keep_packet(offsetof(xdp_md, data_meta), offsetof(xdp_md, data), 1);
  }
  compare(script, int(random() % 4), some_packet(random));
}

void some_skb_call(Script &script, std::mt19937 &random) {
  switch (random() % 20) {
  case 0:
    script.call("skb_store_bytes", {below(random, 150), "r10 - 24", "14", number(random, {0, 1, 2, 3, 4})});
    break;
  case 1:
    script.call("skb_load_bytes", {below(random, 150), "r10 - 8", "8"});
    script.keep_stack(-8);
    break;
  case 2:
    script.call("skb_load_bytes_relative", {below(random, 150), "r10 - 8", "8", below(random, 3)});
    script.keep_stack(-8);
    break;
  case 3:
    script.call("l3_csum_replace", {below(random, 140), number(random, {0, 7, 0x1234, -5}), word(random),
                                    number(random, {0, 2, 4, 4, 2, 3, 16})});
    break;
  case 4:
  case 5:
    script.call("l4_csum_replace", {below(random, 140), number(random, {0, 0, 0x12345678, -5}), word(random),
                                    number(random, {0, 2, 4, 0x12, 0x14, 0x34, 0x22, 0x60, 0x62, 0x100})});
    break;
  case 6:
    script.call(
        "csum_diff",
        {"r10 - 64", number(random, {0, 4, 20, 32}), "r10 - 32", number(random, {0, 8, 24}), word(random)},
        false);
    break;
  case 7: script.call("skb_pull_data", {number(random, {0, 14, 60, 200, 100000})}); break;
  case 8: script.call("csum_level", {below(random, 5)}); break;
  case 9: script.call("csum_update", {word(random)}); break;
  case 10:
    script.call("skb_change_tail",
                {number(random, {10, 14, 34, 60, 100, 1500, 20000}), number(random, {0, 0, 0, 1})});
    break;
  case 11:
    script.call("skb_change_head", {number(random, {0, 14, 20, -1, 17000}), number(random, {0, 0, 0, 1})});
    break;
  case 12:
  case 13:
    script.call("skb_adjust_room",
                {number(random, {20, -20, 4, -8, 50, -500, 5000, 40}), number(random, {0, 1, 1, 2}),
                 number(random, {0, 0, 2, 4, 0x0a, 0x12, 0x20, 6, 0x18, 0x80, 0x100, 0x180})});
    break;
  case 14:
    script.call("skb_change_proto", {number(random, {0x0008, 0xdd86}), number(random, {0, 0, 0, 1})});
    break;
  case 15: script.call("skb_vlan_push", {number(random, {0x0081, 0xa888, 0}), below(random, 4096)}); break;
  case 16: script.call("skb_vlan_pop", {}); break;
  case 17: script.call("skb_change_type", {below(random, 6)}); break;
  case 18: script.call("set_hash", {word(random)}); break;
  case 19: script.call("set_hash_invalid", {}); break;
  }
}

void keep_skb(Script &script) {
  for (size_t offset :
       {offsetof(__sk_buff, len), offsetof(__sk_buff, protocol), offsetof(__sk_buff, vlan_present),
        offsetof(__sk_buff, vlan_tci), offsetof(__sk_buff, vlan_proto), offsetof(__sk_buff, pkt_type),
        offsetof(__sk_buff, hash)})
    script.keep_context(offset);
}

TEST_P(AgainstTestRun, SkbHelpers) {
  std::mt19937 random(GetParam() + 1000);
  Script script(ProgType::sched_cls);
  while (!script.full())
    some_skb_call(script, random);
  keep_skb(script);
  script.keep_packet(offsetof(__sk_buff, data), offsetof(__sk_buff, data_end), 4);
  compare(script, 0, some_packet(random));
}

TEST_P(AgainstTestRun, OneSkbHelper) {
  std::mt19937 random(GetParam() + 2000);
  Script script(ProgType::sched_cls);
  some_skb_call(script, random);
  keep_skb(script);
  compare(script, 0, some_packet(random));
}

TEST_P(AgainstTestRun, ContextFields) {
  std::mt19937 random(GetParam() + 3000);
  Script xdp(ProgType::xdp);
  for (const ContextField &field : context_fields(ProgType::xdp))
    if (field.kind == FieldKind::scalar && field.name != "egress_ifindex")
      xdp.keep_context(field.offset);
  compare(xdp, 2, some_packet(random));

  Script skb(ProgType::sched_cls);
  for (const ContextField &field : context_fields(ProgType::sched_cls)) {
    bool sockets_only =
        field.offset >= offsetof(__sk_buff, family) && field.offset <= offsetof(__sk_buff, local_port);
    if (field.kind == FieldKind::scalar && !sockets_only && field.name != "cb")
      skb.keep_context(field.offset, field.size * 8);
  }
  skb.keep_context(offsetof(__sk_buff, cb[4]));
  for (const char *name : {"get_cgroup_classid", "get_route_realm", "skb_cgroup_classid"})
    skb.call(name, {});
  compare(skb, 0, some_packet(random));
}

INSTANTIATE_TEST_SUITE_P(Seeds, AgainstTestRun, testing::Range(0, 60));

} // namespace
} // namespace ujit
