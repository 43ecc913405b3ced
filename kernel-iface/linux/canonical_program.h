// One captured program to canonical form; canonical.cc puts the results together.
#pragma once

#include "kernel-iface/linux/capture.h"

namespace ujit {

/// Rewrites `captured`. Map references (ld_map, ld_map_value) hold the index into Capture::maps in `imm`.
/// Errors: what is not recognised and cannot be translated as it stands, by name, with the instruction.
Expected<Program> canonical_program(const Capture &capture, const CapturedProgram &captured);

/// What the verifier called through a kernel function.
struct HelperOfSymbol {
  uint32_t id = 0;
  bool own_name = false; ///< the symbol is the helper's name
};

/// The helper whose implementation is `symbol` in programs of this type, or none. Reviewed for networking
/// programs against the *_func_proto switches in net/core/filter.c, kernel/bpf/helpers.c and
/// kernel/trace/bpf_trace.c, and the map_ops in kernel/bpf.
std::optional<HelperOfSymbol> helper_of_symbol(ProgType type, std::string_view symbol);

/// What map_gen_lookup() of one type of map emits (canonical_lookup.cc).
struct OpenLookup {
  uint32_t slots = 0; ///< length of the sequence, its call included
  MapType type = MapType::unspec;
  bool masked = false;       ///< with an index mask against speculation
  uint32_t max_entries = 0;  ///< arrays: the bound
  uint32_t stride = 0;       ///< arrays: from one element to the next
  uint32_t value_offset = 0; ///< hash tables: from the element to the value (or what leads to it)
};

/// The open-coded lookup in an array that begins at `at`, or none.
std::optional<OpenLookup> match_array_lookup(std::span<const Insn> insns, uint32_t at,
                                             const KernelLayout &layout);
/// ... in a hash table, whose call of __htab_map_lookup_elem() is at `at`.
std::optional<OpenLookup> match_hash_lookup(std::span<const Insn> insns, uint32_t at,
                                            const KernelLayout &layout);

} // namespace ujit
