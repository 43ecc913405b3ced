// What is seen of an installation from outside, and what it sees of others: tracers and extensions on its
// programs, slots that changed, stack dumps, names.
#include "lto/installed_places.h"
#include "tests/install_bed.h"
#include "tests/paths.h"

#include "kernel-iface/linux/drift.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <unistd.h>

#include <cstring>

namespace ujit {
namespace {

using llvm::StringRef;

/// What a command prints, with its exit code at the end.
std::string output_of(const std::string &command) {
  std::string out;
  FILE *pipe = popen((command + " 2>&1; echo exit $?").c_str(), "r");
  char buffer[512];
  while (size_t n = fread(buffer, 1, sizeof buffer, pipe))
    out.append(buffer, n);
  pclose(pipe);
  return out;
}
std::string tool(const std::string &arguments) { return output_of(binary_dir() + "/ujit-lto " + arguments); }
void expect_in(const std::string &text, std::initializer_list<const char *> parts) {
  for (const char *part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in\n" << text;
}

class LinuxInstallSeen : public LinuxInstall {
protected:
  static Drift drift() {
    InstallationFolder folder = llvm::cantFail(InstallationFolder::open(name));
    KernelReader reader = llvm::cantFail(KernelReader::load());
    return llvm::cantFail(look_for_drift(folder, reader));
  }
  /// Names of the fused programs.
  static std::string fused() {
    std::vector<std::string> names;
    for (const auto &[key, value] : llvm::cantFail(installation_status(name)).installation.image)
      for (const auto &image : *value.getAsArray())
        for (const auto &program : *image.getAsObject()->getArray("programs"))
          names.push_back(program.getAsObject()->getString("name")->str());
    return llvm::join(names, " ");
  }
};
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallSeen, testing::Values(Hook{"xdp", HookKind::xdp, true}),
                         name_of_hook);

/// A program with a tracer stays as it is, and the tracer goes on seeing each packet; one that is an entry
/// cannot be fused at all.
TEST_P(LinuxInstallSeen, ProgramsWithTracersStayUnfused) {
  for (const char *what : {"on_entry", "on_exit"}) {
    Attacher tracer;
    ASSERT_EQ(tracer.load(what, original_of("mid"), "mid"), "");
    ASSERT_TRUE(tracer.attach()) << std::strerror(errno);
    const Outcome originals = all_traffic(way_far);
    ASSERT_EQ(install(), "");
    EXPECT_EQ(StringRef(fused()).contains("mid"), false) << fused();
    expect_same(all_traffic(way_far), originals, what);
    EXPECT_EQ(drift().attached, std::vector<std::string>()) << "it is not inside";
    llvm::cantFail(uninstall(name));
  }
  for (const char *what : {"on_entry", "on_exit", "extension"}) {
    Attacher on_entry;
    ASSERT_EQ(on_entry.load(what, entry(), "entry"), "");
    ASSERT_TRUE(on_entry.attach()) << what << ": " << std::strerror(errno);
    expect_in(install(), {"entry", what, "is attached to it: detach it"});
    expect_originals();
  }
  ASSERT_EQ(install(), "") << "detached again";
}

/// What is attached afterwards does not meet fused packets: `status` says so, `watch` switches off.
TEST_P(LinuxInstallSeen, WhatIsAttachedLaterIsNoticed) {
  ASSERT_EQ(install(), "");
  EXPECT_EQ(drift().differences(), std::vector<std::string>());
  expect_in(tool("watch --once test"), {"exit 0"});
  {
    Attacher tracer;
    ASSERT_EQ(tracer.load("on_entry", original_of("leaf_pass"), "leaf_pass"), "");
    ASSERT_TRUE(tracer.attach()) << std::strerror(errno);
    const std::vector<std::string> told = drift().attached;
    ASSERT_EQ(told.size(), 1u);
    expect_in(told[0], {"leaf_pass: fentry program 'on_entry'", "bpftool link detach id"});
    expect_in(tool("status test"),
              {"test: on", "attention   fused packets differ: leaf_pass: fentry program"});
    expect_in(tool("status --json test"), {"\"attached\": [", "\"differences\": ["});
    expect_in(tool("watch --once --keep-on test"), {"test: leaf_pass: fentry program", "exit 1"});
    EXPECT_TRUE(llvm::cantFail(installation_status(name)).enabled);
    expect_in(tool("watch --once test"), {"test: switched off, the originals run", "exit 1"});
    EXPECT_FALSE(llvm::cantFail(installation_status(name)).enabled);
  }
  EXPECT_EQ(drift().differences(), std::vector<std::string>());
}

/// An extension takes the place of the original: after `watch`, of the fused program, too.
TEST_P(LinuxInstallSeen, ExtensionsThatAreAttachedLaterAreNoticed) {
  ASSERT_EQ(install(), "");
  Attacher extension;
  ASSERT_EQ(extension.load("extension", entry(), "entry"), "");
  if (!extension.attach()) {
    ASSERT_EQ(errno, EBUSY) << std::strerror(errno);
    GTEST_SKIP() << "this kernel does not extend programs in prog arrays, as the originals behind a stub are";
  }
  Fd stub = this->stub();
  EXPECT_EQ(run(stub.get()), uint32_t(pass())) << "fused";
  expect_in(tool("watch --once test"), {"entry: extension (freplace) 'extension'", "switched off"});
  EXPECT_EQ(run(stub.get()), uint32_t(XDP_DROP)) << "the extension's verdict";
}

TEST_P(LinuxInstallSeen, SlotsThatChangedAreTold) {
  const int calls = map("calls");
  ASSERT_EQ(install(), "");
  ASSERT_EQ(drift().arrays.size(), 1u);
  ArrayNow a = drift().arrays[0];
  EXPECT_EQ(a.array.name, "calls");
  EXPECT_EQ(a.array.slots.size(), 8u) << "those whose programs are fused";
  EXPECT_TRUE(a.pinned);
  EXPECT_FALSE(a.array.sealed);
  EXPECT_EQ(a.changed, 0u);
  set_slot(slot_leaves, newcomer_.get());
  set_slot(slot_mid, -1);
  EXPECT_EQ(drift().arrays[0].changed, 2u);
  EXPECT_EQ(drift().differences(), std::vector<std::string>()) << "guarded calls look at the slot";
  expect_in(tool("status test"), {"slots       6 of 8 as fused in calls, pinned"});
  set_slot(slot_mid, original_of("mid"));
  set_slot(slot_leaves, original_of("leaf_pass"));
  EXPECT_EQ(drift().arrays[0].changed, 0u);
  llvm::cantFail(uninstall(name));

  // Sealed: frozen and pinned it must stay.
  ASSERT_EQ(bpf_map_freeze(calls), 0) << std::strerror(errno);
  const std::string sealed = "ujit-lto: 1\nname: test\nprog-arrays: [ { map: calls, edges: sealed } ]\n"
                             "attach:\n  - { interface: t0, hook: xdp }\n";
  ASSERT_EQ(install(llvm::cantFail(parse_manifest(sealed, "test.ujit.yaml"))), "");
  expect_in(tool("status test"), {"slots       8 of 8 as fused in calls, sealed: frozen, pinned"});
  ASSERT_EQ(unlink((folder() + "/" + prog_array_pin(0)).c_str()), 0);
  a = drift().arrays[0];
  EXPECT_TRUE(a.frozen);
  EXPECT_FALSE(a.pinned);
  expect_in(tool("status test"), {"as fused in calls, sealed: frozen, NOT PINNED"});
  EXPECT_EQ(drift().differences(), std::vector<std::string>());
  object_.reset(); // the array's last user, with whom the kernel empties it
  for (int i = 0; i < 500 && drift().arrays[0].changed == 0; ++i)
    usleep(10000);
  const std::vector<std::string> differences = drift().differences();
  ASSERT_EQ(differences.size(), 1u);
  expect_in(differences[0], {"prog array calls is sealed, and 8 of its 8 slots"});
}

/// A stack dump in the middle of the image goes through it to the stub and the driver; each address in it
/// leads to program, instruction and line.
TEST_P(LinuxInstallOnce, StackDumpsGoThrough) {
  struct {
    int64_t bytes;
    uint64_t addresses[32];
  } stack{};
  const std::string path = binary_dir() + "/tests/stack.bpf.o";
  std::unique_ptr<bpf_object, decltype(&bpf_object__close)> object(bpf_object__open(path.c_str()),
                                                                   bpf_object__close);
  ASSERT_TRUE(object && bpf_object__load(object.get()) == 0) << std::strerror(errno);
  ASSERT_EQ(install(), "");
  bpf_program *program = bpf_object__find_program_by_name(object.get(), "on_call");
  std::unique_ptr<bpf_link, decltype(&bpf_link__destroy)> link(
      bpf_program__attach_kprobe(program, false, "bpf_skb_pull_data"), bpf_link__destroy);
  ASSERT_TRUE(link) << std::strerror(errno);
  steer(way_rewrite);
  llvm::cantFail(traffic_->send(0, stimuli_[0]));
  llvm::cantFail(traffic_->collect());
  const uint32_t zero = 0;
  const int stacks = bpf_object__find_map_fd_by_name(object.get(), "stacks");
  ASSERT_EQ(bpf_map_lookup_elem(stacks, &zero, &stack), 0);
  ASSERT_GT(stack.bytes, 0);

  // As the kernel prints it.
  std::string dump, names;
  std::vector<std::string> functions;
  auto kallsyms = llvm::MemoryBuffer::getFileAsStream("/proc/kallsyms");
  ASSERT_TRUE(bool(kallsyms));
  std::map<uint64_t, std::string> symbols;
  for (StringRef rest = (*kallsyms)->getBuffer(); !rest.empty();) {
    StringRef line;
    std::tie(line, rest) = rest.split('\n');
    uint64_t address = 0;
    if (!line.split(' ').first.getAsInteger(16, address))
      symbols[address] = line.split(' ').second.split(' ').second.str();
  }
  size_t inside = 0, behind = 0;
  uint64_t in_image = 0;
  for (int64_t i = 0; i < stack.bytes / 8; ++i) {
    auto symbol = symbols.upper_bound(stack.addresses[i]);
    if (symbol == symbols.begin())
      continue;
    --symbol;
    auto [function, module] = StringRef(symbol->second).split('\t');
    dump += llvm::formatv(" {0}+0x{1:x-}/0x1000 {2}\n", function, stack.addresses[i] - symbol->first, module);
    if (module.starts_with("[ujit_")) {
      EXPECT_TRUE(function.starts_with("ujit.")) << function.str();
      in_image = stack.addresses[i];
      ++inside;
    } else if (inside) {
      ++behind;
    }
  }
  SCOPED_TRACE(dump);
  EXPECT_GE(inside, 1u);
  EXPECT_GE(behind, 4u) << "it does not go on behind the image";
  expect_in(dump, {"bpf_prog_", "ujit_entry", "cls_bpf_classify", "__netif_receive_skb"});
  const std::string explained = annotate_dump(dump);
  expect_in(explained, {"leaf_rewrite: insn ", "install.bpf.c:"});

  // The same by the command line: by name, and by address.
  InstalledPlace place =
      llvm::cantFail(find_installed_place(llvm::formatv("{0:x}", in_image).str(), /*return_address=*/true));
  EXPECT_EQ(place.installation, "test");
  expect_in(explained, {print_frames(place.frames, "    ").c_str()});
  expect_in(tool(llvm::formatv("symbolize -r 0x{0:x-}", in_image)),
            {print_frames(place.frames).c_str(), "exit 0"});
  expect_in(output_of("printf '%s' '" + dump + "' | " + binary_dir() + "/ujit-lto symbolize -"),
            {"leaf_rewrite: insn "});
  expect_in(tool("symbolize 0xffffffff81000000"), {"no module of an installation has address", "exit 1"});
  expect_in(tool("symbolize 'x+0x1 [ujit_0123456789abcdef]'"), {"no installation has a module", "exit 1"});
  llvm::consumeError(uninstall(name).takeError());
  expect_in(tool(llvm::formatv("symbolize 0x{0:x-}", in_image)), {"exit 1"});
}

/// The commands of README.md, as a new user would type them.
TEST(LinuxTour, ReadmeIntoAKernel) {
  static const ModuleKernel kernel = llvm::cantFail(read_module_kernel());
  if (!kernel.refusal.empty())
    GTEST_SKIP() << "no modules here: " << kernel.refusal;
  if (access((source_dir() + "/README.md").c_str(), R_OK) != 0)
    GTEST_SKIP() << "no README.md here";
  const std::string text = output_of("bash " + source_dir() + "/tests/guest/tour " + binary_dir() + " " +
                                     source_dir() + "/README.md");
  EXPECT_TRUE(StringRef(text).ends_with("exit 0\n")) << text;
}

} // namespace
} // namespace ujit
