// The code of one random program. It is correct by construction: registers and stack bytes that are read
// have been written on every path, packet accesses follow a bounds check, loops count down from a constant,
// pointers to values are compared with null.
#pragma once

#include "translator/program.h"

#include <bitset>
#include <random>
#include <vector>

namespace ujit {

/// Maps that every sample has, by MapId.
enum SampleMap : uint32_t {
  map_array,
  map_scratch,
  map_table, ///< of any kind with keys of 8 bytes
  map_data,
  map_config,
  map_jump,
  map_other_jump,
  sample_maps
};
constexpr uint32_t array_value_bytes = 32, table_value_bytes = 16, jump_slots = 6;

class Random {
public:
  explicit Random(uint64_t seed) : engine_(seed * 0x9e3779b97f4a7c15 + 1) {}
  uint64_t bits() { return engine_(); }
  uint32_t below(uint32_t n) { return uint32_t(engine_() % n); }
  uint32_t between(uint32_t low, uint32_t high) { return low + below(high - low + 1); }
  bool one_in(uint32_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(uint32_t(values.size()))];
  }
  /// Numbers near the borders of what instructions treat differently.
  int32_t immediate();

private:
  std::mt19937_64 engine_;
};

class ProgramGenerator {
public:
  /// `table`: what map_table is; `size`: statements in the main function.
  ProgramGenerator(Random &random, ProgType type, MapType table, uint32_t size);
  /// The whole program.
  Program run(const std::string &name);

private:
  struct State {
    uint16_t scalars = 0;                                          ///< registers that hold a number
    std::bitset<128> stack;                                        ///< bytes below r10 that were written
    enum Held : uint8_t { nothing, value, packet } held = nothing; ///< what r9 points to
    uint32_t held_bytes = 0;                                       ///< that may be accessed there
    bool spilled = false; ///< the pointer in r9 is in the spill slot as well
    void meet(const State &other);
  };

  // Emitting.
  uint32_t emit(uint8_t opcode, unsigned dst, unsigned src, int16_t offset, int32_t imm);
  void emit_wide(unsigned dst, unsigned src, uint64_t value);
  void patch(uint32_t jump); ///< its target is what comes next
  void move(unsigned dst, unsigned src);
  void move_imm(unsigned dst, int32_t imm);
  void load_map(unsigned dst, SampleMap map) { emit_wide(dst, 1, map); }
  void call(int32_t helper);

  // Registers.
  bool is_scalar(unsigned r) const { return s_.scalars >> r & 1; }
  void set_scalar(unsigned r) { s_.scalars |= 1u << r; }
  void clear(unsigned r) { s_.scalars &= ~(1u << r); }
  unsigned any_scalar(); ///< a live one; makes one if there is none
  unsigned any_scalar_of(uint16_t mask);
  unsigned any_destination();

  // Statements.
  void statements(uint32_t n, uint32_t depth);
  void statement(uint32_t depth);
  void alu();
  void assign();
  void stack_access();
  void context_access();
  void packet_access();
  void packet_loop();
  void copy_bytes();
  void array_access();
  void access_element(SampleMap map);
  void fill_value();
  void array_update();
  void table_access();
  void data_access();
  void held_access();
  void hold_value();
  void hold_packet();
  void spill();
  void branch(uint32_t depth);
  void loop(uint32_t depth);
  void call_subprogram();
  void callback_helper();
  void callback(bool elements);
  void tail_call();
  void counted_tail_call();
  void helper_call();
  void sum_helper();
  void load_helper();
  void change_helper();
  void fill_buffer();
  void buffer_address(unsigned dst);
  void drop_packet();
  uint32_t random_jump();
  /// Loads, stores and atomics at [base, base + bytes).
  void accesses(unsigned base, uint32_t bytes, bool atomics, bool writable);
  void atomic(unsigned base, int16_t offset, bool wide);
  void leave();

  uint32_t function(bool main, uint32_t size);

  Random &random_;
  ProgType type_;
  MapType table_;
  uint32_t size_;
  Program program_;
  State s_;
  bool main_ = true;
  bool in_loop_ = false;
  uint32_t next_sub_ = 1; ///< first subprogram that the current function may call
  uint32_t subs_ = 0;
  std::vector<std::pair<uint32_t, uint32_t>> calls_; ///< instruction, subprogram
  std::vector<std::pair<uint32_t, bool>> callbacks_; ///< instruction; of a map's elements, or of a loop
  uint32_t tail_calls_ = 0;
};

} // namespace ujit
