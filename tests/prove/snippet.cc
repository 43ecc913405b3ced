#include "tests/prove/snippet.h"

#include "translator/lower.h"
#include "translator/make_insn.h"

#include "llvm/Support/FormatVariadic.h"

#include <cstring>

namespace ujit::prove {
namespace {

// The instructions around the one in question, by opcode.
constexpr uint8_t mov64_imm = 0xb7, mov64_reg = 0xbf, xor64_imm = 0xa7, load64 = 0x79, call = 0x85,
                  goto_offset = 0x05, exit_insn = 0x95;

Insn insn(uint8_t opcode, unsigned dst = 0, unsigned src = 0, int offset = 0, int32_t imm = 0) {
  return make_insn(opcode, dst, src, offset, imm);
}

/// Corners of every width and shift count, and a few numbers without meaning.
constexpr int32_t immediates[] = {
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    10,
    31,
    32,
    33,
    63,
    64,
    65,
    -2,
    -8,
    127,
    128,
    255,
    256,
    -128,
    32767,
    32768,
    65535,
    -32768,
    0x40000000,
    INT32_MAX,
    INT32_MIN,
    INT32_MIN + 1,
    0x12345678,
    -0x12345678,
    0x5bd1e995,
};
constexpr uint64_t wide_immediates[] = {
    0,
    1,
    UINT64_MAX,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0xffffffff00000000,
    0xffffffff80000000,
    0x8000000000000000,
    0x7fffffffffffffff,
    0x0123456789abcdef,
};
constexpr int32_t known_values[] = {0, 1, -1, 31, 32, 64, INT32_MIN, 0x5bd1e995};

struct Registers {
  unsigned dst, src;
};
/// r0 and r9 are copies: values that are no arguments.
constexpr Registers register_pairs[] = {{1, 2}, {1, 1}, {0, 9}, {9, 2}};

std::vector<Insn> prefix_for(const Registers &r) {
  std::vector<Insn> code;
  for (auto [copy, of] : {std::pair(0u, 3u), std::pair(9u, 4u)})
    if (r.dst == copy || r.src == copy)
      code.push_back(insn(mov64_reg, copy, of));
  return code;
}

bool is_branch(Op op) { return op == Op::ja || is_conditional(op); }

class Generator {
public:
  explicit Generator(const InsnRow &row) : row_(row) {}
  std::vector<Snippet> run();

private:
  /// `all`: with every register that could have changed and every direction of a jump, else the result only.
  void with_immediate(int32_t imm, bool all);
  void with_operands(const std::vector<Insn> &prefix, const Registers &r, int32_t imm, bool all);
  void straight(const std::vector<Insn> &prefix, const std::vector<Insn> &body, unsigned observed);
  void branch(const std::vector<Insn> &prefix, Insn jump, unsigned observed, bool all);
  Insn fill(const Registers &r, int32_t imm) const {
    bool uses_dst = row_.dst.kind == FieldRule::any, uses_src = row_.src.kind == FieldRule::any;
    return insn(row_.opcode, uses_dst ? r.dst : 0, uses_src ? r.src : unsigned(row_.src.value),
                row_.offset.value, row_.imm.kind == FieldRule::any ? imm : row_.imm.value);
  }

  const InsnRow &row_;
  std::vector<Snippet> snippets_;
};

void Generator::straight(const std::vector<Insn> &prefix, const std::vector<Insn> &body, unsigned observed) {
  Snippet s{prefix, uint32_t(prefix.size())};
  s.code.insert(s.code.end(), body.begin(), body.end());
  if (observed != 0)
    s.code.push_back(insn(mov64_reg, 0, observed));
  s.code.push_back(insn(exit_insn));
  snippets_.push_back(std::move(s));
}

/// Where the jump goes, the observed register is inverted: x and ~x always differ.
void Generator::branch(const std::vector<Insn> &prefix, Insn jump, unsigned observed, bool all) {
  const std::vector<Insn> not_taken = {insn(mov64_reg, 0, observed), insn(exit_insn)};
  const std::vector<Insn> taken = {insn(mov64_reg, 0, observed), insn(xor64_imm, 0, 0, 0, -1),
                                   insn(exit_insn)};
  auto add = [&](std::initializer_list<std::vector<Insn>> parts, size_t jump_at, int distance) {
    Snippet s{prefix, uint32_t(prefix.size() + jump_at)};
    for (const std::vector<Insn> &part : parts)
      s.code.insert(s.code.end(), part.begin(), part.end());
    Insn &j = s.code[s.at];
    if (row_.op == Op::ja && row_.width == 32)
      j.imm = distance;
    else
      j.offset = int16_t(distance);
    snippets_.push_back(std::move(s));
  };
  add({{jump}, not_taken, taken}, 0, int(not_taken.size()));
  if (!all)
    return;
  add({{jump}, not_taken}, 0, 0);
  int back = int(taken.size());
  add({{insn(goto_offset, 0, 0, back)}, taken, {jump}, not_taken}, 1 + taken.size(), -back - 1);
}

void Generator::with_operands(const std::vector<Insn> &prefix, const Registers &r, int32_t imm, bool all) {
  Insn i = fill(r, imm);
  std::vector<unsigned> observed = {r.dst};
  if (all && r.src != r.dst)
    observed.push_back(r.src);
  if (all)
    observed.push_back(5); // a bystander
  for (unsigned o : observed)
    if (is_branch(row_.op))
      branch(prefix, i, o, all);
    else
      straight(prefix, {i}, o);
}

void Generator::with_immediate(int32_t imm, bool all) {
  for (const Registers &r : register_pairs)
    if (row_.src.kind == FieldRule::any || r.dst != r.src)
      with_operands(prefix_for(r), r, imm, all);
}

std::vector<Snippet> Generator::run() {
  if (row_.op == Op::exit) {
    straight({insn(mov64_reg, 0, 1)}, {}, 0);
    snippets_.back().at = 1;
    return std::move(snippets_);
  }
  if (row_.op == Op::ld_imm64) {
    for (uint64_t v : wide_immediates)
      for (unsigned dst : {1u, 0u, 9u})
        straight({},
                 {insn(row_.opcode, dst, 0, 0, int32_t(uint32_t(v))),
                  insn(0, 0, 0, 0, int32_t(uint32_t(v >> 32)))},
                 dst);
    return std::move(snippets_);
  }
  if (row_.op == Op::ja) {
    with_operands({}, {1, 2}, 0, true);
    return std::move(snippets_);
  }
  if (row_.imm.kind == FieldRule::any) {
    for (int32_t imm : immediates)
      with_immediate(imm, imm == 1);
  } else {
    with_immediate(0, true);
  }
  // Operands that are known when the instruction is lowered.
  for (int32_t known : known_values) {
    with_operands({insn(mov64_imm, 1, 0, 0, known)}, {1, 2}, 9, false);
    if (row_.src.kind == FieldRule::any)
      with_operands({insn(mov64_imm, 2, 0, 0, known)}, {1, 2}, 9, false);
  }
  return std::move(snippets_);
}

} // namespace

std::string Snippet::text() const {
  std::string s;
  for (uint32_t i = 0; i < code.size(); i += is_wide(code[i]) ? 2 : 1)
    s += (i ? "; " : "") + print_insn(code, i);
  return s;
}

std::string_view out_of_scope(const InsnRow &row) {
  if (is_private(row))
    return "verified form, not of the standard";
  switch (row.op) {
  case Op::load:
  case Op::load_sx:
  case Op::store:
  case Op::ld_abs:
  case Op::ld_ind: return "memory";
  case Op::atomic_add:
  case Op::atomic_or:
  case Op::atomic_and:
  case Op::atomic_xor:
  case Op::atomic_xchg:
  case Op::atomic_cmpxchg:
  case Op::load_acquire:
  case Op::store_release: return "atomic memory";
  case Op::ld_map:
  case Op::ld_map_value:
  case Op::ld_map_idx:
  case Op::ld_map_idx_value:
  case Op::ld_btf_id:
  case Op::ld_func: return "an address, not a number";
  case Op::call_helper:
  case Op::call_local:
  case Op::call_kfunc:
  case Op::callx: return "a call";
  case Op::may_goto: return "refused in object form";
  default: return "";
  }
}

std::vector<Snippet> snippets_of(const InsnRow &row) { return Generator(row).run(); }

std::vector<Encoded> encode(std::span<const Insn> code) {
  std::vector<Encoded> bytes(code.size());
  std::memcpy(bytes.data(), code.data(), code.size() * sizeof(Insn));
  return bytes;
}

Expected<Translated> translate_snippet(const Snippet &snippet, llvm::LLVMContext &context,
                                       llvm::TargetMachine *simplify_for) {
  Program program;
  program.name = "snippet";
  program.insns = {insn(mov64_reg, 6, 1)};
  for (unsigned r = 1; r <= 5; ++r)
    program.insns.push_back(insn(load64, r, 6, int(8 * (r - 1))));
  program.insns.push_back(insn(call, 0, 1, 0, 1));
  program.insns.push_back(insn(exit_insn));
  uint32_t start = uint32_t(program.insns.size());
  program.insns.insert(program.insns.end(), snippet.code.begin(), snippet.code.end());
  uint32_t end = uint32_t(program.insns.size());
  program.subprograms = {{"main", 0, start}, {"body", start, end}};

  const uint32_t starts[] = {0, start};
  if (Error e = check_program(program.insns, starts, ImmediateRules::standard))
    return e;
  Pipeline pipeline;
  pipeline.programs = {program};
  pipeline.entries = {ProgId(0)};
  Expected<std::unique_ptr<llvm::Module>> module =
      translate(pipeline, ProgId(0), context, {.debug_info = false});
  if (!module)
    return module.takeError();
  llvm::Function *body = (*module)->getFunction(subprogram_symbol(program, program.subprograms[1]));
  if (!body)
    return internal_error("the subprogram has no function").error();
  body->setLinkage(llvm::GlobalValue::ExternalLinkage); // keeps it from being inlined
  if (simplify_for)
    simplify_program(**module, *simplify_for);
  return Translated{std::move(*module), body};
}

} // namespace ujit::prove
