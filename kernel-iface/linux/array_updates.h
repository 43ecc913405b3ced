// Are updates of array elements by programs, in the running kernel, the stores that code of ours makes?
#pragma once

#include "kernel-iface/linux/kernel_reader.h"

#include <string_view>

namespace ujit {

/// Lets a program update small arrays and per-CPU arrays, with every kind of flags and with indices in and
/// out of range, and compares results, contents and memory with what translator/lower_array.cc stands for.
/// `array_value`: offset of the values in struct bpf_array. False also where test runs are not allowed, and
/// for kernels whose sources were not read: updates call the kernel.
bool can_update_arrays(KernelReader &reader, uint32_t array_value, std::string_view release);

} // namespace ujit
