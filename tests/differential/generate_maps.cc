// Maps: elements of arrays, by lookup and by update, and tables of all kinds.
#include "tests/differential/program_generator.h"

#include "tests/differential/layout.h"

namespace ujit {

void ProgramGenerator::array_access() {
  const SampleMap map = random_.one_in(2) ? map_array : map_scratch;
  if (random_.one_in(3)) {
    unsigned index = any_scalar();
    move(1, index);
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 7);
    emit(BPF_STX | BPF_MEM | BPF_W, 10, 1, key_slot, 0);
  } else {
    emit(BPF_ST | BPF_MEM | BPF_W, 10, 0, key_slot, map == map_scratch ? 0 : int32_t(random_.below(5)));
  }
  access_element(map);
}

/// Of the key that is on the stack.
void ProgramGenerator::access_element(SampleMap map) {
  any_scalar_of(1 << 7);
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

/// Writes a whole value to the stack, in pieces.
void ProgramGenerator::fill_value() {
  static_assert(free_high - free_low >= int(array_value_bytes));
  for (uint32_t at = 0; at < array_value_bytes;) {
    const uint32_t bytes = at % 8 ? 4u : random_.of({4u, 8u, 8u});
    const auto offset = int16_t(free_low + int(at));
    if (random_.one_in(3))
      emit(BPF_ST | BPF_MEM | size_code(bytes), 10, 0, offset, random_.immediate());
    else
      emit(BPF_STX | BPF_MEM | size_code(bytes), 10, any_scalar(), offset, 0);
    for (uint32_t b = 0; b < bytes; b++)
      s_.stack.set(size_t(offset + 128) + b);
    at += bytes;
  }
}

/// With a value from the stack, another element or read-only data; often it is looked up again.
void ProgramGenerator::array_update() {
  const SampleMap map = random_.one_in(3) ? map_array : map_scratch;
  const bool from_data = random_.one_in(6);
  const bool from_held = !from_data && s_.held == State::value && s_.held_bytes == array_value_bytes;
  if (!from_data && !from_held)
    fill_value();
  if (random_.one_in(4)) {
    move(1, any_scalar());
    emit(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 7);
    emit(BPF_STX | BPF_MEM | BPF_W, 10, 1, key_slot, 0);
  } else {
    emit(BPF_ST | BPF_MEM | BPF_W, 10, 0, key_slot, random_.of({0, 0, 0, 1, 1, 2, 4, -1}));
  }
  load_map(1, map);
  move(2, 10);
  emit(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, key_slot);
  if (from_data) {
    emit_wide(3, BPF_PSEUDO_MAP_VALUE, random_.one_in(2) ? map_data : map_config);
  } else if (from_held) {
    move(3, held);
  } else {
    move(3, 10);
    emit(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, free_low);
  }
  move_imm(4, random_.of<int32_t>({BPF_ANY, BPF_ANY, BPF_ANY, BPF_ANY, BPF_NOEXIST, BPF_EXIST, 3, BPF_F_LOCK,
                                   8, BPF_F_LOCK | BPF_NOEXIST, -1}));
  call(BPF_FUNC_map_update_elem);
  if (random_.one_in(2))
    access_element(map);
}

void ProgramGenerator::table_access() {
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
  load_map(1, map_table);
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
  const bool aligned = table_ != MapType::lpm_trie;
  accesses(3, table_value_bytes, aligned, true);
  patch(skip);
  s_.meet(before);
  clear(0);
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

} // namespace ujit
