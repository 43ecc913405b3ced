// Control flow of one subprogram: basic blocks over slot numbers, in order of address, with register
// liveness.
#pragma once

#include "translator/program.h"

#include "llvm/ADT/SmallVector.h"

namespace ujit {

/// Instruction slots [first, end) that are entered at the top and left at the bottom.
struct Block {
  uint32_t first = 0;
  uint32_t end = 0;
  uint32_t last = 0; ///< slot of the last instruction (a wide one starts at end - 2)
  /// Indices into Cfg::blocks, each once. Of a conditional jump: [0] falls through, [1] is taken.
  llvm::SmallVector<uint32_t, 2> successors;
  llvm::SmallVector<uint32_t, 2> predecessors;
  uint16_t live_in = 0; ///< bit N: register N may be read before it is written, here or behind
  uint16_t reads = 0;   ///< ... in this block
  uint16_t writes = 0;  ///< registers that this block writes
};

struct Cfg {
  std::vector<Block> blocks; ///< [0] is the entry
  /// Indices of the blocks that control can reach, in reverse post-order.
  std::vector<uint32_t> order;

  uint32_t block_at(uint32_t slot) const; ///< the block that starts at `slot`; there must be one
};

/// Blocks that a forward dataflow analysis has to visit, each once at a time, in reverse post-order.
class BlockQueue {
public:
  BlockQueue(const Cfg &cfg, bool full);
  void push(uint32_t block);
  std::optional<uint32_t> pop();

private:
  const Cfg &cfg_;
  std::vector<uint32_t> rank_; ///< by block: position in Cfg::order
  std::vector<uint8_t> queued_;
  std::vector<uint32_t> heap_; ///< ranks, the smallest first
};

/// Registers that an instruction reads and writes, as bit masks. A call reads r1 to r5 up to `call_args`
/// and overwrites r0 to r5.
struct RegisterUse {
  uint16_t reads = 0;
  uint16_t writes = 0;
};
RegisterUse register_use(const Insn &insn, const InsnRow &row, unsigned call_args);

/// `program` must have passed check_program(). `end_at_tail_calls`: blocks end behind tail calls too, so that
/// one can be entered there. Time is linear in the instructions.
Cfg build_cfg(const Program &program, const Subprogram &sub, bool end_at_tail_calls = false);

} // namespace ujit
