#include "lto/cpu_check.h"

#include "lto/optimise.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/TargetParser/Host.h"

#include <algorithm>

namespace ujit {

using llvm::StringRef;

/// What code generation takes without being asked. A CPU's name implies more (SGX, say), which machines of
/// that name may lack without harm.
static bool is_generated(StringRef feature) {
  static constexpr StringRef others[] = {
      "adx",  "bmi",   "bmi2",  "ccmp", "cf", "cmov", "cx16",      "cx8",    "egpr", "f16c", "fma", "fma4",
      "gfni", "lzcnt", "movbe", "ndd",  "nf", "ppx",  "push2pop2", "popcnt", "sahf", "tbm",  "xop", "zu"};
  return feature.starts_with("avx") || feature.starts_with("sse") || feature == "ssse3" ||
         llvm::is_contained(others, feature);
}

Error check_cpu(const ImageInfo &image) {
  initialise_llvm();
  const auto [triple, rest] = StringRef(image.target).split(' ');
  const auto [cpu, features] = rest.split(' ');
  std::string why;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple.str(), why);
  if (!target)
    return input_error(llvm::formatv("the image is for '{0}': {1}", triple, why)).error();
  const std::unique_ptr<llvm::MCSubtargetInfo> wanted(target->createMCSubtargetInfo(triple, cpu, features));
  std::vector<std::string> missing;
  for (const auto &feature : llvm::sys::getHostCPUFeatures())
    if (!feature.second && is_generated(feature.first()) &&
        wanted->checkFeatures(("+" + feature.first()).str()))
      missing.push_back(feature.first().str());
  if (missing.empty())
    return Error::success();
  std::ranges::sort(missing);
  return input_error(llvm::formatv("the image was linked for CPU '{0}' with {1}, which this machine lacks",
                                   cpu, llvm::join(missing, ", ")))
      .with_hint("link it here, with `cpu: native` in the manifest, or for a CPU with less, such as x86-64")
      .error();
}

} // namespace ujit
