// The version in a kernel's release name.
#pragma once

#include "llvm/ADT/StringRef.h"

#include <utility>

namespace ujit {

/// Major and minor number; both 0 where the name does not begin with them.
inline std::pair<unsigned, unsigned> kernel_version(llvm::StringRef release) {
  unsigned major = 0, minor = 0;
  if (release.consumeInteger(10, major) || !release.consume_front(".") || release.consumeInteger(10, minor))
    return {0, 0};
  return {major, minor};
}

/// Whether the bodies of the helpers that code of ours may stand for (hash_tables.cc, skb_helpers.cc,
/// array_updates.cc) were read in the sources of that kernel series.
inline bool sources_were_read(llvm::StringRef release) {
  const auto version = kernel_version(release);
  return version >= std::pair(6u, 1u) && version <= std::pair(6u, 18u);
}

} // namespace ujit
