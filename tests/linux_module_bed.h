// Modules in a running kernel: an original program that counts its runs and has a tail call, a target for it,
// and an image of the original, the one of linux_module.h. Packets come by BPF_PROG_TEST_RUN.
#pragma once

#include "linux_module.h"

#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/stub.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstring>

namespace ujit {

using test::Control;

inline double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

inline Fd duplicate(const Fd &fd) { return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

inline CapturedMap copy_of(const CapturedMap &m) {
  CapturedMap c;
  c.fd = duplicate(m.fd);
  c.address = m.address, c.id = m.id, c.type = m.type, c.extra = m.extra;
  c.key_size = m.key_size, c.value_size = m.value_size, c.max_entries = m.max_entries, c.flags = m.flags;
  return c;
}

inline CapturedProgram copy_of(const CapturedProgram &p) {
  CapturedProgram c;
  c.fd = duplicate(p.fd);
  c.address = p.address, c.id = p.id, c.type = p.type, c.load_time_ns = p.load_time_ns;
  c.insns = p.insns;
  return c;
}

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

} // namespace ujit
