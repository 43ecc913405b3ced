#include "tests/example.h"

#include "tests/paths.h"

#include "llvm/Support/Error.h"

#include <filesystem>

namespace ujit {

std::optional<Example> read_example(const std::string &name) {
  const std::string path = binary_dir() + "/edge-lb/" + name + ".ujit.yaml";
  if (!std::filesystem::exists(path))
    return std::nullopt;
  Example out;
  out.manifest = llvm::cantFail(read_manifest(path));
  out.pipeline = llvm::cantFail(load_pipeline(out.manifest));
  out.options = llvm::cantFail(link_options(out.manifest, out.pipeline));
  return out;
}

} // namespace ujit
