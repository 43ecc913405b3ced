// Packets through a pipeline that is loaded into the running kernel.
#pragma once

#include "kernel-iface/linux/load.h"
#include "lto/execute.h"

namespace ujit {

/// Runs all packets by BPF_PROG_TEST_RUN and reads the maps afterwards. `name`: of the trace's executor;
/// `instead`: a stub to run in the entry's place, or -1. Errors: the kernel's.
Expected<Trace> run_loaded(const Execution &execution, LoadedPipeline &kernel, const std::string &name,
                           int instead);

} // namespace ujit
