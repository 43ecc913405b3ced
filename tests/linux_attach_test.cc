// What an exchange of programs leaves as it is.
#include "kernel-iface/linux/attach.h"
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/clsact.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/private_network.h"
#include "tests/linux_pipeline.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <net/if.h>

#include <cstring>

namespace ujit {
namespace {

using namespace asm_;

class LinuxAttach : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << capabilities.bpf.reason;
    Expected<PrivateNetwork> network = PrivateNetwork::enter();
    if (!network)
      GTEST_SKIP() << llvm::toString(network.takeError());
    network_.emplace(std::move(*network));
    Pipeline p;
    p.programs = {program("first", code({mov(0, -1), exit()}), ProgType::sched_cls),
                  program("second", code({mov(0, -1), exit()}), ProgType::sched_cls)};
    programs_ = llvm::cantFail(load_into_kernel(p, {}));
    lo_ = if_nametoindex("lo");
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = int(lo_), .attach_point = BPF_TC_EGRESS);
    if (const int error = bpf_tc_hook_create(&hook))
      GTEST_SKIP() << "no clsact qdisc: " << std::strerror(-error);
  }
  uint32_t id(uint32_t program) const {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    EXPECT_EQ(bpf_obj_get_info_by_fd(fd(program), &info, &size), 0);
    return info.id;
  }
  int fd(uint32_t program) const { return programs_->fd(ProgId{program}); }
  std::vector<ClsactFilter> filters() const {
    return llvm::cantFail(clsact_filters(lo_, ClsactSide::egress));
  }
  /// One that has everything which may be kept.
  ClsactFilter filter() const {
    return {.program_id = id(0),
            .priority = 3,
            .handle = 7,
            .protocol = htons(ETH_P_IPV6),
            .class_id = 0x10002,
            .direct_action = true,
            .offload = TCA_CLS_FLAGS_SKIP_HW,
            .name = "of somebody"};
  }

  std::optional<PrivateNetwork> network_;
  std::optional<LoadedPipeline> programs_;
  uint32_t lo_ = 0;
};

TEST_F(LinuxAttach, FiltersKeepAllButTheirProgram) {
  ClsactFilter mine = filter(), other = filter();
  other.priority = 4;
  other.name = "another";
  llvm::cantFail(put_clsact_filter(lo_, ClsactSide::egress, mine, fd(0), true));
  llvm::cantFail(put_clsact_filter(lo_, ClsactSide::egress, other, fd(0), true));
  ASSERT_EQ(filters(), (std::vector{mine, other}));

  AttachPoint point{.interface = "lo", .hook = HookKind::tc_egress};
  llvm::cantFail(complete(point));
  EXPECT_EQ(describe(point), "lo tc-egress prio 3 handle 7");
  EXPECT_EQ(llvm::cantFail(attached_at(point)), id(0));
  llvm::cantFail(exchange(point, id(0), fd(1)));
  mine.program_id = id(1);
  EXPECT_EQ(filters(), (std::vector{mine, other}));
  EXPECT_EQ(llvm::cantFail(attached_at(point)), id(1));

  Error late = exchange(point, id(0), fd(1));
  EXPECT_NE(llvm::toString(std::move(late)).find("somebody else has changed it"), std::string::npos);
  llvm::cantFail(exchange(point, id(1), fd(0)));
  mine.program_id = id(0);
  EXPECT_EQ(filters(), (std::vector{mine, other}));
}

/// Through a stub they would mean something else.
TEST_F(LinuxAttach, FiltersWhoseProgramDoesNotDecideAreRefused) {
  ClsactFilter classes = filter();
  classes.direct_action = false;
  llvm::cantFail(put_clsact_filter(lo_, ClsactSide::egress, classes, fd(0), true));
  AttachPoint point{.interface = "lo", .hook = HookKind::tc_egress};
  const std::string text = llvm::toString(complete(point));
  EXPECT_NE(text.find("lo tc-egress prio 3 handle 7: the filter is not direct-action"), std::string::npos)
      << text;
}

} // namespace
} // namespace ujit
