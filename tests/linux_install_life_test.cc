// The life of an installation: told, found changed, broken off at any step, failed for want of something, and
// taken out again.
#include "tests/install_bed.h"

#include <linux/capability.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace ujit {
namespace {

/// Installed twice it cannot be, nor can its module go; status tells all; and a state as a later version may
/// write it, with keys that this one does not know, is enough for uninstalling.
TEST_P(LinuxInstallOnce, LifeOfAnInstallation) {
  ASSERT_EQ(install(), "");
  const uint32_t stub = attached();
  std::string error = install();
  EXPECT_NE(error.find("is installed already"), std::string::npos) << error;
  InstallOptions renamed;
  renamed.name = "other";
  error = install(manifest(), renamed);
  EXPECT_NE(error.find("is installed already, as 'test'"), std::string::npos) << error;
  EXPECT_EQ(attached(), stub);
  ASSERT_EQ(our_modules().size(), 1u);
  error = llvm::toString(remove_module(our_modules()[0], 50));
  EXPECT_NE(error.find("programs use it"), std::string::npos) << error;

  InstallationStatus s = llvm::cantFail(installation_status(name));
  EXPECT_FALSE(s.broken);
  EXPECT_TRUE(s.enabled);
  ASSERT_EQ(s.entries.size(), 1u);
  EXPECT_TRUE(s.entries[0].fused());
  ASSERT_EQ(s.modules.size(), 1u);
  EXPECT_TRUE(s.modules[0].loaded);
  EXPECT_GE(s.modules[0].bytes, 4096u);
  EXPECT_EQ(s.left.size(), 1u);
  EXPECT_EQ(llvm::cantFail(InstallationFolder::list()), std::vector<std::string>{name});
  llvm::cantFail(set_enabled(name, false));
  EXPECT_FALSE(llvm::cantFail(installation_status(name)).enabled);
  llvm::cantFail(set_enabled(name, true));

  InstallationFolder f = llvm::cantFail(InstallationFolder::open(name));
  Fd state = llvm::cantFail(f.get("state"));
  bpf_map_info info{};
  uint32_t size = sizeof info, zero = 0;
  ASSERT_EQ(bpf_obj_get_info_by_fd(state.get(), &info, &size), 0);
  std::string text(info.value_size, '\0');
  ASSERT_EQ(bpf_map_lookup_elem(state.get(), &zero, text.data()), 0);
  text = text.c_str();
  text.insert(text.find('{') + 1, R"("later":[1],)");
  text.insert(text.find("\"fresh\""), R"("more":{},)");
  ASSERT_LE(text.size(), info.value_size) << "no room for the test's keys";
  text.resize(info.value_size, '\0');
  ASSERT_EQ(bpf_map_update_elem(state.get(), &zero, text.data(), BPF_ANY), 0);
  EXPECT_TRUE(llvm::cantFail(installation_status(name)).entries.at(0).fused());
  llvm::cantFail(uninstall(name));
  expect_originals();
}

TEST_P(LinuxInstallBoth, WhatOthersChangedStays) {
  ASSERT_EQ(install(), "");
  AttachPoint p = place();
  llvm::cantFail(exchange(p, attached(), newcomer_.get()));
  EXPECT_FALSE(llvm::cantFail(installation_status(name)).entries[0].fused());
  Uninstalled u = llvm::cantFail(uninstall(name));
  ASSERT_EQ(u.notes.size(), 1u);
  EXPECT_NE(u.notes[0].find("left as it is"), std::string::npos) << u.notes[0];
  EXPECT_EQ(attached(), id_of_program(newcomer_.get()));
  EXPECT_EQ(our_modules(), std::vector<std::string>());
}

/// Whatever the step at which the tool is killed, packets are handled as ever, and uninstall cleans up.
TEST_P(LinuxInstall, KilledAtEveryStep) {
  const Outcome originals = all_traffic(way_far);
  const int steps = kill_at_every_step(manifest(), [&](bool completed) {
    expect_same(all_traffic(way_far), originals, "killed");
    EXPECT_EQ(llvm::cantFail(installation_status(name)).broken, !completed);
    Expected<Uninstalled> u = uninstall(name);
    ASSERT_TRUE(bool(u)) << llvm::toString(u.takeError());
    EXPECT_EQ(u->notes, std::vector<std::string>());
    expect_originals();
  });
  EXPECT_GE(steps, 8);
  expect_same(all_traffic(way_far), originals, "in the end");
  llvm::cantFail(uninstall(name));
  expect_originals();
}

/// The programs of a manifest's object, attached where nothing was.
class LinuxInstallFresh : public LinuxInstall {
protected:
  void SetUp() override {
    LinuxInstall::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    attachment_.link = Fd();
    if (GetParam().kind == HookKind::xdp)
      llvm::cantFail(attach_xdp(network_->device(0), -1));
    else if (GetParam().kind == HookKind::tc_ingress)
      llvm::cantFail(detach(attachment_.point, id_of_program(entry())));
  }
  Manifest fresh_manifest() const {
    const std::string text = "ujit-lto: 1\nname: " + std::string(name) + "\nobjects: [ { path: \"" +
                             object_file() +
                             "\" } ]\nentries: [ entry ]\nprog-arrays: [ { map: calls, edges: sealed } ]\n"
                             "attach:\n  - { program: entry, interface: t0, hook: " +
                             std::string(name_of(GetParam().kind)) + " }\n";
    return llvm::cantFail(parse_manifest(text, "test.ujit.yaml"));
  }
  /// Id of what is attached: 0 for nothing, by looking at the interface.
  size_t attached_count() const { return llvm::cantFail(attached_programs("t0")).size(); }
};
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallFresh,
                         testing::Values(Hook{"xdp", HookKind::xdp, false},
                                         Hook{"tc", HookKind::tc_ingress, false},
                                         Hook{"tcx", HookKind::tcx_ingress, true}),
                         name_of_hook);

TEST_P(LinuxInstallFresh, KilledAtEveryStep) {
  ASSERT_EQ(attached_count(), 0u);
  const int steps = kill_at_every_step(fresh_manifest(), [&](bool) {
    llvm::cantFail(traffic_->send(0, stimuli_[0]));
    EXPECT_EQ(llvm::cantFail(traffic_->collect()).size(), 1u) << "passed to the stack";
    llvm::cantFail(installation_status(name));
    Expected<Uninstalled> u = uninstall(name);
    ASSERT_TRUE(bool(u)) << llvm::toString(u.takeError());
    EXPECT_EQ(attached_count(), 0u);
    EXPECT_EQ(our_modules(), std::vector<std::string>());
  });
  EXPECT_GE(steps, 8);
  EXPECT_EQ(attached_count(), 1u);
  EXPECT_TRUE(llvm::cantFail(installation_status(name)).entries.at(0).fused());
  llvm::cantFail(uninstall(name));
  EXPECT_EQ(attached_count(), 0u);
}

/// What goes wrong in the middle is undone; the message says what is missing.
TEST_P(LinuxInstallOnce, FailuresAreUndone) {
  int text[2];
  ASSERT_EQ(pipe(text), 0);
  auto install_without = [&](auto what) {
    in_child([&] {
      what();
      const std::string error = install();
      (void)!write(text[1], error.c_str(), error.size() + 1);
      return 0;
    });
    std::string error(4096, '\0');
    (void)!read(text[0], error.data(), error.size());
    return std::string(error.c_str());
  };
  auto drop_capabilities = [](uint64_t mask) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    data[0].effective &= ~uint32_t(mask);
    data[1].effective &= ~uint32_t(mask >> 32);
    syscall(SYS_capset, &header, data);
  };
  // Each on its own; what CAP_SYS_ADMIN stands in for, without that as well.
  constexpr uint64_t admin = 1ull << CAP_SYS_ADMIN;
  const struct {
    uint64_t dropped;
    const char *named;
  } rows[] = {{1ull << CAP_SYS_MODULE, "CAP_SYS_MODULE"},
              {1ull << CAP_NET_ADMIN, "CAP_NET_ADMIN"},
              {admin, "CAP_SYS_ADMIN"},
              {admin | 1ull << CAP_BPF, "CAP_BPF"},
              {admin | 1ull << CAP_PERFMON, "CAP_PERFMON"},
              {~0ull, "CAP_SYS_MODULE"}};
  std::string error;
  for (const auto &row : rows) {
    error = install_without([&] { drop_capabilities(row.dropped); });
    EXPECT_NE(error.find(row.named), std::string::npos) << "without " << row.named << ": " << error;
    expect_originals();
  }
  error = install_without([] { // no memory for the module's file
    signal(SIGXFSZ, SIG_IGN);
    rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
  });
  EXPECT_NE(error.find("no memory for module"), std::string::npos) << error;
  expect_originals();
  close(text[0]);
  close(text[1]);
}

} // namespace
} // namespace ujit
