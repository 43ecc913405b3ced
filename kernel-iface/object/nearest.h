// "Did you mean": the known name that is most like a given one.
#pragma once

#include "llvm/ADT/StringRef.h"

#include <string>

namespace ujit {

/// Hint that names the nearest of `names` (any range of things convertible to string_view), or is empty if
/// there is none.
template <typename Names>
std::string nearest_hint(std::string_view name, const Names &names) {
  std::string best;
  unsigned distance = ~0u;
  for (const auto &candidate : names) {
    std::string_view c = candidate;
    unsigned d = llvm::StringRef(name.data(), name.size()).edit_distance({c.data(), c.size()});
    if (d < distance) {
      distance = d;
      best = c;
    }
  }
  return best.empty() ? best : "did you mean " + best + "?";
}

} // namespace ujit
