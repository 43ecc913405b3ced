// The debug information of an image: which instruction a text offset belongs to, through inlining.
#pragma once

#include "kernel-iface/image/elf.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/DebugInfo/DIContext.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>
#include <vector>

namespace llvm {
class DWARFContext;
}

namespace ujit {

class DebugLines {
public:
  /// Errors (input): no debug information, damage, relocations that images do not have.
  static Expected<DebugLines> read(const ElfObject &object);
  DebugLines(DebugLines &&) noexcept;
  ~DebugLines();

  /// The chain of inlined functions at a text offset, innermost first. A function has two names in DWARF; the
  /// one that `is_known` accepts is given. The line is the instruction + 1, or 0 for code that the compiler
  /// made up.
  std::vector<llvm::DILineInfo> find(uint64_t offset,
                                     llvm::function_ref<bool(llvm::StringRef)> is_known) const;

private:
  using Buffers = llvm::StringMap<std::unique_ptr<llvm::MemoryBuffer>>;
  explicit DebugLines(Buffers sections);
  static Expected<Buffers> relocated_sections(const ElfObject &object, uint32_t text);

  Buffers sections_; ///< by name without the dot; the reader points into them
  std::unique_ptr<llvm::DWARFContext> dwarf_;
};

} // namespace ujit
