// What the kernel made of a loaded program: its machine code with addresses, and the instructions behind the
// verifier. For measuring the kernel's own JIT and for capturing programs. These are kernel
// addresses: they are never printed, cached or sent.
#pragma once

#include "translator/isa.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ujit {

/// One function of a program, main first.
struct JitedFunction {
  uint64_t address = 0;
  std::vector<uint8_t> code;
};

struct ProgramDump {
  uint32_t id = 0;
  std::string name;
  std::array<uint8_t, 8> tag{};
  uint64_t load_time_ns = 0;   ///< since boot
  uint32_t verified_insns = 0; ///< instructions that the verifier walked; 0 before 5.16
  std::vector<JitedFunction> functions;
  std::vector<Insn> xlated; ///< as BPF_OBJ_GET_INFO_BY_FD shows them: map references by map id
  std::vector<uint32_t> map_ids;
};

/// Errors: code or addresses are hidden from this process, or the program is not jited.
Expected<ProgramDump> dump_program(int program_fd);

/// /proc/kallsyms, both ways.
class KernelSymbols {
public:
  /// Errors: the file cannot be read or shows zeros (kernel.kptr_restrict).
  static Expected<KernelSymbols> read();

  std::optional<uint64_t> address_of(std::string_view name) const; ///< the first of that name
  std::optional<std::string> name_at(uint64_t address) const;      ///< a symbol that starts there

private:
  std::unordered_map<std::string, uint64_t> by_name_;
  std::unordered_map<uint64_t, std::string> by_address_;
};

} // namespace ujit
