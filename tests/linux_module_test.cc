// What write_module() makes, taken apart again. Nothing here needs a kernel that loads modules; the running
// kernel's BTF is needed, as a module's BTF stands on it.
#include "linux_module.h"

#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/stub.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/BinaryFormat/ELF.h"

#include <bpf/btf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace ujit {
namespace {

using namespace llvm::ELF;
using test::compile_image;

/// As Linux 6.12 has it.
ModuleKernel some_kernel() {
  ModuleKernel k;
  k.release = "6.12.0";
  k.vermagic = "6.12.0 SMP preempt mod_unload modversions ";
  k.symbol_crcs = {{"module_layout", 0x1234}, {"_printk", 0x5678}};
  k.module_size = 1280, k.module_init = 312, k.module_exit = 1200, k.module_name = 24;
  k.file_operations_size = 272, k.file_operations_release = 128, k.file_operations_write = 32;
  k.layout.set_filter_at = 16;
  k.return_thunks = k.retpolines = k.ibt = true;
  k.call_sites = k.return_sites = k.retpoline_sites = true;
  return k;
}

class WriteModule : public testing::Test {
protected:
  void SetUp() override {
    if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
      GTEST_SKIP() << "the kernel tells no BTF";
    uint64_t address = 0xffffffff81000000;
    for (const std::string &name : module_functions())
      spec_.addresses[name] = address += 0x100;
    spec_.addresses["bpf_ktime_get_ns"] = 0xffffffff82000000;
    map_.address = 0xffff888001234000;
    map_.id = 7;
    map_.type = MapType::array;
    program_.address = 0xffffc90000123000;
    program_.id = 9;
    program_.type = ProgType::xdp;
    program_.insns = {{.opcode = 0xb7, .dst = 0, .src = 0, .offset = 0, .imm = 2}, {.opcode = 0x95}};
    spec_.name = "ujit_0123456789abcdef";
    spec_.image = image_;
    spec_.entries = {{"test_image", "ujit_0123456789abcdef_e0", ProgType::xdp}};
    spec_.instance = {0x1122334455667788};
    spec_.frame_bytes = 48;
    spec_.maps = {&map_};
    spec_.programs = {&program_};
  }

  std::string refusal(const ModuleKernel &kernel = some_kernel()) {
    auto module = write_module(spec_, kernel);
    return module ? "" : llvm::toString(module.takeError());
  }

  std::vector<uint8_t> image_ = compile_image();
  CapturedMap map_;
  CapturedProgram program_;
  ModuleSpec spec_;
};

struct Parsed {
  std::vector<uint8_t> bytes;
  ElfObject object;

  const ImageElfSection &section(llvm::StringRef name) const {
    EXPECT_NE(object.find_section(name), 0u) << name.str();
    return object.sections[object.find_section(name)];
  }
  const ImageElfSymbol *symbol(llvm::StringRef name) const {
    for (const ImageElfSymbol &s : object.symbols)
      if (s.name == name)
        return &s;
    return nullptr;
  }
};

Parsed parse(std::vector<uint8_t> bytes) {
  Parsed p{std::move(bytes), {}};
  p.object = llvm::cantFail(read_elf(p.bytes));
  return p;
}

TEST_F(WriteModule, HasWhatTheLoaderLooksFor) {
  Parsed p = parse(llvm::cantFail(write_module(spec_, some_kernel())));
  const ImageElfSection &self = p.section(".gnu.linkonce.this_module");
  EXPECT_EQ(self.size, 1280u);
  EXPECT_STREQ(reinterpret_cast<const char *>(self.contents.data()) + 24, "ujit_0123456789abcdef");
  std::vector<uint64_t> at;
  for (const Elf::Rela &r : self.relocations)
    at.push_back(r.r_offset);
  EXPECT_EQ(at, (std::vector<uint64_t>{312, 1200}));
  llvm::StringRef info = llvm::toStringRef(p.section(".modinfo").contents);
  EXPECT_TRUE(info.contains("vermagic=6.12.0 SMP preempt mod_unload modversions ")) << info.str();
  EXPECT_TRUE(info.contains("license=GPL"));
  llvm::ArrayRef<uint8_t> versions = p.section("__versions").contents;
  ASSERT_EQ(versions.size(), 128u); // snprintf and the thunk have none here
  EXPECT_STREQ(reinterpret_cast<const char *>(versions.data()) + 8, "_printk");
  EXPECT_STREQ(reinterpret_cast<const char *>(versions.data()) + 72, "module_layout");
  for (const ImageElfSection &s : p.object.sections)
    EXPECT_FALSE(s.flags & SHF_WRITE && s.flags & SHF_EXECINSTR) << s.name.str();
}

TEST_F(WriteModule, BtfStandsOnTheKernels) {
  Parsed p = parse(llvm::cantFail(write_module(spec_, some_kernel())));
  const ImageElfSection &section = p.section(".BTF");
  EXPECT_FALSE(section.flags & SHF_ALLOC);
  btf *base = btf__load_vmlinux_btf();
  const int file = memfd_create("btf", 0);
  ASSERT_EQ(write(file, section.contents.data(), section.size), ssize_t(section.size));
  btf *types = btf__parse_raw_split(("/proc/self/fd/" + std::to_string(file)).c_str(), base);
  close(file);
  ASSERT_TRUE(types);
  const int function = btf__find_by_name_kind(types, "ujit_0123456789abcdef_e0", BTF_KIND_FUNC);
  ASSERT_GT(function, 0);
  const btf_type *proto = btf__type_by_id(types, btf__type_by_id(types, function)->type);
  EXPECT_EQ(btf_vlen(proto), 4);
  const ImageElfSymbol *set = p.symbol("ujit_module_set");
  ASSERT_TRUE(set);
  uint32_t words[4];
  std::memcpy(words, p.object.sections[set->section].contents.data() + set->value, sizeof words);
  EXPECT_EQ(words[0], 1u);
  EXPECT_EQ(words[1], 1u);
  EXPECT_EQ(words[2], uint32_t(function));
  btf__free(types);
  btf__free(base);
}

TEST_F(WriteModule, EveryReturnAndCallHasItsSite) {
  Parsed p = parse(llvm::cantFail(write_module(spec_, some_kernel())));
  size_t returns = 0, calls = 0;
  for (const ImageElfSection &s : p.object.sections) {
    if (!(s.flags & SHF_EXECINSTR))
      continue;
    for (const Elf::Rela &r : s.relocations) {
      const ImageElfSymbol &to = p.object.symbols[r.getSymbol(false)];
      const uint8_t opcode = s.contents[r.r_offset - 1];
      if (to.name == "__x86_return_thunk")
        ++returns;
      else if (to.section == SHN_ABS && opcode == 0xe8)
        ++calls;
    }
  }
  EXPECT_GE(returns, 7u);
  EXPECT_EQ(p.section(".return_sites").relocations.size(), returns);
  EXPECT_EQ(p.section(".call_sites").relocations.size(), calls);
  for (const Elf::Rela &r : p.section(".return_sites").relocations) {
    const ImageElfSymbol &to = p.object.symbols[r.getSymbol(false)];
    EXPECT_EQ(p.object.sections[to.section].contents[r.r_addend], 0xe9);
  }
}

TEST_F(WriteModule, PlainReturnsWhereTheKernelHasNoThunk) {
  ModuleKernel kernel = some_kernel();
  kernel.return_thunks = kernel.return_sites = false;
  Parsed p = parse(llvm::cantFail(write_module(spec_, kernel)));
  EXPECT_EQ(p.symbol("__x86_return_thunk"), nullptr);
  EXPECT_EQ(p.object.find_section(".return_sites"), 0u);
}

TEST_F(WriteModule, EntriesAskWhetherTheyMayRunWhereTheKernelDoesNotFilter) {
  const auto size = [&](const ModuleKernel &kernel) {
    Parsed p = parse(llvm::cantFail(write_module(spec_, kernel)));
    return p.symbol("ujit_0123456789abcdef_e0")->size;
  };
  ModuleKernel kernel = some_kernel();
  const uint64_t filtered = size(kernel);
  kernel.layout.set_filter_at = 0;
  EXPECT_GT(size(kernel), filtered);
}

TEST_F(WriteModule, OnlyWhatTheLoaderChecksIsUndefined) {
  Parsed p = parse(llvm::cantFail(write_module(spec_, some_kernel())));
  std::vector<std::string> undefined;
  for (const ImageElfSymbol &s : p.object.symbols)
    if (!s.name.empty() && !s.defined())
      undefined.push_back(s.name.str());
  EXPECT_EQ(undefined, (std::vector<std::string>{"__x86_return_thunk", "_printk", "snprintf"}));
}

TEST_F(WriteModule, SameInputSameBytes) {
  auto a = llvm::cantFail(write_module(spec_, some_kernel()));
  auto b = llvm::cantFail(write_module(spec_, some_kernel()));
  EXPECT_EQ(a, b);
}

TEST_F(WriteModule, RefusesAHelperWithoutAddress) {
  spec_.addresses.erase("bpf_ktime_get_ns");
  EXPECT_EQ(refusal(), "image: bpf_ktime_get_ns: a function of the kernel whose address is not known");
}

TEST_F(WriteModule, RefusesACallOutOfReach) {
  spec_.addresses["bpf_ktime_get_ns"] = 0xffffffff7ffffff0;
  EXPECT_EQ(refusal(), "image: bpf_ktime_get_ns: out of reach of a call from a module");
}

TEST_F(WriteModule, RefusesWritableData) {
  image_ = compile_image(std::string(test::image_ir) + "@state = global i64 1\n");
  spec_.image = image_;
  EXPECT_EQ(refusal(), "image: section .data: an image has no writable data");
}

TEST_F(WriteModule, RefusesAnEntryThatIsNotThere) {
  spec_.entries[0].symbol = "nothing";
  EXPECT_EQ(refusal(), "the image does not define nothing");
}

TEST_F(WriteModule, RefusesRetpolinesThatTheKernelLacks) {
  image_ = compile_image(std::string(test::image_ir) +
                         "define void @indirect(ptr %f) #1 { call void %f()\n ret void }\n"
                         "attributes #1 = { fn_ret_thunk_extern "
                         "\"target-features\"=\"+retpoline-indirect-calls,+retpoline-external-thunk\" }\n");
  spec_.image = image_;
  EXPECT_EQ(refusal(), "");
  ModuleKernel kernel = some_kernel();
  kernel.retpolines = false;
  EXPECT_NE(refusal(kernel).find("this kernel has no retpolines"), std::string::npos) << refusal(kernel);
}

TEST_F(WriteModule, RefusesOtherProgramTypes) {
  spec_.entries[0].type = ProgType::kprobe;
  EXPECT_NE(refusal().find("entries of type kprobe cannot be installed"), std::string::npos) << refusal();
}

TEST_F(WriteModule, RefusesAKernelThatRefuses) {
  ModuleKernel kernel = some_kernel();
  kernel.refusal = "CAP_SYS_MODULE is missing";
  EXPECT_EQ(refusal(kernel), "this kernel takes no modules of ours: CAP_SYS_MODULE is missing");
}

TEST_F(WriteModule, RefusesDamagedImages) {
  for (size_t cut : {0ul, 10ul, image_.size() / 2, image_.size() - 1}) {
    spec_.image = std::span(image_).first(cut);
    EXPECT_NE(refusal(), "") << cut;
  }
}

TEST(ModuleTable, HashSeesEveryBit) {
  std::vector<uint64_t> words(16, 0x95);
  const uint64_t before = ujit_insns_hash(words.data(), words.size());
  for (size_t i = 0; i < words.size() * 64; ++i) {
    words[i / 64] ^= 1ull << i % 64;
    EXPECT_NE(ujit_insns_hash(words.data(), words.size()), before) << i;
    words[i / 64] ^= 1ull << i % 64;
  }
}

TEST(ReadModuleKernel, SaysWhyAModuleIsRefused) {
  if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
    GTEST_SKIP() << "the kernel tells no BTF";
  auto kernel = read_module_kernel("/nonexistent");
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  EXPECT_NE(kernel->refusal, "");
  EXPECT_NE(kernel->release, "");
}

TEST(Stub, IsWhatTheVerifierTakes) {
  CapturedProgram original;
  original.type = ProgType::xdp;
  StubSpec spec{.name = "stub",
                .original = &original,
                .kfunc_id = 77,
                .frame_bytes = 400,
                .prog_arrays = std::vector<int>(16, 5),
                .switch_map = 3,
                .originals = 4};
  for (bool clear : {false, true}) {
    const std::vector<Insn> insns = stub_program(spec, clear);
    size_t tail_calls = 0, kfuncs = 0, stores = 0, preserved = 0;
    for (const Insn &i : insns) {
      tail_calls += i.opcode == 0x85 && i.src == 0 && i.imm == 12;
      kfuncs += i.opcode == 0x85 && i.src == 2 && i.offset == 1 && i.imm == 77;
      stores += i.opcode == 0x7a;
      preserved += i.dst >= 6 && i.dst <= 9;
    }
    EXPECT_EQ(tail_calls, 17u);
    EXPECT_EQ(kfuncs, 2u);
    EXPECT_EQ(stores, clear ? 50u : 0u);
    EXPECT_EQ(preserved, 0u) << "registers that the kernel's code saves and restores for every packet";
  }
}

} // namespace
} // namespace ujit
