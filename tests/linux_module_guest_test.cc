// Modules and stubs in a running kernel that takes them: the tests of `make check-kernel`. The image is the
// one of linux_module.h; packets come by BPF_PROG_TEST_RUN.
#include "linux_module.h"

#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/stub.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <cstring>

namespace ujit {
namespace {

using test::Control;

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Fd duplicate(const Fd &fd) { return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

CapturedMap copy_of(const CapturedMap &m) {
  CapturedMap c;
  c.fd = duplicate(m.fd);
  c.address = m.address, c.id = m.id, c.type = m.type, c.extra = m.extra;
  c.key_size = m.key_size, c.value_size = m.value_size, c.max_entries = m.max_entries, c.flags = m.flags;
  return c;
}

CapturedProgram copy_of(const CapturedProgram &p) {
  CapturedProgram c;
  c.fd = duplicate(p.fd);
  c.address = p.address, c.id = p.id, c.type = p.type, c.load_time_ns = p.load_time_ns;
  c.insns = p.insns;
  return c;
}

/// An original program that counts its runs and has a tail call, a target for it, and an image of the
/// original.
class Modules : public testing::TestWithParam<ProgType> {
protected:
  void SetUp() override {
    if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
      GTEST_SKIP() << "the kernel tells no BTF";
    kernel_ = this_kernel();
    if (!kernel_.refusal.empty())
      GTEST_SKIP() << "no modules here: " << kernel_.refusal;

    LIBBPF_OPTS(bpf_map_create_opts, mmapable, .map_flags = BPF_F_MMAPABLE);
    control_fd_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "control", 4, 4096, 1, &mmapable));
    switch_fd_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "switch", 4, 4, 1, &mmapable));
    jumps_fd_ = Fd(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "jumps", 4, 4, 16, nullptr));
    originals_fd_ = Fd(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "originals", 4, 4, 1, nullptr));
    ASSERT_TRUE(control_fd_ && switch_fd_ && jumps_fd_ && originals_fd_) << std::strerror(errno);
    control_ =
        static_cast<Control *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, control_fd_.get(), 0));
    ASSERT_NE(control_, MAP_FAILED);
    original_fd_ = load("original", offsetof(Control, original), 3, true);
    target_fd_ = load("target", offsetof(Control, target), 4, false);
    ASSERT_TRUE(original_fd_ && target_fd_) << std::strerror(errno);
    const uint32_t zero = 0;
    const int original = original_fd_.get();
    ASSERT_EQ(bpf_map_update_elem(originals_fd_.get(), &zero, &original, 0), 0) << std::strerror(errno);

    CaptureOptions options;
    options.symbols.assign(module_functions().begin(), module_functions().end());
    options.symbols.push_back("bpf_ktime_get_ns");
    auto capture = ujit::capture(std::span(&original, 1), options);
    ASSERT_TRUE(bool(capture)) << llvm::toString(capture.takeError());
    capture_.emplace(std::move(*capture));
    ASSERT_EQ(capture_->programs.size(), 1u);

    const CapturedMap *control = map_named("control");
    ASSERT_TRUE(control);
    spec_.name = "ujit_0123456789abcdef";
    spec_.image = image_;
    spec_.entries = {{"test_image", "ujit_0123456789abcdef_e0", GetParam()}};
    spec_.instance = {control->address + capture_->kernel->layout.array_value};
    spec_.frame_bytes = test::image_frame;
    for (const CapturedMap &m : capture_->maps)
      spec_.maps.push_back(&m);
    spec_.programs = {&capture_->programs[0]};
    spec_.addresses = capture_->addresses;
  }

  void TearDown() override {
    if (control_ && control_ != MAP_FAILED)
      munmap(control_, 4096);
    // The module holds the array, a stub in the array holds the module.
    for (uint32_t slot = 0; slot < 16 && jumps_fd_; ++slot)
      bpf_map_delete_elem(jumps_fd_.get(), &slot);
    stub_ = Fd();
    inserted_.reset();
    if (!spec_.name.empty() && access(("/sys/module/" + spec_.name).c_str(), F_OK) == 0) {
      EXPECT_EQ(llvm::toString(remove_module(spec_.name)), "");
    }
  }

  static const ModuleKernel &this_kernel() {
    static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
    return kernel;
  }

  /// Adds to the control map, tries a tail call if it has one, returns.
  Fd load(const char *name, int32_t counter, int32_t result, bool jumps) {
    std::vector<bpf_insn> insns{{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0},
                                {BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_VALUE, 0, control_fd_.get()},
                                {0, 0, 0, 0, counter},
                                {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1},
                                {BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, BPF_ADD}};
    if (jumps)
      insns.insert(insns.end(), {{BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0},
                                 {BPF_LD | BPF_DW | BPF_IMM, 2, BPF_PSEUDO_MAP_FD, 0, jumps_fd_.get()},
                                 {0, 0, 0, 0, 0},
                                 {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 9},
                                 {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call}});
    insns.push_back({BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, result});
    insns.push_back({BPF_JMP | BPF_EXIT, 0, 0, 0, 0});
    LIBBPF_OPTS(bpf_prog_load_opts, options,
                .expected_attach_type = GetParam() == ProgType::xdp ? BPF_XDP : bpf_attach_type(0),
                .prog_flags = GetParam() == ProgType::xdp ? uint32_t(BPF_F_XDP_HAS_FRAGS) : 0u);
    return Fd(bpf_prog_load(bpf_prog_type(GetParam()), name, "GPL", insns.data(), insns.size(), &options));
  }

  const CapturedMap *map_named(std::string_view name) const {
    for (const CapturedMap &m : capture_->maps)
      if (m.name == name)
        return &m;
    return nullptr;
  }

  /// Empty, or why.
  std::string insert() {
    auto module = write_module(spec_, kernel_);
    if (!module)
      return llvm::toString(module.takeError());
    return insert(*module);
  }

  std::string insert(std::span<const uint8_t> module) {
    const auto start = std::chrono::steady_clock::now();
    auto inserted = insert_module(spec_, module);
    if (!inserted)
      return llvm::toString(inserted.takeError());
    std::printf("module: %zu bytes, loaded in %.1f ms\n", module.size(), milliseconds_since(start));
    inserted_.emplace(std::move(*inserted));
    return "";
  }

  StubSpec stub_spec() const {
    return {.name = "stub",
            .original = &capture_->programs[0],
            .module_btf = inserted_->btf.get(),
            .kfunc_id = inserted_->kfunc_ids[0],
            .frame_bytes = spec_.frame_bytes,
            .prog_arrays = {jumps_fd_.get()},
            .switch_map = switch_fd_.get(),
            .originals = originals_fd_.get()};
  }

  std::string load_stub() {
    const auto start = std::chrono::steady_clock::now();
    auto stub = ujit::load_stub(stub_spec());
    if (!stub)
      return llvm::toString(stub.takeError());
    std::printf("stub: loaded in %.1f ms\n", milliseconds_since(start));
    stub_ = std::move(*stub);
    return "";
  }

  /// A sealed module with one stub.
  std::string bring_up() {
    std::string error = insert();
    if (error.empty())
      error = load_stub();
    if (error.empty())
      error = llvm::toString(seal_module(*inserted_, 1));
    return error;
  }

  int64_t run(int program = -1) {
    uint8_t packet[64] = {}, out[512];
    packet[12] = 8;
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_out = out, .data_size_in = sizeof packet,
                .data_size_out = sizeof out, .repeat = 1);
    if (bpf_prog_test_run_opts(program < 0 ? stub_.get() : program, &run))
      return -errno;
    return run.retval;
  }

  void set_slot(uint32_t slot, int program) {
    EXPECT_EQ(bpf_map_update_elem(jumps_fd_.get(), &slot, &program, 0), 0) << std::strerror(errno);
  }

  void expect_refusal(const std::string &error, const char *message) {
    EXPECT_NE(error.find(message), std::string::npos) << error;
    EXPECT_NE(access(("/sys/module/" + spec_.name).c_str(), F_OK), 0);
  }

  ModuleKernel kernel_;
  std::vector<uint8_t> image_ = test::compile_image();
  Fd control_fd_, switch_fd_, jumps_fd_, originals_fd_, original_fd_, target_fd_, stub_;
  Control *control_ = nullptr;
  std::optional<Capture> capture_;
  ModuleSpec spec_;
  std::optional<InsertedModule> inserted_;
};

INSTANTIATE_TEST_SUITE_P(Hooks, Modules, testing::Values(ProgType::xdp, ProgType::sched_cls),
                         [](const auto &type) { return std::string(name_of(type.param)); });

/// What does not depend on the hook.
class ModuleRefusals : public Modules {};
INSTANTIATE_TEST_SUITE_P(Hooks, ModuleRefusals, testing::Values(ProgType::xdp),
                         [](const auto &type) { return std::string(name_of(type.param)); });

TEST_P(Modules, RunsTheImage) {
  ASSERT_EQ(bring_up(), "");
  EXPECT_EQ(run(), 2);
  EXPECT_EQ(control_->calls, 1u);
  EXPECT_GT(control_->time, 0u);
  control_->mode = 2;
  EXPECT_EQ(run(), 0xffffffff);
}

TEST_P(Modules, LeavesAndComesBack) {
  ASSERT_EQ(bring_up(), "");
  control_->mode = 1;
  control_->index = 3;
  EXPECT_EQ(run(), 1); // empty slot: resumed with the frame as it was
  EXPECT_EQ(control_->resumes, 1u);
  control_->index = 0x80000000; // out of range
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(control_->resumes, 2u);
  control_->index = 3;
  set_slot(3, target_fd_.get());
  EXPECT_EQ(run(), 4);
  EXPECT_EQ(control_->target, 1u);
  EXPECT_EQ(control_->resumes, 2u);
}

TEST_P(Modules, CountsWhatItLeaves) {
  Fd left(bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "left", 4, 8, 1, nullptr));
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  spec.left = left.get();
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  stub_ = std::move(*stub);
  ASSERT_EQ(llvm::toString(seal_module(*inserted_, 1)), "");
  EXPECT_EQ(run(), 2);
  control_->mode = 1;
  control_->index = 3;
  EXPECT_EQ(run(), 1);
  set_slot(3, target_fd_.get());
  EXPECT_EQ(run(), 4);
  uint64_t counts[1024] = {}, sum = 0;
  const uint32_t zero = 0;
  ASSERT_EQ(bpf_map_lookup_elem(left.get(), &zero, counts), 0);
  for (uint64_t n : counts)
    sum += n;
  EXPECT_EQ(sum, 2u);
}

TEST_P(Modules, DropsWhenEveryTailCallFails) {
  ASSERT_EQ(bring_up(), "");
  control_->mode = 3;
  EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
  EXPECT_EQ(control_->calls, 34u);
}

TEST_P(Modules, KillSwitch) {
  ASSERT_EQ(bring_up(), "");
  auto *off =
      static_cast<uint32_t *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, switch_fd_.get(), 0));
  ASSERT_NE(off, MAP_FAILED);
  EXPECT_EQ(run(), 2);
  *off = 1;
  EXPECT_EQ(run(), 3);
  EXPECT_EQ(control_->original, 1u);
  EXPECT_EQ(control_->calls, 1u);
  const uint32_t zero = 0;
  bpf_map_delete_elem(originals_fd_.get(), &zero);
  EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
  *off = 0;
  EXPECT_EQ(run(), 2);
  munmap(off, 4096);
}

TEST_P(Modules, StubsTakeTheOriginalsPlace) {
  ASSERT_EQ(bring_up(), "");
  // The array's owner is of the original's kind: type, attach type, frags.
  set_slot(5, original_fd_.get());
  set_slot(6, stub_.get());
  const StubSpec spec = stub_spec();
  const int stub = stub_.get(), original = original_fd_.get();
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&spec, 1), std::span(&stub, 1))), "");
  // The target would do, too; one of another attach type or without a flag would not.
  CapturedProgram other = copy_of(capture_->programs[0]);
  other.attach_type = capture_->programs[0].attach_type + 1;
  other.frags = capture_->programs[0].frags;
  StubSpec differs = stub_spec();
  differs.original = &other;
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&differs, 1), std::span(&stub, 1))),
            "the stub of  cannot stand in for it: attach type differs");
  differs = stub_spec();
  differs.dst_needed = true;
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&differs, 1), std::span(&original, 1))),
            "the stub of original cannot stand in for it: dst_needed differs");
}

TEST_P(Modules, StubsHaveTheFlagsOfAllMembers) {
  if (GetParam() != ProgType::sched_cls)
    GTEST_SKIP() << "only tc looks at it";
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  spec.dst_needed = true;
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  const int fd = stub->get();
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&spec, 1), std::span(&fd, 1))), "");
}

TEST_P(Modules, LargestStub) {
  spec_.frame_bytes = 400;
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  std::vector<Fd> arrays;
  for (int i = 0; i < 15; ++i) {
    arrays.emplace_back(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "more", 4, 4, 2, nullptr));
    spec.prog_arrays.push_back(arrays.back().get());
  }
  const auto start = std::chrono::steady_clock::now();
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  std::printf("stub of 16 arrays: loaded in %.1f ms\n", milliseconds_since(start));
  stub_ = std::move(*stub);
  ASSERT_EQ(llvm::toString(seal_module(*inserted_, 1)), "");
  EXPECT_EQ(run(), 2);
}

TEST_P(Modules, StayWhileAStubIsThere) {
  ASSERT_EQ(bring_up(), "");
  std::string refused = llvm::toString(remove_module(spec_.name, 50));
  EXPECT_NE(refused.find("1 programs use it"), std::string::npos) << refused;
  set_slot(1, stub_.get());
  stub_ = Fd(); // only in the prog array now
  refused = llvm::toString(remove_module(spec_.name, 50));
  EXPECT_NE(refused.find("1 programs use it"), std::string::npos) << refused;
  const uint32_t slot = 1;
  bpf_map_delete_elem(jumps_fd_.get(), &slot);
  EXPECT_EQ(llvm::toString(remove_module(spec_.name)), "");
  refused = llvm::toString(remove_module(spec_.name));
  EXPECT_NE(refused.find("it is not loaded"), std::string::npos) << refused;
}

TEST_P(Modules, HoldMapsAndPrograms) {
  ASSERT_EQ(insert(), "");
  const uint32_t map = map_named("control")->id, program = capture_->programs[0].id;
  const uint32_t zero = 0;
  bpf_map_delete_elem(originals_fd_.get(), &zero);
  munmap(control_, 4096);
  control_ = nullptr;
  capture_.reset();
  for (Fd *fd : {&control_fd_, &original_fd_, &target_fd_})
    *fd = Fd();
  usleep(300000);
  EXPECT_TRUE(bool(Fd(bpf_map_get_fd_by_id(map))));
  EXPECT_TRUE(bool(Fd(bpf_prog_get_fd_by_id(program))));
  inserted_.reset();
  EXPECT_EQ(llvm::toString(remove_module(spec_.name)), "");
  for (int i = 0; i < 500 && Fd(bpf_map_get_fd_by_id(map)); ++i)
    usleep(10000);
  EXPECT_FALSE(bool(Fd(bpf_map_get_fd_by_id(map))));
  EXPECT_FALSE(bool(Fd(bpf_prog_get_fd_by_id(program))));
}

TEST_P(Modules, SealedForEveryone) {
  ASSERT_EQ(bring_up(), "");
  Fd first = std::move(stub_);
  EXPECT_NE(load_stub(), "");
  EXPECT_EQ(run(first.get()), 2);
}

/// Before 6.4 the kernel cannot be told whom to refuse: who binds in time never gets to run the image, and
/// nobody else does either.
TEST_P(Modules, ForeignProgramIsRefused) {
  ASSERT_EQ(insert(), "");
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    inserted_->open = Fd();
    char answer = 'n';
    if (auto foreign = ujit::load_stub(stub_spec())) {
      stub_ = std::move(*foreign);
      answer = run() == (GetParam() == ProgType::xdp ? 0 : 2) ? 'd' : 'r';
    } else
      llvm::consumeError(foreign.takeError());
    (void)!write(go[1], &answer, 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(go[0], &answer, 1), 1);
  EXPECT_EQ(answer, kernel_.layout.set_filter_at ? 'n' : 'd');
  EXPECT_EQ(load_stub(), "");
  const std::string sealed = llvm::toString(seal_module(*inserted_, 1));
  if (kernel_.layout.set_filter_at) {
    EXPECT_EQ(sealed, "");
    EXPECT_EQ(run(), 2);
  } else {
    EXPECT_NE(sealed.find("is used by 2 programs, and 1 of them are ours"), std::string::npos) << sealed;
    EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
    EXPECT_EQ(control_->calls, 0u);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(go[0]);
  close(go[1]);
}

TEST_P(Modules, KilledLoaderLeavesItSealed) {
  auto module = write_module(spec_, kernel_);
  ASSERT_TRUE(bool(module)) << llvm::toString(module.takeError());
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string error = insert(*module);
    const char answer = error.empty() ? 'y' : 'n';
    (void)!write(go[1], &answer, 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(go[0], &answer, 1), 1);
  ASSERT_EQ(answer, 'y');
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(go[0]);
  close(go[1]);
  inserted_.emplace();
  inserted_->name = spec_.name;
  for (uint32_t id = 0; bpf_btf_get_next_id(id, &id) == 0;)
    inserted_->btf = Fd(bpf_btf_get_fd_by_id(id)); // the newest is the module's
  auto object = read_elf(*module);
  ASSERT_TRUE(bool(object));
  for (const ImageElfSymbol &s : object->symbols)
    if (s.name == "ujit_module_set") {
      uint32_t words[3];
      std::memcpy(words, object->sections[s.section].contents.data() + s.value, sizeof words);
      inserted_->kfunc_ids = {words[2]};
    }
  EXPECT_NE(load_stub(), "");
}

TEST_P(ModuleRefusals, RefusesAMovedFunction) {
  spec_.addresses["bpf_ktime_get_ns"] += 16;
  expect_refusal(insert(), "bpf_ktime_get_ns is not where it was when the image was linked");
  spec_.addresses["bpf_ktime_get_ns"] -= 16;
  // Init's own functions are checked before they are called.
  for (const std::string &name : module_functions()) {
    spec_.addresses[name] += 1;
    expect_refusal(insert(), (name + " is not where it was when the image was linked").c_str());
    spec_.addresses[name] -= 1;
  }
  EXPECT_EQ(insert(), "");
}

TEST_P(ModuleRefusals, RefusesAnotherMap) {
  CapturedMap other = copy_of(*spec_.maps[0]);
  other.id += 1;
  spec_.maps[0] = &other;
  expect_refusal(insert(), "a map was replaced after it was captured");
}

TEST_P(ModuleRefusals, RefusesSwappedMaps) {
  ASSERT_GE(spec_.maps.size(), 2u);
  CapturedMap a = copy_of(*spec_.maps[0]), b = copy_of(*spec_.maps[1]);
  std::swap(a.fd, b.fd);
  spec_.maps[0] = &a;
  spec_.maps[1] = &b;
  expect_refusal(insert(), "a map was replaced after it was captured");
}

TEST_P(ModuleRefusals, RefusesAnotherShape) {
  CapturedMap other = copy_of(*spec_.maps[0]);
  spec_.maps[0] = &other;
  for (uint32_t CapturedMap::*member :
       {&CapturedMap::key_size, &CapturedMap::value_size, &CapturedMap::max_entries, &CapturedMap::flags}) {
    other.*member += 1;
    expect_refusal(insert(), "a map has another type, size or flags");
    other.*member -= 1;
  }
  EXPECT_EQ(insert(), "");
}

TEST_P(ModuleRefusals, RefusesAnotherProgram) {
  CapturedProgram other = copy_of(capture_->programs[0]);
  spec_.programs = {&other};
  other.load_time_ns += 1;
  expect_refusal(insert(), "a program was replaced after it was captured");
  other.load_time_ns -= 1;
  other.insns[3].imm ^= 1;
  expect_refusal(insert(), "a program's instructions changed after it was captured");
  other.insns[3].imm ^= 1;
  other.insns.pop_back();
  expect_refusal(insert(), "a program's instructions changed after it was captured");
  other.fd = Fd();
  expect_refusal(insert(), "a map or program was closed after it was captured");
}

TEST_P(ModuleRefusals, RefusesANameThatTheKernelHas) {
  spec_.entries[0].name = "bpf_map_put";
  expect_refusal(insert(), "the kernel has another function of the name of an entry");
}

TEST_P(ModuleRefusals, RefusesASecondOfTheSameName) {
  ASSERT_EQ(insert(), "");
  auto module = write_module(spec_, kernel_);
  auto again = insert_module(spec_, *module);
  ASSERT_FALSE(bool(again));
  const std::string error = llvm::toString(again.takeError());
  EXPECT_NE(error.find("a module of this name is loaded"), std::string::npos) << error;
}

TEST_P(ModuleRefusals, RefusesDamagedBtf) {
  auto module = write_module(spec_, kernel_);
  ASSERT_TRUE(bool(module));
  auto object = read_elf(*module);
  ASSERT_TRUE(bool(object));
  const ImageElfSection &btf = object->sections[object->find_section(".BTF")];
  (*module)[btf.offset + 24 + 7] = 0x7f; // kind of the first type
  expect_refusal(insert(*module), "the kernel does not take the BTF of module");
}

TEST_P(ModuleRefusals, RefusesAModuleOfAnotherKernel) {
  ModuleKernel other = kernel_;
  ASSERT_TRUE(other.symbol_crcs.contains("module_layout"));
  other.symbol_crcs["module_layout"] ^= 1;
  auto module = write_module(spec_, other);
  ASSERT_TRUE(bool(module));
  expect_refusal(insert(*module), "the kernel does not take the module as one of its own");
}

/// In a process without CAP_SYS_MODULE.
TEST_P(ModuleRefusals, SaysThatACapabilityIsMissing) {
  auto module = write_module(spec_, kernel_);
  ASSERT_TRUE(bool(module));
  int answer[2];
  ASSERT_EQ(pipe(answer), 0);
  const pid_t child = fork();
  if (child == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    data[0].effective &= ~(1u << CAP_SYS_MODULE);
    syscall(SYS_capset, &header, data);
    auto inserted = insert_module(spec_, *module);
    const std::string error = inserted ? "" : llvm::toString(inserted.takeError());
    (void)!write(answer[1], error.data(), error.size());
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  char text[512] = {};
  EXPECT_GT(read(answer[0], text, sizeof text - 1), 0);
  expect_refusal(text, "CAP_SYS_MODULE is missing");
  close(answer[0]);
  close(answer[1]);
}

/// Booted with lockdown or signature enforcement: UJIT_EXPECT_REFUSAL is a part of the message.
TEST(ReadModuleKernel, RefusesAsTheKernelDoes) {
  const char *expected = getenv("UJIT_EXPECT_REFUSAL");
  if (!expected)
    GTEST_SKIP() << "UJIT_EXPECT_REFUSAL is not set: this kernel was not booted to refuse";
  auto kernel = read_module_kernel();
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  EXPECT_NE(kernel->refusal.find(expected), std::string::npos) << kernel->refusal;
  // What the kernel itself says when it is asked nevertheless.
  kernel->refusal.clear();
  const std::vector<uint8_t> image = test::compile_image();
  ModuleSpec spec{.name = "ujit_0123456789abcdef",
                  .image = image,
                  .entries = {{"test_image", "ujit_0123456789abcdef_e0", ProgType::xdp}},
                  .instance = {0},
                  .addresses = {{"bpf_ktime_get_ns", 0xffffffff81000000}}};
  for (const std::string &name : module_functions())
    spec.addresses[name] = 0xffffffff81000000;
  auto module = write_module(spec, *kernel);
  ASSERT_TRUE(bool(module)) << llvm::toString(module.takeError());
  auto inserted = insert_module(spec, *module);
  ASSERT_FALSE(bool(inserted));
  const std::string error = llvm::toString(inserted.takeError());
  EXPECT_NE(error.find(expected), std::string::npos) << error;
}

} // namespace
} // namespace ujit
