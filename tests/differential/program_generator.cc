#include "tests/differential/program_generator.h"

#include <linux/bpf.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>

#ifndef BPF_MEMSX
#define BPF_MEMSX 0x80
#endif

namespace ujit {

namespace {

// The stack of every function, by offset from r10.
constexpr int16_t key_slot = -8, long_key_slot = -16, value_slot = -32, spill_slot = -40, callback_slot = -48,
                  buffer_slot = -64;
constexpr int16_t free_low = -128, free_high = -72; ///< for scalars at any place

constexpr unsigned held = 9, context = 6, counter = 8;

uint8_t size_code(uint32_t bytes) {
  return bytes == 1 ? BPF_B : bytes == 2 ? BPF_H : bytes == 4 ? BPF_W : BPF_DW;
}

} // namespace

int32_t Random::immediate() {
  switch (below(8)) {
  case 0: return 0;
  case 1: return of({1, -1, 2, 7, 8, 31, 32, 63, 64, 255, 256});
  case 2: return of({0x7fffffff, int32_t(0x80000000), 0x7fff, 0x8000, 0xffff, 0x10000, -0x8000, 0x7f, 0x80});
  case 3: return int32_t(1u << below(32));
  case 4: return int32_t(below(64));
  default: return int32_t(bits());
  }
}

void ProgramGenerator::State::meet(const State &other) {
  scalars &= other.scalars;
  stack &= other.stack;
  if (held != other.held)
    held = nothing;
  held_bytes = std::min(held_bytes, other.held_bytes);
  spilled = spilled && other.spilled && held != nothing;
}

ProgramGenerator::ProgramGenerator(Random &random, ProgType type, uint32_t size)
    : random_(random), type_(type), size_(size) {}

// --- Emitting ----------------------------------------------------------------------------------------

uint32_t ProgramGenerator::emit(uint8_t opcode, unsigned dst, unsigned src, int16_t offset, int32_t imm) {
  Insn insn;
  insn.opcode = opcode;
  insn.dst = uint8_t(dst & 15);
  insn.src = uint8_t(src & 15);
  insn.offset = offset;
  insn.imm = imm;
  program_.insns.push_back(insn);
  return uint32_t(program_.insns.size() - 1);
}

void ProgramGenerator::emit_wide(unsigned dst, unsigned src, uint64_t value) {
  emit(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, int32_t(value));
  emit(0, 0, 0, 0, int32_t(value >> 32));
}

void ProgramGenerator::patch(uint32_t jump) {
  program_.insns[jump].offset = int16_t(program_.insns.size() - jump - 1);
}

void ProgramGenerator::move(unsigned dst, unsigned src) { emit(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0); }
void ProgramGenerator::move_imm(unsigned dst, int32_t imm) {
  emit(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
}

void ProgramGenerator::call(int32_t helper) {
  emit(BPF_JMP | BPF_CALL, 0, 0, 0, helper);
  for (unsigned r = 1; r <= 5; r++)
    clear(r);
  set_scalar(0);
}

// --- Registers ---------------------------------------------------------------------------------------

unsigned ProgramGenerator::any_scalar_of(uint16_t mask) {
  uint16_t live = s_.scalars & mask;
  if (!live) {
    unsigned r = unsigned(std::countr_zero(mask));
    move_imm(r, random_.immediate());
    set_scalar(r);
    return r;
  }
  for (uint32_t skip = random_.below(uint32_t(std::popcount(live))); skip > 0; skip--)
    live &= live - 1;
  return unsigned(std::countr_zero(live));
}

unsigned ProgramGenerator::any_scalar() {
  return any_scalar_of(uint16_t((1 << 7) | (0x3ff & ~(1 << context))));
}

unsigned ProgramGenerator::any_destination() {
  while (true) {
    unsigned r = random_.below(10);
    if (r == context || (r == held && s_.held != State::nothing) || (r == counter && in_loop_))
      continue;
    return r;
  }
}

// --- Statements --------------------------------------------------------------------------------------

void ProgramGenerator::statements(uint32_t n, uint32_t depth) {
  for (uint32_t i = 0; i < n; i++)
    statement(depth);
}

void ProgramGenerator::statement(uint32_t depth) {
  switch (random_.below(34)) {
  case 0:
  case 1:
  case 2:
  case 3:
  case 4:
  case 5: return alu();
  case 6:
  case 7: return assign();
  case 8:
  case 9:
  case 10: return stack_access();
  case 11:
  case 12: return context_access();
  case 13:
  case 14:
  case 15: return packet_access();
  case 16:
  case 17: return array_access();
  case 18: return hash_access();
  case 19:
  case 20: return data_access();
  case 21:
  case 22: return held_access();
  case 23: return random_.one_in(2) ? hold_value() : hold_packet();
  case 24: return spill();
  case 25:
  case 26:
  case 27: return branch(depth);
  case 28: return loop(depth);
  case 29: return call_subprogram();
  case 30: return random_.one_in(3) ? loop_helper() : alu();
  case 31:
  case 32: return tail_call();
  case 33: return helper_call();
  }
}

void ProgramGenerator::alu() {
  unsigned dst = any_scalar();
  if (dst == counter && in_loop_)
    dst = any_scalar_of(1 << 7);
  const uint8_t width = random_.one_in(2) ? BPF_ALU64 : BPF_ALU;
  const uint32_t bits = width == BPF_ALU64 ? 64 : 32;
  if (random_.one_in(10)) {
    emit(width | BPF_NEG, dst, 0, 0, 0);
    return;
  }
  if (random_.one_in(8)) { // byte order
    uint8_t kind = random_.of<uint8_t>(
        {BPF_ALU | BPF_END | BPF_TO_LE, BPF_ALU | BPF_END | BPF_TO_BE, BPF_ALU64 | BPF_END});
    emit(kind, dst, 0, 0, random_.of({16, 32, 64}));
    return;
  }
  const uint8_t op = random_.of<uint8_t>(
      {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH});
  const bool divides = op == BPF_DIV || op == BPF_MOD;
  const bool shifts = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
  const int16_t is_signed = divides && random_.one_in(2);
  if (random_.one_in(2)) {
    emit(width | op | BPF_X, dst, any_scalar(), is_signed, 0);
    return;
  }
  int32_t imm = random_.immediate();
  if (shifts)
    imm = int32_t(random_.below(bits));
  if (divides && imm == 0)
    imm = -1;
  emit(width | op | BPF_K, dst, 0, is_signed, imm);
}

void ProgramGenerator::assign() {
  unsigned dst = any_destination();
  switch (random_.below(5)) {
  case 0: move_imm(dst, random_.immediate()); break;
  case 1: emit(BPF_ALU | BPF_MOV | BPF_K, dst, 0, 0, random_.immediate()); break;
  case 2: emit_wide(dst, 0, random_.one_in(3) ? uint64_t(1) << random_.below(64) : random_.bits()); break;
  case 3: emit((random_.one_in(2) ? BPF_ALU : BPF_ALU64) | BPF_MOV | BPF_X, dst, any_scalar(), 0, 0); break;
  case 4: { // sign extension
    bool wide = random_.one_in(2);
    emit((wide ? BPF_ALU64 : BPF_ALU) | BPF_MOV | BPF_X, dst, any_scalar(),
         wide ? random_.of<int16_t>({8, 16, 32}) : random_.of<int16_t>({8, 16}), 0);
    break;
  }
  }
  set_scalar(dst);
}

void ProgramGenerator::stack_access() {
  const uint32_t bytes = random_.of({1u, 2u, 4u, 8u});
  const int16_t offset =
      int16_t(free_low + int(bytes * random_.below(uint32_t(free_high - free_low) / bytes)));
  auto written = [&] {
    for (uint32_t b = 0; b < bytes; b++)
      if (!s_.stack[size_t(offset + 128) + b])
        return false;
    return true;
  };
  if (written() && random_.one_in(2)) {
    if (bytes >= 4 && random_.one_in(4))
      return atomic(10, offset, bytes == 8);
    unsigned dst = any_destination();
    bool sign = bytes < 8 && random_.one_in(3);
    emit(BPF_LDX | (sign ? BPF_MEMSX : BPF_MEM) | size_code(bytes), dst, 10, offset, 0);
    set_scalar(dst);
    return;
  }
  if (random_.one_in(3))
    emit(BPF_ST | BPF_MEM | size_code(bytes), 10, 0, offset, random_.immediate());
  else
    emit(BPF_STX | BPF_MEM | size_code(bytes), 10, any_scalar(), offset, 0);
  for (uint32_t b = 0; b < bytes; b++)
    s_.stack.set(size_t(offset + 128) + b);
}

void ProgramGenerator::atomic(unsigned base, int16_t offset, bool wide) {
  const uint8_t opcode = BPF_STX | BPF_ATOMIC | (wide ? BPF_DW : BPF_W);
  if (random_.one_in(5)) { // the old value is compared with r0
    if (!is_scalar(0)) {
      move_imm(0, random_.immediate());
      set_scalar(0);
    }
    emit(opcode, base, any_scalar(), offset, BPF_CMPXCHG);
    return;
  }
  int32_t op = random_.of<int32_t>({BPF_ADD, BPF_OR, BPF_AND, BPF_XOR, BPF_ADD | BPF_FETCH,
                                    BPF_OR | BPF_FETCH, BPF_AND | BPF_FETCH, BPF_XOR | BPF_FETCH, BPF_XCHG});
  unsigned src = any_scalar();
  if (src == counter && in_loop_)
    src = any_scalar_of(1 << 7);
  emit(opcode, base, src, offset, op);
}

void ProgramGenerator::accesses(unsigned base, uint32_t bytes, bool atomics, bool writable) {
  auto not_base = [&](unsigned r) { return r == base ? 7u : r; };
  for (uint32_t n = random_.between(1, 3); n > 0; n--) {
    uint32_t size = random_.of({1u, 2u, 4u, 8u});
    while (size > bytes)
      size /= 2;
    uint32_t at = random_.below(bytes - size + 1);
    if (atomics && size >= 4 && random_.one_in(3)) {
      atomic(base, int16_t(at / size * size), size == 8);
      continue;
    }
    if (atomics) // values of maps: aligned, as compilers do it
      at = at / size * size;
    if (writable && random_.one_in(2)) {
      if (random_.one_in(3))
        emit(BPF_ST | BPF_MEM | size_code(size), base, 0, int16_t(at), random_.immediate());
      else
        emit(BPF_STX | BPF_MEM | size_code(size), base, any_scalar(), int16_t(at), 0);
      continue;
    }
    // Only into registers that hold a number anyway: the access may be skipped.
    unsigned dst = not_base(any_scalar());
    if (dst == counter && in_loop_)
      dst = 7;
    if (!is_scalar(dst))
      continue;
    bool sign = size < 8 && random_.one_in(3);
    emit(BPF_LDX | (sign ? BPF_MEMSX : BPF_MEM) | size_code(size), dst, base, int16_t(at), 0);
  }
}

void ProgramGenerator::context_access() {
  unsigned dst = any_destination();
  if (type_ == ProgType::xdp) { // the length of the packet
    unsigned other = dst == 1 ? 2 : 1;
    emit(BPF_LDX | BPF_MEM | BPF_W, dst, context, 4, 0);
    emit(BPF_LDX | BPF_MEM | BPF_W, other, context, 0, 0);
    emit(BPF_ALU64 | BPF_SUB | BPF_X, dst, other, 0, 0);
    set_scalar(dst);
    clear(other);
    return;
  }
  constexpr int16_t len = 0, mark = 8, protocol = 16, priority = 32, cb = 48;
  const int16_t word = int16_t(cb + 4 * int(random_.below(5)));
  switch (random_.below(4)) {
  case 0:
    emit(BPF_LDX | BPF_MEM | BPF_W, dst, context, random_.of<int16_t>({len, mark, protocol, priority}), 0);
    return set_scalar(dst);
  case 1:
    emit(BPF_STX | BPF_MEM | BPF_W, context, any_scalar(), random_.of<int16_t>({mark, priority}), 0);
    return;
  case 2: {
    uint32_t bytes = random_.of({1u, 2u, 4u});
    emit(BPF_LDX | BPF_MEM | size_code(bytes), dst, context,
         int16_t(word + int(bytes * random_.below(4 / bytes))), 0);
    return set_scalar(dst);
  }
  case 3: emit(BPF_STX | BPF_MEM | BPF_W, context, any_scalar(), word, 0); return;
  }
}

void ProgramGenerator::packet_access() {
  const int16_t data = type_ == ProgType::xdp ? 0 : 76, end = type_ == ProgType::xdp ? 4 : 80;
  uint32_t bytes = random_.between(1, 40);
  const bool variable = random_.one_in(3);
  unsigned offset = variable ? any_scalar() : 0;
  any_scalar_of(1 << 7);
  if (variable) {
    bytes = random_.between(1, 8);
    move(1, offset);
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, random_.of({0x1f, 0x3f, 0xff}));
  }
  emit(BPF_LDX | BPF_MEM | BPF_W, 2, context, data, 0);
  emit(BPF_LDX | BPF_MEM | BPF_W, 3, context, end, 0);
  if (variable)
    emit(BPF_ALU64 | BPF_ADD | BPF_X, 2, 1, 0, 0);
  move(4, 2);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, int32_t(bytes));
  for (unsigned r = 1; r <= 4; r++)
    clear(r);
  uint32_t skip = random_.one_in(2) ? emit(BPF_JMP | BPF_JGT | BPF_X, 4, 3, 0, 0)
                                    : emit(BPF_JMP | BPF_JLT | BPF_X, 3, 4, 0, 0);
  State before = s_;
  accesses(2, bytes, false, true);
  patch(skip);
  s_.meet(before);
}

void ProgramGenerator::array_access() {
  const SampleMap map = random_.one_in(2) ? map_array : map_scratch;
  any_scalar_of(1 << 7);
  if (random_.one_in(3)) {
    unsigned index = any_scalar();
    move(1, index);
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 7);
    emit(BPF_STX | BPF_MEM | BPF_W, 10, 1, key_slot, 0);
  } else {
    emit(BPF_ST | BPF_MEM | BPF_W, 10, 0, key_slot, map == map_scratch ? 0 : int32_t(random_.below(5)));
  }
  load_map(1, map);
  move(2, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, key_slot);
  call(BPF_FUNC_map_lookup_elem);
  clear(0);
  uint32_t skip = emit(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0);
  State before = s_;
  move(3, 0); // r0 is free for cmpxchg
  uint32_t bytes = array_value_bytes;
  if (random_.one_in(4)) {
    unsigned offset = any_scalar();
    move(1, offset);
    clear(1);
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 24);
    emit(BPF_ALU64 | BPF_ADD | BPF_X, 3, 1, 0, 0);
    bytes = 8;
  }
  accesses(3, bytes, true, true);
  patch(skip);
  s_.meet(before);
  clear(0);
}

void ProgramGenerator::hash_access() {
  if (random_.one_in(2)) {
    unsigned key = any_scalar();
    move(1, key);
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 7);
    emit(BPF_STX | BPF_MEM | BPF_DW, 10, 1, long_key_slot, 0);
  } else {
    emit(BPF_ST | BPF_MEM | BPF_DW, 10, 0, long_key_slot, int32_t(random_.below(4)));
  }
  const uint32_t action = random_.below(4);
  if (action == 1 || action == 2) {
    emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), value_slot, 0);
    emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), value_slot + 8, 0);
    move(3, 10);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, value_slot);
    move_imm(4, int32_t(random_.below(3)));
  }
  any_scalar_of(1 << 7);
  load_map(1, map_hash);
  move(2, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, long_key_slot);
  if (action == 1 || action == 2)
    return call(BPF_FUNC_map_update_elem);
  if (action == 3)
    return call(BPF_FUNC_map_delete_elem);
  call(BPF_FUNC_map_lookup_elem);
  clear(0);
  uint32_t skip = emit(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0);
  State before = s_;
  move(3, 0);
  accesses(3, hash_value_bytes, true, true);
  patch(skip);
  s_.meet(before);
  clear(0);
}

void ProgramGenerator::data_access() {
  const bool config = random_.one_in(3);
  const uint32_t offset = 8 * random_.below(4);
  any_scalar_of(1 << 7);
  emit_wide(1, 2, uint64_t(offset) << 32 | (config ? map_config : map_data));
  clear(1);
  accesses(1, array_value_bytes - offset, !config, !config);
}

void ProgramGenerator::held_access() {
  if (s_.held == State::nothing)
    return alu();
  any_scalar_of(1 << 7);
  unsigned base = held;
  if (s_.spilled && random_.one_in(2)) {
    base = 5;
    emit(BPF_LDX | BPF_MEM | BPF_DW, 5, 10, spill_slot, 0);
    clear(5);
  }
  accesses(base, s_.held_bytes, s_.held == State::value, true);
}

/// r9 points to an element of an array from here on; without one the function ends.
void ProgramGenerator::hold_value() {
  emit(BPF_ST | BPF_MEM | BPF_W, 10, 0, key_slot, int32_t(random_.below(2)));
  load_map(1, random_.one_in(2) ? map_array : map_scratch);
  move(2, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, key_slot);
  call(BPF_FUNC_map_lookup_elem);
  clear(0);
  uint32_t found = emit(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, 0);
  leave();
  patch(found);
  move(held, 0);
  clear(held);
  s_.held = State::value;
  s_.held_bytes = array_value_bytes;
  s_.spilled = false;
}

/// The same with the packet.
void ProgramGenerator::hold_packet() {
  const int16_t data = type_ == ProgType::xdp ? 0 : 76, end = type_ == ProgType::xdp ? 4 : 80;
  const uint32_t bytes = random_.between(8, 20);
  emit(BPF_LDX | BPF_MEM | BPF_W, held, context, data, 0);
  emit(BPF_LDX | BPF_MEM | BPF_W, 3, context, end, 0);
  move(4, held);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, int32_t(bytes));
  clear(3);
  clear(4);
  clear(held);
  s_.held = State::nothing;
  uint32_t inside = emit(BPF_JMP | BPF_JLE | BPF_X, 4, 3, 0, 0);
  leave();
  patch(inside);
  s_.held = State::packet;
  s_.held_bytes = bytes;
  s_.spilled = false;
}

void ProgramGenerator::spill() {
  if (s_.held == State::nothing)
    return assign();
  emit(BPF_STX | BPF_MEM | BPF_DW, 10, held, spill_slot, 0);
  s_.spilled = true;
}

uint32_t ProgramGenerator::random_jump() {
  unsigned left = any_scalar();
  const uint8_t op = random_.of<uint8_t>({BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT,
                                          BPF_JSGE, BPF_JSLT, BPF_JSLE, BPF_JSET});
  const uint8_t width = random_.one_in(2) ? BPF_JMP : BPF_JMP32;
  if (random_.one_in(2))
    return emit(width | op | BPF_K, left, 0, 0, random_.immediate());
  return emit(width | op | BPF_X, left, any_scalar(), 0, 0);
}

void ProgramGenerator::branch(uint32_t depth) {
  if (depth == 0)
    return alu();
  uint32_t to_else = random_jump();
  State before = s_;
  statements(random_.between(1, 3), depth - 1);
  if (random_.one_in(2)) {
    patch(to_else);
    return s_.meet(before);
  }
  uint32_t to_end = emit(BPF_JMP | BPF_JA, 0, 0, 0, 0);
  patch(to_else);
  State then = std::exchange(s_, before);
  statements(random_.between(1, 3), depth - 1);
  patch(to_end);
  s_.meet(then);
}

void ProgramGenerator::loop(uint32_t depth) {
  if (in_loop_ || depth == 0)
    return alu();
  any_scalar_of(1 << 7);
  in_loop_ = true;
  move_imm(counter, int32_t(random_.between(1, 5)));
  set_scalar(counter);
  uint32_t head = uint32_t(program_.insns.size());
  // The body sees the second time what the first left behind: it may only rely on what it keeps.
  const bool held_scalar = s_.held == State::nothing && is_scalar(held);
  s_.scalars &= uint16_t(1 << 7 | 1 << counter | held_scalar << held);
  s_.spilled = false;
  s_.held = State::nothing;
  statements(random_.between(1, 3), std::min(depth - 1, 1u));
  if (held_scalar && !is_scalar(held)) { // something else is there now
    move_imm(held, 1);
    set_scalar(held);
    s_.held = State::nothing;
  }
  if (!is_scalar(7))
    move_imm(7, 1);
  set_scalar(7);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, counter, 0, 0, -1);
  uint32_t back = emit(BPF_JMP | BPF_JNE | BPF_K, counter, 0, 0, 0);
  program_.insns[back].offset = int16_t(int32_t(head) - int32_t(back) - 1);
  in_loop_ = false;
}

void ProgramGenerator::call_subprogram() {
  if (next_sub_ > subs_)
    return alu();
  uint32_t sub = random_.between(next_sub_, subs_);
  unsigned a = any_scalar(), b = any_scalar();
  move(2, a);
  move(3, b == 2 ? a : b);
  move(1, context);
  calls_.push_back({emit(BPF_JMP | BPF_CALL, 0, 1, 0, 0), sub});
  for (unsigned r = 1; r <= 5; r++)
    clear(r);
  set_scalar(0);
  if (s_.held == State::packet) { // it may have moved
    s_.held = State::nothing;
    s_.spilled = false;
  }
}

/// bpf_loop with a function of its own, which gets the address of a number.
void ProgramGenerator::loop_helper() {
  emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), callback_slot, 0);
  move_imm(1, int32_t(random_.below(6)));
  callbacks_.push_back({uint32_t(program_.insns.size()), 0});
  emit_wide(2, 4, 0);
  move(3, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, callback_slot);
  move_imm(4, 0);
  call(181);
  unsigned dst = any_destination();
  emit(BPF_LDX | BPF_MEM | BPF_DW, dst, 10, callback_slot, 0);
  set_scalar(dst);
}

void ProgramGenerator::tail_call() {
  if (tail_calls_ >= 6 || (!main_ && !random_.one_in(4)))
    return alu();
  tail_calls_++;
  const SampleMap map = random_.one_in(3) ? map_other_jump : map_jump;
  switch (random_.below(type_ == ProgType::sched_cls ? 6 : 5)) {
  case 0:
  case 1:
  case 2: move_imm(3, int32_t(random_.below(jump_slots + 1))); break;
  case 3: { // one of two
    move(4, any_scalar());
    move_imm(5, int32_t(random_.below(jump_slots)));
    uint32_t skip = emit(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 0, random_.of({1, 2, 4, 8, 0x100}));
    move_imm(5, int32_t(random_.below(jump_slots)));
    patch(skip);
    move(3, 5);
    break;
  }
  case 4: {
    unsigned index = any_scalar();
    move(3, index);
    if (!random_.one_in(6))
      emit(BPF_ALU64 | BPF_AND | BPF_K, 3, 0, 0, 7);
    break;
  }
  case 5: emit(BPF_LDX | BPF_MEM | BPF_W, 3, context, int16_t(48 + 4 * int(random_.below(5))), 0); break;
  }
  move(1, context);
  load_map(2, map);
  call(BPF_FUNC_tail_call);
  clear(0);
}

void ProgramGenerator::helper_call() {
  constexpr int32_t skb_store_bytes = 9, csum_diff = 28, skb_load_bytes = 26, adjust_head = 44;
  switch (random_.below(3)) {
  case 0:
    emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), buffer_slot, 0);
    emit(BPF_ST | BPF_MEM | BPF_DW, 10, 0, buffer_slot + 8, random_.immediate());
    move_imm(1, 0);
    move_imm(2, 0);
    move(3, 10);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, buffer_slot);
    move_imm(4, random_.of({4, 8, 16}));
    move_imm(5, random_.one_in(2) ? 0 : random_.immediate());
    return call(csum_diff);
  case 1:
    if (type_ == ProgType::xdp) {
      move(1, context);
      move_imm(2, int32_t(random_.between(0, 24)) - 12);
      call(adjust_head);
    } else {
      emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), buffer_slot, 0);
      move(1, context);
      move_imm(2, int32_t(random_.below(80)));
      move(3, 10);
      emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, buffer_slot);
      move_imm(4, int32_t(random_.between(1, 8)));
      move_imm(5, 0);
      call(skb_store_bytes);
    }
    if (s_.held == State::packet) {
      s_.held = State::nothing;
      s_.spilled = false;
    }
    return;
  case 2:
    if (type_ == ProgType::xdp)
      return alu();
    emit(BPF_ST | BPF_MEM | BPF_DW, 10, 0, buffer_slot, 0);
    move(1, context);
    move_imm(2, int32_t(random_.below(80)));
    move(3, 10);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, buffer_slot);
    move_imm(4, int32_t(random_.between(1, 8)));
    call(skb_load_bytes);
    unsigned dst = any_destination();
    emit(BPF_LDX | BPF_MEM | BPF_DW, dst, 10, buffer_slot, 0);
    set_scalar(dst);
    return;
  }
}

/// Ends the function with a number made of all that is live.
void ProgramGenerator::leave() {
  uint16_t live = s_.scalars;
  if (!(live & 1))
    move_imm(0, 0);
  for (unsigned r = 1; r <= 9; r++)
    if (live >> r & 1 && r != context) {
      emit(BPF_ALU64 | BPF_MUL | BPF_K, 0, 0, 0, 31);
      emit(BPF_ALU64 | BPF_XOR | BPF_X, 0, r, 0, 0);
    }
  emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

uint32_t ProgramGenerator::function(bool main, uint32_t size) {
  uint32_t start = uint32_t(program_.insns.size());
  main_ = main;
  in_loop_ = false;
  s_ = {};
  move(context, 1);
  if (!main) {
    set_scalar(2);
    set_scalar(3);
  }
  statements(size, 2);
  leave();
  return start;
}

Program ProgramGenerator::run(const std::string &name) {
  program_.name = name;
  program_.type = type_;
  subs_ = random_.one_in(3) ? random_.between(1, 3) : 0;
  std::vector<uint32_t> starts{function(true, size_)};
  for (uint32_t i = 1; i <= subs_; i++) {
    next_sub_ = i + 1;
    starts.push_back(function(false, random_.between(1, 5)));
  }
  // Subprograms that nobody calls are no part of a program: drop them from the back, call the others.
  std::vector<bool> called(subs_ + 1);
  for (auto &[insn, sub] : calls_)
    called[sub] = true;
  for (uint32_t i = 1; i <= subs_; i++)
    if (!called[i])
      return ProgramGenerator(random_, type_, size_).run(name);
  for (auto &[insn, sub] : calls_)
    program_.insns[insn].imm = int32_t(starts[sub]) - int32_t(insn) - 1;
  for (auto &[insn, unused] : callbacks_) {
    uint32_t start = uint32_t(program_.insns.size());
    starts.push_back(start);
    program_.insns[insn].imm = int32_t(start) - int32_t(insn) - 1;
    emit(BPF_LDX | BPF_MEM | BPF_DW, 3, 2, 0, 0);
    emit(BPF_ALU64 | random_.of<uint8_t>({BPF_ADD, BPF_XOR, BPF_MUL, BPF_SUB}) | BPF_X, 3, 1, 0, 0);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, random_.immediate());
    emit(BPF_STX | BPF_MEM | BPF_DW, 2, 3, 0, 0);
    move_imm(0, 0);
    emit(BPF_JMP | BPF_JLT | BPF_K, 1, 0, 1, int32_t(random_.below(5)));
    move_imm(0, 1);
    emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  }
  for (size_t i = 0; i < starts.size(); i++)
    program_.subprograms.push_back({i ? "f" + std::to_string(i) : name, starts[i],
                                    i + 1 < starts.size() ? starts[i + 1] : uint32_t(program_.insns.size()),
                                    0});
  return std::move(program_);
}

} // namespace ujit
