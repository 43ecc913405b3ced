// Modules that a running kernel, or the module's own init, does not take, each with its own message.
#include "lto/install.h"
#include "tests/linux_module_bed.h"

#include "llvm/BinaryFormat/ELF.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace ujit {
namespace {

/// What does not depend on the hook.
class ModuleRefusals : public Modules {};
INSTANTIATE_TEST_SUITE_P(Hooks, ModuleRefusals, testing::Values(ProgType::xdp),
                         [](const auto &type) { return std::string(name_of(type.param)); });

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

/// With sections that have no bytes in the file, and more in memory than the kernel has room for modules.
TEST_P(ModuleRefusals, SaysThatThereIsNoMemory) {
  using namespace llvm::ELF;
  auto module = write_module(spec_, kernel_);
  ASSERT_TRUE(bool(module));
  std::vector<uint8_t> bytes = *module;
  bytes.resize((bytes.size() + 7) / 8 * 8);
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const size_t table = header.e_shnum * sizeof(Elf64_Shdr);
  Elf64_Shdr huge{};
  huge.sh_type = SHT_NOBITS;
  huge.sh_flags = SHF_ALLOC | SHF_WRITE;
  huge.sh_size = 0x38000000;
  huge.sh_addralign = 8;
  const std::vector<uint8_t> old(bytes.begin() + header.e_shoff, bytes.begin() + header.e_shoff + table);
  header.e_shoff = bytes.size();
  header.e_shnum += 2;
  bytes.insert(bytes.end(), old.begin(), old.end());
  for (int i = 0; i < 2; ++i) {
    bytes.resize(bytes.size() + sizeof huge);
    std::memcpy(bytes.data() + bytes.size() - sizeof huge, &huge, sizeof huge);
  }
  std::memcpy(bytes.data(), &header, sizeof header);
  expect_refusal(insert(bytes), "the kernel has no memory for the module");
  EXPECT_EQ(insert(*module), "");
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
                  .maps = {},
                  .programs = {},
                  .addresses = {{"bpf_ktime_get_ns", 0xffffffff81000000}}};
  for (const std::string &name : module_functions())
    spec.addresses[name] = 0xffffffff81000000;
  auto module = write_module(spec, *kernel);
  ASSERT_TRUE(bool(module)) << llvm::toString(module.takeError());
  auto inserted = insert_module(spec, *module);
  ASSERT_FALSE(bool(inserted));
  const std::string error = llvm::toString(inserted.takeError());
  EXPECT_NE(error.find(expected), std::string::npos) << error;

  // Installing says it before it does anything.
  auto manifest = parse_manifest("ujit-lto: 1\nname: test\nattach: [ { interface: lo, hook: xdp } ]\n", "m");
  ASSERT_TRUE(bool(manifest));
  auto installed = install(*manifest, {});
  ASSERT_FALSE(bool(installed));
  const std::string told = llvm::toString(installed.takeError());
  EXPECT_NE(told.find(expected), std::string::npos) << told;
  EXPECT_EQ(llvm::cantFail(InstallationFolder::list()), std::vector<std::string>());
}

} // namespace
} // namespace ujit
