// The test network and its packets, with stock programs attached: what is sent arrives, in the form in which
// it was sent, and once.
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/load.h"
#include "tests/linux_pipeline.h"
#include "tests/support/traffic.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <cstring>

namespace ujit {
namespace {

using namespace asm_;

/// `redirect(device, 0)`.
Program redirects(ProgType type, int device) {
  return program("redirects", code({mov(1, device), mov(2, 0), helper(23), exit()}), type);
}

class LinuxTraffic : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
  }
  /// Skips the test where there are no networks to be had.
  void start(const TestNetworkOptions &options = {}) {
    Expected<TestNetwork> made = TestNetwork::make(options);
    if (!made)
      GTEST_SKIP() << llvm::toString(made.takeError());
    network = std::make_unique<TestNetwork>(std::move(*made));
    traffic = std::make_unique<Traffic>(llvm::cantFail(Traffic::make(*network)));
  }
  int load(Program p, std::vector<Map> maps = {}) {
    Pipeline pipeline;
    pipeline.maps = std::move(maps);
    pipeline.programs = {std::move(p)};
    loaded.push_back(llvm::cantFail(load_into_kernel(pipeline)));
    return loaded.back().fd(ProgId{0});
  }
  void attach(TcSide side, unsigned link, Program p, std::vector<Map> maps = {}) {
    llvm::cantFail(attach_tc(network->device(link), side, load(std::move(p), std::move(maps))));
  }
  std::vector<Observed> exchange(const Stimulus &stimulus) {
    return llvm::cantFail(traffic->exchange(0, stimulus));
  }

  std::vector<LoadedPipeline> loaded;
  std::unique_ptr<TestNetwork> network;
  std::unique_ptr<Traffic> traffic;
};
#define START(...)                                                                                           \
  start(__VA_ARGS__);                                                                                        \
  if (IsSkipped())                                                                                           \
  return

/// As the kernel holds a tagged frame: the tag beside it.
Observed wanted_at(unsigned link, SeenAt at, const Stimulus &stimulus) {
  Observed out{link, at, stimulus.frame, stimulus.offload, std::nullopt};
  out.offload.header_size = 0;
  if (stimulus.frame.size() > 18 && stimulus.frame[12] == 0x81) {
    out.vlan = stimulus.frame[15];
    out.frame.erase(out.frame.begin() + 12, out.frame.begin() + 16);
    if (out.offload.partial_checksum)
      out.offload.checksum_start -= 4;
  }
  return out;
}

void expect_equal(const std::vector<Observed> &got, const std::vector<Observed> &wanted,
                  const std::string &what) {
  ASSERT_EQ(got.size(), wanted.size()) << what << (got.empty() ? "" : ": " + print(got[0]));
  for (size_t i = 0; i < got.size(); i++)
    EXPECT_EQ(got[i], wanted[i]) << what << "\n  " << print(got[i]) << "\n  wanted " << print(wanted[i]);
}

// --- tc
// ------------------------------------------------------------------------------------------------------

TEST_F(LinuxTraffic, every_packet_in_every_shape_is_redirected_by_tc_as_it_is) {
  START();
  attach(TcSide::ingress, 0, redirects(ProgType::sched_cls, network->device(1)));
  size_t count = 0;
  for (const Stimulus &plain : varied_packets(0)) {
    for (const Stimulus &stimulus : shapes_of(plain)) {
      if (stimulus.frame.size() == 14)
        continue; // not every kernel redirects empty packets
      expect_equal(exchange(stimulus), {wanted_at(1, SeenAt::outer, stimulus)}, stimulus.name);
      count++;
    }
  }
  EXPECT_EQ(count, 64u);
}

TEST_F(LinuxTraffic, the_stack_sees_what_ingress_programs_pass) {
  START();
  Stimulus udp = varied_packets(0)[0];
  expect_equal(exchange(udp), {wanted_at(0, SeenAt::stack, udp)}, "no program");
  attach(TcSide::ingress, 0, program("drops", code({mov(0, TC_ACT_SHOT), exit()}), ProgType::sched_cls));
  expect_equal(exchange(udp), {}, "drops");
  attach(TcSide::ingress, 0, program("passes", code({mov(0, TC_ACT_OK), exit()}), ProgType::sched_cls));
  expect_equal(exchange(udp), {wanted_at(0, SeenAt::stack, udp)}, "passes");
}

TEST_F(LinuxTraffic, only_the_ethernet_header_of_a_paged_packet_is_in_reach) {
  START();
  constexpr int16_t data = offsetof(__sk_buff, data), end = offsetof(__sk_buff, data_end);
  attach(
      TcSide::ingress, 0,
      program("reads",
              code({load32(2, 1, data), load32(3, 1, end), add(2, 34), jump_if_greater(2, 3, 4),
                    mov(1, network->device(1)), mov(2, 0), helper(23), exit(), mov(0, TC_ACT_SHOT), exit()}),
              ProgType::sched_cls));
  Stimulus udp = varied_packets(0)[0];
  EXPECT_EQ(exchange(udp).size(), 1u);
  udp.paged = true;
  EXPECT_EQ(exchange(udp).size(), 0u);
  udp.offload.header_size = 42;
  EXPECT_EQ(exchange(udp).size(), 1u);
}

TEST_F(LinuxTraffic, programs_write_copies_of_captured_packets) {
  START();
  constexpr int32_t store_bytes = 9;
  attach(TcSide::ingress, 0,
         program("writes",
                 code({mov_reg(6, 1), store32(10, -4, 0x55555555), mov(2, 26), mov_reg(3, 10), add(3, -4),
                       mov(4, 4), mov(5, 0), helper(store_bytes), mov(1, network->device(1)), mov(2, 0),
                       helper(23), exit()}),
                 ProgType::sched_cls));
  llvm::cantFail(traffic->start_capture(0));
  for (const Stimulus &stimulus : shapes_of(varied_packets(0)[0])) {
    Observed wanted = wanted_at(1, SeenAt::outer, stimulus);
    std::memset(wanted.frame.data() + 26, 0x55, 4);
    expect_equal(exchange(stimulus), {wanted}, stimulus.name);
  }
  EXPECT_EQ(traffic->captured(), 4u);
  EXPECT_EQ(traffic->captured(), 0u);
}

// --- XDP
// -----------------------------------------------------------------------------------------------------

TEST_F(LinuxTraffic, every_packet_in_every_shape_is_redirected_by_xdp) {
  START({.outer_xdp = true});
  llvm::cantFail(attach_xdp(network->device(0), load(redirects(ProgType::xdp, network->device(1)))));
  for (const Stimulus &plain : varied_packets(0)) {
    for (const Stimulus &stimulus : shapes_of(plain)) {
      std::vector<Observed> got = exchange(stimulus);
      if (stimulus.offload.gso_type) { // a device with XDP takes single segments only
        EXPECT_EQ(got.size(), 6u) << stimulus.name;
        continue;
      }
      Observed wanted = wanted_at(1, SeenAt::outer, stimulus);
      wanted.offload = {}; // buffers of XDP have none
      expect_equal(got, {wanted}, stimulus.name);
    }
  }
}

TEST_F(LinuxTraffic, xdp_sends_back_drops_and_passes) {
  START({.outer_xdp = true});
  Stimulus udp = varied_packets(0)[0];
  struct {
    int32_t verdict;
    std::vector<Observed> wanted;
  } cases[] = {{XDP_TX, {wanted_at(0, SeenAt::outer, udp)}},
               {XDP_DROP, {}},
               {XDP_ABORTED, {}},
               {XDP_PASS, {wanted_at(0, SeenAt::stack, udp)}}};
  for (bool native : {true, false}) {
    if (!native) // both kinds at a time are refused
      llvm::cantFail(attach_xdp(network->device(0), -1));
    for (const auto &[verdict, wanted] : cases) {
      llvm::cantFail(
          attach_xdp(network->device(0), load(program("verdict", code({mov(0, verdict), exit()}))), native));
      expect_equal(exchange(udp), wanted, "verdict " + std::to_string(verdict));
    }
  }
}

// Sent back, as 6.1 does not redirect packets in several buffers.
TEST_F(LinuxTraffic, large_packets_reach_only_programs_with_frags) {
  START({.mtu = 9000, .outer_xdp = true});
  Program p = program("sends_back", code({mov(0, XDP_TX), exit()}));
  EXPECT_NE(llvm::toString(attach_xdp(network->device(0), load(p))), "");
  p.section = "xdp.frags";
  llvm::cantFail(attach_xdp(network->device(0), load(p)));
  Stimulus large = varied_packets(0)[0];
  for (size_t size : {3000, 5000, 9014}) {
    large.frame.resize(size, 0xaa);
    for (bool paged : {false, true}) {
      large.paged = paged;
      expect_equal(exchange(large), {wanted_at(0, SeenAt::outer, large)}, std::to_string(size) + " bytes");
    }
  }
}

// --- TCP
// -----------------------------------------------------------------------------------------------------

TEST_F(LinuxTraffic, bulk_data_comes_in_large_buffers) {
  START();
  // Counts buffers of more than 1,514 bytes.
  constexpr int16_t length = offsetof(__sk_buff, len);
  attach(
      TcSide::ingress, 0,
      program("counts",
              code({load32(6, 1, length), mov(7, 1514), jump_if_greater(7, 6, 5), value_ref(1, MapId{0}, 0),
                    load64(2, 1, 0), add(2, 1), store64_reg(1, 2, 0), mov(0, TC_ACT_OK), exit()}),
              ProgType::sched_cls),
      {data_map("count", std::vector<uint8_t>(8), false)});
  uint64_t before = 0;
  for (BulkSource source : {BulkSource::copied, BulkSource::sendfile, BulkSource::zerocopy}) {
    EXPECT_EQ(llvm::toString(send_bulk(*network, 0, 1 << 20, source)), "");
    uint64_t count = 0;
    std::memcpy(&count, llvm::cantFail(loaded.back().read(MapId{0})).at(0).values[0].data(), 8);
    EXPECT_GT(count, before + 10);
    before = count;
  }
}

} // namespace
} // namespace ujit
