#pragma once

#include "llvm/IR/Module.h"
#include "llvm/Target/TargetMachine.h"

#include <cstdint>
#include <vector>

namespace ujit {

/// Machine code of a module as a relocatable ELF object. The module is consumed. Very long basic blocks are
/// split before, since instruction selection is quadratic in them. `schedule`: order instructions so that
/// fewer values are alive at once.
llvm::Expected<std::vector<uint8_t>> generate_code(llvm::Module &module, llvm::TargetMachine &tm,
                                                   bool schedule = true);

} // namespace ujit
