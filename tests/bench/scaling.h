// How link time grows: pipelines of any number of programs, made up.
#pragma once

#include "lto/link.h"

namespace ujit {

/// `programs` programs of about `insns` instructions each: every one reads its bytes of the packet with
/// bounds checks, counts in a per-CPU map, keeps state in a scratch map, and goes on to one of two others.
/// The depth stays below the kernel's limit: programs stand in 30 rows, each calling into the next. The same
/// numbers give the same pipeline.
Pipeline make_pipeline(uint32_t programs, uint32_t insns);

struct LinkPoint {
  uint32_t programs = 0, insns_each = 0;
  unsigned threads = 0;
  uint64_t bytecode_insns = 0, code_bytes = 0;
  double seconds = 0, user_seconds = 0;
  uint64_t peak_kilobytes = 0; ///< resident, of the process that linked
};

/// One link in a process of its own. Errors: those of link(), or of the system.
Expected<LinkPoint> measure_link(uint32_t programs, uint32_t insns, unsigned threads);

} // namespace ujit
