#include "tests/differential/program_generator.h"

#include "tests/differential/layout.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace ujit {

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

ProgramGenerator::ProgramGenerator(Random &random, ProgType type, MapType table, uint32_t size)
    : random_(random), type_(type), table_(table), size_(size) {}

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
  switch (random_.below(42)) {
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
  case 18: return array_update();
  case 19:
  case 20: return table_access();
  case 21:
  case 22: return data_access();
  case 23:
  case 24: return held_access();
  case 25:
  case 26: return random_.one_in(2) ? hold_value() : hold_packet();
  case 27: return spill();
  case 28:
  case 29: return copy_bytes();
  case 30: return packet_loop();
  case 31:
  case 32:
  case 33: return branch(depth);
  case 34: return loop(depth);
  case 35: return call_subprogram();
  case 36: return random_.one_in(3) ? callback_helper() : alu();
  case 37:
  case 38: return tail_call();
  case 39: return counted_tail_call();
  case 40:
  case 41: return helper_call();
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
      return ProgramGenerator(random_, type_, table_, size_).run(name);
  for (auto &[insn, sub] : calls_)
    program_.insns[insn].imm = int32_t(starts[sub]) - int32_t(insn) - 1;
  for (auto &[insn, elements] : callbacks_) {
    starts.push_back(uint32_t(program_.insns.size()));
    program_.insns[insn].imm = int32_t(starts.back()) - int32_t(insn) - 1;
    callback(elements);
  }
  for (size_t i = 0; i < starts.size(); i++)
    program_.subprograms.push_back({i ? "f" + std::to_string(i) : name, starts[i],
                                    i + 1 < starts.size() ? starts[i + 1] : uint32_t(program_.insns.size()),
                                    0});
  return std::move(program_);
}

} // namespace ujit
