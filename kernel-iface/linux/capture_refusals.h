#pragma once

#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/kernel_reader.h"

namespace ujit {

/// Why what runs could differ from the captured instructions, or may not be fused, and what to do; empty:
/// nothing. `facts` and `links` are of now, `maps` all maps of the capture.
std::string refusal_of(const CapturedProgram &program, const ProgramInKernel &facts,
                       std::span<const link_record> links, std::span<const CapturedMap> maps);

} // namespace ujit
