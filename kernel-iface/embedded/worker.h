// Runs code that may be bad in a child process: whatever it does, the caller gets a value back.
#pragma once

#include "translator/error.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <chrono>
#include <cstdint>
#include <variant>
#include <vector>

namespace ujit {

struct WorkerLimits {
  /// Of CPU time, so that a busy machine is no fault; then the child is killed. One that sleeps gets
  /// `patience` times as much of wall time.
  std::chrono::milliseconds time{60'000};
  static constexpr int patience = 20;
  uint64_t memory_bytes = 0;              ///< the child may allocate this much more; 0: no limit
};

/// How a worker ended that gave no result. Addresses are valid in the parent too: code that was loaded before
/// the worker began lies where it lay.
struct WorkerFault {
  enum Kind : uint8_t {
    signal, ///< SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT and the like
    timed_out,
    no_memory, ///< an allocation failed
    exited,    ///< it ended itself, or was killed from outside
  } kind = signal;
  int number = 0;       ///< of the signal, or the exit status
  uint64_t address = 0; ///< memory that it tried to touch
  uint64_t pc = 0;      ///< instruction that faulted; 0 if not known
  friend bool operator==(const WorkerFault &, const WorkerFault &) = default;
};

/// "SIGSEGV at address 0x10 (pc 0x7f...)".
std::string describe(const WorkerFault &fault);

using WorkerResult = std::variant<std::vector<uint8_t>, WorkerFault>;

/// Forks, runs `work` in the child and hands back its bytes. The child has only the calling thread: `work`
/// must not use thread pools or locks that other threads may hold. Nothing that it changes in memory is seen
/// by the parent. Errors: no process or pipe to be had.
Expected<WorkerResult> run_in_worker(llvm::function_ref<std::vector<uint8_t>()> work,
                                     WorkerLimits limits = {});

} // namespace ujit
