// LLVM's decoder for x86-64 machine code, with what the analyses of images ask of an instruction.
#pragma once

#include "llvm/ADT/ArrayRef.h"

#include <cstdint>
#include <memory>
#include <optional>

namespace ujit {

struct MachineStep {
  uint64_t size = 0;
  bool call = false, branch = false;
  bool ends = false;              ///< execution does not go on behind it: jump, return, trap
  bool reads = false;             ///< from memory
  bool own_memory = false;        ///< addressed from stack or frame pointer, or from the instruction pointer
  bool vectors = false;           ///< uses a register of vectors or floating point
  std::optional<uint64_t> target; ///< of a direct call or branch, before relocation
};

class MachineDecoder {
public:
  MachineDecoder();
  ~MachineDecoder();
  MachineDecoder(const MachineDecoder &) = delete;

  /// Nothing: the bytes are no instruction.
  std::optional<MachineStep> decode(llvm::ArrayRef<uint8_t> bytes, uint64_t address) const;

private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

} // namespace ujit
