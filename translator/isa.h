// The eBPF instruction set (RFC 9669), versions 1 to 4 and the kernel's later additions, as one table.
// A row describes one instruction: which opcode byte and which values of src, offset and imm select
// it, what it does, how wide it is, and how it is written. The table drives decoding, checking,
// printing, the assembler, the interpreter and the lowering to LLVM IR; nothing else knows an opcode.
#pragma once

#include "translator/error.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

/// One 8-byte slot. A 64-bit immediate load takes two; the second has opcode 0 and carries the upper
/// half in `imm`. Instruction numbers everywhere are slot numbers, as in the kernel.
struct Insn {
  uint8_t opcode = 0;
  uint8_t dst : 4 = 0;
  uint8_t src : 4 = 0;
  int16_t offset = 0;
  int32_t imm = 0;

  friend bool operator==(const Insn &, const Insn &) = default;
};
static_assert(sizeof(Insn) == 8);

/// What an instruction does, independent of width and operand form.
enum class Op : uint8_t {
  // dst = dst op operand, in InsnRow::width bits; a 32-bit result is zero-extended.
  add, sub, mul, div, sdiv, mod, smod, or_, and_, xor_, lsh, rsh, arsh, neg,
  mov,
  movsx, ///< sign-extends the low InsnRow::bits of src
  cpu,   ///< verified form: number of this CPU; no call, so r1 to r5 survive it
  // byte order: operates on the low InsnRow::bits of dst and zero-extends
  to_le, to_be, bswap,
  // memory: InsnRow::bits is the access size
  load, load_sx,
  load_probe, load_probe_sx, ///< verified form: 0 where the address may not be read
  store,
  atomic_add, atomic_or, atomic_and, atomic_xor, atomic_xchg, atomic_cmpxchg,
  load_acquire, store_release,
  ld_abs, ld_ind,
  // 64-bit immediates, by what `src` says they mean
  ld_imm64,     ///< a number
  ld_map,       ///< imm: MapId in canonical form
  ld_map_value, ///< imm: MapId, second slot's imm: byte offset into the map's (first) value
  ld_btf_id,    ///< imm: BTF id of a kernel variable (verified form: 0, its name is a KernelCall): object form refuses it
  ld_func,      ///< imm: slot distance to a subprogram, as for call_local (from the slot after the first)
  ld_map_idx, ld_map_idx_value, ///< fd_array forms: refused outside the loader
  // control flow
  ja,                                        ///< target by offset (width 16) or by imm (width 32)
  jeq, jne, jgt, jge, jlt, jle, jsgt, jsge, jslt, jsle, jset,
  may_goto,
  call_helper, ///< imm: helper id
  call_local,  ///< imm: slot distance to a subprogram
  call_kfunc,
  callx,       ///< call through a register
  exit,
};

enum class Operand : uint8_t { none, reg, imm };

/// Which values a field may have. `any`: the field is used, and its meaning decides; `zero`: reserved;
/// `equals`: the field belongs to the opcode and selects the row.
struct FieldRule {
  enum Kind : uint8_t { any, zero, equals } kind = zero;
  int32_t value = 0;
  friend bool operator==(const FieldRule &, const FieldRule &) = default;
};

struct InsnRow {
  Op op;
  uint8_t opcode;
  Operand source;     ///< where the second operand comes from
  uint8_t width;      ///< operation width: 32 or 64; for `ja` 16 or 32 (width of the distance)
  uint8_t bits;       ///< access or extension size: 8, 16, 32, 64; 0 where it has no meaning
  bool fetch;         ///< atomics: the old value is returned
  uint8_t version;    ///< first ISA version that has it (-mcpu=vN); 5 for what came after v4
  FieldRule dst, src, offset, imm; ///< `equals` fields select the row, the others are checked after
  /// The pattern that printer and assembler share. Literal but for: $d $s registers dst and src as rN,
  /// $D $S as wN, $i imm, $o offset of a memory operand (" + 4"), $x offset as a number, $j $J distance of a
  /// jump by offset or imm, $c distance of a call, $f of a function address, $h helper, $m map, $q 64-bit
  /// immediate, $v imm of the second slot.
  std::string_view mnemonic;
};

/// All rows of the standard, in opcode order.
std::span<const InsnRow> isa_table();

/// Verified form only: what kernels use among themselves behind their verifier, as canonical form keeps it.
/// find_row() knows these rows, check_program() takes them in verified form alone.
std::span<const InsnRow> private_rows();
bool is_private(const InsnRow &row);

/// r0 to r10, and the kernel's scratch register (BPF_REG_AX), which only verified form has.
constexpr unsigned register_count = 12, scratch_register = 11;

/// The rows that share an opcode byte: none, one, or those that src, offset or imm tell apart.
std::span<const InsnRow> rows_of_opcode(uint8_t opcode);

/// The row of an instruction, or null if no instruction has this opcode and these selecting fields.
/// Constant time.
const InsnRow *find_row(const Insn &insn);

inline bool is_wide(const Insn &i) { return i.opcode == 0x18; }

/// The number that a wide instruction at slot `at` and its second slot hold together.
inline uint64_t imm64(std::span<const Insn> insns, uint32_t at) {
  return uint64_t(uint32_t(insns[at + 1].imm)) << 32 | uint32_t(insns[at].imm);
}

/// Slot of the subprogram that call_local and ld_func name (may lie outside of the program before
/// check_program()).
inline int64_t call_target(uint32_t at, const Insn &insn) { return int64_t(at) + insn.imm + 1; }

/// Slot that a jump at slot `at` goes to (may lie outside of the program; check_program() refuses that).
int64_t jump_target(uint32_t at, const Insn &insn, const InsnRow &row);

bool is_conditional(Op op);   ///< jeq .. jset, may_goto
bool is_atomic(Op op);        ///< atomic_*, load_acquire, store_release
bool is_ld_imm64(Op op);      ///< all two-slot forms
bool writes_dst(Op op);       ///< dst is a result (atomics with fetch write src, or r0 for cmpxchg)
bool is_sink(Op op);          ///< control never reaches the next slot: ja, exit

/// Decodes little-endian bytes. Errors: length not a multiple of 8.
Expected<std::vector<Insn>> decode_bytes(std::span<const uint8_t> bytes);

/// One instruction in assembler syntax; `insns` gives the second half of a wide one.
std::string print_insn(std::span<const Insn> insns, uint32_t at);

/// The standard defines division by an immediate 0 and masks immediate shifts; the kernel refuses both.
enum class ImmediateRules : uint8_t { kernel, standard };

/// Whose instructions: a user's, or canonical instructions of a program that a kernel has verified.
enum class Form : uint8_t { object, verified };

/// Checks what the instruction-set standard demands of a program: known rows, reserved fields zero,
/// registers 0 to 10 and r10 not written, shift and division immediates, complete 64-bit immediates, jumps
/// inside the same subprogram and not into the middle of an instruction, calls of subprograms only, no
/// falling off the end. Reports the first violation, with its slot; the caller adds file and program.
/// `starts` are the first slots of the subprograms, sorted, beginning with 0.
Error check_program(std::span<const Insn> insns, std::span<const uint32_t> starts,
                    ImmediateRules rules = ImmediateRules::kernel, Form form = Form::object);

} // namespace ujit
