// That each optimisation that can be left out does something: there is an image that is another without it.
// What each does is tested by itself; this finds the one that has come to be in vain, or was never switched
// off by its name.
#include "kernel-iface/image/elf.h"
#include "lto/link.h"
#include "tests/example.h"
#include "tests/paths.h"
#include "tests/support/case_file.h"
#include "tests/support/modes.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace ujit {
namespace {

Expected<std::vector<uint8_t>> code_of(const Pipeline &pipeline, LinkOptions options) {
  options.debug_info = false;
  auto linked = link(pipeline, options);
  if (!linked)
    return linked.takeError();
  auto object = read_elf(linked->image.object);
  if (!object)
    return object.takeError();
  return object->sections[object->find_section(".text")].contents.vec();
}

bool fires(const Pipeline &pipeline, LinkOptions options, std::string_view name) {
  auto with = code_of(pipeline, options);
  if (!with) { // some cases are only for the interpreter
    llvm::consumeError(with.takeError());
    return false;
  }
  options.disabled.emplace_back(name);
  return *with != llvm::cantFail(code_of(pipeline, options));
}

class Optimisations : public testing::TestWithParam<std::string_view> {};

TEST_P(Optimisations, ChangesAnImage) {
  for (const char *name : {"edge-lb-tc", "edge-lb"})
    if (std::optional<Example> example = read_example(name);
        example && fires(example->pipeline, example->options, GetParam()))
      return;
  auto files = find_cases(source_dir() + "/tests/cases");
  ASSERT_TRUE(bool(files)) << llvm::toString(files.takeError());
  for (const std::string &file : *files) {
    auto c = read_case(file);
    ASSERT_TRUE(bool(c)) << llvm::toString(c.takeError());
    if (!c->error && fires(c->pipeline, standalone_options(*c), GetParam()))
      return;
  }
  ADD_FAILURE() << "every image is the same without it";
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> out;
  for (const OptimisationName &o : optimisation_names())
    if (o.name != "profile") // which is the input's, not the linker's
      out.push_back(o.name);
  return out;
}

INSTANTIATE_TEST_SUITE_P(Each, Optimisations, testing::ValuesIn(names()), [](const auto &info) {
  std::string name(info.param);
  std::ranges::replace(name, '-', '_');
  return name;
});

} // namespace
} // namespace ujit
