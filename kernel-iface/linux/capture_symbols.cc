// Names for the kernel addresses in verified code, in one pass over the kernel's symbols. Helpers are calls
// relative to __bpf_call_base, so that address is found first, without the symbols (KernelReader::call_base),
// and confirmed by them.
//
// An address may have several names (aliases), a name several addresses (static functions). Of aliases the
// plainest is taken. A name is given to an address only where the pass does not show the same name elsewhere.
#include "kernel-iface/linux/capture_symbols.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;

namespace {

constexpr const char *base_name = "__bpf_call_base";
constexpr uint64_t kernel_half = 0xffff800000000000;

struct Symbol {
  uint64_t address;
  std::string name;
};

/// "name", of modules "name [module]".
Symbol read(const symbol_record &record) {
  auto text = [](const auto &array) { return std::string(array, strnlen(array, sizeof array)); };
  Symbol out{record.address, text(record.name)};
  if (std::string module = text(record.module); !module.empty())
    out.name += " [" + module + "]";
  return out;
}

/// Without leading underscores, short, first by alphabet: what a person would call it.
auto plainness(const std::string &name) { return std::tuple(name.find_first_not_of('_'), name.size(), name); }

std::set<uint64_t> addresses_in(const Capture &capture) {
  std::set<uint64_t> out;
  for (const CapturedProgram &program : capture.programs)
    for (uint32_t i = 0; i < program.insns.size(); i++) {
      const Insn &insn = program.insns[i];
      if (insn.opcode == (BPF_JMP | BPF_CALL) && insn.src != BPF_PSEUDO_CALL)
        out.insert(capture.call_base + uint64_t(int64_t(insn.imm)));
      if (!is_wide(insn) || i + 1 == program.insns.size())
        continue;
      const uint64_t value = imm64(program.insns, i);
      if (insn.src == 0 && value >= kernel_half)
        out.insert(value);
      i++;
    }
  for (const CapturedMap &map : capture.maps)
    out.erase(map.address);
  return out;
}

} // namespace

Error resolve_symbols(Capture &capture, std::span<const std::string> names, KernelReader &reader) {
  Expected<uint64_t> base = reader.call_base();
  if (!base)
    return base.takeError();
  capture.call_base = *base;

  const std::set<uint64_t> wanted = addresses_in(capture);
  const std::vector<uint64_t> addresses(wanted.begin(), wanted.end());
  std::vector<std::string> all_names(names.begin(), names.end());
  all_names.push_back(base_name);
  Expected<std::vector<symbol_record>> records = reader.symbols(addresses, all_names);
  if (!records)
    return records.takeError();

  std::map<std::string, std::set<uint64_t>> by_name;
  std::map<uint64_t, std::vector<std::string>> by_address;
  for (const symbol_record &record : *records) {
    const Symbol symbol = read(record);
    if (StringRef(symbol.name)
            .ends_with(" [bpf]")) // programs: instances of code, not functions of the kernel
      continue;
    by_name[symbol.name].insert(symbol.address);
    by_address[symbol.address].push_back(symbol.name);
  }
  if (!by_name[base_name].count(capture.call_base))
    return unsupported("this kernel does not let it be seen what helper calls count from")
        .with_hint("the kernel needs CONFIG_KALLSYMS and the JIT")
        .error();

  for (uint64_t address : addresses) {
    auto it = by_address.find(address);
    if (it == by_address.end())
      continue;
    std::sort(it->second.begin(), it->second.end(),
              [](const auto &a, const auto &b) { return plainness(a) < plainness(b); });
    for (const std::string &name : it->second)
      if (by_name[name].size() == 1) {
        capture.symbols.emplace(address, name);
        capture.addresses.emplace(name, address);
        break;
      }
  }
  for (const std::string &name : all_names) {
    std::set<uint64_t> &candidates = by_name[name];
    if (candidates.size() > 1) { // the one that is an operation of a map is meant
      std::set<uint64_t> operations;
      for (const CapturedMap &map : capture.maps)
        if (candidates.count(map.lookup))
          operations.insert(map.lookup);
      if (operations.size() != 1)
        return unsupported(formatv("{0} functions of the kernel are named '{1}'", candidates.size(), name))
            .error();
      candidates = operations;
    }
    if (!candidates.empty())
      capture.addresses.emplace(name, *candidates.begin());
  }
  return Error::success();
}

} // namespace ujit
