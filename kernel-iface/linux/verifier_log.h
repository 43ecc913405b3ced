#pragma once

#include "translator/program.h"

#include "llvm/ADT/StringRef.h"

#include <optional>
#include <string>

namespace ujit {

/// Room for a verifier log: the most that kernels before 5.2 accept.
constexpr size_t verifier_log_bytes = (1u << 24) - 1;

/// What a verifier log says about the refusal.
struct VerifierVerdict {
  std::string message;           ///< the verifier's complaint: the last line that is no statistics
  std::optional<uint32_t> insn;  ///< the instruction that it looked at last
  std::vector<std::string> tail; ///< the last lines of the log, in order
};

VerifierVerdict read_verifier_log(llvm::StringRef log);

/// The error for a program which bpf(BPF_PROG_LOAD) refused with `error` (an errno) and this log: names the
/// instruction, its source line and the end of the log.
LinkError verifier_error(const Program &program, int error, llvm::StringRef log);

} // namespace ujit
