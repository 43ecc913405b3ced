// One frame of the interpreter is one activation of a subprogram: its registers, 512 bytes of stack, and
// the program counter. Calls recurse, so a tail call is what the kernel makes of it without further ado: the
// frame begins anew with another program, and its end returns to the same caller.
#include "translator/interpreter.h"

#include "translator/context.h"
#include "translator/helper.h"

#include "llvm/Support/FormatVariadic.h"

#include <cstring>

namespace ujit {
namespace {

using llvm::formatv;

constexpr uint32_t frame_bytes = 512;
constexpr uint32_t frame_gap = 512; ///< below and above each frame: an overrun never reaches another one
constexpr uint32_t frame_stride = frame_bytes + frame_gap;
constexpr uint64_t function_base = 0xbf00'0000'0000'0000;
constexpr uint32_t may_goto_limit = 8u << 20; ///< BPF_MAX_LOOPS, in each frame

/// The low `bits` of a value, sign-extended to 64.
uint64_t sign_extend(uint64_t value, unsigned bits) {
  return uint64_t(int64_t(value << (64 - bits)) >> (64 - bits));
}

uint64_t zero_extend(uint64_t value, unsigned bits) {
  return bits == 64 ? value : value & ((1ull << bits) - 1);
}

uint64_t swap_bytes(uint64_t value, unsigned bits) { return __builtin_bswap64(value) >> (64 - bits); }

/// The binary operations in 64 bits (U, S = uint64_t, int64_t) and 32.
template <class U, class S>
U arithmetic(Op op, U a, U b) {
  constexpr U mask = sizeof(U) * 8 - 1;
  constexpr U lowest = U(1) << mask;
  switch (op) {
  case Op::add: return a + b;
  case Op::sub: return a - b;
  case Op::mul: return a * b;
  case Op::div: return b ? a / b : 0;
  case Op::mod: return b ? a % b : a;
  case Op::sdiv:
    if (b == 0)
      return 0;
    return a == lowest && b == U(-1) ? a : U(S(a) / S(b));
  case Op::smod:
    if (b == 0)
      return a;
    return b == U(-1) ? 0 : U(S(a) % S(b));
  case Op::or_: return a | b;
  case Op::and_: return a & b;
  case Op::xor_: return a ^ b;
  case Op::lsh: return a << (b & mask);
  case Op::rsh: return a >> (b & mask);
  case Op::arsh: return U(S(a) >> (b & mask));
  case Op::neg: return U(0) - a;
  case Op::mov: return b;
  default: llvm_unreachable("not an arithmetic operation");
  }
}

template <class U, class S>
bool compare(Op op, U a, U b) {
  switch (op) {
  case Op::jeq: return a == b;
  case Op::jne: return a != b;
  case Op::jgt: return a > b;
  case Op::jge: return a >= b;
  case Op::jlt: return a < b;
  case Op::jle: return a <= b;
  case Op::jsgt: return S(a) > S(b);
  case Op::jsge: return S(a) >= S(b);
  case Op::jslt: return S(a) < S(b);
  case Op::jsle: return S(a) <= S(b);
  case Op::jset: return a & b;
  default: llvm_unreachable("not a comparison");
  }
}

uint64_t load_bytes(uint64_t address, unsigned bits) {
  uint64_t value = 0;
  std::memcpy(&value, reinterpret_cast<const void *>(address), bits / 8);
  return value;
}

void store_bytes(uint64_t address, unsigned bits, uint64_t value) {
  std::memcpy(reinterpret_cast<void *>(address), &value, bits / 8);
}

/// An atomic read-modify-write; gives the old value.
template <class U>
U atomic_update(Op op, uint64_t address, U operand, U expected) {
  U *p = reinterpret_cast<U *>(address);
  switch (op) {
  case Op::atomic_add: return __atomic_fetch_add(p, operand, __ATOMIC_SEQ_CST);
  case Op::atomic_or: return __atomic_fetch_or(p, operand, __ATOMIC_SEQ_CST);
  case Op::atomic_and: return __atomic_fetch_and(p, operand, __ATOMIC_SEQ_CST);
  case Op::atomic_xor: return __atomic_fetch_xor(p, operand, __ATOMIC_SEQ_CST);
  case Op::atomic_xchg: return __atomic_exchange_n(p, operand, __ATOMIC_SEQ_CST);
  case Op::atomic_cmpxchg:
    __atomic_compare_exchange_n(p, &expected, operand, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
  default: llvm_unreachable("not a read-modify-write");
  }
}

template <class U>
uint64_t atomic_load(uint64_t address) {
  return __atomic_load_n(reinterpret_cast<const U *>(address), __ATOMIC_ACQUIRE);
}

template <class U>
void atomic_store(uint64_t address, uint64_t value) {
  __atomic_store_n(reinterpret_cast<U *>(address), U(value), __ATOMIC_RELEASE);
}

} // namespace

struct Interpreter::Frame {
  std::array<uint64_t, 11> r{};
  uint32_t pc = 0;
  uint8_t *stack = nullptr;
  uint32_t may_goto_left = may_goto_limit;

  /// Begins the frame anew: nothing but the arguments and the frame pointer is set.
  void begin(uint32_t start, const std::array<uint64_t, 5> &args) {
    r = {};
    std::copy(args.begin(), args.end(), r.begin() + 1);
    std::memset(stack, 0, frame_bytes);
    r[10] = reinterpret_cast<uint64_t>(stack + frame_bytes);
    pc = start;
    may_goto_left = may_goto_limit;
  }

  void clobber_arguments() { std::fill(r.begin() + 1, r.begin() + 6, 0); }
};

std::optional<uint64_t> InterpreterHost::load_packet(uint64_t, int32_t, unsigned) { return std::nullopt; }

bool InterpreterHost::may_access(uint64_t address, uint32_t, bool) { return address >= 4096; }

Interpreter::Interpreter(InterpreterHost &host, InterpreterOptions options)
    : host_(host), options_(options),
      stack_(new uint8_t[size_t(options.max_frames) * frame_stride + frame_gap]) {}

Interpreter::~Interpreter() = default;

Error Interpreter::fail(std::string message) const {
  return input_error(std::move(message)).in_program(program_->name).in_file(program_->object).at(at_).error();
}

/// An error of the host, or of a callback that it made: names the innermost place that is known.
Error Interpreter::place(Error e) const {
  return llvm::handleErrors(std::move(e), [&](std::unique_ptr<LinkError> error) -> Error {
    if (error->program.empty())
      error->in_program(program_->name).in_file(program_->object).at(at_);
    return Error(std::move(error));
  });
}

uint64_t Interpreter::function_address(const Program &program, uint32_t start) {
  for (size_t i = 0; i < functions_.size(); i++)
    if (functions_[i].program == &program && functions_[i].start == start)
      return function_base + i;
  functions_.push_back({&program, start});
  return function_base + functions_.size() - 1;
}

Expected<uint64_t> Interpreter::run(const Program &program, uint64_t context, uint64_t r2) {
  context_ = context;
  executed_ = 0;
  tail_calls_ = 0;
  frames_ = 0;
  program_ = &program;
  at_ = 0;
  if (options_.observer)
    options_.observer->entered(program);
  return enter(program, 0, {context, r2, 0, 0, 0});
}

Expected<uint64_t> Interpreter::call_back(uint64_t function, const std::array<uint64_t, 5> &args) {
  if (function < function_base || function - function_base >= functions_.size())
    return fail(formatv("call of {0:x}, which is not the address of a function", function));
  Function target = functions_[function - function_base];
  return enter(*target.program, target.start, args);
}

Expected<uint64_t> Interpreter::enter(const Program &program, uint32_t start,
                                      const std::array<uint64_t, 5> &args) {
  if (frames_ == options_.max_frames)
    return fail(formatv("more than {0} nested calls", options_.max_frames));
  const Program *caller = program_;
  uint32_t caller_at = at_;

  Frame frame;
  frame.stack = stack_.get() + size_t(frames_++) * frame_stride + frame_gap;
  frame.begin(start, args);
  program_ = &program;
  Expected<uint64_t> result = execute(frame);
  frames_--;

  program_ = caller;
  at_ = caller_at;
  return result;
}

Expected<uint64_t> Interpreter::execute(Frame &frame) {
  auto &r = frame.r;
  for (;;) {
    at_ = frame.pc;
    if (at_ >= program_->insns.size())
      return fail("control left the program");
    if (++executed_ > options_.budget)
      return fail(formatv("more than {0} instructions were executed", options_.budget));
    const Insn &insn = program_->insns[at_];
    const InsnRow *found = find_row(insn);
    if (!found || insn.dst > 10 || insn.src > 10)
      return fail("not an instruction");
    const InsnRow &row = *found;
    bool narrow = row.width == 32;
    uint64_t &dst = r[insn.dst];
    uint64_t operand = row.source == Operand::imm ? uint64_t(int64_t(insn.imm)) : r[insn.src];
    frame.pc++;

    switch (row.op) {
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::div:
    case Op::sdiv:
    case Op::mod:
    case Op::smod:
    case Op::or_:
    case Op::and_:
    case Op::xor_:
    case Op::lsh:
    case Op::rsh:
    case Op::arsh:
    case Op::neg:
    case Op::mov:
      dst = narrow ? arithmetic<uint32_t, int32_t>(row.op, uint32_t(dst), uint32_t(operand))
                   : arithmetic<uint64_t, int64_t>(row.op, dst, operand);
      break;
    case Op::movsx: dst = zero_extend(sign_extend(operand, row.bits), row.width); break;

    case Op::to_le: dst = zero_extend(dst, row.bits); break; // this machine is little-endian
    case Op::to_be:
    case Op::bswap: dst = swap_bytes(dst, row.bits); break;

    case Op::cpu:
    case Op::load_probe:
    case Op::load_probe_sx: llvm_unreachable("verified form is not interpreted");

    case Op::load:
    case Op::load_sx:
    case Op::load_acquire:
      if (Error e = load(frame, insn, row))
        return e;
      break;
    case Op::store:
    case Op::store_release:
      if (Error e = store(frame, insn, row))
        return e;
      break;
    case Op::atomic_add:
    case Op::atomic_or:
    case Op::atomic_and:
    case Op::atomic_xor:
    case Op::atomic_xchg:
    case Op::atomic_cmpxchg:
      if (Error e = atomic(frame, insn, row))
        return e;
      break;

    case Op::ld_abs:
    case Op::ld_ind: {
      uint32_t offset = uint32_t(insn.imm) + (row.op == Op::ld_ind ? uint32_t(r[insn.src]) : 0);
      auto value = host_.load_packet(r[6], int32_t(offset), row.bits);
      if (!value)
        return 0;
      frame.clobber_arguments();
      r[0] = *value;
      break;
    }

    case Op::ld_imm64:
    case Op::ld_map:
    case Op::ld_map_value:
    case Op::ld_btf_id:
    case Op::ld_func:
    case Op::ld_map_idx:
    case Op::ld_map_idx_value: {
      auto value = address_load(frame, row);
      if (!value)
        return place(value.takeError());
      dst = *value;
      frame.pc++;
      break;
    }

    case Op::ja: frame.pc = uint32_t(jump_target(at_, insn, row)); break;
    case Op::jeq:
    case Op::jne:
    case Op::jgt:
    case Op::jge:
    case Op::jlt:
    case Op::jle:
    case Op::jsgt:
    case Op::jsge:
    case Op::jslt:
    case Op::jsle:
    case Op::jset: {
      const bool taken = narrow ? compare<uint32_t, int32_t>(row.op, uint32_t(dst), uint32_t(operand))
                                : compare<uint64_t, int64_t>(row.op, dst, operand);
      if (options_.observer)
        options_.observer->branched(*program_, at_, taken);
      if (taken)
        frame.pc = uint32_t(jump_target(at_, insn, row));
      break;
    }
    case Op::may_goto:
      if (frame.may_goto_left == 0)
        frame.pc = uint32_t(jump_target(at_, insn, row));
      else
        frame.may_goto_left--;
      break;

    case Op::call_helper:
      if (insn.imm == int32_t(helper_tail_call)) {
        const Program *target =
            tail_calls_ < options_.max_tail_calls ? host_.tail_call_target(r[2], uint32_t(r[3])) : nullptr;
        if (target) {
          tail_calls_++;
          if (options_.observer) {
            options_.observer->tail_called(*program_, at_, r[2], uint32_t(r[3]));
            options_.observer->entered(*target);
          }
          program_ = target;
          frame.begin(0, {r[1], 0, 0, 0, 0});
          break;
        }
        frame.clobber_arguments();
        r[0] = 0;
        break;
      }
      [[fallthrough]];
    case Op::call_local:
    case Op::callx: {
      auto result = call(frame, insn, row);
      if (!result)
        return result;
      frame.clobber_arguments();
      r[0] = *result;
      break;
    }
    case Op::call_kfunc: return fail("calls of kernel functions are not supported");
    case Op::exit: return r[0];
    }
  }
}

Expected<uint64_t> Interpreter::call(Frame &frame, const Insn &insn, const InsnRow &row) {
  std::array<uint64_t, 5> args;
  std::copy_n(frame.r.begin() + 1, 5, args.begin());
  uint64_t helper = uint32_t(insn.imm);
  if (row.op == Op::call_local)
    return enter(*program_, uint32_t(call_target(at_, insn)), args);
  if (row.op == Op::callx) {
    // A register holds the address of a function, or, in the first encoding of callx, a helper's number.
    if (frame.r[insn.dst] >= function_base)
      return call_back(frame.r[insn.dst], args);
    helper = frame.r[insn.dst];
  }
  if (helper > UINT32_MAX)
    return fail(formatv("call of {0:x}, which is not the address of a function", helper));
  auto result = host_.call_helper(*this, uint32_t(helper), args);
  if (!result)
    return place(result.takeError());
  return result;
}

Expected<uint64_t> Interpreter::address_load(Frame &frame, const InsnRow &row) {
  if (at_ + 1 >= program_->insns.size())
    return fail("64-bit immediate load without its second slot");
  const Insn &insn = program_->insns[at_];
  switch (row.op) {
  case Op::ld_imm64: return imm64(program_->insns, at_);
  case Op::ld_map: return host_.map_address(MapId(insn.imm));
  case Op::ld_map_value:
    return host_.map_value_address(MapId(insn.imm), uint32_t(program_->insns[at_ + 1].imm));
  case Op::ld_func: return function_address(*program_, uint32_t(call_target(at_, insn)));
  default: return fail("references to kernel variables and loader arrays are not supported");
  }
}

/// The program's own stack frames and its context are known here; the rest is the host's to say.
Error Interpreter::check_access(uint64_t address, uint32_t size, bool write) {
  uint64_t in_stack = address - reinterpret_cast<uint64_t>(stack_.get());
  if (in_stack < uint64_t(options_.max_frames) * frame_stride + frame_gap) {
    uint64_t frame = in_stack / frame_stride, byte = in_stack % frame_stride;
    if (frame < frames_ && byte >= frame_gap && byte + size <= frame_stride)
      return Error::success();
    return fail(formatv("{0} of {1} bytes outside of the stack frame", write ? "store" : "load", size));
  }
  if (uint64_t offset = address - context_;
      offset < options_.context_size && size <= options_.context_size - offset)
    return Error::success();
  if (host_.may_access(address, size, write))
    return Error::success();
  return fail(formatv("{0} of {1} bytes at {2:x}, which the program may not touch", write ? "store" : "load",
                      size, address));
}

Error Interpreter::load(Frame &frame, const Insn &insn, const InsnRow &row) {
  uint64_t address = frame.r[insn.src] + int64_t(insn.offset);
  unsigned bits = row.bits;
  // A load of the context's 32-bit packet pointers moves to the real ones and widens.
  if (row.op == Op::load && context_ && address >= context_ && address - context_ < UINT16_MAX) {
    const ContextField *field = context_field(program_->type, int64_t(address - context_), bits / 8);
    if (field && field->kind != FieldKind::scalar) {
      address = context_ + field->target;
      bits = 64;
    }
  }
  if (Error e = check_access(address, bits / 8, false))
    return e;
  uint64_t value = 0;
  if (row.op != Op::load_acquire)
    value = load_bytes(address, bits);
  else if (address % (bits / 8))
    return fail("misaligned atomic access");
  else
    switch (bits) {
    case 8: value = atomic_load<uint8_t>(address); break;
    case 16: value = atomic_load<uint16_t>(address); break;
    case 32: value = atomic_load<uint32_t>(address); break;
    default: value = atomic_load<uint64_t>(address); break;
    }
  frame.r[insn.dst] = row.op == Op::load_sx ? sign_extend(value, bits) : value;
  return Error::success();
}

Error Interpreter::store(Frame &frame, const Insn &insn, const InsnRow &row) {
  uint64_t address = frame.r[insn.dst] + int64_t(insn.offset);
  uint64_t value = row.source == Operand::imm ? uint64_t(int64_t(insn.imm)) : frame.r[insn.src];
  if (Error e = check_access(address, row.bits / 8, true))
    return e;
  if (row.op != Op::store_release) {
    store_bytes(address, row.bits, value);
    return Error::success();
  }
  if (address % (row.bits / 8))
    return fail("misaligned atomic access");
  switch (row.bits) {
  case 8: atomic_store<uint8_t>(address, value); break;
  case 16: atomic_store<uint16_t>(address, value); break;
  case 32: atomic_store<uint32_t>(address, value); break;
  default: atomic_store<uint64_t>(address, value); break;
  }
  return Error::success();
}

Error Interpreter::atomic(Frame &frame, const Insn &insn, const InsnRow &row) {
  uint64_t address = frame.r[insn.dst] + int64_t(insn.offset);
  if (Error e = check_access(address, row.bits / 8, true))
    return e;
  if (address % (row.bits / 8))
    return fail("misaligned atomic access");
  uint64_t operand = frame.r[insn.src], expected = frame.r[0];
  uint64_t old = row.bits == 32
                     ? atomic_update<uint32_t>(row.op, address, uint32_t(operand), uint32_t(expected))
                     : atomic_update<uint64_t>(row.op, address, operand, expected);
  if (row.op == Op::atomic_cmpxchg)
    frame.r[0] = old;
  else if (row.fetch)
    frame.r[insn.src] = old;
  return Error::success();
}

} // namespace ujit
