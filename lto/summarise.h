// From a program's simplified IR to its summary: the only thing that the planning phase sees of it.
#pragma once

#include "graph/summary.h"

#include "llvm/IR/Module.h"
#include "llvm/Target/TargetMachine.h"

namespace ujit {

/// Sites, sizes and helpers. Sites' states are left empty.
Summary summarise(const Pipeline &pipeline, ProgId program, llvm::Module &module, llvm::TargetMachine &tm);

/// The state slots that indices of these sites are loaded from, added to `slots`.
void collect_index_slots(const Summary &summary, std::vector<StateSlot> &slots);

/// Fills in what each of `slots` holds at each site of `summary`, which was made from this module.
void summarise_state(const Pipeline &pipeline, llvm::Module &module, llvm::TargetMachine &tm,
                     std::span<const StateSlot> slots, Summary &summary);

} // namespace ujit
