// Executors: each runs the same packets through the same pipeline, on fresh and equally seeded maps, and
// gives a trace. What they run may be wrong code, so it runs in a worker process: bad code is an error that
// names program and instruction.
#pragma once

#include "kernel-iface/embedded/fib.h"
#include "kernel-iface/embedded/pcap.h"
#include "lto/trace.h"
#include "translator/error.h"
#include "translator/program.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <span>
#include <string>
#include <vector>

namespace ujit {

class Kernel;

/// What every executor gets. Nothing is owned.
struct Execution {
  const Pipeline &pipeline;
  ProgId entry{};
  std::span<const CapturedPacket> packets;
  std::span<const MapSeed> seeds;
  std::vector<FibRoute> routes; ///< what bpf_fib_lookup answers from
};

/// Why a packet cannot be given to programs of this type, or an empty string. What test runs of the kernel
/// refuse, all refuse.
std::string refuse_packet(ProgType type, std::span<const uint8_t> packet);

/// The reference interpreter on the embedded kernel. Errors: what it or a map refuses.
Expected<Trace> execute_interpreter(const Execution &execution);

/// An image (of link(), for this pipeline) on the embedded kernel. With `rounds`, all packets run that many
/// times more on a further fresh kernel, for Trace::measured_seconds. Errors: helpers that the embedded
/// kernel does not have; (internal) code that faults or hangs, with packet, program and instruction.
Expected<Trace> execute_image(const Execution &execution, std::span<const uint8_t> image,
                              const std::string &name, uint32_t rounds = 0);

/// Code that is none of our images, on the embedded kernel. `set_up` gets the fresh kernel in the worker,
/// `run` is called for each packet with it and gives r0. Errors: those of `set_up`; (internal) code that
/// faults or hangs.
Expected<Trace> execute_native(const Execution &execution, const std::string &name,
                               llvm::function_ref<Error(Kernel &)> set_up,
                               llvm::function_ref<uint64_t(Kernel &, void *context)> run);

/// The running kernel, by BPF_PROG_TEST_RUN. Packets that it does not take have Observation::not_run. Errors:
/// bpf() is not allowed, or the kernel cannot hold the pipeline; a reason to leave this executor out, not a
/// fault.
Expected<Trace> execute_kernel(const Execution &execution);

} // namespace ujit
