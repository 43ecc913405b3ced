// BTF of a module's kfuncs, on top of the kernel's own.
#pragma once

#include "kernel-iface/linux/module.h"

namespace ujit {

struct ModuleBtf {
  std::vector<uint8_t> bytes;      ///< section .BTF
  std::vector<uint32_t> kfunc_ids; ///< by entry
};

/// Each entry as `u64 NAME(ctx, u32 where)`, or with `void *frame, u32 frame__sz` behind where the image has
/// frames. Errors: the running kernel's BTF lacks a type that this needs.
Expected<ModuleBtf> write_module_btf(const ModuleSpec &spec);

} // namespace ujit
