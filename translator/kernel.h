// What code in verified form depends on: struct layouts of the kernel that verified it, and which private
// bits of its instruction set it uses. Pipeline::kernel points to one; a pipeline in object form has none.
//
// Verified form, canonical: instructions keep their slots (what the verifier open-coded and we recognise
// becomes the helper call that it was, filled up with `ja +0`), maps are MapIds, helpers are ids, subprograms
// are slot distances, tail calls are calls of helper 12 again. Context accesses have the offsets of kernel
// structs (struct xdp_buff, struct sk_buff). What remains private: loads that may fault (PROBE_MEM), per-CPU
// moves, calls of kernel functions that are no helper (Program::kernel_calls).
#pragma once

#include "translator/program.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace ujit {

/// What a member of a kernel context struct holds. Members without a row are scalars.
struct KernelContextMember {
  enum Kind : uint8_t {
    scalar,
    packet,
    packet_end,
    packet_meta,
    pointer /* other kernel memory */
  } kind = scalar;
  uint32_t offset = 0;
  uint8_t size = 8;
};

struct KernelContext {
  ProgType type{};
  uint32_t size = 0;                        ///< of the struct
  std::vector<KernelContextMember> members; ///< pointer members, sorted by offset
  uint32_t cb_offset = 0; ///< sk_buff: first byte of the five words that programs see as cb[]

  /// The pointer member at `offset`, or null.
  const KernelContextMember *member(uint64_t offset) const;
};

/// Offsets in bytes, from the kernel's BTF.
struct KernelLayout {
  uint32_t array_value = 0;  ///< struct bpf_array: value, ptrs and pptrs, which share an offset
  uint32_t htab_key = 0;     ///< struct htab_elem: key; the value follows at key_size rounded up to 8
  uint32_t htab_lru_ref = 0; ///< struct htab_elem: lru_node.ref
  std::vector<KernelContext> contexts;

  const KernelContext *context(ProgType type) const;
};

struct KernelFacts {
  std::string release; ///< uname -r
  KernelLayout layout;
  /// A failed bpf_tail_call() counts: true up to 6.x where the kernel increments before it looks at the slot.
  bool counts_failed_tail_calls = true;
};

} // namespace ujit
