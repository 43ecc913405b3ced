// Errors are values with a place. Everything that can go wrong with an input is reported through
// LinkError; the command line turns it into one message and an exit code (1: the input is wrong or
// unsupported, 2: a bug of ours).
#pragma once

#include "llvm/Support/Error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace ujit {

using llvm::Error;
using llvm::Expected;

enum class ErrorKind : uint8_t {
  input,       ///< The input contradicts its own format or itself.
  unsupported, ///< The input is valid, but we refuse it by name.
  internal,    ///< A bug of ours: an invariant of the linker did not hold.
};

/// Where and why. Empty fields are not printed; `insn` is a slot number, counted as the kernel counts
/// (a 64-bit immediate load takes two).
class LinkError : public llvm::ErrorInfo<LinkError> {
public:
  static char ID;

  ErrorKind kind = ErrorKind::input;
  std::string file;
  std::string program;
  std::optional<uint32_t> insn;
  std::string message;
  std::vector<std::string> notes;
  std::string hint;

  LinkError() = default;
  LinkError(ErrorKind kind, std::string message) : kind(kind), message(std::move(message)) {}

  /// `file: program: insn N: message`, then `>>> note` lines and `>>> hint: ...`; no trailing newline.
  void log(llvm::raw_ostream &os) const override;
  std::error_code convertToErrorCode() const override;

  LinkError &in_file(std::string f) {
    file = std::move(f);
    return *this;
  }
  LinkError &in_program(std::string p) {
    program = std::move(p);
    return *this;
  }
  LinkError &at(uint32_t i) {
    insn = i;
    return *this;
  }
  LinkError &note(std::string n) {
    notes.push_back(std::move(n));
    return *this;
  }
  LinkError &with_hint(std::string h) {
    hint = std::move(h);
    return *this;
  }

  /// Consumes the builder: `return LinkError(ErrorKind::input, "...").at(7).error();`
  Error error() const;
};

inline LinkError input_error(std::string m) { return {ErrorKind::input, std::move(m)}; }
inline LinkError unsupported(std::string m) { return {ErrorKind::unsupported, std::move(m)}; }
inline LinkError internal_error(std::string m) { return {ErrorKind::internal, std::move(m)}; }

/// Fills in the file and program of every LinkError in `e` that does not name one yet.
Error with_place(Error e, const std::string &file, const std::string &program = {});

/// All errors of parallel work, joined in the order (file, program, insn, message), so that the
/// report does not depend on scheduling.
Error join_sorted(std::vector<Error> errors);

} // namespace ujit
