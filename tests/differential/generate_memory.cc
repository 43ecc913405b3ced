// Accesses of the memory that a program has without asking: stack, context, packet, and what it holds on to.
#include "tests/differential/program_generator.h"

#include "tests/differential/layout.h"

#include <algorithm>
#include <initializer_list>

namespace ujit {

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
  if (random_.one_in(6)) {
    if (random_.one_in(2))
      emit(opcode, base, any_scalar(), offset, BPF_STORE_REL);
    else
      emit(opcode, 7, base, offset, BPF_LOAD_ACQ); // r7 holds a number wherever there are accesses
    return;
  }
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

/// The packet piece by piece, each behind a check of its own, folded into r7.
void ProgramGenerator::packet_loop() {
  if (in_loop_)
    return alu();
  const int16_t data = type_ == ProgType::xdp ? 0 : 76, end = type_ == ProgType::xdp ? 4 : 80;
  const uint32_t bytes = random_.of({1u, 1u, 2u, 4u, 8u});
  any_scalar_of(1 << 7);
  const bool variable = random_.one_in(3);
  if (variable) {
    move(counter, any_scalar());
    emit(BPF_ALU64 | BPF_AND | BPF_K, counter, 0, 0, random_.of({3, 7, 15}));
  } else {
    move_imm(counter, int32_t(random_.between(1, 20)));
  }
  for (unsigned r = 1; r <= 5; r++)
    clear(r);
  set_scalar(counter);
  emit(BPF_LDX | BPF_MEM | BPF_W, 2, context, data, 0);
  emit(BPF_LDX | BPF_MEM | BPF_W, 3, context, end, 0);
  if (random_.one_in(2))
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, int32_t(random_.below(20)));
  const uint32_t head = uint32_t(program_.insns.size());
  const uint32_t none_left = variable ? emit(BPF_JMP | BPF_JEQ | BPF_K, counter, 0, 0, 0) : 0;
  move(4, 2);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, int32_t(bytes));
  const uint32_t outside = emit(BPF_JMP | BPF_JGT | BPF_X, 4, 3, 0, 0);
  emit(BPF_LDX | BPF_MEM | size_code(bytes), 5, 2, 0, 0);
  const uint8_t width = random_.one_in(2) ? BPF_ALU64 : BPF_ALU;
  if (random_.one_in(3))
    emit(width | BPF_MUL | BPF_K, 7, 0, 0, 31);
  emit(width | random_.of<uint8_t>({BPF_ADD, BPF_ADD, BPF_XOR, BPF_OR, BPF_SUB}) | BPF_X, 7, 5, 0, 0);
  uint32_t found = 0;
  if (random_.one_in(4)) // a search
    found = emit(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 0, int32_t(random_.below(3)));
  else if (random_.one_in(3))
    emit(BPF_STX | BPF_MEM | size_code(bytes), 2, 7, 0, 0);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, int32_t(random_.one_in(4) ? bytes + 1 : bytes));
  emit(BPF_ALU64 | BPF_ADD | BPF_K, counter, 0, 0, -1);
  const uint32_t back =
      variable ? emit(BPF_JMP | BPF_JA, 0, 0, 0, 0) : emit(BPF_JMP | BPF_JNE | BPF_K, counter, 0, 0, 0);
  program_.insns[back].offset = int16_t(int32_t(head) - int32_t(back) - 1);
  for (uint32_t jump : {none_left, outside, found})
    if (jump)
      patch(jump);
}

/// Runs of bytes as compilers move them: from what r9 points to onto the stack, back, or within; or one
/// number all over.
void ProgramGenerator::copy_bytes() {
  const uint32_t piece = random_.of({1u, 1u, 2u, 4u, 8u}), pieces = random_.between(2, 32 / piece);
  const uint32_t bytes = piece * pieces;
  if (s_.held != State::nothing && bytes > s_.held_bytes)
    return copy_bytes();
  auto on_stack = [&] {
    return int16_t(free_low +
                   int(piece * random_.below((uint32_t(free_high - free_low) - bytes) / piece + 1)));
  };
  auto in_held = [&] { // values of maps: aligned
    return int16_t(random_.below((s_.held_bytes - bytes) / piece + 1) * piece);
  };
  struct Place {
    unsigned base;
    int16_t offset;
  };
  Place from{10, on_stack()}, to{10, on_stack()};
  bool fill = s_.held == State::nothing;
  for (uint32_t b = 0; b < bytes; b++)
    fill |= !s_.stack[size_t(from.offset + 128) + b];
  if (s_.held != State::nothing) {
    if (fill || random_.one_in(2)) {
      from = {held, in_held()};
      fill = random_.one_in(5);
    }
    if (random_.one_in(3))
      to = {held, in_held()};
  }
  const int32_t number = random_.one_in(2) ? 0 : random_.immediate();
  const bool down = random_.one_in(4);
  for (uint32_t i = 0; i < pieces; i++) {
    const auto at = int16_t((down ? pieces - 1 - i : i) * piece);
    if (fill) {
      emit(BPF_ST | BPF_MEM | size_code(piece), to.base, 0, int16_t(to.offset + at), number);
    } else {
      emit(BPF_LDX | BPF_MEM | size_code(piece), 1, from.base, int16_t(from.offset + at), 0);
      emit(BPF_STX | BPF_MEM | size_code(piece), to.base, 1, int16_t(to.offset + at), 0);
    }
  }
  if (!fill)
    set_scalar(1);
  if (to.base == 10)
    for (uint32_t b = 0; b < bytes; b++)
      s_.stack.set(size_t(to.offset + 128) + b);
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

} // namespace ujit
