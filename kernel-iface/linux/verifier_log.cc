// The verifier's log is the state of every instruction on every path, one or more lines each:
//
//     12: (61) r0 = *(u32 *)(r1 +200)
//     invalid bpf_context access off=200 size=4
//     processed 13 insns (limit 1000000) max_states_per_insn 0 ...
//
// The complaint stands behind the instruction that it is about, the statistics behind the complaint.
#include "kernel-iface/linux/verifier_log.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/FormatVariadic.h"

#include <cstring>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

constexpr size_t tail_lines = 12;

bool is_statistics(StringRef line) {
  return line.starts_with("processed ") || line.starts_with("verification time ") ||
         line.starts_with("stack depth ") || line.starts_with("mark_precise: ");
}

/// "12: (61) ..." -> 12; also "12: R0=..." state lines, which stand in front of an instruction.
std::optional<uint32_t> instruction_of(StringRef line) {
  uint32_t out = 0;
  if (line.consumeInteger(10, out) || !line.starts_with(":"))
    return std::nullopt;
  return out;
}

} // namespace

VerifierVerdict read_verifier_log(StringRef log) {
  llvm::SmallVector<StringRef, 0> lines;
  log.split(lines, '\n', -1, /*KeepEmpty=*/false);
  while (!lines.empty() && is_statistics(lines.back()))
    lines.pop_back();
  VerifierVerdict out;
  if (lines.empty())
    return out;
  out.message = lines.back().trim().str();
  for (size_t i = lines.size(); i-- > 0 && !out.insn;)
    out.insn = instruction_of(lines[i]);
  for (size_t i = lines.size() - std::min(lines.size(), tail_lines); i < lines.size(); i++)
    out.tail.push_back(lines[i].rtrim().str());
  return out;
}

LinkError verifier_error(const Program &program, int error, StringRef log) {
  VerifierVerdict verdict = read_verifier_log(log);
  std::string why = verdict.message.empty() ? std::strerror(error) : verdict.message;
  LinkError out = input_error("the kernel's verifier refuses the program: " + why);
  out.in_file(program.object).in_program(program.name);
  if (verdict.insn) {
    out.at(*verdict.insn);
    if (const LineInfo *line = line_at(program, *verdict.insn))
      out.note(formatv("{0}:{1}: {2}", line->file, line->line, StringRef(line->text).trim()).str());
  }
  for (std::string &line : verdict.tail)
    out.note("verifier: " + line);
  if (StringRef(why).contains("has to have BTF"))
    out.with_hint("maps with a spin lock or timer in their value cannot be loaded here");
  if (error == E2BIG || StringRef(why).contains("too large"))
    out.with_hint("the program passes the verifier's complexity limit: split it with tail calls");
  return out;
}

} // namespace ujit
