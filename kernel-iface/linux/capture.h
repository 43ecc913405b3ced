// Programs and maps of the running kernel, exactly as they run: instructions behind the verifier with the
// addresses that the kernel put in, the objects behind those addresses, and whatever else could make the
// jited code differ from the instructions (SAFETY: "is the captured code what runs?"). BPF iterators read
// what bpf() does not tell, so this works with kernel.kptr_restrict=2 too.
//
// Every captured object is held by an fd until the Capture dies, so no address in it can be reused meanwhile.
// A Capture holds kernel addresses: it is never printed, cached or written to a file.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/kernel.h"
#include "translator/program.h"

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

struct CapturedFunction {
  uint32_t start = 0;   ///< first slot in CapturedProgram::insns
  uint32_t length = 0;  ///< slots
  uint64_t address = 0; ///< of its jited code
  std::string name;     ///< from BTF; may be empty
};

struct CapturedProgram {
  Fd fd;
  uint32_t id = 0;
  uint64_t address = 0; ///< struct bpf_prog
  std::string name;     ///< full name from BTF where there is one, else the 15 letters of the kernel
  ProgType type = ProgType::unspec;
  uint32_t attach_type = 0; ///< expected_attach_type
  std::array<uint8_t, 8> tag{};
  uint64_t load_time_ns = 0;
  bool frags = false; ///< XDP programs which accept packets in several buffers
  bool gpl_compatible = false;
  bool dst_needed = false, cb_access = false, kprobe_override = false; ///< flags that hooks read
  std::vector<Insn> insns;                                             ///< raw: struct bpf_prog::insnsi
  std::vector<CapturedFunction> functions;                             ///< [0] is the program's own
  std::vector<uint32_t> map_ids;                                       ///< maps that it uses
  std::vector<LineInfo> lines;                                         ///< by slots of `insns`
  /// Empty, or why this program's code must not be fused: the reason by name (blinded constants, an attached
  /// freplace, a fentry, a device-bound program, ...), with what the user can do.
  std::string refused;
};

struct CapturedMap {
  Fd fd;
  uint32_t id = 0;
  uint64_t address = 0; ///< struct bpf_map
  std::string name;
  MapType type = MapType::unspec;
  uint32_t key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  uint64_t extra = 0;
  bool frozen = false; ///< and no writer is left: contents can be taken as constant if RDONLY_PROG is set
  bool bypass_spec_v1 = true;                            ///< no index masks are needed
  bool special_fields = true;                            ///< values hold more than plain bytes
  uint64_t lookup = 0;                                   ///< map->ops->map_lookup_elem
  uint64_t buckets = 0;                                  ///< hash tables: the first of them, 0 if not known
  uint32_t bucket_count = 0, hash_seed = 0;              ///< hash tables: struct bpf_htab; never change
  std::vector<uint8_t> contents;                         ///< frozen arrays of one element: its value
  std::vector<std::pair<uint32_t, uint32_t>> prog_slots; ///< prog arrays: (slot, program id), sorted
  std::optional<uint32_t> inner_id;                      ///< map-in-map: id of one inner map (its shape)
};

struct Capture {
  std::shared_ptr<const KernelFacts> kernel;
  std::vector<CapturedProgram> programs; ///< entries first, in the order asked for; then by discovery
  std::vector<CapturedMap> maps;
  size_t entries = 0; ///< how many of `programs` were asked for
  /// Names of all addresses that code in `programs` refers to: call targets, kernel variables.
  std::map<uint64_t, std::string> symbols;
  /// Addresses of the kernel functions and variables that images need, by name.
  std::map<std::string, uint64_t> addresses;
  uint64_t call_base = 0; ///< __bpf_call_base: what `imm` of helper calls counts from

  const CapturedMap *map_by_id(uint32_t id) const;
  const CapturedMap *map_by_address(uint64_t address) const;
  const CapturedProgram *program_by_id(uint32_t id) const;
};

struct CaptureOptions {
  std::vector<std::string> symbols; ///< further kernel symbols to resolve into Capture::addresses
  /// Called between the steps of a capture, for tests of races: "programs", "maps", "slots", "again".
  std::function<void(std::string_view step)> between;
};

/// Captures the programs behind `program_fds` and everything that their prog arrays lead to, transitively.
/// What changed while it looked (a slot, a map that went away) is looked at again a few times; then it is an
/// error. Errors: missing privileges (which capability), a kernel that is too old, a program that went away.
Expected<Capture> capture(std::span<const int> program_fds, const CaptureOptions &options = {});

/// Ids of programs attached to a network interface: XDP, tcx and clsact filters, in that order.
struct AttachedProgram {
  uint32_t id = 0;
  enum Hook : uint8_t { xdp, tc_ingress, tc_egress, tcx_ingress, tcx_egress } hook = xdp;
  uint32_t priority = 0, handle = 0; ///< clsact filters
  uint32_t flags = 0;                ///< XDP: attach mode
  bool by_link = false;
};
Expected<std::vector<AttachedProgram>> attached_programs(const std::string &interface);

/// Layout facts of the running kernel, from its BTF; offsets are of this kernel alone. Whether hash tables
/// can be searched is left open.
Expected<std::shared_ptr<KernelFacts>> read_kernel_facts();

} // namespace ujit
