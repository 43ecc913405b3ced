// The instruction table itself, and what can be read off it directly: rows, targets, decoding, printing.
// Rows that differ only in operand form or width are written by a macro each, so that one line here is one
// operation of the standard.
#include "translator/isa.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>

namespace ujit {
namespace {

constexpr FieldRule any{FieldRule::any};
constexpr FieldRule zero{FieldRule::zero};
constexpr FieldRule is(int32_t value) { return {FieldRule::equals, value}; }

constexpr auto none = Operand::none, reg = Operand::reg, imm = Operand::imm;

// Opcode classes.
constexpr uint8_t ALU32 = 0x04, ALU64 = 0x07, JMP64 = 0x05, JMP32 = 0x06;
constexpr uint8_t X = 0x08; // source bit: register

// clang-format off

// dst = dst op (src or imm), 32 and 64 bits. The offset tells signed from unsigned division.
#define ARITH(op, code, off, version, symbol)                                                              \
  InsnRow{Op::op, ALU32 | code,     imm, 32, 0, false, version, any, zero, off, any,  "$D " symbol " $i"}, \
  InsnRow{Op::op, ALU32 | X | code, reg, 32, 0, false, version, any, any,  off, zero, "$D " symbol " $S"}, \
  InsnRow{Op::op, ALU64 | code,     imm, 64, 0, false, version, any, zero, off, any,  "$d " symbol " $i"}, \
  InsnRow{Op::op, ALU64 | X | code, reg, 64, 0, false, version, any, any,  off, zero, "$d " symbol " $s"}

#define NEGATE(opcode, width, d) \
  InsnRow{Op::neg, opcode, none, width, 0, false, 1, any, zero, zero, zero, d " = -" d}

#define MOVSX(opcode, width, bits, d, s) \
  InsnRow{Op::movsx, opcode, reg, width, bits, false, 4, any, any, is(bits), zero, d " = (s" #bits ")" s}

// The size is in imm.
#define SWAP(op, opcode, version, bits, name) \
  InsnRow{Op::op, opcode, none, 64, bits, false, version, any, zero, zero, is(bits), "$d = " name #bits " $d"}

#define LOAD(op, opcode, version, bits, type) \
  InsnRow{Op::op, opcode, none, 64, bits, false, version, any, any, any, zero, "$d = *(" type #bits " *)($s$o)"}

#define STORE(opcode_imm, opcode_reg, bits)                                                                        \
  InsnRow{Op::store, opcode_imm, imm, 64, bits, false, 1, any, zero, any, any,  "*(u" #bits " *)($d$o) = $i"}, \
  InsnRow{Op::store, opcode_reg, reg, 64, bits, false, 1, any, any,  any, zero, "*(u" #bits " *)($d$o) = $s"}

// The operation is in imm; bit 0 of it asks for the old value.
#define ATOMIC(op, code, version, symbol, name)                                                                  \
  InsnRow{Op::op, 0xc3, reg, 32, 32, false, version, any, any, any, is(code),                                    \
          "lock *(u32 *)($d$o) " symbol " $S"},                                                                  \
  InsnRow{Op::op, 0xdb, reg, 64, 64, false, version, any, any, any, is(code),                                    \
          "lock *(u64 *)($d$o) " symbol " $s"},                                                                  \
  InsnRow{Op::op, 0xc3, reg, 32, 32, true, 3, any, any, any, is(code | 1), "$S = " name "((u32 *)($d$o), $S)"},  \
  InsnRow{Op::op, 0xdb, reg, 64, 64, true, 3, any, any, any, is(code | 1), "$s = " name "((u64 *)($d$o), $s)"}

#define ORDERED(opcode, bits)                                                                                     \
  InsnRow{Op::load_acquire, opcode, none, 64, bits, false, 5, any, any, any, is(0x100),                           \
          "$d = load_acquire((u" #bits " *)($s$o))"},                                                             \
  InsnRow{Op::store_release, opcode, reg, 64, bits, false, 5, any, any, any, is(0x110),                           \
          "store_release((u" #bits " *)($d$o), $s)"}

#define PACKET(opcode_abs, opcode_ind, bits)                                                                    \
  InsnRow{Op::ld_abs, opcode_abs, imm, 64, bits, false, 1, zero, zero, zero, any, "r0 = *(u" #bits " *)skb[$i]"}, \
  InsnRow{Op::ld_ind, opcode_ind, reg, 64, bits, false, 1, zero, any,  zero, any, "r0 = *(u" #bits " *)skb[$s + $i]"}

// What the 64 bits mean is in src.
#define WIDE(op, kind, pattern) \
  InsnRow{Op::op, 0x18, imm, 64, 64, false, 1, any, is(kind), zero, any, pattern}

#define BRANCH(op, code, version, symbol)                                                                            \
  InsnRow{Op::op, JMP64 | code,     imm, 64, 0, false, version, any, zero, any, any,  "if $d " symbol " $i goto $j"}, \
  InsnRow{Op::op, JMP64 | X | code, reg, 64, 0, false, version, any, any,  any, zero, "if $d " symbol " $s goto $j"}, \
  InsnRow{Op::op, JMP32 | code,     imm, 32, 0, false, 3, any, zero, any, any,  "if $D " symbol " $i goto $j"},       \
  InsnRow{Op::op, JMP32 | X | code, reg, 32, 0, false, 3, any, any,  any, zero, "if $D " symbol " $S goto $j"}

constexpr std::array unsorted_rows = {
  ARITH(add,  0x00, zero,  1, "+="),
  ARITH(sub,  0x10, zero,  1, "-="),
  ARITH(mul,  0x20, zero,  1, "*="),
  ARITH(div,  0x30, is(0), 1, "/="),
  ARITH(sdiv, 0x30, is(1), 4, "s/="),
  ARITH(or_,  0x40, zero,  1, "|="),
  ARITH(and_, 0x50, zero,  1, "&="),
  ARITH(lsh,  0x60, zero,  1, "<<="),
  ARITH(rsh,  0x70, zero,  1, ">>="),
  ARITH(mod,  0x90, is(0), 1, "%="),
  ARITH(smod, 0x90, is(1), 4, "s%="),
  ARITH(xor_, 0xa0, zero,  1, "^="),
  ARITH(mov,  0xb0, is(0), 1, "="),
  ARITH(arsh, 0xc0, zero,  1, "s>>="),
  NEGATE(0x84, 32, "$D"),
  NEGATE(0x87, 64, "$d"),
  MOVSX(0xbc, 32, 8,  "$D", "$S"),
  MOVSX(0xbc, 32, 16, "$D", "$S"),
  MOVSX(0xbf, 64, 8,  "$d", "$s"),
  MOVSX(0xbf, 64, 16, "$d", "$s"),
  MOVSX(0xbf, 64, 32, "$d", "$s"),

  SWAP(to_le, 0xd4, 1, 16, "le"),
  SWAP(to_le, 0xd4, 1, 32, "le"),
  SWAP(to_le, 0xd4, 1, 64, "le"),
  SWAP(to_be, 0xdc, 1, 16, "be"),
  SWAP(to_be, 0xdc, 1, 32, "be"),
  SWAP(to_be, 0xdc, 1, 64, "be"),
  SWAP(bswap, 0xd7, 4, 16, "bswap"),
  SWAP(bswap, 0xd7, 4, 32, "bswap"),
  SWAP(bswap, 0xd7, 4, 64, "bswap"),

  LOAD(load,    0x71, 1, 8,  "u"),
  LOAD(load,    0x69, 1, 16, "u"),
  LOAD(load,    0x61, 1, 32, "u"),
  LOAD(load,    0x79, 1, 64, "u"),
  LOAD(load_sx, 0x91, 4, 8,  "s"),
  LOAD(load_sx, 0x89, 4, 16, "s"),
  LOAD(load_sx, 0x81, 4, 32, "s"),
  STORE(0x72, 0x73, 8),
  STORE(0x6a, 0x6b, 16),
  STORE(0x62, 0x63, 32),
  STORE(0x7a, 0x7b, 64),

  ATOMIC(atomic_add, 0x00, 1, "+=", "atomic_fetch_add"),
  ATOMIC(atomic_or,  0x40, 3, "|=", "atomic_fetch_or"),
  ATOMIC(atomic_and, 0x50, 3, "&=", "atomic_fetch_and"),
  ATOMIC(atomic_xor, 0xa0, 3, "^=", "atomic_fetch_xor"),
  InsnRow{Op::atomic_xchg, 0xc3, reg, 32, 32, true, 3, any, any, any, is(0xe1), "$S = xchg32_32($d$o, $S)"},
  InsnRow{Op::atomic_xchg, 0xdb, reg, 64, 64, true, 3, any, any, any, is(0xe1), "$s = xchg_64($d$o, $s)"},
  InsnRow{Op::atomic_cmpxchg, 0xc3, reg, 32, 32, true, 3, any, any, any, is(0xf1), "w0 = cmpxchg32_32($d$o, w0, $S)"},
  InsnRow{Op::atomic_cmpxchg, 0xdb, reg, 64, 64, true, 3, any, any, any, is(0xf1), "r0 = cmpxchg_64($d$o, r0, $s)"},
  ORDERED(0xd3, 8),
  ORDERED(0xcb, 16),
  ORDERED(0xc3, 32),
  ORDERED(0xdb, 64),

  PACKET(0x30, 0x50, 8),
  PACKET(0x28, 0x48, 16),
  PACKET(0x20, 0x40, 32),

  WIDE(ld_imm64,         0, "$d = $q ll"),
  WIDE(ld_map,           1, "$d = map $m ll"),
  WIDE(ld_map_value,     2, "$d = map $m + $v ll"),
  WIDE(ld_btf_id,        3, "$d = btf_id $i + $v ll"),
  WIDE(ld_func,          4, "$d = func $f ll"),
  WIDE(ld_map_idx,       5, "$d = map_idx $i ll"),
  WIDE(ld_map_idx_value, 6, "$d = map_idx $i + $v ll"),

  InsnRow{Op::ja, 0x05, none, 16, 0, false, 1, zero, zero, any, zero, "goto $j"},
  InsnRow{Op::ja, 0x06, none, 32, 0, false, 4, zero, zero, zero, any, "gotol $J"},
  BRANCH(jeq,  0x10, 1, "=="),
  BRANCH(jgt,  0x20, 1, ">"),
  BRANCH(jge,  0x30, 1, ">="),
  BRANCH(jset, 0x40, 1, "&"),
  BRANCH(jne,  0x50, 1, "!="),
  BRANCH(jsgt, 0x60, 1, "s>"),
  BRANCH(jsge, 0x70, 1, "s>="),
  BRANCH(jlt,  0xa0, 2, "<"),
  BRANCH(jle,  0xb0, 2, "<="),
  BRANCH(jslt, 0xc0, 2, "s<"),
  BRANCH(jsle, 0xd0, 2, "s<="),
  InsnRow{Op::may_goto, 0xe5, none, 64, 0, false, 5, zero, is(0), any, zero, "may_goto $j"},
  InsnRow{Op::call_helper, 0x85, imm, 64, 0, false, 1, zero, is(0), zero, any, "call $h"},
  InsnRow{Op::call_local,  0x85, imm, 64, 0, false, 1, zero, is(1), zero, any, "call pc$c"},
  InsnRow{Op::call_kfunc,  0x85, imm, 64, 0, false, 3, zero, is(2), any,  any, "call kfunc $i, $x"},
  InsnRow{Op::callx,       0x8d, reg, 64, 0, false, 5, any, zero, zero, zero, "callx $d"},
  InsnRow{Op::exit,        0x95, none, 64, 0, false, 1, zero, zero, zero, zero, "exit"},
};

// clang-format on

constexpr auto rows = [] {
  auto sorted = unsorted_rows;
  auto key = [](const InsnRow &r) {
    return int64_t(r.opcode) << 40 | int64_t(r.src.value) << 32 | int64_t(r.offset.value) << 16 | r.imm.value;
  };
  std::sort(sorted.begin(), sorted.end(), [&](auto &a, auto &b) { return key(a) < key(b); });
  return sorted;
}();

/// rows[first_row[opcode] .. first_row[opcode + 1]) are the rows of an opcode: one, or up to 12 forms.
constexpr auto first_row = [] {
  std::array<uint8_t, 257> first{};
  static_assert(rows.size() < 256);
  for (size_t opcode = 0, row = 0; opcode <= 256; opcode++) {
    while (row < rows.size() && rows[row].opcode < opcode)
      row++;
    first[opcode] = row;
  }
  return first;
}();

// clang-format off
// Mode bits 0x20 and 0x40 of a load; a plain move with an offset that no version of the standard uses.
constexpr std::array verified_rows = {
  LOAD(load_probe,    0x31, 255, 8,  "probe u"),
  LOAD(load_probe,    0x29, 255, 16, "probe u"),
  LOAD(load_probe,    0x21, 255, 32, "probe u"),
  LOAD(load_probe,    0x39, 255, 64, "probe u"),
  LOAD(load_probe_sx, 0x51, 255, 8,  "probe s"),
  LOAD(load_probe_sx, 0x49, 255, 16, "probe s"),
  LOAD(load_probe_sx, 0x41, 255, 32, "probe s"),
  InsnRow{Op::cpu, 0xbf, none, 64, 0, false, 255, any, zero, is(-2), zero, "$d = cpu"},
};
// clang-format on

bool selects(const FieldRule &rule, int32_t value) {
  return rule.kind != FieldRule::equals || rule.value == value;
}

void print_distance(llvm::raw_ostream &os, int64_t distance) { os << (distance < 0 ? "" : "+") << distance; }

} // namespace

std::span<const InsnRow> isa_table() { return rows; }

std::span<const InsnRow> private_rows() { return verified_rows; }

bool is_private(const InsnRow &row) { return row.version == 255; }

std::span<const InsnRow> rows_of_opcode(uint8_t opcode) {
  return std::span(rows).subspan(first_row[opcode], first_row[opcode + 1] - first_row[opcode]);
}

const InsnRow *find_row(const Insn &insn) {
  for (const InsnRow &row : rows_of_opcode(insn.opcode))
    if (selects(row.src, insn.src) && selects(row.offset, insn.offset) && selects(row.imm, insn.imm))
      return &row;
  for (const InsnRow &row : verified_rows)
    if (row.opcode == insn.opcode && selects(row.offset, insn.offset))
      return &row;
  return nullptr;
}

int64_t jump_target(uint32_t at, const Insn &insn, const InsnRow &row) {
  return int64_t(at) + 1 + (row.op == Op::ja && row.width == 32 ? insn.imm : insn.offset);
}

bool is_conditional(Op op) { return op >= Op::jeq && op <= Op::may_goto; }
bool is_atomic(Op op) { return op >= Op::atomic_add && op <= Op::store_release; }
bool is_ld_imm64(Op op) { return op >= Op::ld_imm64 && op <= Op::ld_map_idx_value; }
bool is_sink(Op op) { return op == Op::ja || op == Op::exit; }

bool writes_dst(Op op) { return op <= Op::load_probe_sx || op == Op::load_acquire || is_ld_imm64(op); }

Expected<std::vector<Insn>> decode_bytes(std::span<const uint8_t> bytes) {
  if (bytes.size() % 8)
    return input_error(llvm::formatv("program is {0} bytes long, which is not a multiple of 8", bytes.size()))
        .error();
  std::vector<Insn> insns(bytes.size() / 8);
  for (size_t i = 0; i < insns.size(); i++) {
    const uint8_t *b = &bytes[i * 8];
    insns[i].opcode = b[0];
    insns[i].dst = b[1] & 15;
    insns[i].src = b[1] >> 4;
    insns[i].offset = int16_t(b[2] | b[3] << 8);
    insns[i].imm =
        int32_t(uint32_t(b[4]) | uint32_t(b[5]) << 8 | uint32_t(b[6]) << 16 | uint32_t(b[7]) << 24);
  }
  return insns;
}

std::string print_insn(std::span<const Insn> insns, uint32_t at) {
  const Insn &insn = insns[at];
  const InsnRow *row = find_row(insn);
  if (!row || (is_ld_imm64(row->op) && at + 1 >= insns.size()))
    return llvm::formatv(".insn {0:x}, {1}, {2}, {3}, {4}", insn.opcode, unsigned(insn.dst),
                         unsigned(insn.src), insn.offset, insn.imm);
  std::string text;
  llvm::raw_string_ostream os(text);
  for (size_t i = 0; i < row->mnemonic.size(); i++) {
    if (row->mnemonic[i] != '$') {
      os << row->mnemonic[i];
      continue;
    }
    switch (row->mnemonic[++i]) {
    case 'd': os << 'r' << unsigned(insn.dst); break;
    case 's': os << 'r' << unsigned(insn.src); break;
    case 'D': os << 'w' << unsigned(insn.dst); break;
    case 'S': os << 'w' << unsigned(insn.src); break;
    case 'o': os << (insn.offset < 0 ? " - " : " + ") << std::abs(int(insn.offset)); break;
    case 'x': os << insn.offset; break;
    case 'j': print_distance(os, insn.offset); break;
    case 'i':
    case 'h': os << insn.imm; break;
    case 'J':
    case 'c':
    case 'f': print_distance(os, insn.imm); break;
    case 'm': os << uint32_t(insn.imm); break;
    case 'q': os << llvm::formatv("{0:x}", imm64(insns, at)); break;
    case 'v': os << uint32_t(insns[at + 1].imm); break;
    default: llvm_unreachable("pattern letter that the printer does not know");
    }
  }
  return text;
}

} // namespace ujit
