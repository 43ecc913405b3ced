// Which images have jump tables: those of the embedded kernel.
#include "lto/link.h"
#include "tests/machine_steps.h"
#include "tests/paths.h"
#include "tests/support/case_file.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

/// Jumps of which the code does not say where they go, in the image of a case with dense switches.
size_t indirect_jumps(LinkOptions options) {
  auto c = read_case(source_dir() + "/tests/cases/dense-switch.case");
  if (!c) {
    ADD_FAILURE() << llvm::toString(c.takeError());
    return 0;
  }
  auto linked = link(c->pipeline, options);
  if (!linked) {
    ADD_FAILURE() << llvm::toString(linked.takeError());
    return 0;
  }
  return count_steps(linked->image.object,
                     [](const MachineStep &s) { return s.branch && s.ends && !s.target; });
}

TEST(JumpTables, AreInImagesOfTheEmbeddedKernel) {
  EXPECT_GT(indirect_jumps({}), 0u);
  LinkOptions without;
  without.disabled = {"switches"};
  EXPECT_EQ(indirect_jumps(without), 0u);
}

TEST(JumpTables, AreNotInKernelImages) {
  LinkOptions options;
  options.target = LinkTarget::kernel;
  EXPECT_EQ(indirect_jumps(options), 0u);
  options.kernel_code.ibt = options.kernel_code.retpolines = true;
  EXPECT_EQ(indirect_jumps(options), 0u);
}

} // namespace
} // namespace ujit
