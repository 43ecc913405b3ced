// Helpers of the embedded kernel, as code of ours calls them: C functions by the name that libbpf's header
// gives them, five 64-bit arguments, r0 back. They work for the CPU that the calling thread plays. Arguments
// are those that the verifier lets through; error numbers are the kernel's.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace ujit {

using HelperFunction = uint64_t(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

struct HelperSymbol {
  std::string_view name; ///< "bpf_map_lookup_elem"
  HelperFunction *address;
};

/// All helpers of the embedded kernel, sorted by name. bpf_tail_call is not among them: it is code, not a
/// call.
std::span<const HelperSymbol> helper_symbols();

/// Null: the embedded kernel does not have this helper, and what needs it must be refused by name.
HelperFunction *find_helper_address(std::string_view name);

// By topic; helper_symbols() is all of them.
std::span<const HelperSymbol> map_helpers();
std::span<const HelperSymbol> packet_helpers();
std::span<const HelperSymbol> skb_room_helpers();
std::span<const HelperSymbol> checksum_helpers();
std::span<const HelperSymbol> route_helpers();
std::span<const HelperSymbol> system_helpers();

/// A negative error number as r0.
constexpr uint64_t failed(int error) { return uint64_t(-int64_t(error)); }

} // namespace ujit
