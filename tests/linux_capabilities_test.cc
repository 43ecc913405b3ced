// What is read from text: needs neither privileges nor a kernel with eBPF.
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/verifier_log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace ujit {
namespace {

TEST(LinuxVerifierLog, complaint_and_instruction_are_found) {
  VerifierVerdict verdict =
      read_verifier_log("func#0 @0\n0: R1=ctx() R10=fp0\n12: (61) r0 = *(u32 *)(r1 +200)\n"
                        "invalid bpf_context access off=200 size=4\n"
                        "processed 13 insns (limit 1000000) max_states_per_insn 0\n");
  EXPECT_EQ(verdict.message, "invalid bpf_context access off=200 size=4");
  EXPECT_EQ(verdict.insn, 12u);
  EXPECT_EQ(verdict.tail.size(), 4u);
  EXPECT_EQ(read_verifier_log("").message, "");
  EXPECT_EQ(read_verifier_log("processed 0 insns\n").insn, std::nullopt);
  EXPECT_EQ(read_verifier_log("99999999999999999999: x\n").insn, std::nullopt);
}

class FakeRoot : public testing::Test {
protected:
  void SetUp() override {
    char pattern[] = "/tmp/ujit-root-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root); }
  void put(const std::string &path, const std::string &text) {
    std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
    FILE *file = fopen((root + path).c_str(), "w");
    ASSERT_NE(file, nullptr);
    fputs(text.c_str(), file);
    fclose(file);
  }
  std::string root;
};
using LinuxCapabilities = FakeRoot;

TEST_F(LinuxCapabilities, what_is_missing_is_said) {
  Capabilities c = probe_capabilities(root);
  EXPECT_FALSE(c.jit.ok);
  EXPECT_FALSE(c.btf.ok);
  EXPECT_EQ(c.modules.reason, "the kernel was built without CONFIG_MODULES");
  EXPECT_EQ(c.return_thunks.value, "off");
  for (const Capability *item : c.items())
    EXPECT_TRUE(item->ok || !item->reason.empty()) << item->name;
}

TEST_F(LinuxCapabilities, settings_are_read) {
  put("/proc/sys/net/core/bpf_jit_enable", "1\n");
  put("/proc/sys/net/core/bpf_jit_harden", "2\n");
  put("/proc/modules", "");
  put("/proc/self/status", "Name:\tx\nCapEff:\t0000000000010000\n");
  put("/sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow", "Mitigation: Safe RET\n");
  put("/proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
  Capabilities c = probe_capabilities(root);
  EXPECT_EQ(c.jit.value, "on");
  EXPECT_FALSE(c.jit_harden.ok);
  EXPECT_TRUE(c.modules.ok);
  EXPECT_EQ(c.return_thunks.value, "on");
  EXPECT_EQ(c.return_thunks.reason, "spec_rstack_overflow: Mitigation: Safe RET");
  EXPECT_EQ(bpf_refusal_reason(root),
            "missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; kernel.unprivileged_bpf_disabled is 2");
  put("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
  EXPECT_EQ(
      probe_capabilities(root).modules.reason,
      "kernel lockdown (none [integrity] confidentiality) refuses unsigned modules: boot without lockdown=, "
      "and without Secure Boot, which sets it");
  put("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
  put("/sys/module/module/parameters/sig_enforce", "Y\n");
  EXPECT_EQ(probe_capabilities(root).modules.reason,
            "module.sig_enforce refuses unsigned modules: boot without module.sig_enforce=1");
}

TEST_F(LinuxCapabilities, what_opens_programs_and_attaches_them) {
  put("/proc/self/status", "CapEff:\t000000c000001000\n"); // BPF, PERFMON, NET_ADMIN
  EXPECT_EQ(bpf_refusal_reason(root), "missing CAP_SYS_ADMIN (programs and maps are opened by id)");
  put("/proc/self/status", "CapEff:\t0000000000200000\n"); // SYS_ADMIN
  EXPECT_EQ(bpf_refusal_reason(root), "missing CAP_NET_ADMIN");
}

} // namespace
} // namespace ujit
