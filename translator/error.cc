#include "translator/error.h"

#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <memory>
#include <tuple>

namespace ujit {

char LinkError::ID;

void LinkError::log(llvm::raw_ostream &os) const {
  if (!file.empty())
    os << file << ": ";
  if (!program.empty())
    os << program << ": ";
  if (insn)
    os << "insn " << *insn << ": ";
  os << message;
  for (const std::string &n : notes)
    os << "\n>>> " << n;
  if (!hint.empty())
    os << "\n>>> hint: " << hint;
}

std::error_code LinkError::convertToErrorCode() const {
  return kind == ErrorKind::unsupported ? std::make_error_code(std::errc::not_supported)
                                        : llvm::inconvertibleErrorCode();
}

Error LinkError::error() const { return llvm::make_error<LinkError>(*this); }

Error with_place(Error e, const std::string &file, const std::string &program) {
  Error out = Error::success();
  llvm::handleAllErrors(
      std::move(e),
      [&](std::unique_ptr<LinkError> le) {
        if (le->file.empty())
          le->file = file;
        if (le->program.empty())
          le->program = program;
        out = llvm::joinErrors(std::move(out), Error(std::move(le)));
      },
      [&](const llvm::ErrorInfoBase &other) {
        out = llvm::joinErrors(std::move(out),
                               input_error(other.message()).in_file(file).in_program(program).error());
      });
  return out;
}

Error join_sorted(std::vector<Error> errors) {
  std::vector<std::unique_ptr<LinkError>> all;
  for (Error &e : errors)
    llvm::handleAllErrors(
        std::move(e), [&](std::unique_ptr<LinkError> le) { all.push_back(std::move(le)); },
        [&](const llvm::ErrorInfoBase &other) {
          all.push_back(std::make_unique<LinkError>(ErrorKind::internal, other.message()));
        });
  auto key = [](const LinkError &e) { return std::tie(e.file, e.program, e.insn, e.message); };
  std::stable_sort(all.begin(), all.end(),
                   [&](const auto &a, const auto &b) { return key(*a) < key(*b); });
  Error out = Error::success();
  for (auto &le : all)
    out = llvm::joinErrors(std::move(out), Error(std::move(le)));
  return out;
}

} // namespace ujit
