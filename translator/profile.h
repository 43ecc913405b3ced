// How often things happened while a pipeline ran over packets: counted on bytecode, so that it says the same
// whatever the code for it looks like. lto/profile.h makes, keeps and reads it.
#pragma once

#include "translator/program.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace ujit {

struct ProgramProfile {
  struct Branch {
    uint32_t insn = 0;
    uint64_t taken = 0, passed = 0;
    friend bool operator==(const Branch &, const Branch &) = default;
  };
  /// Tail calls that succeeded.
  struct Call {
    uint32_t insn = 0;
    MapId map{};
    uint32_t slot = 0;
    uint64_t count = 0;
    friend bool operator==(const Call &, const Call &) = default;
  };
  uint64_t runs = 0;            ///< times the program was entered
  std::vector<Branch> branches; ///< by insn; those never reached are left out
  std::vector<Call> calls;      ///< by (insn, map, slot)
  friend bool operator==(const ProgramProfile &, const ProgramProfile &) = default;

  /// The counts of that branch, or null.
  const Branch *branch_at(uint32_t insn) const;
};

struct Profile {
  uint64_t packets = 0;
  /// By ProgId; none: the program was never entered, or is not the one that was counted. Empty: no profile.
  std::vector<std::optional<ProgramProfile>> programs;
  friend bool operator==(const Profile &, const Profile &) = default;

  /// Counts of that program, or null.
  const ProgramProfile *find(ProgId program) const;
};

} // namespace ujit
