// Buffers that only real networks make: larger than a page, in several pieces, segmented by TCP itself, out
// of files and of user pages.
#include "tests/install_bed.h"

#include <sys/utsname.h>

#include <cstdio>

namespace ujit {
namespace {

std::pair<int, int> kernel_version() {
  utsname name{};
  std::pair<int, int> out;
  uname(&name);
  std::sscanf(name.release, "%d.%d", &out.first, &out.second);
  return out;
}

/// XDP multi-buffer: frames up to a large MTU.
class LinuxInstallFrags : public LinuxInstall {
protected:
  unsigned mtu() const override { return 9000; }
  std::vector<Stimulus> stimuli() const override {
    std::vector<Stimulus> out;
    for (const Stimulus &plain : varied_packets(0)) {
      if (plain.frame.size() < 60)
        continue;
      for (size_t size : {3000, 5000, 8500}) {
        Stimulus s = plain;
        s.name += ", " + std::to_string(size) + " bytes";
        for (size_t i = s.frame.size(); i < size; ++i)
          s.frame.push_back(uint8_t(i));
        out.push_back(s);
        s.name += ", paged";
        s.paged = true;
        out.push_back(s);
      }
    }
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallFrags,
                         testing::Values(Hook{"xdp", HookKind::xdp, true},
                                         Hook{"tc", HookKind::tc_ingress, false, true}),
                         name_of_hook);

TEST_P(LinuxInstallFrags, LargeFramesInPieces) {
  if (GetParam().capture)
    llvm::cantFail(traffic_->start_capture(0));
  const Outcome originals = all_traffic();
  EXPECT_GT(originals.counts[in_pass], 30u);
  size_t passed = 0, redirected = 0;
  for (const Observed &o : originals.packets)
    if (o.frame.size() >= 8500)
      ++(o.link == 1 ? redirected : passed);
  EXPECT_GT(passed, 5u);
  // Before 6.3 the kernel redirects no packet in pieces.
  EXPECT_EQ(redirected > 5, !is_xdp() || kernel_version() >= std::pair(6, 3)) << redirected;
  // XDP programs see the first piece's length.
  if (is_xdp()) {
    ASSERT_FALSE(originals.lengths.empty());
    EXPECT_LT(originals.lengths.rbegin()->first, 5000u) << "no packet came in pieces";
  }
  ASSERT_EQ(install(), "");
  expect_same(all_traffic(), originals, "stubs");
}

/// TCP through the image: GSO buffers of up to 64 KiB in pages that belong to files and to the sender, while
/// a capture has clones of them.
TEST_P(LinuxInstallBoth, TcpGoesThrough) {
  ASSERT_EQ(install(), "");
  llvm::cantFail(traffic_->start_capture(0));
  steer(way_pass);
  for (BulkSource source : {BulkSource::copied, BulkSource::sendfile, BulkSource::zerocopy}) {
    reset();
    const std::string problem = llvm::toString(send_bulk(*network_, 0, 1 << 20, source));
    EXPECT_EQ(problem, "") << int(source);
    const std::vector<uint64_t> n = counts();
    EXPECT_GT(n[entered], 10u);
    EXPECT_EQ(n[in_mid], n[entered]);
    EXPECT_EQ(n[in_pass], n[entered]);
  }
  EXPECT_GT(traffic_->captured(), 30u);
}

} // namespace
} // namespace ujit
