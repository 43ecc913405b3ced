#include "translator/frame.h"

#include "translator/helper.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <bitset>

namespace ujit {

constexpr int32_t frame_bytes = 512;
constexpr int32_t largest_zeroed = 128;
using Kind = Provenance::Kind;
using Bytes = std::bitset<frame_bytes>;

size_t FrameLayout::object_at(int64_t offset) const {
  for (size_t i = 0; i < objects.size(); ++i)
    if (offset >= objects[i].start && offset < objects[i].start + objects[i].size)
      return i;
  for (size_t i = 0; i < objects.size(); ++i)
    if (offset == objects[i].start + objects[i].size)
      return i;
  return 0;
}

namespace {

struct Range {
  int64_t start, size;
};

class Layout {
public:
  Layout(const Pipeline &pipeline, const Program &program, const ProgramFacts &facts, uint32_t sub,
         bool whole)
      : pipeline_(pipeline), program_(program), facts_(facts), sub_(facts.subprograms[sub]), whole_(whole) {}

  Expected<FrameLayout> run() {
    scan();
    if (bad_)
      return input_error(llvm::formatv("stack access at r10{0}{1} is outside of the 512 bytes of the frame",
                                       bad_->start < 0 ? "" : "+", bad_->start))
          .in_file(program_.object)
          .in_program(program_.name)
          .at(bad_at_)
          .error();
    FrameLayout layout = group();
    if (!layout.objects.empty())
      find_unset_reads(layout);
    return layout;
  }

private:
  // --- which bytes are accessed ---

  void access(uint32_t slot, int64_t start, int64_t size) {
    if (start < -frame_bytes || start + size > 0) {
      if (!bad_) {
        bad_ = Range{start, size};
        bad_at_ = slot;
      }
      return;
    }
    ranges_.push_back({start, size});
  }

  /// The address itself is used as a value.
  void value_use(const Provenance &p) {
    if (p.kind != Kind::stack)
      return;
    if (!p.exact ||
        program_.type == ProgType::unspec) // there it may be computed with and come back as an address
      whole_ = true;
    else
      values_.push_back(p.offset);
  }

  void memory_access(uint32_t slot, const Provenance &base, int64_t offset, int64_t size) {
    if (base.kind != Kind::stack)
      return;
    if (base.exact)
      access(slot, base.offset + offset, size);
    else
      whole_ = true;
  }

  void visit(uint32_t i, const State &state) {
    const Insn &insn = program_.insns[i];
    const InsnRow &row = *find_row(insn);
    const Provenance &dst = state.regs[insn.dst], &src = state.regs[insn.src];
    switch (row.op) {
    case Op::mov:
    case Op::ld_imm64:
    case Op::ld_map:
    case Op::ld_map_value:
    case Op::ld_func:
    case Op::ld_btf_id:
    case Op::cpu:
    case Op::ja:
    case Op::may_goto:
    case Op::ld_abs:
    case Op::ld_ind:
      if (row.op == Op::mov && row.width == 32 && row.source == Operand::reg)
        value_use(src);
      break;
    case Op::add:
    case Op::sub:
      if (dst.kind == Kind::stack && dst.exact && !(row.source == Operand::imm || src.is_constant()))
        whole_ = true;
      if (row.source == Operand::reg)
        src.kind == Kind::stack && !dst.is_constant() ? void(whole_ = true) : void();
      if (row.width == 32 || (row.op == Op::sub && row.source == Operand::reg))
        value_use(dst), value_use(row.source == Operand::reg ? src : Provenance{});
      break;
    case Op::load:
    case Op::load_sx:
    case Op::load_acquire: memory_access(i, src, insn.offset, row.bits / 8); break;
    case Op::store:
    case Op::store_release:
    case Op::atomic_add:
    case Op::atomic_or:
    case Op::atomic_and:
    case Op::atomic_xor:
    case Op::atomic_xchg:
    case Op::atomic_cmpxchg:
      memory_access(i, dst, insn.offset, row.bits / 8);
      if (row.source == Operand::reg)
        value_use(src);
      if (row.op == Op::atomic_cmpxchg)
        value_use(state.regs[0]);
      break;
    case Op::call_helper: {
      uint32_t id = uint32_t(insn.imm);
      const HelperEffects *effects = find_effects(id);
      const Helper *helper = find_helper(id);
      for (unsigned a = 0; helper && a < helper->argc; ++a) {
        const Provenance &p = state.regs[a + 1];
        if (p.kind != Kind::stack || (effects && effects->args[a] == Arg::none))
          continue;
        if (!p.exact || !effects || effects->args[a] == Arg::callback_ctx || effects->args[a] == Arg::any) {
          whole_ = true;
          continue;
        }
        std::optional<uint64_t> size = argument_size(pipeline_, id, a, state);
        if (const int64_t bytes = size ? int64_t(*size) : -p.offset)
          access(i, p.offset, bytes);
        else
          value_use(p);
      }
      break;
    }
    case Op::call_local:
    case Op::call_kfunc:
    case Op::callx:
      for (unsigned r = 1; r <= 5; ++r)
        whole_ |= state.regs[r].kind == Kind::stack;
      break;
    case Op::exit: value_use(state.regs[0]); break;
    default: // comparisons and other arithmetic take the address as a number; two of them must lie as they do
             // in the frame
      whole_ |= row.source == Operand::reg && dst.kind == Kind::stack && src.kind == Kind::stack;
      value_use(dst);
      if (row.source == Operand::reg)
        value_use(src);
      break;
    }
  }

  template <class F>
  void for_each_insn(uint32_t block, F f) {
    State state = sub_.entry[block];
    const Block &b = sub_.cfg.blocks[block];
    for (uint32_t i = b.first; i < b.end; i += is_wide(program_.insns[i]) ? 2 : 1) {
      f(i, state);
      Provenance result = Provenance::number();
      const Insn &insn = program_.insns[i];
      if (find_row(insn)->op == Op::call_local)
        result = facts_.subprograms[subprogram_at(program_, uint32_t(int64_t(i) + 1 + insn.imm))].result;
      step(pipeline_, program_, i, state, result);
    }
    // A pointer whose offset is lost at a join must exist as a value before it.
    for (uint32_t s : b.successors)
      for (unsigned r = 0; r < register_count; ++r)
        if (sub_.cfg.blocks[s].live_in & (1u << r) && state.regs[r].kind == Kind::stack) {
          const Provenance &to = sub_.entry[s].regs[r];
          if (to.kind != Kind::stack || !to.exact)
            whole_ = true;
        }
  }

  void scan() {
    whole_ = facts_.unknown_access; // it may be to any byte of the frame
    for (uint32_t b : sub_.cfg.order)
      for_each_insn(b, [&](uint32_t i, const State &state) { visit(i, state); });
  }

  // --- objects ---

  FrameLayout group() {
    FrameLayout layout;
    if (!whole_) {
      std::sort(ranges_.begin(), ranges_.end(), [](auto &a, auto &b) { return a.start < b.start; });
      for (const Range &r : ranges_) {
        int32_t start = int32_t(r.start & ~int64_t(7)), end = int32_t((r.start + r.size + 7) & ~int64_t(7));
        if (!layout.objects.empty()) {
          StackObject &last = layout.objects.back();
          if (start < last.start + last.size) {
            last.size = std::max(last.size, end - last.start);
            continue;
          }
        }
        layout.objects.push_back({start, end - start});
      }
      for (int64_t v : values_)
        whole_ |= std::none_of(layout.objects.begin(), layout.objects.end(),
                               [&](const StackObject &o) { return v >= o.start && v <= o.start + o.size; });
    }
    if (whole_) {
      layout.whole = true;
      layout.objects = {{-frame_bytes, frame_bytes}};
    }
    return layout;
  }

  // --- bytes that may be read before they are written ---

  static Bytes mask(int64_t start, int64_t size) {
    Bytes m;
    for (int64_t i = start; i < start + size; ++i)
      if (i >= -frame_bytes && i < 0)
        m.set(size_t(i + frame_bytes));
    return m;
  }

  void note_read(FrameLayout &layout, const Bytes &set, int64_t start, int64_t size) {
    if ((mask(start, size) & ~set).any())
      layout.objects[layout.object_at(start)].zeroed = true;
  }

  void transfer(uint32_t i, const State &state, Bytes &set, FrameLayout *layout) {
    const Insn &insn = program_.insns[i];
    const InsnRow &row = *find_row(insn);
    const Provenance &dst = state.regs[insn.dst], &src = state.regs[insn.src];
    switch (row.op) {
    case Op::load:
    case Op::load_sx:
    case Op::load_acquire:
      if (layout && src.kind == Kind::stack)
        src.exact ? note_read(*layout, set, src.offset + insn.offset, row.bits / 8)
                  : note_read(*layout, Bytes(), -frame_bytes, frame_bytes);
      break;
    case Op::store:
    case Op::store_release:
      if (dst.kind == Kind::stack && dst.exact)
        set |= mask(dst.offset + insn.offset, row.bits / 8);
      break;
    case Op::atomic_add:
    case Op::atomic_or:
    case Op::atomic_and:
    case Op::atomic_xor:
    case Op::atomic_xchg:
    case Op::atomic_cmpxchg:
      if (layout && dst.kind == Kind::stack)
        note_read(*layout, set, dst.exact ? dst.offset + insn.offset : -frame_bytes,
                  dst.exact ? row.bits / 8 : frame_bytes);
      break;
    case Op::call_helper: {
      uint32_t id = uint32_t(insn.imm);
      const HelperEffects *effects = find_effects(id);
      const Helper *helper = find_helper(id);
      for (unsigned a = 0; helper && a < helper->argc; ++a) {
        const Provenance &p = state.regs[a + 1];
        if (p.kind != Kind::stack || !p.exact || !effects)
          continue;
        std::optional<uint64_t> size = argument_size(pipeline_, id, a, state);
        Arg kind = effects->args[a];
        bool writes = kind == Arg::mem_write || kind == Arg::value_out;
        if (layout && !writes)
          note_read(*layout, set, p.offset, size ? int64_t(*size) : -p.offset);
        if (size && (writes || kind == Arg::mem_rw || kind == Arg::fixed_mem))
          set |= mask(p.offset, int64_t(*size));
      }
      break;
    }
    default: break;
    }
  }

  void find_unset_reads(FrameLayout &layout) {
    const Cfg &cfg = sub_.cfg;
    std::vector<Bytes> in(cfg.blocks.size(), Bytes().set());
    in[0].reset();
    for (BlockQueue queue(cfg, true); std::optional<uint32_t> b = queue.pop();) {
      Bytes set = in[*b];
      for_each_insn(*b, [&](uint32_t i, const State &state) { transfer(i, state, set, nullptr); });
      for (uint32_t s : cfg.blocks[*b].successors)
        if (Bytes meet = in[s] & set; meet != in[s]) {
          in[s] = meet;
          queue.push(s);
        }
    }
    for (uint32_t b : cfg.order) {
      Bytes set = in[b];
      for_each_insn(b, [&](uint32_t i, const State &state) { transfer(i, state, set, &layout); });
    }
    for (StackObject &o : layout.objects) {
      o.unset = o.zeroed && o.size > largest_zeroed;
      o.zeroed &= !o.unset;
    }
  }

  const Pipeline &pipeline_;
  const Program &program_;
  const ProgramFacts &facts_;
  const SubprogramFacts &sub_;
  std::vector<Range> ranges_;
  std::vector<int64_t> values_;
  bool whole_;
  std::optional<Range> bad_;
  uint32_t bad_at_ = 0;
};

} // namespace

Expected<FrameLayout> layout_frame(const Pipeline &pipeline, const Program &program,
                                   const ProgramFacts &facts, uint32_t subprogram, bool whole) {
  return Layout(pipeline, program, facts, subprogram, whole).run();
}

} // namespace ujit
