// The reference interpreter: the meaning of a program, written so that it can be read beside the standard.
// It shares the instruction table with the translator and nothing else. Maps, helpers and packets belong to
// a host; addresses are real ones of this process.
#pragma once

#include "translator/program.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>

namespace ujit {

class Interpreter;

/// What a program sees of the kernel.
class InterpreterHost {
public:
  virtual ~InterpreterHost() = default;

  /// The value of a map reference, as helpers take it.
  virtual Expected<uint64_t> map_address(MapId map) = 0;
  /// Address of byte `offset` of a map's (first) value.
  virtual Expected<uint64_t> map_value_address(MapId map, uint64_t offset) = 0;
  /// Calls a helper (never bpf_tail_call). Callbacks run through `interpreter.call_back`.
  virtual Expected<uint64_t> call_helper(Interpreter &interpreter, uint32_t id,
                                         const std::array<uint64_t, 5> &args) = 0;
  /// The program in a slot of a prog array (`map` as map_address() gave it); null: none, or out of range.
  virtual const Program *tail_call_target(uint64_t map, uint32_t index) = 0;
  /// ld_abs and ld_ind: `bits` of the packet at byte `offset` (negative ones have a meaning to the kernel),
  /// in host order. None: not in the packet, and the program ends with 0.
  virtual std::optional<uint64_t> load_packet(uint64_t context, int32_t offset, unsigned bits);
  /// May the program touch these bytes? Its stack and context are known and not asked for. The default
  /// refuses the first page only.
  virtual bool may_access(uint64_t address, uint32_t size, bool write);
};

/// Is told what happens in a run.
class InterpreterObserver {
public:
  virtual ~InterpreterObserver() = default;
  virtual void entered(const Program &program) = 0; ///< from outside, or by a tail call
  virtual void branched(const Program &program, uint32_t insn, bool taken) = 0;
  /// A tail call that succeeds; `map` as map_address() gave it.
  virtual void tail_called(const Program &program, uint32_t insn, uint64_t map, uint32_t slot) = 0;
};

struct InterpreterOptions {
  uint64_t budget = 1ull << 32; ///< instructions of one run() before it is an error
  uint32_t max_tail_calls = 33;
  uint32_t max_frames = 34 * 8; ///< nested calls and callbacks: those of subprograms that tail-call add up
  uint32_t context_size =
      0; ///< bytes at the context's address that loads and stores may touch; 0: ask the host
  InterpreterObserver *observer = nullptr;
};

/// Runs programs one after the other; not safe for use by two threads, but two interpreters are.
///
/// Registers and stack bytes that were never written read as 0, as do r1 to r5 after a call. Of a program
/// type's context, pointer fields are loaded as context.h says (8 bytes at the field's target).
class Interpreter {
public:
  explicit Interpreter(InterpreterHost &host, InterpreterOptions options = {});
  ~Interpreter();

  /// Runs `program` and whatever it tail-calls until the end; gives all 64 bits of r0. `context` is r1 (and
  /// the struct that context fields are read from), `r2` what a plain-memory program has there. Programs
  /// must stay alive while the interpreter does. Errors name program and instruction: an access that is
  /// not allowed, a helper that the host refuses, too many instructions or frames.
  Expected<uint64_t> run(const Program &program, uint64_t context, uint64_t r2 = 0);

  /// For helpers with callbacks: calls the function whose address a program took, in a new frame, within the
  /// current run. Errors: not an address that ld_func gave.
  Expected<uint64_t> call_back(uint64_t function, const std::array<uint64_t, 5> &args);

  /// What ld_func gives for a subprogram: distinct, not zero, and the same for the life of the interpreter.
  uint64_t function_address(const Program &program, uint32_t start);

  /// The running program's context, for helpers that need its type.
  uint64_t context() const { return context_; }
  /// Program that is executing now, and its current instruction.
  const Program *program() const { return program_; }
  uint32_t insn() const { return at_; }
  /// Instructions and successful tail calls of the last run.
  uint64_t executed() const { return executed_; }
  uint32_t tail_calls() const { return tail_calls_; }

private:
  struct Frame;
  struct Function {
    const Program *program;
    uint32_t start;
  };

  InterpreterHost &host_;
  InterpreterOptions options_;
  std::unique_ptr<uint8_t[]> stack_; ///< one slice a frame
  std::vector<Function> functions_;
  const Program *program_ = nullptr;
  uint32_t at_ = 0;
  uint64_t context_ = 0;
  uint64_t executed_ = 0;
  uint32_t tail_calls_ = 0;
  uint32_t frames_ = 0;

  Expected<uint64_t> enter(const Program &program, uint32_t start, const std::array<uint64_t, 5> &args);
  Expected<uint64_t> execute(Frame &frame);
  Expected<uint64_t> call(Frame &frame, const Insn &insn, const InsnRow &row);
  Expected<uint64_t> address_load(Frame &frame, const InsnRow &row);
  Error load(Frame &frame, const Insn &insn, const InsnRow &row);
  Error store(Frame &frame, const Insn &insn, const InsnRow &row);
  Error atomic(Frame &frame, const Insn &insn, const InsnRow &row);
  Error check_access(uint64_t address, uint32_t size, bool write);
  Error fail(std::string message) const;
  Error place(Error e) const;
};

} // namespace ujit
