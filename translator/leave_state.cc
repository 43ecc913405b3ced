// Two dataflow problems over the 512 bytes of the main function's stack, both with one bit a byte: which may
// have been written (forward), and which may be read before they are overwritten (backward). What is both,
// behind a tail call, is saved. An access of unknown place reads and may write all of it; a pointer into the
// stack that goes to a subprogram is followed into it one level, and where it goes on is unknown.
#include "translator/leave_state.h"

#include "translator/helper.h"

#include <algorithm>
#include <bitset>

namespace ujit {

using Kind = Provenance::Kind;

namespace {

constexpr int64_t stack_bytes = 512;
using Bytes = std::bitset<stack_bytes>;

Bytes mask(int64_t start, int64_t size) {
  Bytes m;
  for (int64_t i = std::max(start, -stack_bytes); i < start + size && i < 0; ++i)
    m.set(size_t(i + stack_bytes));
  return m;
}
const Bytes everything = Bytes().set();

struct Effect {
  Bytes reads, may_write, overwrites;

  void then(const Effect &next) {
    reads |= next.reads & ~overwrites;
    may_write |= next.may_write;
    overwrites |= next.overwrites;
  }
  static Effect unknown() { return {everything, everything, {}}; }
};

class Analysis {
public:
  Analysis(const Pipeline &pipeline, const Program &program, const ProgramFacts &facts)
      : pipeline_(pipeline), program_(program), facts_(facts), main_(facts.subprograms[0]) {}

  LeaveState run() {
    find_varying_addresses();
    const std::vector<Block> &blocks = main_.cfg.blocks;
    std::vector<Effect> effects(blocks.size());
    for (uint32_t b : main_.cfg.order)
      for_each_insn(0, b, [&](uint32_t i, const State &state) { effects[b].then(effect_of(i, state)); });
    solve(effects);
    LeaveState result;
    for (uint32_t b : main_.cfg.order)
      if (const uint32_t insn = blocks[b].last; is_tail_call(insn))
        result.sites.push_back(site_of(insn, blocks[b].successors.front()));
    std::ranges::sort(result.sites, {}, &LeaveSite::insn);
    for (const LeaveSite &site : result.sites)
      result.whole_frame |=
          std::ranges::any_of(site.items, [](const SavedItem &i) { return i.may_be_own_frame; });
    return result;
  }

private:
  bool is_tail_call(uint32_t insn) const {
    const InsnRow *row = find_row(program_.insns[insn]);
    return row->op == Op::call_helper && uint32_t(program_.insns[insn].imm) == helper_tail_call;
  }

  Provenance result_of_call(uint32_t i) const {
    const Insn &insn = program_.insns[i];
    if (find_row(insn)->op != Op::call_local)
      return Provenance::number();
    return facts_.subprograms[subprogram_at(program_, uint32_t(int64_t(i) + 1 + insn.imm))].result;
  }

  /// Calls `f` with each instruction and the state before it; gives the state behind the block.
  template <class F>
  State for_each_insn(uint32_t sub, uint32_t b, F f) const {
    const SubprogramFacts &facts = facts_.subprograms[sub];
    State state = facts.entry[b];
    const Block &block = facts.cfg.blocks[b];
    for (uint32_t i = block.first; i < block.end; i += is_wide(program_.insns[i]) ? 2 : 1) {
      f(i, state);
      step(pipeline_, program_, i, state, result_of_call(i));
    }
    return state;
  }

  /// Whether some pointer may or may not lead into the own frame, or at a distance that is not constant.
  void find_varying_addresses() {
    auto varies = [](const Provenance &p) { return p.kind == Kind::stack && !p.exact; };
    auto lost = [&](const Provenance &from, const Provenance &to) {
      return from.kind == Kind::stack && from.exact && to != from && to.is_pointer();
    };
    for (uint32_t b : main_.cfg.order) {
      State out = for_each_insn(0, b, [&](uint32_t, const State &state) {
        for (const Provenance &p : state.regs)
          varying_ |= varies(p);
      });
      switch (out.handed_out.kind) {
      case Kind::stack:
      case Kind::outer_stack:
      case Kind::memory:
      case Kind::mixed: varying_ = true; break;
      default: break;
      }
      for (uint32_t s : main_.cfg.blocks[b].successors) {
        const State &to = main_.entry[s];
        for (unsigned r = 0; r < register_count; ++r)
          varying_ |= varies(out.regs[r]) || (r != 10 && lost(out.regs[r], to.regs[r]));
        for (int64_t o = -stack_bytes; o < 0; o += 8)
          varying_ |= varies(out.frame.load(o)) || lost(out.frame.load(o), to.frame.load(o));
      }
    }
  }

  bool may_be_own_frame(const Provenance &p) const {
    return p.kind == Kind::stack || p.kind == Kind::outer_stack || (p.kind == Kind::memory && varying_);
  }

  // --- what an instruction does to the stack ---

  Effect effect_of(uint32_t i, const State &state) {
    const Insn &insn = program_.insns[i];
    const InsnRow &row = *find_row(insn);
    switch (row.op) {
    case Op::load:
    case Op::load_sx:
    case Op::load_probe:
    case Op::load_probe_sx:
    case Op::load_acquire: return access(state.regs[insn.src], insn.offset, row.bits / 8, true, false);
    case Op::store:
    case Op::store_release: return access(state.regs[insn.dst], insn.offset, row.bits / 8, false, true);
    case Op::atomic_add:
    case Op::atomic_or:
    case Op::atomic_and:
    case Op::atomic_xor:
    case Op::atomic_xchg:
    case Op::atomic_cmpxchg: return access(state.regs[insn.dst], insn.offset, row.bits / 8, true, true);
    case Op::call_helper: return effect_of_helper(uint32_t(insn.imm), state);
    case Op::call_local:
      return effect_of_subprogram(uint32_t(subprogram_at(program_, uint32_t(int64_t(i) + 1 + insn.imm))),
                                  state);
    case Op::call_kfunc:
    case Op::callx: return passes_own_frame(state) ? Effect::unknown() : Effect();
    default: return {};
    }
  }

  bool passes_own_frame(const State &state) const {
    return std::any_of(state.regs.begin() + 1, state.regs.begin() + 6,
                       [&](const Provenance &p) { return may_be_own_frame(p); });
  }

  Effect access(const Provenance &base, int64_t offset, int64_t size, bool reads, bool writes) {
    Bytes touched = everything;
    bool known = base.kind == Kind::stack && base.exact;
    if (!known && !may_be_own_frame(base))
      return {};
    if (known) {
      touched = mask(base.offset + offset, size);
      one_access(base.offset + offset, size);
    }
    Effect e;
    e.reads = reads ? touched : Bytes();
    e.may_write = writes ? touched : Bytes();
    e.overwrites = known && writes && !reads ? touched : Bytes();
    return e;
  }

  /// Bytes that one access covers stay together in the leave frame.
  void one_access(int64_t start, int64_t size) { joined_ |= mask(start + 1, size - 1); }

  Effect effect_of_helper(uint32_t id, const State &state) {
    const HelperEffects *effects = find_effects(id);
    const Helper *helper = find_helper(id);
    Effect all;
    for (unsigned a = 0; helper && a < helper->argc; ++a) {
      const Provenance &p = state.regs[a + 1];
      if (!may_be_own_frame(p) || (effects && effects->args[a] == Arg::none))
        continue;
      const Arg kind = effects ? effects->args[a] : Arg::any;
      if (p.kind != Kind::stack || !p.exact || kind == Arg::callback_ctx || kind == Arg::any)
        return Effect::unknown();
      const std::optional<uint64_t> size = argument_size(pipeline_, id, a, state);
      const int64_t extent = size ? int64_t(*size) : -p.offset;
      const Bytes touched = mask(p.offset, extent);
      one_access(p.offset, extent);
      const bool only_writes = kind == Arg::mem_write || kind == Arg::value_out;
      Effect e;
      if (!only_writes)
        e.reads = touched;
      if (only_writes || kind == Arg::mem_rw || kind == Arg::fixed_mem)
        e.may_write = touched;
      if (only_writes && size)
        e.overwrites = touched;
      all.then(e);
    }
    return all;
  }

  /// What a subprogram reads and may write through pointers into its caller's frame.
  Effect effect_of_subprogram(uint32_t sub, const State &state) {
    if (!passes_own_frame(state))
      return {};
    const SubprogramFacts &facts = facts_.subprograms[sub];
    auto leads_out = [&](const Provenance &p) {
      return p.kind == Kind::outer_stack || (p.kind == Kind::memory && varying_);
    };
    Effect all;
    auto outer_access = [&](const Provenance &base, int64_t offset, int64_t size, bool reads, bool writes) {
      if (!leads_out(base))
        return;
      if (base.kind != Kind::outer_stack || !base.exact) {
        all = Effect::unknown();
        return;
      }
      const Bytes touched = mask(base.offset + offset, size);
      one_access(base.offset + offset, size);
      all.reads |= reads ? touched : Bytes();
      all.may_write |= writes ? touched : Bytes();
    };
    for (uint32_t b : facts.cfg.order)
      for_each_insn(sub, b, [&](uint32_t i, const State &at) {
        const Insn &insn = program_.insns[i];
        const InsnRow &row = *find_row(insn);
        const int64_t size = row.bits / 8;
        switch (row.op) {
        case Op::load:
        case Op::load_sx:
        case Op::load_probe:
        case Op::load_probe_sx:
        case Op::load_acquire: outer_access(at.regs[insn.src], insn.offset, size, true, false); break;
        case Op::store:
        case Op::store_release: outer_access(at.regs[insn.dst], insn.offset, size, false, true); break;
        case Op::atomic_add:
        case Op::atomic_or:
        case Op::atomic_and:
        case Op::atomic_xor:
        case Op::atomic_xchg:
        case Op::atomic_cmpxchg: outer_access(at.regs[insn.dst], insn.offset, size, true, true); break;
        case Op::call_helper:
          for (unsigned a = 1; a <= 5; ++a)
            if (leads_out(at.regs[a])) {
              const std::optional<uint64_t> bytes = argument_size(pipeline_, uint32_t(insn.imm), a - 1, at);
              const int64_t extent = bytes ? int64_t(*bytes) : -at.regs[a].offset;
              outer_access(at.regs[a], 0, extent, true, true);
              const HelperEffects *effects = find_effects(uint32_t(insn.imm));
              if (!effects || effects->args[a - 1] == Arg::any || effects->args[a - 1] == Arg::callback_ctx)
                all = Effect::unknown();
            }
          break;
        case Op::call_local:
        case Op::call_kfunc:
        case Op::callx:
          for (unsigned a = 1; a <= 5; ++a)
            if (leads_out(at.regs[a]))
              all = Effect::unknown();
          break;
        default: break;
        }
      });
    return all;
  }

  // --- the fixpoints ---

  void solve(const std::vector<Effect> &effects) {
    const Cfg &cfg = main_.cfg;
    live_in_.resize(cfg.blocks.size());
    written_in_.resize(cfg.blocks.size());
    for (BlockQueue queue(cfg, true); std::optional<uint32_t> b = queue.pop();) {
      const Bytes out = written_in_[*b] | effects[*b].may_write;
      for (uint32_t s : cfg.blocks[*b].successors)
        if ((out & ~written_in_[s]).any()) {
          written_in_[s] |= out;
          queue.push(s);
        }
    }
    std::vector<uint32_t> work(cfg.order); // popped from the back: post-order first
    std::vector<uint8_t> queued(cfg.blocks.size(), 1);
    while (!work.empty()) {
      const uint32_t b = work.back();
      work.pop_back();
      queued[b] = 0;
      Bytes out;
      for (uint32_t s : cfg.blocks[b].successors)
        out |= live_in_[s];
      const Bytes in = effects[b].reads | (out & ~effects[b].overwrites);
      if (in == live_in_[b])
        continue;
      live_in_[b] = in;
      for (uint32_t p : cfg.blocks[b].predecessors)
        if (!std::exchange(queued[p], 1))
          work.push_back(p);
    }
  }

  // --- the frame ---

  /// Registers that need no saving: their value follows from what they are.
  static bool is_known(const Provenance &p) {
    return p.kind == Kind::unset || p.kind == Kind::function || p.is_constant() ||
           (p.kind == Kind::stack && p.exact) || (p.kind == Kind::context && p.exact && !p.maybe_null) ||
           (p.kind == Kind::map_object && p.id != Provenance::any_map && !p.maybe_null);
  }

  LeaveSite site_of(uint32_t insn, uint32_t behind) const {
    LeaveSite site{.insn = insn, .items = {}, .spilled_addresses = {}};
    const State &state = main_.entry[behind];
    auto add = [&](bool is_register, int64_t place, unsigned size, unsigned in_chunk, const Provenance &p) {
      site.items.push_back({is_register, int16_t(place), uint16_t(site.frame_bytes + in_chunk), uint8_t(size),
                            p, size == 8 && may_be_own_frame(p)});
    };
    for (unsigned r = 0; r < register_count; ++r)
      if (main_.cfg.blocks[behind].live_in & (1u << r) && !is_known(state.regs[r])) {
        add(true, int64_t(r), 8, 0, state.regs[r]);
        site.frame_bytes += 8;
      }
    const Bytes live = live_in_[behind] & written_in_[behind];
    const std::vector<std::pair<unsigned, unsigned>> whole_chunk{{0u, 8u}};
    for (int64_t chunk = -stack_bytes; chunk < 0; chunk += 8) {
      if ((live & mask(chunk, 8)).none())
        continue;
      const Provenance p = state.frame.load(chunk);
      if (p.kind == Kind::stack && p.exact) {
        site.spilled_addresses.push_back({int16_t(chunk), p.offset});
        continue;
      }
      for (auto [start, size] : p.is_pointer() ? whole_chunk : pieces(chunk))
        if ((live & mask(chunk + start, size)).any())
          add(false, chunk + start, size, start, size == 8 ? p : Provenance::number());
      site.frame_bytes += 8;
    }
    return site;
  }

  /// An 8-byte chunk divided where no access straddles; as a whole where that does not give natural sizes.
  std::vector<std::pair<unsigned, unsigned>> pieces(int64_t chunk) const {
    std::vector<std::pair<unsigned, unsigned>> result;
    for (unsigned start = 0; start < 8;) {
      unsigned end = start + 1;
      while (end < 8 && joined_[size_t(chunk + end + stack_bytes)])
        ++end;
      const unsigned size = end - start;
      if ((size & (size - 1)) != 0 || start % size != 0)
        return {{0u, 8u}};
      result.push_back({start, size});
      start = end;
    }
    return result;
  }

  const Pipeline &pipeline_;
  const Program &program_;
  const ProgramFacts &facts_;
  const SubprogramFacts &main_;
  bool varying_ = false;
  Bytes joined_; ///< this byte and the one before it are covered by one access
  std::vector<Bytes> live_in_, written_in_;
};

} // namespace

const LeaveSite *LeaveState::at(uint32_t insn) const {
  auto it = std::ranges::lower_bound(sites, insn, {}, &LeaveSite::insn);
  return it != sites.end() && it->insn == insn ? &*it : nullptr;
}

LeaveState analyse_leaving(const Pipeline &pipeline, const Program &program, const ProgramFacts &facts) {
  return Analysis(pipeline, program, facts).run();
}

} // namespace ujit
