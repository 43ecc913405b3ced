// What code in verified form depends on: struct layouts of the kernel that verified it, and which private
// bits of its instruction set it uses. Pipeline::kernel points to one; a pipeline in object form has none.
//
// Verified form, canonical: instructions keep their slots (what the verifier open-coded and we recognise
// becomes the helper call that it was, filled up with `ja +0`), maps are MapIds, helpers are ids, subprograms
// are slot distances, tail calls are calls of helper 12 again. Context accesses have the offsets of kernel
// structs (struct xdp_buff, struct sk_buff). What remains private: loads that may fault (PROBE_MEM), per-CPU
// moves, calls of kernel functions that are no helper (Program::kernel_calls).
#pragma once

#include "translator/hash_layout.h"
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

/// struct sk_buff, as helpers look at it.
struct SkbLayout {
  struct Bit {
    uint32_t at = 0;
    uint8_t mask = 0; ///< 0: this kernel does not have it
    friend bool operator==(const Bit &, const Bit &) = default;
  };
  uint32_t data = 0, data_end = 0; ///< pointers
  Bit cloned, unreadable;
  Bit summed; ///< of ip_summed, what CHECKSUM_COMPLETE and CHECKSUM_PARTIAL have set and the others not
  friend bool operator==(const SkbLayout &, const SkbLayout &) = default;
};

/// Offsets in bytes, from the kernel's BTF.
struct KernelLayout {
  uint32_t array_value = 0; ///< struct bpf_array: value, ptrs and pptrs, which share an offset
  HashLayout htab;          ///< struct bucket and struct htab_elem
  /// Lookups may search hash tables themselves: this kernel's were seen to be as `htab` says, and searched as
  /// lto/lookup.cc does it (kernel-iface/linux/hash_tables.cc).
  bool search_htab = false;
  SkbLayout skb;
  /// Helpers may be code where `skb` says that they have nothing to do but the obvious: this kernel's do the
  /// obvious as lto/skb_helpers.cc does it (kernel-iface/linux/skb_helpers.cc).
  bool expand_skb_helpers = false;
  /// Updates of arrays may be stores: this kernel's were seen to be as translator/lower_update.cc makes them
  /// (kernel-iface/linux/array_updates.cc).
  bool update_arrays = false;
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
