// Any bytes are instructions or an error. What check_program() takes can be printed, the assembler reads it
// back to the same instructions, and translation makes valid IR of it or says why not.
#include "translator/assembler.h"
#include "translator/lower.h"

#include "llvm/IR/LLVMContext.h"

#include <algorithm>
#include <cstdlib>

namespace ujit {
namespace {

/// A program of these instructions beside one map of each kind that translation treats apart.
Pipeline pipeline_of(std::vector<Insn> insns, std::span<const uint32_t> starts) {
  Pipeline out;
  for (auto [name, type] : {std::pair("jmp", MapType::prog_array), std::pair("array", MapType::array),
                            std::pair("hash", MapType::hash), std::pair("percpu", MapType::percpu_array)}) {
    const uint32_t value_size = type == MapType::prog_array ? 4 : 16;
    out.maps.push_back(
        {.name = name, .type = type, .key_size = 4, .value_size = value_size, .max_entries = 8});
  }
  Program program{.name = "p", .type = ProgType::xdp, .insns = std::move(insns)};
  for (size_t i = 0; i < starts.size(); i++)
    program.subprograms.push_back(
        {.name = i == 0 ? "p" : "sub" + std::to_string(i),
         .start = starts[i],
         .end = i + 1 < starts.size() ? starts[i + 1] : uint32_t(program.insns.size())});
  out.programs.push_back(std::move(program));
  out.entries = {ProgId(0)};
  return out;
}

/// Slots that calls and function addresses name, as far as they lie in the program; 0 is always one.
std::vector<uint32_t> starts_of(std::span<const Insn> insns) {
  std::vector<uint32_t> out{0};
  for (uint32_t i = 0; i < insns.size(); i += is_wide(insns[i]) ? 2 : 1)
    if (const InsnRow *row = find_row(insns[i]); row && (row->op == Op::call_local || row->op == Op::ld_func))
      if (const int64_t target = call_target(i, insns[i]); target > 0 && target < int64_t(insns.size()))
        out.push_back(uint32_t(target));
  std::ranges::sort(out);
  out.erase(std::ranges::unique(out).begin(), out.end());
  return out;
}

/// As read_object() leaves them: of a map that is there, and inside of its value.
bool map_references_are_sound(const Pipeline &pipeline) {
  const std::vector<Insn> &insns = pipeline.programs[0].insns;
  for (uint32_t i = 0; i < insns.size(); i += is_wide(insns[i]) ? 2 : 1) {
    const InsnRow *row = find_row(insns[i]);
    if (row->op != Op::ld_map && row->op != Op::ld_map_value)
      continue;
    if (uint32_t(insns[i].imm) >= pipeline.maps.size())
      return false;
    if (row->op == Op::ld_map_value &&
        uint32_t(insns[i + 1].imm) >= pipeline.maps[size_t(insns[i].imm)].value_size)
      return false;
  }
  return true;
}

void expect(bool good) {
  if (!good)
    std::abort();
}

void decode(std::span<const uint8_t> bytes) {
  Expected<std::vector<Insn>> insns = decode_bytes(bytes);
  if (!insns)
    return llvm::consumeError(insns.takeError());
  static constexpr uint32_t one_start[] = {0};
  bool one_program = true;
  for (ImmediateRules rules : {ImmediateRules::kernel, ImmediateRules::standard})
    if (Error e = check_program(*insns, one_start, rules)) {
      llvm::consumeError(std::move(e));
      one_program = false;
    }
  if (one_program) {
    std::string text;
    for (uint32_t i = 0; i < insns->size(); i += is_wide((*insns)[i]) ? 2 : 1)
      text += print_insn(*insns, i) + "\n";
    Expected<Assembly> again = assemble(text);
    expect(again && again->insns == *insns);
  }

  const std::vector<uint32_t> starts = starts_of(*insns);
  if (Error e = check_program(*insns, starts, ImmediateRules::standard))
    return llvm::consumeError(std::move(e));
  const Pipeline pipeline = pipeline_of(std::move(*insns), starts);
  if (!map_references_are_sound(pipeline))
    return;
  llvm::LLVMContext context;
  auto module =
      translate(pipeline, ProgId(0), context, {.inline_hash_lookups = true, .inline_helpers = true});
  if (!module)
    llvm::handleAllErrors(module.takeError(),
                          [](const LinkError &e) { expect(e.kind != ErrorKind::internal); });
}

} // namespace
} // namespace ujit

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ujit::decode({data, size});
  return 0;
}
