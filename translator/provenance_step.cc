// What one instruction does to registers and spilled values: the transfer functions of the analysis in
// provenance.cc.
#include "translator/provenance.h"

#include "translator/context.h"
#include "translator/helper.h"
#include "translator/kernel.h"

namespace ujit {

using Kind = Provenance::Kind;

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
  default: // jumps and exit write nothing
    if (RegisterUse u = register_use(insn, row, 0); u.writes & (1u << insn.dst))
      dst = arithmetic(row, dst, row.source == Operand::none ? Provenance::number() : operand());
    break;
  }
}

} // namespace ujit
