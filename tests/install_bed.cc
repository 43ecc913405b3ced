#include "tests/install_bed.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace ujit {

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

int in_child(const std::function<int()> &body) {
  const pid_t child = fork();
  if (child == 0)
    _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

void expect_same(const Outcome &got, const Outcome &wanted, const std::string &what) {
  EXPECT_EQ(got.counts, wanted.counts) << what;
  EXPECT_EQ(got.lengths, wanted.lengths) << what;
  ASSERT_EQ(got.packets.size(), wanted.packets.size()) << what;
  for (size_t i = 0; i < got.packets.size(); ++i)
    ASSERT_EQ(got.packets[i], wanted.packets[i])
        << what << ", packet " << i << "\n  " << print(got.packets[i]) << "\n  wanted "
        << print(wanted.packets[i]);
}

// --- setting up and taking down

void LinuxInstall::SetUp() {
  static const Capabilities capabilities = probe_capabilities();
  if (!capabilities.bpf.ok)
    GTEST_SKIP() << "bpf(): " << capabilities.bpf.reason;
  static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
  if (!kernel.refusal.empty())
    GTEST_SKIP() << "no modules here: " << kernel.refusal;
  if (!std::filesystem::exists(object_file()))
    GTEST_SKIP() << object_file() << " is not built";
  Expected<TestNetwork> made = TestNetwork::make({.mtu = mtu(), .outer_xdp = is_xdp()});
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
  stimuli_ = stimuli();
}

void LinuxInstall::TearDown() {
  if (std::filesystem::exists(folder()))
    llvm::consumeError(uninstall(name).takeError());
  EXPECT_FALSE(std::filesystem::exists(folder()));
  for (uint32_t slot = 0; object_ && slot < 32; ++slot)
    bpf_map_delete_elem(map("calls"), &slot); // programs in it hold it
  EXPECT_EQ(our_modules(), std::vector<std::string>());
}

std::vector<Stimulus> LinuxInstall::stimuli() const {
  std::vector<Stimulus> out;
  for (const Stimulus &plain : varied_packets(0))
    for (const Stimulus &s : shapes_of(plain))
      out.push_back(s);
  return out;
}

/// As its user's loader does, with type information.
void LinuxInstall::load_originals() {
  object_.reset(bpf_object__open(object_file().c_str()));
  ASSERT_TRUE(object_ && bpf_object__load(object_.get()) == 0) << std::strerror(errno);
  outsider_ = counting_program("outsider", "", in_outsider, 2, outsider_missed, pass());
  newcomer_ = counting_program("newcomer", "GPL", in_newcomer, 0, 0, drop());
  ASSERT_TRUE(outsider_ && newcomer_) << std::strerror(errno);
  ASSERT_GE(map("calls"), 0);
  set_slot(slot_far, outsider_.get());
  if (is_xdp()) {
    const uint32_t zero = 0, device = uint32_t(network_->device(1));
    ASSERT_EQ(bpf_map_update_elem(map("out"), &zero, &device, BPF_ANY), 0);
  }
  steer(way_pass);
}

/// ++counters[counter]; if `slot`: calls it, ++counters[missed]; returns.
Fd LinuxInstall::counting_program(const char *program, const char *licence, int32_t counter, int32_t slot,
                                  int32_t missed, int32_t result) {
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

Fd LinuxInstall::load(const char *program, const char *licence, const std::vector<bpf_insn> &insns) const {
  LIBBPF_OPTS(bpf_prog_load_opts, options,
              .expected_attach_type = is_xdp() ? BPF_XDP : bpf_attach_type(0), // as libbpf does
              .prog_flags = is_xdp() ? uint32_t(BPF_F_XDP_HAS_FRAGS) : 0u);
  return Fd(bpf_prog_load(bpf_prog_type(GetParam().type()), program, licence, insns.data(), insns.size(),
                          &options));
}

Expected<Attachment> LinuxInstall::attach_original() {
  AttachPoint point{.interface = "t0", .hook = GetParam().kind};
  if (GetParam().kind == HookKind::xdp && !GetParam().link) {
    if (Error e = attach_xdp(network_->device(0), entry()))
      return e;
    return Attachment{point, Fd()};
  }
  return attach(point, entry());
}

// --- steering and looking

void LinuxInstall::set_slot(uint32_t slot, int program) {
  const int error = program < 0 ? bpf_map_delete_elem(map("calls"), &slot)
                                : bpf_map_update_elem(map("calls"), &slot, &program, BPF_ANY);
  EXPECT_EQ(error, 0) << std::strerror(errno);
}

void LinuxInstall::steer(uint32_t way) {
  const uint32_t zero = 0, value[2] = {way, uint32_t(network_->device(1))};
  ASSERT_EQ(bpf_map_update_elem(map("steer"), &zero, value, BPF_ANY), 0);
}

void LinuxInstall::reset() {
  for (uint32_t i = 0; i < counters; ++i) {
    const uint64_t zero = 0;
    bpf_map_update_elem(map("counters"), &i, &zero, BPF_ANY);
  }
  for (uint32_t key; bpf_map_get_next_key(map("lengths"), nullptr, &key) == 0;)
    bpf_map_delete_elem(map("lengths"), &key);
}

std::vector<uint64_t> LinuxInstall::counts() const {
  std::vector<uint64_t> out(counters);
  for (uint32_t i = 0; i < counters; ++i)
    EXPECT_EQ(bpf_map_lookup_elem(map("counters"), &i, &out[i]), 0);
  return out;
}

Outcome LinuxInstall::all_traffic(std::optional<uint32_t> only) {
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

uint32_t LinuxInstall::run(int program, uint32_t times) {
  std::vector<uint8_t> packet = stimuli_[0].frame, out(2048);
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet.data(), .data_out = out.data(),
              .data_size_in = uint32_t(packet.size()), .data_size_out = uint32_t(out.size()),
              .repeat = int(times));
  EXPECT_EQ(bpf_prog_test_run_opts(program, &run), 0) << std::strerror(errno);
  return run.retval;
}

uint64_t LinuxInstall::times_left() const {
  uint64_t sum = 0;
  for (const std::vector<uint64_t> &image : llvm::cantFail(installation_status(name)).left)
    for (uint64_t n : image)
      sum += n;
  return sum;
}

// --- installing

Manifest LinuxInstall::manifest() const {
  std::string text = "ujit-lto: 1\nname: " + std::string(name) +
                     "\nattach:\n  - { interface: t0, hook: " + std::string(name_of(GetParam().kind)) +
                     " }\n";
  return llvm::cantFail(parse_manifest(text, "test.ujit.yaml"));
}

std::string LinuxInstall::install(const Manifest &m, const InstallOptions &options) {
  Expected<Installed> installed = ujit::install(m, options);
  return installed ? "" : llvm::toString(installed.takeError());
}

int LinuxInstall::kill_at_every_step(const Manifest &m, const std::function<void(bool completed)> &then) {
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

AttachPoint LinuxInstall::place() const {
  AttachPoint p{.interface = "t0", .hook = GetParam().kind};
  llvm::cantFail(complete(p));
  return p;
}

void LinuxInstall::expect_originals() {
  EXPECT_EQ(attached(), id_of_program(entry()));
  EXPECT_FALSE(std::filesystem::exists(folder()));
  EXPECT_EQ(our_modules(), std::vector<std::string>());
}

} // namespace ujit
