#include "translator/profile.h"

#include <algorithm>

namespace ujit {

const ProgramProfile::Branch *ProgramProfile::branch_at(uint32_t insn) const {
  auto it = std::ranges::lower_bound(branches, insn, {}, &Branch::insn);
  return it != branches.end() && it->insn == insn ? &*it : nullptr;
}

const ProgramProfile *Profile::find(ProgId program) const {
  return index(program) < programs.size() && programs[index(program)] ? &*programs[index(program)] : nullptr;
}

} // namespace ujit
