// Packets through a pipeline that is loaded into the running kernel.
#pragma once

#include "kernel-iface/linux/load.h"
#include "lto/execute.h"

namespace ujit {

/// A trace without packets, of what test runs of the execution's entry show.
Trace new_trace(const Execution &execution, const std::string &name);

/// Adds one run to a trace, with the events that it sent. Errors: the kernel's.
Error observe(const Execution &execution, LoadedPipeline &kernel, TestRunResult run, Trace &trace);

/// Adds the maps' contents as they are now, with the copy of that CPU as the only one of each per-CPU value.
/// Errors: the kernel's.
Error take_maps(const Execution &execution, LoadedPipeline &kernel, unsigned cpu, Trace &trace);

/// Runs all packets by BPF_PROG_TEST_RUN and reads the maps afterwards. `name`: of the trace's executor.
/// Errors: the kernel's.
Expected<Trace> run_loaded(const Execution &execution, LoadedPipeline &kernel, const std::string &name);

} // namespace ujit
