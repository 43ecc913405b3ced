// Calls: of subprograms, callbacks, helpers, and from program to program.
#include "tests/differential/program_generator.h"

#include "kernel-iface/linux/kernel_version.h"
#include "tests/differential/layout.h"

#include <sys/utsname.h>

namespace ujit {

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
  drop_packet();
}

/// bpf_loop or bpf_for_each_map_elem with a function of its own, which gets the address of a number.
void ProgramGenerator::callback_helper() {
  const bool elements = random_.one_in(2);
  emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), callback_slot, 0);
  if (elements)
    load_map(1, random_.one_in(2) ? map_array : map_scratch);
  else
    move_imm(1, int32_t(random_.below(6)));
  callbacks_.push_back({uint32_t(program_.insns.size()), elements});
  emit_wide(2, BPF_PSEUDO_FUNC, 0);
  move(3, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, callback_slot);
  move_imm(4, 0);
  call(elements ? BPF_FUNC_for_each_map_elem : BPF_FUNC_loop);
  unsigned dst = any_destination();
  emit(BPF_LDX | BPF_MEM | BPF_DW, dst, 10, callback_slot, 0);
  set_scalar(dst);
}

/// (index, context) or (map, key, value, context).
void ProgramGenerator::callback(bool elements) {
  const unsigned number = elements ? 4 : 2;
  if (elements) {
    emit(BPF_LDX | BPF_MEM | BPF_W, 1, 2, 0, 0);
    emit(BPF_LDX | BPF_MEM | BPF_DW, 5, 3, int16_t(8 * random_.below(array_value_bytes / 8)), 0);
    emit(BPF_ALU64 | BPF_ADD | BPF_X, 1, 5, 0, 0);
    if (random_.one_in(2))
      emit(BPF_STX | BPF_MEM | BPF_DW, 3, 1, int16_t(8 * random_.below(array_value_bytes / 8)), 0);
  }
  emit(BPF_LDX | BPF_MEM | BPF_DW, 3, number, 0, 0);
  emit(BPF_ALU64 | random_.of<uint8_t>({BPF_ADD, BPF_XOR, BPF_MUL, BPF_SUB}) | BPF_X, 3, 1, 0, 0);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, random_.immediate());
  emit(BPF_STX | BPF_MEM | BPF_DW, number, 3, 0, 0);
  move_imm(0, 0);
  emit(BPF_JMP | BPF_JLT | BPF_K, 1, 0, 1, int32_t(random_.below(5)));
  move_imm(0, 1);
  emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
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

/// A chain that counts its own rounds, in a word of the context or of a per-CPU value, and ends by itself.
void ProgramGenerator::counted_tail_call() {
  if (tail_calls_ >= 6 || !main_)
    return alu();
  tail_calls_++;
  const bool in_context = type_ == ProgType::sched_cls && random_.one_in(2);
  uint32_t none = 0;
  int16_t word = 0;
  if (in_context) {
    word = int16_t(48 + 4 * int(random_.below(5)));
    emit(BPF_LDX | BPF_MEM | BPF_W, 4, context, word, 0);
    emit(BPF_ALU | BPF_ADD | BPF_K, 4, 0, 0, int32_t(random_.between(1, 3)));
    emit(BPF_STX | BPF_MEM | BPF_W, context, 4, word, 0);
  } else {
    word = int16_t(4 * int(random_.below(array_value_bytes / 4)));
    emit(BPF_ST | BPF_MEM | BPF_W, 10, 0, key_slot, 0);
    load_map(1, map_scratch);
    move(2, 10);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, key_slot);
    call(BPF_FUNC_map_lookup_elem);
    none = emit(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0);
    emit(BPF_LDX | BPF_MEM | BPF_W, 4, 0, word, 0);
    emit(BPF_ALU | BPF_ADD | BPF_K, 4, 0, 0, int32_t(random_.between(1, 3)));
    emit(BPF_STX | BPF_MEM | BPF_W, 0, 4, word, 0);
  }
  const uint32_t enough = emit(BPF_JMP | BPF_JGT | BPF_K, 4, 0, 0, random_.of({1, 2, 5, 11, 32, 33, 34, 70}));
  move_imm(3, int32_t(random_.below(jump_slots)));
  move(1, context);
  load_map(2, random_.one_in(3) ? map_other_jump : map_jump);
  call(BPF_FUNC_tail_call);
  clear(0);
  patch(enough);
  if (none)
    patch(none);
}

// --- Helpers -----------------------------------------------------------------------------------------

void ProgramGenerator::fill_buffer() {
  emit(BPF_STX | BPF_MEM | BPF_DW, 10, any_scalar(), buffer_slot, 0);
  emit(BPF_ST | BPF_MEM | BPF_DW, 10, 0, buffer_slot + 8, random_.immediate());
}

void ProgramGenerator::buffer_address(unsigned dst) {
  move(dst, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, buffer_slot);
}

/// Behind helpers that may move the packet.
void ProgramGenerator::drop_packet() {
  if (s_.held == State::packet) {
    s_.held = State::nothing;
    s_.spilled = false;
  }
}

void ProgramGenerator::helper_call() {
  switch (random_.below(6)) {
  case 0:
  case 1: return sum_helper();
  case 2:
  case 3: return load_helper();
  default: return change_helper();
  }
}

/// Kernels before 6.13 refuse to sum what is no multiple of 4 bytes, and samples are compared with the
/// running one.
static int32_t sum_size(int32_t size) {
  static const bool whole_words = [] {
    utsname name{};
    return uname(&name) == 0 && kernel_version(name.release) < std::pair(6u, 13u);
  }();
  return whole_words ? (size + 3) & ~3 : size;
}

/// bpf_csum_diff of stack bytes: added, taken away, or both.
void ProgramGenerator::sum_helper() {
  fill_buffer();
  const uint32_t which = random_.below(4);
  for (unsigned side : {1u, 3u}) {
    if (which == (side == 1 ? 0 : 1)) {
      move_imm(side, 0);
      move_imm(side + 1, 0);
    } else {
      buffer_address(side);
      move_imm(side + 1, sum_size(random_.of({4, 8, 16, 4, 8, 16, 1, 2, 3, 7, 14})));
    }
  }
  if (random_.one_in(2))
    move(5, any_scalar_of(1 << 7 | 1 << 8));
  else
    move_imm(5, random_.one_in(2) ? 0 : random_.immediate());
  call(BPF_FUNC_csum_diff);
}

/// Bytes of the packet, onto the stack.
void ProgramGenerator::load_helper() {
  fill_buffer();
  move(1, context);
  if (random_.one_in(3)) {
    move(2, any_scalar_of(1 << 7 | 1 << 8));
    emit(BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0, random_.of({0x1f, 0x7f}));
  } else {
    move_imm(2, int32_t(random_.below(80)));
  }
  buffer_address(3);
  move_imm(4, random_.of({1, 2, 4, 6, 8, 14, 16}));
  call(type_ == ProgType::xdp ? BPF_FUNC_xdp_load_bytes : BPF_FUNC_skb_load_bytes);
  unsigned dst = any_destination();
  emit(BPF_LDX | BPF_MEM | BPF_DW, dst, 10, int16_t(buffer_slot + 8 * int(random_.below(2))), 0);
  set_scalar(dst);
}

/// What changes the packet or its size.
void ProgramGenerator::change_helper() {
  const bool xdp = type_ == ProgType::xdp;
  const uint32_t what = random_.below(5);
  if (what < 2) {
    fill_buffer();
    move(1, context);
    move_imm(2, int32_t(random_.below(80)));
    buffer_address(3);
    move_imm(4, random_.of({1, 2, 4, 6, 8, 16}));
    if (!xdp)
      move_imm(5, random_.of<int32_t>({0, 0, BPF_F_RECOMPUTE_CSUM, BPF_F_INVALIDATE_HASH}));
    call(xdp ? BPF_FUNC_xdp_store_bytes : BPF_FUNC_skb_store_bytes);
    return drop_packet();
  }
  move(1, context);
  if (xdp) {
    const bool head = what == 2, tail = what == 3;
    move_imm(2, int32_t(random_.below(7)) * 4 - 12 + (head || tail ? int32_t(random_.below(3)) : 0));
    call(head ? BPF_FUNC_xdp_adjust_head : tail ? BPF_FUNC_xdp_adjust_tail : BPF_FUNC_xdp_adjust_meta);
  } else if (what == 2) {
    move_imm(2, int32_t(random_.between(14, 120)));
    move_imm(3, 0);
    call(BPF_FUNC_skb_change_tail);
  } else if (what == 3) {
    move_imm(2, int32_t(random_.below(100)));
    call(BPF_FUNC_skb_pull_data);
  } else {
    const bool l3 = random_.one_in(2);
    move_imm(2, int32_t(random_.below(64)));
    move(3, any_scalar_of(1 << 7 | 1 << 8));
    move(4, any_scalar_of(1 << 7 | 1 << 8));
    move_imm(5, random_.of({2, 4, 2, 4, 0}) |
                    (l3 ? 0 : random_.of<int32_t>({0, BPF_F_PSEUDO_HDR, BPF_F_MARK_MANGLED_0})));
    call(l3 ? BPF_FUNC_l3_csum_replace : BPF_FUNC_l4_csum_replace);
  }
  drop_packet();
}

} // namespace ujit
