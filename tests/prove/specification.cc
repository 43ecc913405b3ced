#include "tests/prove/specification.h"

namespace ujit::prove {
namespace {

using z3::expr, z3::ite;

// Section 3: "Instruction encoding".
struct Fields {
  unsigned opcode, dst, src;
  int16_t offset;
  int32_t imm;

  explicit Fields(const Encoded &b)
      : opcode(b[0]), dst(b[1] & 0x0f), src(b[1] >> 4), offset(int16_t(b[2] | b[3] << 8)),
        imm(int32_t(uint32_t(b[4]) | uint32_t(b[5]) << 8 | uint32_t(b[6]) << 16 | uint32_t(b[7]) << 24)) {}

  unsigned instruction_class() const { return opcode & 0x07; } // three least significant bits
  bool source_is_register() const { return opcode & 0x08; }    // ALU and JMP classes: s
  unsigned code() const { return opcode >> 4; }                // ALU and JMP classes: the four bits above
};

// Section 3.3: "Instruction classes".
enum InstructionClass { LD = 0, LDX = 1, ST = 2, STX = 3, ALU = 4, JMP = 5, JMP32 = 6, ALU64 = 7 };

// Section 4.1: "Arithmetic instructions".
enum ArithmeticCode {
  ADD = 0x0,
  SUB = 0x1,
  MUL = 0x2,
  DIV = 0x3,
  OR = 0x4,
  AND = 0x5,
  LSH = 0x6,
  RSH = 0x7,
  NEG = 0x8,
  MOD = 0x9,
  XOR = 0xa,
  MOV = 0xb,
  ARSH = 0xc,
  END = 0xd,
};

// Section 4.3: "Jump instructions".
enum JumpCode {
  JA = 0x0,
  JEQ = 0x1,
  JGT = 0x2,
  JGE = 0x3,
  JSET = 0x4,
  JNE = 0x5,
  JSGT = 0x6,
  JSGE = 0x7,
  CALL = 0x8,
  EXIT = 0x9,
  JLT = 0xa,
  JLE = 0xb,
  JSLT = 0xc,
  JSLE = 0xd,
};

expr low(const expr &value, unsigned bits) { return value.extract(bits - 1, 0); }
unsigned width_of(const expr &value) { return value.get_sort().bv_size(); }
expr zero_extended(const expr &value, unsigned width) {
  return width_of(value) == width ? value : z3::zext(value, width - width_of(value));
}
expr sign_extended(const expr &value, unsigned width) {
  return width_of(value) == width ? value : z3::sext(value, width - width_of(value));
}

expr bytes_reversed(const expr &value) {
  unsigned width = width_of(value);
  expr reversed = value.extract(7, 0);
  for (unsigned bit = 8; bit < width; bit += 8)
    reversed = z3::concat(reversed, value.extract(bit + 7, bit));
  return reversed;
}

/// `imm`, as an operand of `width` bits: "sign extended from 32 to 64 bits" where the operation has 64.
expr immediate(const Fields &f, unsigned width, Terms &terms) {
  return terms.number(uint64_t(int64_t(f.imm)), width);
}

bool unused_source_is_zero(const Fields &f) { return f.source_is_register() ? f.imm == 0 : f.src == 0; }

/// The new value of dst; both registers have 64 bits.
std::optional<expr> arithmetic(const Fields &f, const expr &dst64, const expr &src64, Terms &terms) {
  bool wide = f.instruction_class() == ALU64;
  unsigned width = wide ? 64 : 32;

  // Section 4.2: "Byte swap instructions". They use neither src nor offset; imm is the width.
  if (f.code() == END) {
    if (f.src != 0 || f.offset != 0 || (f.imm != 16 && f.imm != 32 && f.imm != 64))
      return std::nullopt;
    if (wide && f.source_is_register()) // the bit is reserved in class ALU64
      return std::nullopt;
    expr value = low(dst64, unsigned(f.imm));
    // Class ALU64: swap unconditionally. Class ALU: 0 is little, 1 is big; we are on a little-endian host.
    bool swap = wide || f.source_is_register();
    return zero_extended(swap ? bytes_reversed(value) : value, 64);
  }

  // "NEG ... is only defined when the source bit is clear (K)"; it uses neither operand.
  if (f.code() == NEG) {
    if (f.source_is_register() || f.src != 0 || f.imm != 0 || f.offset != 0)
      return std::nullopt;
    return zero_extended(-low(dst64, width), 64);
  }

  if (!unused_source_is_zero(f))
    return std::nullopt;
  expr dst = low(dst64, width);
  expr src = f.source_is_register() ? low(src64, width) : immediate(f, width, terms);
  expr zero = terms.number(0, width);
  // "a mask of 0x3F (63) for 64-bit operations and 0x1F (31) for 32-bit operations"
  expr count = src & terms.number(wide ? 0x3f : 0x1f, width);
  auto done = [](const expr &result) { return zero_extended(result, 64); };

  if (f.code() == MOV && f.offset != 0) { // MOVSX: register source only
    bool known = f.offset == 8 || f.offset == 16 || (wide && f.offset == 32);
    if (!f.source_is_register() || !known)
      return std::nullopt;
    return done(sign_extended(low(src64, unsigned(f.offset)), width));
  }
  if (f.code() == DIV && f.offset == 1) // SDIV
    return done(ite(src == zero, zero,
                    ite(dst == terms.smallest(width) && src == terms.minus_one(width), terms.smallest(width),
                        terms.sdiv(dst, src))));
  if (f.code() == MOD && f.offset == 1) // SMOD: the sign of the dividend
    return done(
        ite(src == zero, dst,
            ite(dst == terms.smallest(width) && src == terms.minus_one(width), zero, terms.srem(dst, src))));
  if (f.offset != 0)
    return std::nullopt;

  switch (f.code()) {
  case ADD: return done(dst + src);
  case SUB: return done(dst - src);
  case MUL: return done(terms.mul(dst, src));
  case DIV: return done(ite(src != zero, terms.udiv(dst, src), zero));
  case OR: return done(dst | src);
  case AND: return done(dst & src);
  case LSH: return done(z3::shl(dst, count));
  case RSH: return done(z3::lshr(dst, count));
  case MOD: return done(ite(src != zero, terms.urem(dst, src), dst));
  case XOR: return done(dst ^ src);
  case MOV: return done(src);
  case ARSH: return done(z3::ashr(dst, count));
  default: return std::nullopt;
  }
}

/// When a conditional jump is taken.
std::optional<expr> condition(const Fields &f, const expr &dst64, const expr &src64, Terms &terms) {
  if (!unused_source_is_zero(f))
    return std::nullopt;
  unsigned width = f.instruction_class() == JMP ? 64 : 32;
  expr dst = low(dst64, width);
  expr src = f.source_is_register() ? low(src64, width) : immediate(f, width, terms);
  switch (f.code()) {
  case JEQ: return dst == src;
  case JGT: return z3::ugt(dst, src);
  case JGE: return z3::uge(dst, src);
  case JSET: return (dst & src) != terms.number(0, width);
  case JNE: return dst != src;
  case JSGT: return dst > src; // z3++ compares signed
  case JSGE: return dst >= src;
  case JLT: return z3::ult(dst, src);
  case JLE: return z3::ule(dst, src);
  case JSLT: return dst < src;
  case JSLE: return dst <= src;
  default: return std::nullopt;
  }
}

/// Where control and registers are after one instruction.
struct Step {
  expr taken; ///< goes to `target`, else to `next`
  int64_t next, target;
  std::vector<expr> registers;
  bool exits = false;
};

std::optional<Step> step(std::span<const Encoded> code, size_t at, std::vector<expr> registers,
                         Terms &terms) {
  Fields f(code[at]);
  if (f.dst > 10 || f.src > 10)
    return std::nullopt;
  Step s{terms.context.bool_val(false), int64_t(at) + 1, 0, std::move(registers)};
  expr &dst = s.registers[f.dst];
  const expr &src = s.registers[f.src];

  switch (f.instruction_class()) {
  case ALU:
  case ALU64: {
    std::optional<expr> result = arithmetic(f, dst, src, terms);
    if (!result || f.dst == 10) // R10 is read-only
      return std::nullopt;
    dst = *result;
    return s;
  }
  case JMP:
  case JMP32:
    if (f.code() == EXIT && f.opcode == 0x95) {
      if (f.dst || f.src || f.offset || f.imm)
        return std::nullopt;
      s.exits = true;
      return s;
    }
    if (f.code() == JA) { // class JMP jumps by offset, class JMP32 by imm
      bool by_imm = f.instruction_class() == JMP32;
      if (f.source_is_register() || f.dst || f.src || (by_imm ? f.offset != 0 : f.imm != 0))
        return std::nullopt;
      s.next += by_imm ? f.imm : f.offset;
      return s;
    }
    if (std::optional<expr> c = condition(f, dst, src, terms)) {
      s.taken = *c;
      s.target = s.next + f.offset; // "relative to the instruction following the jump instruction"
      return s;
    }
    return std::nullopt;
  case LD: { // section 5.4: "64-bit immediate instructions", src 0: a number
    if (f.opcode != 0x18 || f.src != 0 || f.offset != 0 || f.dst == 10 || at + 1 >= code.size())
      return std::nullopt;
    Fields second(code[at + 1]);
    if (second.opcode || second.dst || second.src || second.offset)
      return std::nullopt;
    dst = terms.number(uint64_t(uint32_t(second.imm)) << 32 | uint32_t(f.imm), 64);
    s.next++;
    return s;
  }
  default: return std::nullopt;
  }
}

/// `fuel`: instructions that may still run on this path.
std::optional<expr> run(std::span<const Encoded> code, int64_t at, const std::vector<expr> &registers,
                        size_t fuel, Terms &terms) {
  if (at < 0 || at >= int64_t(code.size()) || fuel == 0)
    return std::nullopt;
  std::optional<Step> s = step(code, size_t(at), registers, terms);
  if (!s)
    return std::nullopt;
  if (s->exits)
    return s->registers[0];
  std::optional<expr> next = run(code, s->next, s->registers, fuel - 1, terms);
  if (!next || s->taken.is_false())
    return next;
  std::optional<expr> target = run(code, s->target, s->registers, fuel - 1, terms);
  if (!target)
    return std::nullopt;
  return ite(s->taken, *target, *next);
}

} // namespace

bool describes(std::span<const Encoded> code, size_t at, Terms &terms) {
  std::vector<expr> registers(11, terms.number(0, 64));
  return step(code, at, registers, terms).has_value();
}

std::optional<expr> result_of(std::span<const Encoded> code, const std::vector<expr> &registers,
                              Terms &terms) {
  return run(code, 0, registers, 2 * code.size(), terms);
}

} // namespace ujit::prove
