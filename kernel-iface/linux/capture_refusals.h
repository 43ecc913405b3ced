#pragma once

#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/kernel_reader.h"

namespace ujit {

/// Why what runs could differ from the captured instructions, or may not be fused, and what to do; empty:
/// nothing. `facts` and `links` are of now, `maps` all maps of the capture.
std::string refusal_of(const CapturedProgram &program, const ProgramInKernel &facts,
                       std::span<const link_record> links, std::span<const CapturedMap> maps);

/// The part of it that can change while a program is loaded: what is attached to the program behind `facts`,
/// or to its functions, and how to detach it; empty: nothing. `functions`: their names for the message, as
/// far as they are known.
std::string attached_to(const ProgramInKernel &facts, std::span<const std::string> functions,
                        std::span<const link_record> links);

} // namespace ujit
