// Images on the way to the running kernel, as far as any machine can go with them.
#include "kernel-iface/linux/capabilities.h"
#include "lto/install.h"
#include "lto/test_hooks.h"
#include "tests/paths.h"

#include "llvm/IR/Instructions.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// As a compiler would be that reads a value again instead of keeping it.
void load_again(llvm::Module &module) {
  for (llvm::Function &f : module)
    for (llvm::BasicBlock &block : f)
      for (llvm::Instruction &i : llvm::make_early_inc_range(block))
        if (auto *load = llvm::dyn_cast<llvm::LoadInst>(&i); load && load->getDebugLoc()) {
          load->setVolatile(true);
          load->clone()->insertAfter(load);
        }
}

TEST(LinuxImage, TwoLoadsOfOneAreRefused) {
  const Capabilities capabilities = probe_capabilities();
  for (const Capability *needed : {&capabilities.bpf, &capabilities.btf, &capabilities.jit_dump})
    if (!needed->ok)
      GTEST_SKIP() << needed->name << ": " << needed->reason;
  const Manifest manifest =
      llvm::cantFail(parse_manifest("ujit-lto: 1\nname: test\nentries: [ entry ]\nobjects: [ { path: \"" +
                                        binary_dir() + "/tests/install_xdp.bpf.o\" } ]\n",
                                    "test.ujit.yaml"));
  auto linked = install_dry_run(manifest, {});
  ASSERT_TRUE(bool(linked)) << llvm::toString(linked.takeError());

  test_hooks.lowered = load_again;
  linked = install_dry_run(manifest, {});
  test_hooks.lowered = nullptr;
  ASSERT_FALSE(bool(linked));
  const std::string error = llvm::toString(linked.takeError());
  EXPECT_NE(error.find("the compiler made two machine loads"), std::string::npos) << error;
  EXPECT_NE(error.find(": insn "), std::string::npos) << error;
}

} // namespace
} // namespace ujit
