// Installations on a live network: what comes out with stubs attached is what comes out with the originals,
// whatever happens to slots, to the kill switch and to the tool in between.
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/object/gather.h"
#include "lto/install.h"
#include "tests/support/traffic.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/pkt_cls.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <thread>

namespace ujit {
namespace {

struct Hook {
  const char *name;
  HookKind kind;
  bool link;            ///< the originals are attached by a bpf_link
  bool capture = false; ///< packets are compared while a capture runs: programs see clones
  ProgType type() const { return *type_of(kind); }
};

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

uint32_t id_of_program(int fd) {
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  EXPECT_EQ(bpf_obj_get_info_by_fd(fd, &info, &size), 0);
  return info.id;
}

std::vector<std::string> our_modules() {
  std::vector<std::string> out;
  for (const auto &module : std::filesystem::directory_iterator("/sys/module"))
    if (module.path().filename().string().starts_with("ujit_"))
      out.push_back(module.path().filename());
  return out;
}

template <class F>
int in_child(F body) {
  const pid_t child = fork();
  if (child == 0)
    _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

/// What a batch of traffic did.
struct Outcome {
  std::vector<Observed> packets;
  std::vector<uint64_t> counts;
  std::map<uint32_t, uint64_t> lengths;
};

void expect_same(const Outcome &got, const Outcome &wanted, const std::string &what) {
  EXPECT_EQ(got.counts, wanted.counts) << what;
  EXPECT_EQ(got.lengths, wanted.lengths) << what;
  ASSERT_EQ(got.packets.size(), wanted.packets.size()) << what;
  for (size_t i = 0; i < got.packets.size(); ++i)
    ASSERT_EQ(got.packets[i], wanted.packets[i])
        << what << ", packet " << i << "\n  " << print(got.packets[i]) << "\n  wanted "
        << print(wanted.packets[i]);
}

class LinuxInstall : public testing::TestWithParam<Hook> {
protected:
  static constexpr const char *name = "test";

  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    if (!capabilities.bpf.ok)
      GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
    static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
    if (!kernel.refusal.empty())
      GTEST_SKIP() << "no modules here: " << kernel.refusal;
    if (!std::filesystem::exists(object_file()))
      GTEST_SKIP() << object_file() << " is not built";
    Expected<TestNetwork> made = TestNetwork::make({.outer_xdp = GetParam().type() == ProgType::xdp});
    if (!made)
      GTEST_SKIP() << llvm::toString(made.takeError());
    network_ = std::make_unique<TestNetwork>(std::move(*made));
    traffic_ = std::make_unique<Traffic>(llvm::cantFail(Traffic::make(*network_)));
    load_originals();
    if (HasFatalFailure())
      return;
    Expected<Attachment> attached = attach_original();
    if (!attached) {
      std::string why = llvm::toString(attached.takeError());
      if (GetParam().kind == HookKind::tcx_ingress)
        GTEST_SKIP() << "no tcx: " << why;
      FAIL() << why;
    }
    attachment_ = std::move(*attached);
    for (const Stimulus &plain : varied_packets(0))
      for (const Stimulus &s : shapes_of(plain))
        stimuli_.push_back(s);
  }

  void TearDown() override {
    if (std::filesystem::exists(folder()))
      llvm::consumeError(uninstall(name).takeError());
    EXPECT_FALSE(std::filesystem::exists(folder()));
    for (uint32_t slot = 0; loaded_ && slot < 32; ++slot)
      bpf_map_delete_elem(map("calls"), &slot); // programs in it hold it
    EXPECT_EQ(our_modules(), std::vector<std::string>());
  }

  std::string object_file() const {
    return std::string(UJIT_BINARY_DIR) + "/tests/install_" +
           (GetParam().type() == ProgType::xdp ? "xdp" : "tc") + ".bpf.o";
  }
  static std::string folder() { return std::string("/sys/fs/bpf/ujit-lto/") + name; }

  void load_originals() {
    GatherRequest request;
    request.objects.push_back(llvm::cantFail(read_object_file(object_file())));
    request.entries = {"entry"};
    pipeline_ = llvm::cantFail(gather(std::move(request)));
    loaded_ = std::make_unique<LoadedPipeline>(llvm::cantFail(load_into_kernel(pipeline_)));
    outsider_ = counting_program("outsider", "", in_outsider, 2, outsider_missed, pass());
    newcomer_ = counting_program("newcomer", "GPL", in_newcomer, 0, 0, drop());
    ASSERT_TRUE(outsider_ && newcomer_) << std::strerror(errno);
    ASSERT_GE(map("calls"), 0);
    set_slot(slot_far, outsider_.get());
    if (GetParam().type() == ProgType::xdp) {
      const uint32_t zero = 0, device = uint32_t(network_->device(1));
      ASSERT_EQ(bpf_map_update_elem(map("out"), &zero, &device, BPF_ANY), 0);
    }
    steer(way_pass);
  }

  int32_t pass() const { return GetParam().type() == ProgType::xdp ? XDP_PASS : TC_ACT_OK; }
  int32_t drop() const { return GetParam().type() == ProgType::xdp ? XDP_DROP : TC_ACT_SHOT; }
  int map(const char *map_name) const { return loaded_->fd(*pipeline_.find_map(map_name)); }
  int entry() const { return loaded_->fd(*pipeline_.find_program("entry")); }

  /// ++counters[counter]; if `slot`: calls it, ++counters[missed]; returns.
  Fd counting_program(const char *program, const char *licence, int32_t counter, int32_t slot, int32_t missed,
                      int32_t result) {
    std::vector<bpf_insn> insns{{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0}};
    auto count = [&](int32_t n) {
      insns.insert(insns.end(), {{BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, n},
                                 {BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map("counters")},
                                 {0, 0, 0, 0, 0},
                                 {BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0},
                                 {BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4},
                                 {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem},
                                 {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0},
                                 {BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1},
                                 {BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD}});
    };
    count(counter);
    if (slot) {
      insns.insert(insns.end(), {{BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0},
                                 {BPF_LD | BPF_DW | BPF_IMM, 2, BPF_PSEUDO_MAP_FD, 0, map("calls")},
                                 {0, 0, 0, 0, 0},
                                 {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, slot},
                                 {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call}});
      count(missed);
    }
    insns.push_back({BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, result});
    insns.push_back({BPF_JMP | BPF_EXIT, 0, 0, 0, 0});
    return load(program, licence, insns);
  }

  Fd load(const char *program, const char *licence, const std::vector<bpf_insn> &insns) const {
    const bool xdp = GetParam().type() == ProgType::xdp;
    LIBBPF_OPTS(bpf_prog_load_opts, options, .prog_flags = xdp ? uint32_t(BPF_F_XDP_HAS_FRAGS) : 0u);
    return Fd(bpf_prog_load(bpf_prog_type(GetParam().type()), program, licence, insns.data(), insns.size(),
                            &options));
  }

  Expected<Attachment> attach_original() {
    AttachPoint point{.interface = "t0", .hook = GetParam().kind};
    if (GetParam().kind == HookKind::xdp && !GetParam().link) {
      if (Error e = attach_xdp(network_->device(0), entry()))
        return e;
      return Attachment{point, Fd()};
    }
    return attach(point, entry());
  }

  void set_slot(uint32_t slot, int program) {
    if (program < 0)
      EXPECT_EQ(bpf_map_delete_elem(map("calls"), &slot), 0) << std::strerror(errno);
    else
      EXPECT_EQ(bpf_map_update_elem(map("calls"), &slot, &program, BPF_ANY), 0) << std::strerror(errno);
  }
  int original_of(const char *program) const { return loaded_->fd(*pipeline_.find_program(program)); }

  void steer(uint32_t way) {
    const uint32_t zero = 0, value[2] = {way, uint32_t(network_->device(1))};
    ASSERT_EQ(bpf_map_update_elem(map("steer"), &zero, value, BPF_ANY), 0);
  }

  void reset() {
    for (uint32_t i = 0; i < counters; ++i) {
      const uint64_t zero = 0;
      bpf_map_update_elem(map("counters"), &i, &zero, BPF_ANY);
    }
    for (uint32_t key; bpf_map_get_next_key(map("lengths"), nullptr, &key) == 0;)
      bpf_map_delete_elem(map("lengths"), &key);
  }

  std::vector<uint64_t> counts() const {
    std::vector<uint64_t> out(counters);
    for (uint32_t i = 0; i < counters; ++i)
      EXPECT_EQ(bpf_map_lookup_elem(map("counters"), &i, &out[i]), 0);
    return out;
  }

  /// Every packet in every shape, each way (or one way).
  Outcome all_traffic(std::optional<uint32_t> only = std::nullopt) {
    Outcome out;
    reset();
    for (uint32_t way = only.value_or(0); way < (only ? *only + 1 : ways); ++way) {
      steer(way);
      size_t sent = 0;
      auto collect = [&] {
        for (Observed &o : llvm::cantFail(traffic_->collect()))
          out.packets.push_back(std::move(o));
      };
      for (const Stimulus &s : stimuli_) {
        llvm::cantFail(traffic_->send(0, s));
        if (++sent % 12 == 0)
          collect();
      }
      collect();
    }
    out.counts = counts();
    uint32_t key = 0;
    for (const void *before = nullptr; bpf_map_get_next_key(map("lengths"), before, &key) == 0; before = &key)
      bpf_map_lookup_elem(map("lengths"), &key, &out.lengths[key]);
    return out;
  }

  Manifest manifest() const {
    std::string text = "ujit-lto: 1\nname: " + std::string(name) +
                       "\nattach:\n  - { interface: t0, hook: " + std::string(name_of(GetParam().kind)) +
                       " }\n";
    return llvm::cantFail(parse_manifest(text, "test.ujit.yaml"));
  }

  /// Empty, or why not.
  std::string install(const Manifest &m, const InstallOptions &options = {}) {
    Expected<Installed> installed = ujit::install(m, options);
    return installed ? "" : llvm::toString(installed.takeError());
  }
  std::string install() { return install(manifest()); }

  /// Prepares an installation once, and goes on with it in processes of its own, which are killed behind the
  /// first step, the second, and so on; in the last one, and at last here, it is completed. `then` looks at
  /// what each of them left and uninstalls it. Returns the number of steps.
  int kill_at_every_step(const Manifest &m, const std::function<void(bool completed)> &then) {
    int step = -1, last = 0;
    bool child = false;
    InstallOptions options;
    options.threads = 1;
    options.between = [&](std::string_view what) {
      if (child) {
        if (step++ == last)
          kill(getpid(), SIGKILL);
        return;
      }
      if (what != "prepared")
        return;
      for (bool completed = false; !completed && !HasFatalFailure(); ++last) {
        SCOPED_TRACE("step " + std::to_string(last));
        const pid_t process = fork();
        if (process == 0) {
          child = true;
          step = 0;
          return;
        }
        int status = 0;
        waitpid(process, &status, 0);
        completed = !WIFSIGNALED(status);
        EXPECT_TRUE(!completed || WEXITSTATUS(status) == 0);
        then(completed);
      }
    };
    const std::string error = install(m, options);
    if (child) {
      std::fprintf(stderr, "%s", error.c_str());
      _exit(error.empty() ? 0 : 1);
    }
    EXPECT_EQ(error, "");
    return last;
  }

  uint32_t attached() const { return llvm::cantFail(attached_at(place())).value_or(0); }
  AttachPoint place() const {
    AttachPoint p{.interface = "t0", .hook = GetParam().kind};
    llvm::cantFail(complete(p));
    return p;
  }

  void expect_originals() {
    EXPECT_EQ(attached(), id_of_program(entry()));
    EXPECT_FALSE(std::filesystem::exists(folder()));
    EXPECT_EQ(our_modules(), std::vector<std::string>());
  }

  /// Runs a program `times` times on the first packet.
  uint32_t run(int program, uint32_t times = 1) {
    std::vector<uint8_t> packet = stimuli_[0].frame, out(2048);
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet.data(), .data_out = out.data(),
                .data_size_in = uint32_t(packet.size()), .data_size_out = uint32_t(out.size()),
                .repeat = int(times));
    EXPECT_EQ(bpf_prog_test_run_opts(program, &run), 0) << std::strerror(errno);
    return run.retval;
  }

  Fd stub() const {
    return Fd(bpf_prog_get_fd_by_id(llvm::cantFail(installation_status(name)).entries.at(0).entry.stub_id));
  }

  uint64_t times_left() const {
    uint64_t sum = 0;
    for (const std::vector<uint64_t> &image : llvm::cantFail(installation_status(name)).left)
      for (uint64_t n : image)
        sum += n;
    return sum;
  }

  std::unique_ptr<TestNetwork> network_;
  std::unique_ptr<Traffic> traffic_;
  Pipeline pipeline_;
  std::unique_ptr<LoadedPipeline> loaded_;
  Fd outsider_; ///< not GPL: is not fused
  Fd newcomer_; ///< comes into slots after the image was made
  Attachment attachment_;
  std::vector<Stimulus> stimuli_;
};

INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstall,
                         testing::Values(Hook{"xdp", HookKind::xdp, false},
                                         Hook{"xdp_link", HookKind::xdp, true, true},
                                         Hook{"tc", HookKind::tc_ingress, false, true},
                                         Hook{"tcx", HookKind::tcx_ingress, true}),
                         [](const auto &hook) { return hook.param.name; });

/// Tests of what does not depend on how the originals were attached, and of what depends on nothing: linking
/// takes long in a guest.
class LinuxInstallBoth : public LinuxInstall {};
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallBoth,
                         testing::Values(Hook{"xdp", HookKind::xdp, true},
                                         Hook{"tc", HookKind::tc_ingress, false}),
                         [](const auto &hook) { return hook.param.name; });
class LinuxInstallOnce : public LinuxInstall {};
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallOnce, testing::Values(Hook{"tc", HookKind::tc_ingress, false}),
                         [](const auto &hook) { return hook.param.name; });

TEST_P(LinuxInstall, EverythingIsAsWithTheOriginals) {
  if (GetParam().capture)
    llvm::cantFail(traffic_->start_capture(0));
  const Outcome originals = all_traffic();
  ASSERT_GT(originals.counts[entered], 300u);
  ASSERT_EQ(install(), "");
  EXPECT_NE(attached(), id_of_program(entry()));
  expect_same(all_traffic(), originals, "stubs");
  EXPECT_GE(times_left(), originals.counts[in_outsider]);
  if (GetParam().capture) {
    EXPECT_GT(traffic_->captured(), 600u);
  }
  llvm::cantFail(uninstall(name));
  expect_originals();
  expect_same(all_traffic(way_far), all_traffic(way_far), "originals again");
}

TEST_P(LinuxInstallBoth, SlotsThatChange) {
  steer(way_loop);
  reset();
  run(entry());
  const std::vector<uint64_t> loops = counts();
  EXPECT_GT(loops[looped], 25u);
  EXPECT_EQ(loops[loop_ended], 1u);
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  reset();
  run(stub.get());
  EXPECT_EQ(counts(), loops) << "tail calls up to the kernel's limit";
  steer(way_pass);
  const uint32_t passes = uint32_t(pass()), drops = uint32_t(drop());
  auto expect_run = [&](uint32_t verdict, std::vector<uint32_t> counted) {
    reset();
    const uint64_t before = times_left();
    EXPECT_EQ(run(stub.get()), verdict);
    const std::vector<uint64_t> now = counts();
    for (uint32_t c : counted)
      EXPECT_EQ(now[c], 1u) << "counter " << c;
    return times_left() - before;
  };
  // Guarded: a new program is called, an empty slot falls through, the old program is fused again.
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  set_slot(slot_mid, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_newcomer}), 1u);
  set_slot(slot_mid, -1);
  EXPECT_EQ(expect_run(passes, {entered, missed_mid}), 0u);
  set_slot(slot_mid, original_of("mid"));
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  // Dispatched.
  set_slot(slot_leaves + way_pass, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_mid, in_newcomer}), 1u);
  set_slot(slot_leaves + way_pass, -1);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_last}), 0u);
  set_slot(slot_leaves + way_pass, original_of("leaf_drop"));
  expect_run(drops, {entered, in_mid, 9});
  set_slot(slot_leaves + way_pass, original_of("leaf_pass"));
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  // Left: to a program that is not fused, which calls one that is.
  steer(way_far);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_far, in_outsider, in_last}), 1u);
  set_slot(slot_far, -1);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_far}), 0u);
  set_slot(slot_far, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_mid, in_far, in_newcomer}), 1u);
}

/// A program that has made nearly all tail calls that the kernel allows before it calls the stub. The image
/// has a count of its own; what leaves it then does not find the way out, and comes back.
TEST_P(LinuxInstallBoth, ComesBackBehindCallsThatFail) {
  LIBBPF_OPTS(bpf_map_create_opts, plain);
  Fd jumps(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "jumps", 4, 4, 2, &plain));
  Fd steps(bpf_map_create(BPF_MAP_TYPE_ARRAY, "steps", 4, 8, 1, &plain));
  ASSERT_TRUE(jumps && steps);
  const uint32_t zero = 0, one = 1;
  // if (steps[0]) { --steps[0]; call jumps[0], which is this program } else call jumps[1]
  Fd looper = load("looper", "GPL",
                   {{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0},
                    {BPF_LD | BPF_DW | BPF_IMM, 7, BPF_PSEUDO_MAP_VALUE, 0, steps.get()},
                    {0, 0, 0, 0, 0},
                    {BPF_LDX | BPF_MEM | BPF_DW, 8, 7, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 1},
                    {BPF_JMP | BPF_JEQ | BPF_K, 8, 0, 3, 0},
                    {BPF_ALU64 | BPF_ADD | BPF_K, 8, 0, 0, -1},
                    {BPF_STX | BPF_MEM | BPF_DW, 7, 8, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0},
                    {BPF_LD | BPF_DW | BPF_IMM, 2, BPF_PSEUDO_MAP_FD, 0, jumps.get()},
                    {0, 0, 0, 0, 0},
                    {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 77},
                    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}});
  ASSERT_TRUE(looper) << std::strerror(errno);
  const int looper_fd = looper.get();
  ASSERT_EQ(bpf_map_update_elem(jumps.get(), &zero, &looper_fd, BPF_ANY), 0);
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  const int stub_fd = stub.get();
  ASSERT_EQ(bpf_map_update_elem(jumps.get(), &one, &stub_fd, BPF_ANY), 0) << std::strerror(errno);
  auto run_after = [&](uint64_t calls) { // of which the last is that of the stub
    reset();
    const uint64_t n = calls - 1;
    EXPECT_EQ(bpf_map_update_elem(steps.get(), &zero, &n, BPF_ANY), 0);
    return run(looper.get());
  };
  ASSERT_EQ(run_after(33), uint32_t(pass()));
  ASSERT_EQ(counts()[in_pass], 1u) << "the image counts apart";
  // What a miss in the image counts, with all that is alive behind it.
  steer(way_empty);
  run_after(1);
  const std::vector<uint64_t> missed = counts();
  EXPECT_EQ(missed[in_last], 1u);

  steer(way_pass);
  set_slot(slot_leaves + way_pass, newcomer_.get());
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  std::vector<uint64_t> back = counts();
  // Behind the call that failed, `mid` goes on; its next call may leave, too, and then fails as well.
  EXPECT_EQ(back[in_last] + back[missed_last], 1u) << "dispatched";
  back[in_last] = 1, back[missed_last] = 0;
  EXPECT_EQ(back, missed) << "dispatched";
  EXPECT_EQ(run_after(32), uint32_t(drop()));
  EXPECT_EQ(counts()[in_newcomer], 1u) << "one call is left";

  set_slot(slot_mid, newcomer_.get());
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  EXPECT_EQ(counts()[missed_mid], 1u) << "guarded";
  EXPECT_EQ(counts()[in_newcomer], 0u);
  set_slot(slot_mid, original_of("mid"));

  steer(way_far);
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  const std::vector<uint64_t> now = counts();
  EXPECT_EQ(now[in_outsider], 0u);
  uint64_t resumed = 0;
  for (uint32_t i = 0; i < 8; ++i)
    resumed += now[missed_far + i];
  EXPECT_EQ(resumed, 1u) << "left";
  set_slot(slot_leaves + way_pass, original_of("leaf_pass"));

  // Switched off, the originals go on with the kernel's count.
  steer(way_pass);
  llvm::cantFail(set_enabled(name, false));
  EXPECT_EQ(run_after(32), uint32_t(pass()));
  EXPECT_EQ(counts()[missed_mid], 1u);
  EXPECT_EQ(run_after(31), uint32_t(pass()));
  EXPECT_EQ(counts()[in_mid], 1u);
  EXPECT_EQ(run_after(33), uint32_t(GetParam().type() == ProgType::xdp ? XDP_ABORTED : TC_ACT_SHOT))
      << "no call is left for the original";
  for (uint32_t slot : {zero, one})
    bpf_map_delete_elem(jumps.get(), &slot);
}

/// Slots change and the kill switch is thrown while packets run: each packet goes one way or the other.
TEST_P(LinuxInstallBoth, NoPacketIsLostWhileSlotsAndSwitchChange) {
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  steer(way_far);
  reset();
  std::atomic<bool> done = false;
  std::thread changes([&] {
    std::mt19937 random(1);
    while (!done) {
      const uint32_t slots[] = {slot_mid, slot_leaves + way_far, slot_far};
      const char *programs[] = {"mid", "leaf_far", nullptr};
      const unsigned which = random() % 3;
      const int old = programs[which] ? original_of(programs[which]) : outsider_.get();
      const int choice[] = {old, newcomer_.get(), -1};
      const int program = choice[random() % 3];
      if (program < 0)
        bpf_map_delete_elem(map("calls"), &slots[which]);
      else
        bpf_map_update_elem(map("calls"), &slots[which], &program, BPF_ANY);
      if (random() % 4 == 0)
        llvm::cantFail(set_enabled(name, random() % 2));
    }
  });
  constexpr uint64_t rounds = 60, each = 2000;
  for (uint64_t i = 0; i < rounds; ++i)
    run(stub.get(), each);
  done = true;
  changes.join();
  const std::vector<uint64_t> n = counts();
  EXPECT_EQ(n[entered], rounds * each);
  uint64_t missed_fars = 0;
  for (uint32_t i = 0; i < 8; ++i)
    missed_fars += n[missed_far + i];
  // Each packet ends once: in a program that calls no other, or behind the last call that misses.
  EXPECT_EQ(n[entered],
            n[missed_mid] + n[in_newcomer] + n[in_last] + n[missed_last] + missed_fars + n[outsider_missed]);
}

/// Somebody writes the map that steers while packets run. A value that is checked is the value that is used.
TEST_P(LinuxInstallOnce, HostileWriter) {
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  reset();
  const pid_t child = fork();
  if (child == 0) {
    auto *words = static_cast<volatile uint32_t *>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map("steer"), 0));
    for (uint32_t i = 0;; ++i)
      words[0] = i & 8 ? i * 2654435761u : i;
  }
  constexpr uint64_t rounds = 60, each = 2000;
  for (uint64_t i = 0; i < rounds; ++i)
    run(stub.get(), each);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const std::vector<uint64_t> n = counts();
  EXPECT_EQ(n[entered], rounds * each);
  EXPECT_EQ(n[in_mid], rounds * each);
  uint64_t ended = n[8] + n[9] + n[10] + n[11] + n[loop_ended] + n[in_far], missed = 0;
  for (uint32_t i = 0; i < 8; ++i)
    missed += n[missed_leaf + i];
  EXPECT_EQ(ended + missed, rounds * each);
}

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
                         [](const auto &hook) { return hook.param.name; });

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

/// One of the chain's programs is an entry itself: its slot gets the stub.
TEST_P(LinuxInstallOnce, SlotsCanBeEntries) {
  const Outcome originals = all_traffic(way_far);
  const uint32_t slot = slot_mid;
  const std::string text =
      "ujit-lto: 1\nname: " + std::string(name) + "\nattach:\n  - { map: calls, slot: 1 }\n";
  ASSERT_EQ(install(llvm::cantFail(parse_manifest(text, "test.ujit.yaml"))), "");
  uint32_t in_slot = 0;
  ASSERT_EQ(bpf_map_lookup_elem(map("calls"), &slot, &in_slot), 0);
  EXPECT_NE(in_slot, id_of_program(original_of("mid")));
  expect_same(all_traffic(way_far), originals, "stub in a slot");
  llvm::cantFail(uninstall(name));
  ASSERT_EQ(bpf_map_lookup_elem(map("calls"), &slot, &in_slot), 0);
  EXPECT_EQ(in_slot, id_of_program(original_of("mid")));
  expect_originals();
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
  std::string error = install_without([&] { drop_capabilities(1ull << CAP_SYS_MODULE); });
  EXPECT_NE(error.find("CAP_SYS_MODULE"), std::string::npos) << error;
  expect_originals();
  error = install_without([&] { drop_capabilities(~0ull); });
  EXPECT_NE(error.find("CAP_"), std::string::npos) << error;
  expect_originals();
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
