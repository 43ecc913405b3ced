// Are the running kernel's hash tables what code of ours can search?
#pragma once

#include "kernel-iface/linux/kernel_reader.h"
#include "translator/hash_layout.h"

#include <string_view>

namespace ujit {

/// Makes a few small maps of each kind and searches them through `reader` as lto/lookup.cc does, with
/// `layout`. True if everything is found that bpf() finds, and nothing else, and this is a kernel whose
/// sources were read. Otherwise, also when maps cannot be made, false: lookups call the kernel.
bool can_search_tables(KernelReader &reader, const HashLayout &layout, std::string_view release);

} // namespace ujit
