// Which programs a packet goes through, as the running kernel has it: a copy of the pipeline whose programs
// write themselves down as they are entered. Only so are paths known that depend on what a kernel's helpers
// answer; neither an embedded kernel nor the kernel's run statistics (they count entries, not tail calls)
// tell.
#pragma once

#include "translator/program.h"

#include <cstdint>
#include <span>
#include <vector>

namespace ujit {

/// The pipeline with one more map, the last one, and a few more instructions in front of each program. They
/// touch nothing of what the program sees: it enters with the same context and registers that are not set.
Pipeline with_footprints(Pipeline pipeline);

/// The value of the map's only key before a run.
std::vector<uint8_t> no_footprints();

/// The programs in the order in which the value says that they were entered. No chain is longer than what
/// it holds.
std::vector<ProgId> read_footprints(std::span<const uint8_t> value);

} // namespace ujit
