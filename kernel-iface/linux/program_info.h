#pragma once

#include "kernel-iface/linux/capture.h"

#include <map>
#include <memory>

struct btf;

namespace ujit {

/// BTF objects of loaded programs: the programs of one object share one.
class ProgramTypes {
public:
  /// Null where there is none or it cannot be read: names and lines are missing then.
  const btf *get(uint32_t btf_id);

private:
  struct Free {
    void operator()(btf *b) const;
  };
  std::map<uint32_t, std::unique_ptr<btf, Free>> by_id_;
};

/// What bpf() tells of a program: identity, maps, names of functions (without lengths and addresses), lines.
/// Errors: bpf() refuses.
Expected<CapturedProgram> read_program_info(Fd fd, ProgramTypes &types);

/// What bpf() tells of a map. Errors: bpf() refuses.
Expected<CapturedMap> read_map_info(Fd fd);

} // namespace ujit
