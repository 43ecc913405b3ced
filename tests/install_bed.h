// The ground that tests of installations share: a small network, a pipeline with each kind of tail call
// (tests/bpf/install.bpf.c) attached to its first device, traffic in every shape, and what all that did.
#pragma once

#include "kernel-iface/linux/capabilities.h"
#include "lto/install.h"
#include "tests/attacher.h"
#include "tests/paths.h"
#include "tests/support/traffic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <functional>
#include <map>
#include <memory>

namespace ujit {

struct Hook {
  const char *name;
  HookKind kind;
  bool link;            ///< the originals are attached by a bpf_link
  bool capture = false; ///< packets are compared while a capture runs: programs see clones
  ProgType type() const { return *type_of(kind); }
};
inline std::string name_of_hook(const testing::TestParamInfo<Hook> &hook) { return hook.param.name; }

/// Of tests/bpf/install.bpf.c.
constexpr uint32_t slot_mid = 1, slot_leaves = 8, slot_far = 20;
enum Way : uint32_t { way_pass, way_drop, way_redirect, way_rewrite, way_loop, way_far, way_empty, ways = 8 };
enum Counter : uint32_t {
  entered,
  missed_mid,
  in_mid,
  missed_last,
  in_last,
  in_outsider,
  outsider_missed,
  in_newcomer,
  in_pass,
  looped = 12,
  loop_ended,
  in_far,
  missed_leaf = 16, ///< eight of them, by the packet's header
  missed_far = 24,  ///< eight of them
  counters = 32
};

uint32_t id_of_program(int fd);
std::vector<std::string> our_modules();

/// Runs `body` in a child process; returns its wait status.
int in_child(const std::function<int()> &body);

/// What a batch of traffic did.
struct Outcome {
  std::vector<Observed> packets;
  std::vector<uint64_t> counts;
  std::map<uint32_t, uint64_t> lengths;
};
void expect_same(const Outcome &got, const Outcome &wanted, const std::string &what);

class LinuxInstall : public testing::TestWithParam<Hook> {
protected:
  static constexpr const char *name = "test";

  void SetUp() override;
  void TearDown() override;
  /// The tests' packets, and the network's MTU that they need.
  virtual std::vector<Stimulus> stimuli() const;
  virtual unsigned mtu() const { return 1500; }

  bool is_xdp() const { return GetParam().type() == ProgType::xdp; }
  std::string object_file() const {
    return binary_dir() + "/tests/install_" + (is_xdp() ? "xdp" : "tc") + ".bpf.o";
  }
  static std::string folder() { return std::string("/sys/fs/bpf/ujit-lto/") + name; }

  int32_t pass() const { return is_xdp() ? int32_t(XDP_PASS) : TC_ACT_OK; }
  int32_t drop() const { return is_xdp() ? int32_t(XDP_DROP) : TC_ACT_SHOT; }
  int map(const char *map_name) const { return bpf_object__find_map_fd_by_name(object_.get(), map_name); }
  int original_of(const char *program) const {
    return bpf_program__fd(bpf_object__find_program_by_name(object_.get(), program));
  }
  int entry() const { return original_of("entry"); }

  Fd load(const char *program, const char *licence, const std::vector<bpf_insn> &insns) const;
  Expected<Attachment> attach_original();

  void set_slot(uint32_t slot, int program);
  void steer(uint32_t way);
  void reset();
  std::vector<uint64_t> counts() const;

  /// Every packet in every shape, each way (or one way).
  Outcome all_traffic(std::optional<uint32_t> only = std::nullopt);

  Manifest manifest() const;
  /// Empty, or why not.
  std::string install(const Manifest &m, const InstallOptions &options = {});
  std::string install() { return install(manifest()); }

  /// Prepares an installation once, and goes on with it in processes of its own, which are killed behind the
  /// first step, the second, and so on; in the last one, and at last here, it is completed. `then` looks at
  /// what each of them left and uninstalls it. Returns the number of steps.
  int kill_at_every_step(const Manifest &m, const std::function<void(bool completed)> &then);

  uint32_t attached() const { return llvm::cantFail(attached_at(place())).value_or(0); }
  AttachPoint place() const;
  void expect_originals();

  /// Runs a program `times` times on the first packet.
  uint32_t run(int program, uint32_t times = 1);
  Fd stub() const {
    return Fd(bpf_prog_get_fd_by_id(llvm::cantFail(installation_status(name)).entries.at(0).entry.stub_id));
  }
  uint64_t times_left() const;

  std::unique_ptr<TestNetwork> network_;
  std::unique_ptr<Traffic> traffic_;
  std::unique_ptr<bpf_object, decltype(&bpf_object__close)> object_{nullptr, bpf_object__close};
  Fd outsider_; ///< not GPL: is not fused
  Fd newcomer_; ///< comes into slots after the image was made
  Attachment attachment_;
  std::vector<Stimulus> stimuli_;

private:
  void load_originals();
  Fd counting_program(const char *program, const char *licence, int32_t counter, int32_t slot, int32_t missed,
                      int32_t result);
};

/// Tests of what does not depend on how the originals were attached, and of what depends on nothing: linking
/// takes long in a guest.
class LinuxInstallBoth : public LinuxInstall {};
class LinuxInstallOnce : public LinuxInstall {};

} // namespace ujit
