#include "tests/optimised_ir.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"

namespace ujit {

std::string optimised_ir(const Pipeline &pipeline, LinkOptions options) {
  llvm::SmallString<64> folder;
  if (std::error_code e = llvm::sys::fs::createUniqueDirectory("ujit-optimised-ir", folder))
    return e.message();
  options.save_temps = folder.str();
  auto linked = link(pipeline, options);
  auto ir = llvm::MemoryBuffer::getFile(folder + "/partition0.3-optimised.ll");
  llvm::sys::fs::remove_directories(folder);
  if (!linked)
    return llvm::toString(linked.takeError());
  return ir ? (*ir)->getBuffer().str() : ir.getError().message();
}

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1))
    ++n;
  return n;
}

} // namespace ujit
