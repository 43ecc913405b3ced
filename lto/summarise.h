// From a program's simplified IR to its summary: the only thing that the planning phase sees of it.
#pragma once

#include "graph/summary.h"

#include "llvm/IR/Module.h"
#include "llvm/Target/TargetMachine.h"

namespace ujit {

/// Sites, sizes and helpers. Sites' states are left empty. `scratch`: as in TranslateOptions.
Summary summarise(const Pipeline &pipeline, const std::vector<bool> &scratch, ProgId program,
                  llvm::Module &module, llvm::TargetMachine &tm);

/// The state slots that indices of these sites are loaded from, added to `slots`.
void collect_index_slots(const Summary &summary, std::vector<StateSlot> &slots);

/// The state slots whose value at entry some slot holds at one of these sites, added to `slots`.
void collect_copied_slots(const Summary &summary, std::vector<StateSlot> &slots);

/// Adds what each of `slots` holds at each site of `summary`, which was made from this module.
void summarise_state(const Pipeline &pipeline, const std::vector<bool> &scratch, llvm::Module &module,
                     llvm::TargetMachine &tm, std::span<const StateSlot> slots, Summary &summary);

} // namespace ujit
