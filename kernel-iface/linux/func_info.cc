#include "kernel-iface/linux/func_info.h"

#include "kernel-iface/linux/maps.h"

#include "llvm/ADT/StringExtras.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace ujit {
namespace {

constexpr uint8_t call_opcode = BPF_JMP | BPF_CALL;

/// A C identifier: BTF takes no other names for functions.
std::string function_name(const Program &program, uint32_t start) {
  std::string out = start == 0 ? program.name : "";
  for (const Subprogram &function : program.subprograms)
    if (function.start == start && !function.name.empty())
      out = function.name;
  for (char &c : out)
    if (!llvm::isAlnum(c) && c != '_')
      c = '_';
  if (out.empty() || llvm::isDigit(out.front()))
    out.insert(0, "f_");
  return out.substr(0, 120); // the kernel takes 127
}

} // namespace

std::vector<uint32_t> function_starts(const Program &program) {
  std::vector<uint32_t> out{0};
  for (uint32_t at = 0; at < program.insns.size(); at++) {
    const Insn &insn = program.insns[at];
    bool call = insn.opcode == call_opcode && insn.src == BPF_PSEUDO_CALL;
    bool address = is_wide(insn) && insn.src == BPF_PSEUDO_FUNC;
    int64_t target = int64_t(at) + 1 + insn.imm;
    if ((call || address) && target >= 0 && target < int64_t(program.insns.size()))
      out.push_back(uint32_t(target));
    if (is_wide(insn))
      at++;
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Expected<FunctionRecords> make_function_records(const Pipeline &pipeline) {
  FunctionRecords out;
  out.by_program.resize(pipeline.programs.size());
  std::unique_ptr<btf, decltype(&btf__free)> types(nullptr, btf__free);
  int prototype = 0;
  for (size_t i = 0; i < pipeline.programs.size(); i++) {
    const Program &program = pipeline.programs[i];
    std::vector<uint32_t> starts = function_starts(program);
    if (starts.size() == 1)
      continue;
    if (!types) {
      types.reset(btf__new_empty());
      if (!types)
        return internal_error("libbpf cannot create BTF").error();
      int integer = btf__add_int(types.get(), "int", 4, BTF_INT_SIGNED);
      prototype = btf__add_func_proto(types.get(), integer);
    }
    for (uint32_t start : starts) {
      int id = btf__add_func(types.get(), function_name(program, start).c_str(), BTF_FUNC_STATIC, prototype);
      if (id < 0)
        return internal_error("libbpf cannot add a function to BTF").in_program(program.name).error();
      out.by_program[i].push_back({start, uint32_t(id)});
    }
  }
  if (!types)
    return out;
  uint32_t size = 0;
  const void *raw = btf__raw_data(types.get(), &size);
  out.btf = Fd(raw ? bpf_btf_load(raw, size, nullptr) : -1);
  if (!out.btf)
    return bpf_error(errno, "the kernel does not take the BTF of the programs' functions").error();
  return out;
}

} // namespace ujit
