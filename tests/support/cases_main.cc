// ujit-cases: runs case files, and folders of them, in the reference interpreter. Also takes a folder of the
// bpf_conformance suite.
#include "tests/support/simple_host.h"

#include "llvm/Support/raw_ostream.h"

using namespace ujit;

namespace {

/// Differences, or the error where none was expected.
std::vector<std::string> run_file(const std::string &path) {
  auto c = read_case(path);
  if (!c)
    return {llvm::toString(c.takeError())};
  auto run = run_interpreted(*c);
  if (run && c->error)
    return {"no error, should be: " + *c->error};
  if (run)
    return differences(*c, *run);
  std::string error = llvm::toString(run.takeError());
  if (c->error && *c->error == error)
    return {};
  return {error};
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 2) {
    llvm::errs() << "usage: ujit-cases FILE|FOLDER...\n";
    return 64;
  }
  size_t passed = 0, failed = 0;
  for (int i = 1; i < argc; i++) {
    auto files = find_cases(argv[i]);
    if (!files) {
      llvm::errs() << "ujit-cases: error: " << llvm::toString(files.takeError()) << "\n";
      return 1;
    }
    for (const std::string &file : *files) {
      auto problems = run_file(file);
      (problems.empty() ? passed : failed)++;
      for (const std::string &problem : problems)
        llvm::outs() << file << ": " << problem << "\n";
    }
  }
  llvm::outs() << passed << " passed, " << failed << " failed\n";
  return failed ? 1 : 0;
}
