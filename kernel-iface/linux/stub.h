// The eBPF program that stands in for an entry of an image: it asks the kill switch, calls the entry's kfunc,
// and performs the tail calls that leave the image. It is what is attached or put in a prog array.
//
// What a kfunc returns (64 bits): bit 63 clear: the program's result, zero-extended from 32 bits. Bit 63 set:
// leave; bits 48 to 62: number of the prog array in `prog_arrays`, bits 32 to 47: resume point, bits 0 to 31:
// index. Should the tail call fail, the stub calls the kfunc again with `where` = resume point and the same
// frame, and decodes again, in a loop that is bounded by the kernel's limit of tail calls.
//
// Where a stub can do nothing right (the loop's bound is reached; the kill switch is on and the original is
// gone from its slot), the packet is dropped, so that no packet passes a datapath unseen: XDP_ABORTED, which
// tracing shows, or TC_ACT_SHOT.
#pragma once

#include "kernel-iface/linux/module.h"

namespace ujit {

struct StubSpec {
  std::string name;                          ///< at most 15 letters
  const CapturedProgram *original = nullptr; ///< whose type, attach type and flags the stub takes over
  bool dst_needed = false;                   ///< one of the image's programs has this flag
  int module_btf = -1;
  uint32_t kfunc_id = 0;
  uint32_t frame_bytes = 0;     ///< a multiple of 8, as the module's; 0: the image never leaves
  std::vector<int> prog_arrays; ///< fds, by the number that leaves name
  int switch_map = -1; ///< array, mmapable: element 0, u32 at offset 0: 0 runs the image, else the original
  int originals = -1;  ///< prog array of one slot: the original, for the kill switch
  int left = -1;       ///< per-CPU array of u64: times left, by the number of the prog array; -1: not counted
};

/// Its instructions; `clear_frame` stores zeros into the frame first.
std::vector<Insn> stub_program(const StubSpec &spec, bool clear_frame);

/// Loads it. Errors: the verifier's refusal with the end of its log.
Expected<Fd> load_stub(const StubSpec &spec);

/// Checks that hooks and prog arrays see in each stub what they see in its original: attach type, XDP frags,
/// and the flags that hooks read (more of the latter do no harm). `stubs` and `specs` go in pairs. Errors: a
/// stub that differs; the kernel does not tell.
Error check_stubs(std::span<const StubSpec> specs, std::span<const int> stubs);

} // namespace ujit
