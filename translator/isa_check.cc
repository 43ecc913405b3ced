// What the instruction-set standard demands of a program, checked in two linear passes: first every slot
// for itself, which also finds where instructions begin, then every jump and call against that.
#include "translator/isa.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {
namespace {

using llvm::formatv;

Error refuse(uint32_t at, std::string message) { return input_error(std::move(message)).at(at).error(); }

/// Says why find_row() knew nothing: the opcode, or a field that belongs to it.
Error unknown_insn(uint32_t at, const Insn &insn) {
  auto rows = rows_of_opcode(insn.opcode);
  if (rows.empty())
    return refuse(at, formatv("unknown opcode {0:x2}", insn.opcode));
  auto explain = [&](const char *field, FieldRule InsnRow::*rule, int32_t value) -> std::string {
    std::vector<int32_t> known;
    for (const InsnRow &row : rows)
      if ((row.*rule).kind != FieldRule::equals || (row.*rule).value == value)
        return "";
      else
        known.push_back((row.*rule).value);
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());
    return formatv("opcode {0:x2} has no form with {1} {2} (known: {3:$[, ]})", insn.opcode, field, value,
                   llvm::make_range(known.begin(), known.end()));
  };
  for (std::string text :
       {explain("src", &InsnRow::src, insn.src), explain("offset", &InsnRow::offset, insn.offset),
        explain("imm", &InsnRow::imm, insn.imm)})
    if (!text.empty())
      return refuse(at, text);
  return refuse(at, formatv("opcode {0:x2} has no form with these fields", insn.opcode));
}

Error check_fields(uint32_t at, const Insn &insn, const InsnRow &row, ImmediateRules rules, Form form) {
  auto reserved = [&](const char *field, FieldRule rule, int32_t value) -> Error {
    if (rule.kind != FieldRule::zero || value == 0)
      return Error::success();
    return refuse(at, formatv("reserved field {0} is {1}, must be 0", field, value));
  };
  if (Error e = reserved("dst", row.dst, insn.dst))
    return e;
  if (Error e = reserved("src", row.src, insn.src))
    return e;
  if (Error e = reserved("offset", row.offset, insn.offset))
    return e;
  if (Error e = reserved("imm", row.imm, insn.imm))
    return e;

  for (auto [rule, number] : {std::pair(row.dst, insn.dst), std::pair(row.src, insn.src)})
    if (rule.kind == FieldRule::any && number > 10 && !(form == Form::verified && number == scratch_register))
      return refuse(at, formatv("register r{0} does not exist", unsigned(number)));
  bool returns_in_src = row.fetch && row.op != Op::atomic_cmpxchg;
  if ((writes_dst(row.op) && insn.dst == 10) || (returns_in_src && insn.src == 10))
    return refuse(at, "r10, the frame pointer, is read-only");

  if (row.source != Operand::imm || rules == ImmediateRules::standard)
    return Error::success();
  switch (row.op) {
  case Op::div:
  case Op::sdiv:
  case Op::mod:
  case Op::smod:
    if (insn.imm == 0)
      return refuse(at, "division by immediate 0");
    break;
  case Op::lsh:
  case Op::rsh:
  case Op::arsh:
    if (insn.imm < 0 || insn.imm >= row.width)
      return refuse(at, formatv("shift by {0} is not in 0 to {1}", insn.imm, row.width - 1));
    break;
  default: break;
  }
  return Error::success();
}

Error check_second_slot(std::span<const Insn> insns, uint32_t at, uint32_t end, Op op) {
  if (at + 1 >= end)
    return refuse(at, "64-bit immediate load without its second slot");
  const Insn &high = insns[at + 1];
  if (high.opcode || high.dst || high.src || high.offset)
    return refuse(at + 1, "second slot of a 64-bit immediate load must have opcode, dst, src and offset 0");
  if ((op == Op::ld_map || op == Op::ld_map_idx || op == Op::ld_func) && high.imm)
    return refuse(at + 1, formatv("reserved field imm of the second slot is {0}, must be 0", high.imm));
  return Error::success();
}

Error check_starts(std::span<const Insn> insns, std::span<const uint32_t> starts) {
  if (insns.empty())
    return input_error("program has no instructions").error();
  if (starts.empty() || starts[0] != 0)
    return input_error("first subprogram does not start at slot 0").error();
  for (size_t i = 0; i < starts.size(); i++) {
    if (starts[i] >= insns.size())
      return input_error(formatv("subprogram start {0} is outside of the program", starts[i])).error();
    if (i && starts[i] <= starts[i - 1])
      return input_error(formatv("subprogram starts {0} and {1} are not in order", starts[i - 1], starts[i]))
          .error();
  }
  return Error::success();
}

} // namespace

Error check_program(std::span<const Insn> insns, std::span<const uint32_t> starts, ImmediateRules rules,
                    Form form) {
  if (Error e = check_starts(insns, starts))
    return e;

  std::vector<bool> second(insns.size()); // the second slot of a wide instruction
  auto for_each_subprogram = [&](auto visit) -> Error {
    for (size_t i = 0; i < starts.size(); i++)
      if (Error e = visit(starts[i], i + 1 < starts.size() ? starts[i + 1] : uint32_t(insns.size())))
        return e;
    return Error::success();
  };

  Error slots = for_each_subprogram([&](uint32_t start, uint32_t end) -> Error {
    Op last = Op::exit;
    uint32_t last_at = start;
    for (uint32_t at = start; at < end; at++) {
      const InsnRow *row = find_row(insns[at]);
      if (!row || (is_private(*row) && form == Form::object))
        return unknown_insn(at, insns[at]);
      if (Error e = check_fields(at, insns[at], *row, rules, form))
        return e;
      last = row->op;
      last_at = at;
      if (is_ld_imm64(row->op)) {
        if (Error e = check_second_slot(insns, at, end, row->op))
          return e;
        second[++at] = true;
      }
    }
    if (!is_sink(last))
      return refuse(last_at, "control falls off the end: the last instruction must be exit or goto");
    return Error::success();
  });
  if (slots)
    return slots;

  // From here on every slot is an instruction or marked as a second half.
  return for_each_subprogram([&](uint32_t start, uint32_t end) -> Error {
    for (uint32_t at = start; at < end; at++) {
      if (second[at])
        continue;
      const InsnRow &row = *find_row(insns[at]);
      if (row.op == Op::ja || is_conditional(row.op)) {
        int64_t target = jump_target(at, insns[at], row);
        if (target < 0 || target >= int64_t(insns.size()))
          return refuse(at, formatv("jump to slot {0} is outside of the program", target));
        if (target < start || target >= end)
          return refuse(at, formatv("jump to slot {0} is outside of the subprogram (slots {1} to {2})",
                                    target, start, end - 1));
        if (second[target])
          return refuse(at, formatv("jump to slot {0}, the middle of a 64-bit immediate load", target));
      } else if (row.op == Op::call_local || row.op == Op::ld_func) {
        int64_t target = call_target(at, insns[at]);
        if (target < 0 || target >= int64_t(insns.size()) ||
            !std::binary_search(starts.begin(), starts.end(), uint32_t(target)))
          return refuse(at, formatv("{0} of slot {1}, which starts no subprogram",
                                    row.op == Op::ld_func ? "address" : "call", target));
      }
    }
    return Error::success();
  });
}

} // namespace ujit
