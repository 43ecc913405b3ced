// Compiles the eBPF sources in tests/bpf/ when a test asks for them.
#pragma once

#include "tests/paths.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ujit::test {

/// Object bytes of tests/bpf/NAME.bpf.c, or none where the compiler or its headers are missing (then the test
/// should be skipped). Each combination is compiled once.
inline std::optional<std::vector<uint8_t>> compile_bpf(const std::string &name,
                                                       const std::string &compiler = "clang-19",
                                                       const std::vector<std::string> &flags = {}) {
  static std::map<std::string, std::optional<std::vector<uint8_t>>> cache;
  std::string key = compiler + " " + name;
  for (const std::string &f : flags)
    key += " " + f;
  if (auto it = cache.find(key); it != cache.end())
    return it->second;
  auto &result = cache[key];

  auto program = llvm::sys::findProgramByName(compiler);
  llvm::SmallString<64> out;
  if (!program || llvm::sys::fs::createTemporaryFile("ujit-test", "o", out))
    return result;
  std::string source = source_dir() + "/tests/bpf/" + name + ".bpf.c";
  std::vector<llvm::StringRef> args = {
      *program, "-target", "bpf", "-g", "-O2", "-I/usr/include/x86_64-linux-gnu", "-c", source, "-o", out};
  args.insert(args.end(), flags.begin(), flags.end());
  if (llvm::sys::ExecuteAndWait(*program, args) == 0)
    if (auto buffer = llvm::MemoryBuffer::getFile(out, false, false))
      result.emplace((*buffer)->getBufferStart(), (*buffer)->getBufferEnd());
  llvm::sys::fs::remove(out);
  return result;
}

} // namespace ujit::test
