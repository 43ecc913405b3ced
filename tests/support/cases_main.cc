// ujit-cases: runs case files, and folders of them, in all modes. Also takes a folder of the bpf_conformance
// suite. With -v it says which modes were left out, and why.
#include "tests/support/modes.h"

#include "llvm/Support/raw_ostream.h"

#include <cstring>

using namespace ujit;

namespace {

bool verbose = false;

bool run_file(const std::string &path) {
  auto c = read_case(path);
  if (!c) {
    llvm::outs() << path << ": " << llvm::toString(c.takeError()) << "\n";
    return false;
  }
  bool good = true;
  for (const ModeOutcome &o : run_all_modes(*c)) {
    for (const std::string &problem : o.problems)
      llvm::outs() << path << ": " << o.mode << ": " << problem << "\n";
    if (verbose && !o.left_out.empty())
      llvm::outs() << path << ": " << o.mode << " left out: " << o.left_out << "\n";
    good &= o.problems.empty();
  }
  return good;
}

} // namespace

int main(int argc, char **argv) {
  verbose = argc > 1 && !std::strcmp(argv[1], "-v");
  if (argc < 2 + verbose) {
    llvm::errs() << "usage: ujit-cases [-v] FILE|FOLDER...\n";
    return 64;
  }
  size_t passed = 0, failed = 0;
  for (int i = 1 + verbose; i < argc; i++) {
    auto files = find_cases(argv[i]);
    if (!files) {
      llvm::errs() << "ujit-cases: error: " << llvm::toString(files.takeError()) << "\n";
      return 1;
    }
    for (const std::string &file : *files)
      (run_file(file) ? passed : failed)++;
  }
  llvm::outs() << passed << " passed, " << failed << " failed\n";
  return failed ? 1 : 0;
}
