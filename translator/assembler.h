// Text to instructions, in the syntax that print_insn() writes, plus names:
//
//     name:                       a label, alone or before an instruction
//     sub NAME:                   begins a subprogram; labels are local to it
//     goto NAME, if ... goto NAME
//     call NAME, r1 = func NAME ll
//                                 a subprogram (or a label, which then begins one), else a helper, with or
//                                 without its bpf_ prefix
//     r1 = map NAME ll, r1 = map NAME + 8 ll
//     .insn OPCODE, DST, SRC, OFFSET, IMM
//                                 one slot as it stands, also one that is no instruction
//
// Numbers are decimal or 0x hexadecimal; comments begin with `;`, `#` or `//`. Spaces are free.
#pragma once

#include "translator/program.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct AssemblerOptions {
  std::string name = "main"; ///< of the first subprogram
  std::string file;          ///< for line information and messages
  uint32_t first_line = 1;   ///< line of `file` that the text begins with
  std::function<std::optional<MapId>(std::string_view)> find_map; ///< may be empty: maps by number only
};

struct Assembly {
  std::vector<Insn> insns;
  std::vector<Subprogram> subprograms; ///< sorted; [0] starts at 0
  std::vector<LineInfo> lines;         ///< one for each instruction
};

/// Errors name file and line: no such instruction, a number that does not fit, a name that is not defined
/// or defined twice, a jump that is too far. The result is not checked otherwise: see check_program().
Expected<Assembly> assemble(std::string_view text, const AssemblerOptions &options = {});

/// `start of each subprogram`, as check_program() takes it.
std::vector<uint32_t> subprogram_starts(std::span<const Subprogram> subprograms);

} // namespace ujit
