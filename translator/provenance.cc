#include "translator/provenance.h"

#include "translator/helper.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {

using Kind = Provenance::Kind;

// --- State -------------------------------------------------------------------------------------------

Provenance join(const Provenance &a, const Provenance &b) {
  if (a == b || b.kind == Kind::unset)
    return a;
  if (a.kind == Kind::unset)
    return b;
  if (a.kind == Kind::scalar && b.kind == Kind::scalar)
    return Provenance::number();
  // A null pointer is written as the number 0.
  if (b.is_null() && a.is_pointer())
    return join(b, a);
  if (a.is_null() && b.is_pointer()) {
    Provenance r = b;
    r.maybe_null = true;
    if (b.kind == Kind::stack) { // a null cannot be recomputed from r10
      r.exact = false;
      r.offset = 0;
    }
    return r;
  }
  if (!a.is_pointer() || !b.is_pointer())
    return {.kind = Kind::mixed};
  Provenance r = a;
  r.maybe_null = a.maybe_null || b.maybe_null;
  r.aligned = a.aligned && b.aligned;
  if (a.kind != b.kind) {
    // The verifier lets one instruction use stack, packet and map memory, but never these and a context.
    if (a.kind == Kind::context || b.kind == Kind::context)
      return {.kind = Kind::mixed};
    r.kind = Kind::memory;
    r.id = 0;
    r.exact = false;
    r.offset = 0;
    return r;
  }
  r.exact = a.exact && b.exact && a.offset == b.offset;
  if (!r.exact)
    r.offset = 0;
  if (a.id != b.id)
    r.id = Provenance::any_map;
  return r;
}

static auto slot_position(auto &slots, int64_t offset) {
  return std::lower_bound(slots.begin(), slots.end(), offset,
                          [](const auto &s, int64_t o) { return s.first < o; });
}

Provenance SpillSlots::load(int64_t offset) const {
  auto it = slot_position(slots_, offset);
  return it != slots_.end() && it->first == offset ? it->second : Provenance::number();
}

void SpillSlots::clobber(int64_t offset, int64_t size) {
  std::erase_if(slots_, [&](const auto &s) { return s.first < offset + size && s.first + 8 > offset; });
}

void SpillSlots::store(int64_t offset, const Provenance &value) {
  clobber(offset, 8);
  if (value.kind == Kind::unset || (value.kind == Kind::scalar && !value.exact))
    return; // that is what a missing slot means
  slots_.insert(slot_position(slots_, offset), {int16_t(offset), value});
}

void SpillSlots::weaken(const Provenance &stored) {
  std::erase_if(slots_, [](const auto &s) { return !s.second.is_pointer() || s.second.kind == Kind::stack; });
  if (stored.is_pointer() || stored.is_null() || stored.kind == Kind::mixed)
    for (auto &[offset, value] : slots_)
      value = ujit::join(value, stored);
}

bool SpillSlots::join(const SpillSlots &other) {
  if (*this == other)
    return false;
  std::vector<std::pair<int16_t, Provenance>> joined;
  for (const auto &[offset, value] : slots_)
    if (Provenance j = ujit::join(value, other.load(offset)); j.kind != Kind::scalar || j.exact)
      joined.push_back({offset, j});
  for (const auto &[offset, value] : other.slots_) // here: a number
    if (auto it = slot_position(slots_, offset); it == slots_.end() || it->first != offset)
      if (value.kind != Kind::scalar)
        joined.push_back({offset, {.kind = Kind::mixed}});
  std::sort(joined.begin(), joined.end(), [](auto &a, auto &b) { return a.first < b.first; });
  bool changed = joined != slots_;
  slots_ = std::move(joined);
  return changed;
}

/// What a callee sees of its caller's pointers. Only the direct caller's frame is followed.
static Provenance as_argument(Provenance p) {
  if (p.kind == Kind::stack) {
    p.kind = Kind::outer_stack;
  } else if (p.kind == Kind::outer_stack) {
    p.exact = false;
    p.offset = 0;
  }
  return p;
}

SpillSlots SpillSlots::as_outer() const {
  SpillSlots r;
  for (const auto &[offset, value] : slots_)
    r.slots_.push_back({offset, as_argument(value)});
  return r;
}

/// Joins `from` into `into`; true if that changed it.
static bool join_into(State &into, const State &from) {
  bool changed = false;
  for (size_t r = 0; r < into.regs.size(); ++r) {
    Provenance j = join(into.regs[r], from.regs[r]);
    changed |= !(j == into.regs[r]);
    into.regs[r] = j;
  }
  changed |= into.frame.join(from.frame);
  changed |= into.outer.join(from.outer);
  return changed;
}

// --- Fixpoint ----------------------------------------------------------------------------------------

namespace {

class Analysis {
public:
  Analysis(const Pipeline &pipeline, const Program &program, bool end_at_tail_calls)
      : pipeline_(pipeline), program_(program), end_at_tail_calls_(end_at_tail_calls) {}

  Expected<ProgramFacts> run() {
    size_t n = program_.subprograms.size();
    facts_.subprograms.resize(n);
    facts_.reached.resize(n);
    facts_.is_callback.resize(n);
    callers_.resize(n);
    arguments_.resize(n);
    outer_.resize(n);
    std::array<Provenance, 5> main_args{};
    main_args[0] = Provenance::pointer(program_.type == ProgType::unspec ? Kind::memory : Kind::context);
    if (program_.type == ProgType::unspec)
      main_args[1] = Provenance::number(); // plain-memory programs: r2 is the length of r1
    request(0, main_args, {});
    while (!work_.empty()) {
      uint32_t s = *work_.begin();
      work_.erase(work_.begin());
      solve(s);
    }
    if (Error e = check_reads())
      return e;
    return std::move(facts_);
  }

private:
  /// Subprogram `s` is called with these arguments from a frame with these spilled values.
  void request(uint32_t s, const std::array<Provenance, 5> &args, const SpillSlots &frame) {
    bool changed = !facts_.reached[s];
    if (changed)
      outer_[s] = frame.as_outer();
    else
      changed |= outer_[s].join(frame.as_outer());
    for (unsigned a = 0; a < 5; ++a) {
      Provenance j = join(arguments_[s][a], as_argument(args[a]));
      changed |= !(j == arguments_[s][a]);
      arguments_[s][a] = j;
    }
    if (!facts_.reached[s])
      facts_.subprograms[s].cfg = build_cfg(program_, program_.subprograms[s], end_at_tail_calls_ && s == 0);
    facts_.reached[s] = true;
    if (changed)
      insert(s);
  }

  void insert(uint32_t s) {
    auto it = std::lower_bound(work_.begin(), work_.end(), s);
    if (it == work_.end() || *it != s)
      work_.insert(it, s);
  }

  void solve(uint32_t s) {
    SubprogramFacts &f = facts_.subprograms[s];
    const Cfg &cfg = f.cfg;
    f.entry.assign(cfg.blocks.size(), {});
    std::vector<uint8_t> seen(cfg.blocks.size());
    State start;
    for (unsigned a = 0; a < 5; ++a)
      start.regs[a + 1] = arguments_[s][a];
    start.regs[10] = Provenance::pointer(Kind::stack);
    start.outer = outer_[s];
    start.handed_out = handed_out_;
    f.entry[0] = start;
    seen[0] = 1;
    BlockQueue queue(cfg, false);
    queue.push(0);
    while (std::optional<uint32_t> b = queue.pop()) {
      State out = f.entry[*b];
      walk(s, cfg.blocks[*b], out);
      for (uint32_t succ : cfg.blocks[*b].successors) {
        bool changed = !seen[succ];
        if (changed)
          f.entry[succ] = out;
        else
          changed = join_into(f.entry[succ], out);
        seen[succ] = 1;
        if (changed)
          queue.push(succ);
      }
    }
  }

  /// Carries `state` through a block, passing arguments to callees and results to callers.
  void walk(uint32_t s, const Block &block, State &state) {
    for (uint32_t i = block.first; i < block.end; i += is_wide(program_.insns[i]) ? 2 : 1) {
      const Insn &insn = program_.insns[i];
      const InsnRow &row = *find_row(insn);
      Provenance result = Provenance::number();
      if (row.op == Op::call_local) {
        uint32_t callee = uint32_t(subprogram_at(program_, uint32_t(int64_t(i) + 1 + insn.imm)));
        request(callee, {state.regs[1], state.regs[2], state.regs[3], state.regs[4], state.regs[5]},
                state.frame);
        if (std::find(callers_[callee].begin(), callers_[callee].end(), s) == callers_[callee].end())
          callers_[callee].push_back(s);
        result = facts_.subprograms[callee].result;
        if (result.kind == Kind::unset)
          result = Provenance::number();
      } else if (row.op == Op::store || row.op == Op::store_release) {
        if (row.bits == 64 && row.source == Operand::reg)
          hand_out(state.regs[insn.dst], state.regs[insn.src]);
      } else if (row.op == Op::call_helper) {
        request_callback(uint32_t(insn.imm), state);
      } else if (row.op == Op::exit) {
        Provenance r = as_argument(state.regs[0]);
        Provenance j = join(facts_.subprograms[s].result, r);
        if (!(j == facts_.subprograms[s].result)) {
          facts_.subprograms[s].result = j;
          for (uint32_t c : callers_[s])
            insert(c);
        }
      }
      step(pipeline_, program_, i, state, result);
    }
  }

  /// `value` is stored where a caller's frame may be: what callers make of their spilled pointers depends on
  /// it.
  void hand_out(const Provenance &base, const Provenance &value) {
    if (base.kind != Kind::outer_stack && base.kind != Kind::memory && base.kind != Kind::mixed)
      return;
    if (!value.is_pointer() && !value.is_null() && value.kind != Kind::mixed)
      return;
    Provenance as_seen = value; // in whatever frame it is found
    as_seen.exact &= value.kind != Kind::outer_stack && value.kind != Kind::stack;
    as_seen.offset = as_seen.exact ? value.offset : 0;
    Provenance j = join(handed_out_, as_seen);
    if (j == handed_out_)
      return;
    handed_out_ = j;
    for (uint32_t s = 0; s < facts_.reached.size(); ++s)
      if (facts_.reached[s])
        insert(s);
  }

  /// A helper that calls a subprogram back: its arguments are the helper's business.
  void request_callback(uint32_t helper, const State &state) {
    const Provenance *function = nullptr;
    for (unsigned r = 1; r <= 5; ++r)
      if (state.regs[r].kind == Kind::function)
        function = &state.regs[r];
    if (!function)
      return;
    std::array<Provenance, 5> args;
    if (helper == helper_loop) // (index, callback context)
      args = {Provenance::number(), state.regs[3]};
    else if (helper == helper_for_each_map_elem) { // (map, key, value, callback context)
      const Provenance &map = state.regs[1];
      const bool known = map.kind == Kind::map_object;
      Provenance value = Provenance::pointer(Kind::map_value, known ? map.id : Provenance::any_map);
      value.aligned = known && map.aligned;
      args = {map, Provenance::pointer(Kind::memory), value, state.regs[3]};
    } else
      return; // translation refuses other helpers with callbacks
    facts_.is_callback[function->id] = true;
    request(function->id, args, state.frame);
  }

  /// Every register that is read has been written on some path.
  Error check_reads() {
    for (uint32_t s = 0; s < facts_.subprograms.size(); ++s) {
      if (!facts_.reached[s])
        continue;
      const SubprogramFacts &f = facts_.subprograms[s];
      for (uint32_t b : f.cfg.order) {
        State state = f.entry[b];
        const Block &block = f.cfg.blocks[b];
        for (uint32_t i = block.first; i < block.end; i += is_wide(program_.insns[i]) ? 2 : 1) {
          const Insn &insn = program_.insns[i];
          const InsnRow &row = *find_row(insn);
          unsigned args = 0;
          if (row.op == Op::call_helper) {
            const Helper *h = find_helper(uint32_t(insn.imm));
            if (!h)
              return fail(i, llvm::formatv("helper #{0} is not known", insn.imm).str(),
                          "helpers are those of libbpf's bpf_helper_defs.h at build time");
            args = find_effects(h->id) ? argument_count(*find_effects(h->id), h->argc) : 0;
          }
          uint16_t reads = register_use(insn, row, args).reads;
          if (row.op == Op::exit && s != 0)
            reads = 0; // a subprogram without a result leaves r0 as it is
          for (unsigned r = 0; r < register_count; ++r)
            if (reads & (1u << r) && state.regs[r].kind == Kind::unset)
              return fail(i, llvm::formatv("r{0} is read before it is written", r).str(),
                          "r1 to r5 do not survive a call");
          note_access(insn, row, state);
          Provenance result = Provenance::number();
          if (row.op == Op::call_local)
            result = facts_.subprograms[subprogram_at(program_, uint32_t(int64_t(i) + 1 + insn.imm))].result;
          step(pipeline_, program_, i, state, result);
        }
      }
    }
    return Error::success();
  }

  void note_access(const Insn &insn, const InsnRow &row, const State &state) {
    if (!pipeline_.kernel)
      return;
    auto note = [&](const Provenance &p) {
      facts_.unknown_access |= p.kind == Kind::mixed || (p.kind == Kind::scalar && !p.is_null());
    };
    if (row.op == Op::load || row.op == Op::load_sx || row.op == Op::load_acquire)
      note(state.regs[insn.src]);
    else if (row.op == Op::store || is_atomic(row.op))
      note(state.regs[insn.dst]);
    else if (const HelperEffects *e = row.op == Op::call_helper ? find_effects(uint32_t(insn.imm)) : nullptr)
      for (unsigned a = 0; a < 5; ++a)
        if (is_pointer(e->args[a]))
          note(state.regs[a + 1]);
  }

  static unsigned argument_count(const HelperEffects &effects, unsigned argc) {
    unsigned n = 0;
    while (n < argc && effects.args[n] != Arg::none)
      ++n;
    return n;
  }

  Error fail(uint32_t slot, std::string message, std::string hint) {
    return input_error(std::move(message))
        .in_file(program_.object)
        .in_program(program_.name)
        .at(slot)
        .with_hint(std::move(hint))
        .error();
  }

  const Pipeline &pipeline_;
  const Program &program_;
  const bool end_at_tail_calls_;
  ProgramFacts facts_;
  std::vector<std::vector<uint32_t>> callers_;
  std::vector<std::array<Provenance, 5>> arguments_;
  std::vector<SpillSlots> outer_; ///< the callers' frames, joined
  Provenance handed_out_;         ///< State::handed_out
  std::vector<uint32_t> work_;    ///< subprograms to solve again, sorted
};

} // namespace

Expected<ProgramFacts> analyse_provenance(const Pipeline &pipeline, const Program &program,
                                          bool end_at_tail_calls) {
  return Analysis(pipeline, program, end_at_tail_calls).run();
}

} // namespace ujit
