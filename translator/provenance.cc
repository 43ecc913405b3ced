#include "translator/provenance.h"

#include "translator/context.h"
#include "translator/helper.h"
#include "translator/kernel.h"

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

// --- Transfer functions ------------------------------------------------------------------------------

static Provenance add(Provenance p, const Provenance &n, bool subtract) {
  if (p.exact && n.is_constant()) {
    p.offset =
        int64_t(subtract ? uint64_t(p.offset) - uint64_t(n.offset) : uint64_t(p.offset) + uint64_t(n.offset));
    return p;
  }
  p.exact = false;
  p.offset = 0;
  return p;
}

static Provenance arithmetic(const InsnRow &row, const Provenance &d, const Provenance &s) {
  if (row.width == 64 && (row.op == Op::add || row.op == Op::sub)) {
    bool subtract = row.op == Op::sub;
    if (d.is_pointer() && s.kind == Kind::scalar)
      return add(d, s, subtract);
    if (!subtract && d.kind == Kind::scalar && s.is_pointer())
      return add(s, d, false);
    if (d.is_constant() && s.is_constant())
      return Provenance::constant(int64_t(subtract ? uint64_t(d.offset) - uint64_t(s.offset)
                                                   : uint64_t(d.offset) + uint64_t(s.offset)));
    if (d.kind == Kind::mixed || (s.kind == Kind::mixed && !subtract))
      return {.kind = Kind::mixed};
  }
  return Provenance::number();
}

/// Verified form: what a member of a kernel struct leads to.
static Provenance kernel_load_result(const KernelFacts &kernel, ProgType type, const Provenance &base,
                                     int64_t offset) {
  if (base.kind == Kind::kernel) {
    Provenance p = Provenance::pointer(Kind::kernel);
    p.exact = false;
    p.maybe_null = true;
    return p;
  }
  const KernelContext *context = kernel.layout.context(type);
  const KernelContextMember *m = context && base.exact && base.offset + offset >= 0
                                     ? context->member(uint64_t(base.offset + offset))
                                     : nullptr;
  if (!m)
    return Provenance::number();
  Provenance p = Provenance::number();
  switch (m->kind) {
  case KernelContextMember::packet:
  case KernelContextMember::packet_meta:
    p = Provenance::pointer(Kind::packet);
    p.exact = false;
    break;
  case KernelContextMember::packet_end: return Provenance::pointer(Kind::packet_end);
  case KernelContextMember::pointer:
    p = Provenance::pointer(Kind::kernel);
    p.maybe_null = true;
    break;
  case KernelContextMember::scalar: break;
  }
  return p;
}

static Provenance load_result(const Pipeline &pipeline, const Program &program, const State &state,
                              const Insn &insn, const InsnRow &row) {
  const Provenance &base = state.regs[insn.src];
  if (pipeline.kernel && (base.kind == Kind::context || base.kind == Kind::kernel))
    return row.bits == 64 ? kernel_load_result(*pipeline.kernel, program.type, base, insn.offset)
                          : Provenance::number();
  if (base.exact && row.bits == 64) {
    if (base.kind == Kind::stack)
      return state.frame.load(base.offset + insn.offset);
    if (base.kind == Kind::outer_stack)
      return state.outer.load(base.offset + insn.offset);
  }
  if (base.kind == Kind::context && base.exact)
    if (const ContextField *f = context_field(program.type, base.offset + insn.offset, row.bits / 8))
      switch (f->kind) {
      case FieldKind::packet:
      case FieldKind::packet_meta: {
        Provenance p = Provenance::pointer(Kind::packet);
        p.exact = false; // data and data_meta share a domain but not an origin
        return p;
      }
      case FieldKind::packet_end: return Provenance::pointer(Kind::packet_end);
      case FieldKind::pointer: {
        Provenance p = Provenance::pointer(Kind::memory);
        p.maybe_null = true;
        return p;
      }
      case FieldKind::scalar: break;
      }
  return Provenance::number();
}

std::optional<uint64_t> argument_size(const Pipeline &pipeline, uint32_t helper, unsigned arg,
                                      const State &state) {
  const HelperEffects *effects = find_effects(helper);
  if (!effects)
    return std::nullopt;
  auto map = [&]() -> const Map * {
    const Provenance &m = state.regs[1];
    return m.kind == Kind::map_object && m.id != Provenance::any_map ? &pipeline.maps[m.id] : nullptr;
  };
  switch (effects->args[arg]) {
  case Arg::key: return map() ? std::optional<uint64_t>(map()->key_size) : std::nullopt;
  case Arg::value:
  case Arg::value_out: return map() ? std::optional<uint64_t>(map()->value_size) : std::nullopt;
  case Arg::fixed_mem: return effects->fixed_size;
  case Arg::mem_read:
  case Arg::mem_write:
  case Arg::mem_rw:
    if (arg + 1 < 5 && effects->args[arg + 1] == Arg::size) {
      const Provenance &n = state.regs[arg + 2];
      if (n.is_constant() && n.offset >= 0)
        return uint64_t(n.offset);
    }
    return std::nullopt;
  default: return std::nullopt;
  }
}

/// Values of tries lie behind a prefix of any length; all others begin at a multiple of 8.
static bool has_aligned_values(const Map &map) { return map.type != MapType::lpm_trie; }

static Provenance helper_result(const Pipeline &pipeline, const State &state, uint32_t id) {
  const HelperEffects *effects = find_effects(id);
  Provenance map = state.regs[1];
  Provenance r;
  switch (effects ? effects->ret : Ret::scalar) {
  case Ret::map_or_value_or_null:
  case Ret::map_value_or_null: {
    bool known = map.kind == Kind::map_object && map.id != Provenance::any_map;
    if (known && is_map_in_map(pipeline.maps[map.id])) {
      r = Provenance::pointer(Kind::map_object, Provenance::any_map);
      const std::optional<MapId> inner = pipeline.maps[map.id].inner;
      r.aligned = inner && has_aligned_values(pipeline[*inner]);
    } else {
      r = Provenance::pointer(Kind::map_value, known ? map.id : Provenance::any_map);
      r.aligned = map.kind == Kind::map_object && map.aligned;
    }
    r.maybe_null = true;
    return r;
  }
  case Ret::mem_or_null:
  case Ret::object_or_null:
    r = Provenance::pointer(pipeline.kernel && effects->ret == Ret::object_or_null ? Kind::kernel
                                                                                   : Kind::memory);
    r.maybe_null = true;
    return r;
  case Ret::scalar:
  case Ret::none: break;
  }
  return Provenance::number();
}

static void after_call(State &state, Provenance result) {
  for (unsigned r = 1; r <= 5; ++r)
    state.regs[r] = {};
  state.regs[0] = result;
}

/// Memory at `base` + `offset` is written: `size` bytes (none: unknown extent), a whole register `value` if
/// given.
static void write_memory(State &state, const Provenance &base, int64_t offset, std::optional<uint64_t> size,
                         const Provenance *value = nullptr) {
  SpillSlots *slots = base.kind == Kind::stack         ? &state.frame
                      : base.kind == Kind::outer_stack ? &state.outer
                                                       : nullptr;
  const Provenance stored = value ? *value : Provenance();
  if (base.kind == Kind::memory || base.kind == Kind::mixed ||
      (base.kind == Kind::scalar && !base.is_null())) { // may be any frame
    state.frame.weaken(stored);
    state.outer.weaken(stored);
  } else if (slots && (!base.exact || !size)) {
    slots->weaken(stored);
  } else if (slots && value) {
    slots->store(base.offset + offset, *value);
  } else if (slots) {
    slots->clobber(base.offset + offset, int64_t(*size));
  }
}

static void call_helper(const Pipeline &pipeline, State &state, uint32_t id) {
  const HelperEffects *effects = find_effects(id);
  const Helper *helper = find_helper(id);
  Provenance result = helper_result(pipeline, state, id);
  for (unsigned a = 0; helper && a < helper->argc; ++a) {
    Arg kind = effects ? effects->args[a] : Arg::any;
    const Provenance *stored = kind == Arg::callback_ctx ? &state.handed_out : nullptr;
    if (stored)
      write_memory(state, state.regs[a + 1], 0, std::nullopt, stored);
    else if (kind == Arg::any
                 ? state.regs[a + 1].kind != Kind::scalar
                 : is_pointer(kind) && kind != Arg::key && kind != Arg::value && kind != Arg::mem_read)
      write_memory(state, state.regs[a + 1], 0, argument_size(pipeline, id, a, state));
  }
  after_call(state, result);
}

void step(const Pipeline &pipeline, const Program &program, uint32_t slot, State &state,
          const Provenance &callee_result) {
  const Insn &insn = program.insns[slot];
  const InsnRow &row = *find_row(insn);
  Provenance &dst = state.regs[insn.dst];
  auto operand = [&] {
    return row.source == Operand::reg ? state.regs[insn.src] : Provenance::constant(insn.imm);
  };
  switch (row.op) {
  case Op::mov: {
    Provenance s = operand();
    if (row.width == 64)
      dst = s;
    else
      dst = s.is_constant() ? Provenance::constant(uint32_t(s.offset)) : Provenance::number();
    break;
  }
  case Op::load:
  case Op::load_acquire: dst = load_result(pipeline, program, state, insn, row); break;
  case Op::store:
  case Op::store_release: {
    Provenance value = operand();
    write_memory(state, dst, insn.offset, row.bits / 8, row.bits == 64 ? &value : nullptr);
    break;
  }
  case Op::atomic_add:
  case Op::atomic_or:
  case Op::atomic_and:
  case Op::atomic_xor:
  case Op::atomic_xchg:
  case Op::atomic_cmpxchg:
    write_memory(state, dst, insn.offset, row.bits / 8);
    if (row.op == Op::atomic_cmpxchg)
      state.regs[0] = Provenance::number();
    else if (row.fetch)
      state.regs[insn.src] = Provenance::number();
    break;
  case Op::ld_imm64:
    dst = Provenance::constant(
        int64_t(uint64_t(uint32_t(insn.imm)) | uint64_t(uint32_t(program.insns[slot + 1].imm)) << 32));
    break;
  case Op::ld_btf_id: dst = Provenance::pointer(Kind::kernel); break;
  case Op::ld_map:
    dst = Provenance::pointer(Kind::map_object, uint32_t(insn.imm));
    dst.aligned = has_aligned_values(pipeline.maps[uint32_t(insn.imm)]);
    break;
  case Op::ld_map_value:
    dst = Provenance::pointer(Kind::map_value, uint32_t(insn.imm));
    dst.offset = uint32_t(program.insns[slot + 1].imm);
    dst.aligned = true;
    break;
  case Op::ld_func:
    dst = Provenance::pointer(Kind::function);
    dst.id = uint32_t(subprogram_at(program, uint32_t(int64_t(slot) + 1 + insn.imm)));
    break;
  case Op::ld_abs:
  case Op::ld_ind: after_call(state, Provenance::number()); break;
  case Op::call_helper: call_helper(pipeline, state, uint32_t(insn.imm)); break;
  case Op::call_local:
  case Op::call_kfunc:
  case Op::callx:
    for (unsigned r = 1; r <= 5; ++r)
      if (state.regs[r].kind != Kind::scalar)
        write_memory(state, state.regs[r], 0, std::nullopt, &state.handed_out);
    after_call(state, row.op == Op::call_local ? callee_result : Provenance::number());
    break;
  case Op::ja:
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
  case Op::jset:
  case Op::may_goto:
  case Op::exit: break;
  default:
    if (RegisterUse u = register_use(insn, row, 0); u.writes & (1u << insn.dst))
      dst = arithmetic(row, dst, row.source == Operand::none ? Provenance::number() : operand());
    break;
  }
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
