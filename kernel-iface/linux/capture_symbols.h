#pragma once

#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/kernel_reader.h"

namespace ujit {

/// Fills in `symbols`, `addresses` and `call_base` for the programs and maps that `capture` holds.
/// Errors: a name asked for that several symbols bear.
Error resolve_symbols(Capture &capture, std::span<const std::string> names, KernelReader &reader);

} // namespace ujit
