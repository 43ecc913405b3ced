#include "translator/cfg.h"

#include "translator/helper.h"

#include <algorithm>
#include <functional>

namespace ujit {

static unsigned call_args(const Insn &insn, const InsnRow &row) {
  if (row.op == Op::call_helper)
    if (const Helper *h = find_helper(uint32_t(insn.imm)))
      return h->argc;
  return 5;
}

RegisterUse register_use(const Insn &insn, const InsnRow &row, unsigned args) {
  auto bit = [](unsigned r) { return uint16_t(1u << r); };
  const uint16_t dst = bit(insn.dst);
  const uint16_t src = row.source == Operand::reg ? bit(insn.src) : 0;
  const uint16_t first_args = uint16_t(((1u << args) - 1) << 1);
  constexpr uint16_t caller_saved = 0x3f;
  switch (row.op) {
  case Op::mov:
  case Op::movsx: return {src, dst};
  case Op::load:
  case Op::load_sx:
  case Op::load_probe:
  case Op::load_probe_sx:
  case Op::load_acquire: return {bit(insn.src), dst};
  case Op::store:
  case Op::store_release: return {uint16_t(dst | src), 0};
  case Op::atomic_cmpxchg: return {uint16_t(dst | bit(insn.src) | bit(0)), bit(0)};
  case Op::atomic_add:
  case Op::atomic_or:
  case Op::atomic_and:
  case Op::atomic_xor:
  case Op::atomic_xchg: return {uint16_t(dst | bit(insn.src)), row.fetch ? bit(insn.src) : uint16_t(0)};
  case Op::ld_abs: return {bit(6), caller_saved};
  case Op::ld_ind: return {uint16_t(bit(6) | bit(insn.src)), caller_saved};
  case Op::cpu:
  case Op::ld_imm64:
  case Op::ld_map:
  case Op::ld_map_value:
  case Op::ld_btf_id:
  case Op::ld_func:
  case Op::ld_map_idx:
  case Op::ld_map_idx_value: return {0, dst};
  case Op::ja:
  case Op::may_goto: return {0, 0};
  case Op::jeq:
  case Op::jne:
  case Op::jgt:
  case Op::jge:
  case Op::jlt:
  case Op::jle:
  case Op::jsgt:
  case Op::jsge:
  case Op::jslt:
  case Op::jsle:
  case Op::jset: return {uint16_t(dst | src), 0};
  case Op::call_helper:
  case Op::call_local:
  case Op::call_kfunc: return {first_args, caller_saved};
  case Op::callx: return {uint16_t(first_args | dst), caller_saved};
  case Op::exit: return {bit(0), 0};
  default: // two-operand arithmetic, neg, byte order
    return {uint16_t(dst | src), dst};
  }
}

uint32_t Cfg::block_at(uint32_t slot) const {
  auto it = std::lower_bound(blocks.begin(), blocks.end(), slot,
                             [](const Block &b, uint32_t s) { return b.first < s; });
  return uint32_t(it - blocks.begin());
}

BlockQueue::BlockQueue(const Cfg &cfg, bool full)
    : cfg_(cfg), rank_(cfg.blocks.size()), queued_(cfg.blocks.size()) {
  for (uint32_t i = 0; i < cfg.order.size(); ++i)
    rank_[cfg.order[i]] = i;
  for (uint32_t i = 0; full && i < cfg.order.size(); ++i)
    push(cfg.order[i]);
}

void BlockQueue::push(uint32_t block) {
  if (queued_[block])
    return;
  queued_[block] = 1;
  heap_.push_back(rank_[block]);
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

std::optional<uint32_t> BlockQueue::pop() {
  if (heap_.empty())
    return std::nullopt;
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  const uint32_t block = cfg_.order[heap_.back()];
  heap_.pop_back();
  queued_[block] = 0;
  return block;
}

static void number_reachable(Cfg &cfg) {
  std::vector<uint8_t> seen(cfg.blocks.size());
  std::vector<std::pair<uint32_t, uint32_t>> stack{{0, 0}}; // block, next successor
  seen[0] = 1;
  while (!stack.empty()) {
    auto &[b, next] = stack.back();
    if (next == cfg.blocks[b].successors.size()) {
      cfg.order.push_back(b);
      stack.pop_back();
      continue;
    }
    uint32_t s = cfg.blocks[b].successors[next++];
    if (!seen[s]) {
      seen[s] = 1;
      stack.push_back({s, 0});
    }
  }
  std::reverse(cfg.order.begin(), cfg.order.end());
}

static void compute_liveness(const Program &program, Cfg &cfg) {
  for (uint32_t b : cfg.order) {
    Block &block = cfg.blocks[b];
    for (uint32_t i = block.first; i < block.end; i += is_wide(program.insns[i]) ? 2 : 1) {
      const InsnRow &row = *find_row(program.insns[i]);
      RegisterUse u = register_use(program.insns[i], row, call_args(program.insns[i], row));
      block.reads |= u.reads & ~block.writes;
      block.writes |= u.writes;
    }
  }
  std::vector<uint32_t> work(cfg.order); // popped from the back: post-order first
  std::vector<uint8_t> queued(cfg.blocks.size(), 1);
  while (!work.empty()) {
    uint32_t b = work.back();
    work.pop_back();
    queued[b] = 0;
    Block &block = cfg.blocks[b];
    uint16_t out = 0;
    for (uint32_t s : block.successors)
      out |= cfg.blocks[s].live_in;
    uint16_t in = uint16_t(block.reads | (out & ~block.writes));
    if (in == block.live_in)
      continue;
    block.live_in = in;
    for (uint32_t p : block.predecessors)
      if (!queued[p]) {
        queued[p] = 1;
        work.push_back(p);
      }
  }
}

Cfg build_cfg(const Program &program, const Subprogram &sub, bool end_at_tail_calls) {
  const std::vector<Insn> &insns = program.insns;
  std::vector<uint8_t> leader(sub.end - sub.start + 1);
  auto mark = [&](int64_t slot) { leader[size_t(slot - sub.start)] = 1; };
  mark(sub.start);
  for (uint32_t i = sub.start; i < sub.end; i += is_wide(insns[i]) ? 2 : 1) {
    const InsnRow &row = *find_row(insns[i]);
    if (row.op == Op::ja || is_conditional(row.op)) {
      mark(jump_target(i, insns[i], row));
      mark(i + 1);
    } else if (row.op == Op::exit ||
               (end_at_tail_calls && row.op == Op::call_helper && uint32_t(insns[i].imm) == helper_tail_call)) {
      mark(i + 1);
    }
  }

  Cfg cfg;
  for (uint32_t i = sub.start; i < sub.end;) {
    Block block;
    block.first = i;
    do {
      block.last = i;
      i += is_wide(insns[i]) ? 2 : 1;
    } while (i < sub.end && !leader[i - sub.start]);
    block.end = i;
    cfg.blocks.push_back(std::move(block));
  }
  for (uint32_t b = 0; b < cfg.blocks.size(); ++b) {
    Block &block = cfg.blocks[b];
    const Insn &insn = insns[block.last];
    const InsnRow &row = *find_row(insn);
    if (row.op == Op::exit)
      continue;
    if (row.op != Op::ja)
      block.successors.push_back(b + 1);
    if (row.op == Op::ja || is_conditional(row.op)) {
      uint32_t taken = cfg.block_at(uint32_t(jump_target(block.last, insn, row)));
      if (block.successors.empty() || block.successors[0] != taken)
        block.successors.push_back(taken);
    }
  }
  number_reachable(cfg);
  for (uint32_t b : cfg.order)
    for (uint32_t s : cfg.blocks[b].successors)
      cfg.blocks[s].predecessors.push_back(b);
  compute_liveness(program, cfg);
  return cfg;
}

} // namespace ujit
