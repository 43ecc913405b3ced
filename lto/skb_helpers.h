// Helpers on packets that are linear and ours alone, from calls to code.
#pragma once

#include "translator/context.h"
#include "translator/kernel.h"

#include "llvm/IR/Function.h"

#include <cstddef>

namespace ujit {

/// The embedded kernel's: all packets are linear, nobody else's, and have a checksum of their own.
constexpr SkbLayout embedded_skb{.data = offsetof(SkbContext, packet),
                                 .data_end = offsetof(SkbContext, packet_end)};

/// In front of each call of a helper that reads, writes or pulls packet data, the few instructions which it
/// comes down to for most packets; for the others the call stays. Returns whether anything was changed.
bool expand_skb_helpers(llvm::Function &function, const SkbLayout &layout);

} // namespace ujit
