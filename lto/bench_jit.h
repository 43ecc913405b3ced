// The machine code that a kernel's JIT made of a pipeline, as a value: relocatable, without addresses of the
// kernel, so that it can be kept in a file and replayed where bpf() is not allowed.
#pragma once

#include "translator/error.h"
#include "translator/program.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct JitCode {
  struct Function {
    uint64_t offset = 0; ///< from the start of the page that the first function is in
    std::vector<uint8_t> code;
    friend bool operator==(const Function &, const Function &) = default;
  };
  struct Entry {
    std::string program;
    uint64_t offset = 0;
    friend bool operator==(const Entry &, const Entry &) = default;
  };
  /// An immediate of 8 bytes that names something of a map.
  struct MapSite {
    uint64_t offset = 0;
    std::string map;
    bool value = false;
    uint64_t value_offset = 0;
    friend bool operator==(const MapSite &, const MapSite &) = default;
  };
  /// A 32-bit distance to a function of the kernel.
  struct CallSite {
    uint64_t offset = 0;
    std::string function;
    friend bool operator==(const CallSite &, const CallSite &) = default;
  };
  /// Where a member lies in a struct of the kernel.
  struct Member {
    std::string name; ///< "sk_buff.mark"
    uint32_t offset = 0;
    friend bool operator==(const Member &, const Member &) = default;
  };

  std::string kernel; ///< uname -r
  std::string digest; ///< pipeline_digest() of what was loaded
  ProgType type{};
  std::vector<Member> layout;
  std::vector<Function> functions; ///< by offset
  std::vector<Entry> entries;
  std::vector<MapSite> maps;
  std::vector<CallSite> calls;
  std::vector<uint64_t> returns;        ///< `jmp` (5 bytes) to a return thunk
  std::vector<uint64_t> indirect_jumps; ///< `jmp` (5 bytes) to the thunk of `jmp *%rcx`
  std::vector<uint64_t> percpu_adds;    ///< `add %gs:this_cpu_off, reg`, 9 bytes
  /// `add $imm, %rax` behind the lookup of a plain hash map, which makes an element's address its value's.
  std::vector<uint64_t> element_adds;
  friend bool operator==(const JitCode &, const JitCode &) = default;

  uint64_t code_bytes() const;
  /// Errors: no such member in this layout.
  Expected<uint32_t> member(std::string_view name) const;
};

/// Loads a pipeline into the running kernel, takes its code, and lets go of it again. Errors (unsupported):
/// bpf() is not allowed, code or addresses are hidden; something in the code that cannot be replayed, by
/// program.
Expected<JitCode> capture_jit_code(const Pipeline &pipeline);

/// One JSON object, a line an item, and back. Errors: not such a file, by name.
std::string print_jit_code(const JitCode &code);
Expected<JitCode> parse_jit_code(std::string_view json, const std::string &file);

} // namespace ujit
