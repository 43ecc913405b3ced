// Programs of an object: which functions are programs, what code they consist of, and what their relocations
// mean.
#pragma once

#include "kernel-iface/object/map_defs.h"
#include "kernel-iface/object/object.h"

namespace ujit {

/// Fills in programs, refused, slots and inlined of `object`, whose path and maps are set. Errors: what makes
/// the whole object unusable; what concerns one program goes to `refused`.
Error read_programs(const ElfFile &elf, const Btf &btf, const std::map<std::string, BtfExtSection> &btf_ext,
                    const MapDefs &defs, const ObjectOptions &options, Object &object);

} // namespace ujit
