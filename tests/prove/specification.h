// What eBPF instructions do, written from the text of RFC 9669 alone: opcodes are taken apart by class,
// source bit and code as in its tables, and nothing here shares code, tables or types with the translator.
// Registers are 64-bit terms. Memory, maps and calls are left out.
#pragma once

#include "tests/prove/terms.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace ujit::prove {

/// Bytes of one instruction as the RFC lays them out, little-endian.
using Encoded = std::array<uint8_t, 8>;

/// True if this file gives `code[at]` a meaning. A 64-bit immediate needs its second slot there too.
bool describes(std::span<const Encoded> code, size_t at, Terms &terms);

/// What r0 holds when code that starts at slot 0 with `registers` (r0 to r10) exits. Nothing if an
/// instruction is met that is not described, control leaves the code, or it loops.
std::optional<z3::expr> result_of(std::span<const Encoded> code, const std::vector<z3::expr> &registers,
                                  Terms &terms);

} // namespace ujit::prove
