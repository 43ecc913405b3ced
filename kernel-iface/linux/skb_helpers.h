// Do the running kernel's helpers on packets do what code of ours does in their place?
#pragma once

#include <string_view>

namespace ujit {

/// Runs each of them on small linear packets and compares with what lto/skb_helpers.cc stands for. False also
/// where test runs are not allowed, and for kernels whose sources were not read: helpers are called there.
bool can_expand_skb_helpers(std::string_view release);

} // namespace ujit
