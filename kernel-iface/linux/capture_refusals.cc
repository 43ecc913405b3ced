// Is the captured code what runs? Tracing programs and extensions (freplace) patch the jited text and leave
// the instructions alone: a libxdp dispatcher would silently lose its filters. They are looked for in three
// ways, since none sees everything: the flag of the program, the links, and the five bytes of nop that every
// jited function begins with and that a trampoline replaces by a jump or call.
#include "kernel-iface/linux/capture_refusals.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cstring>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;

namespace {

constexpr uint8_t opcode_nospec = BPF_ST | 0xc0;
constexpr unsigned internal_register = 11; // BPF_REG_AX: only the kernel writes instructions that use it

enum class Entry { untouched, patched, unknown };

/// What stands at the begin of a jited function, behind what marks it as a target of indirect calls.
Entry look_at_entry(std::span<const uint8_t> code) {
  static constexpr uint8_t marks[][4] = {{0xf3, 0x0f, 0x1e, 0xfa},  // endbr64
                                         {0x0f, 0x1f, 0x40, 0xd6},  // its poison
                                         {0x66, 0x0f, 0x1f, 0x00}}; // the poison of older kernels
  static constexpr uint8_t nop[5] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
  for (const auto &mark : marks)
    if (std::equal(std::begin(mark), std::end(mark), code.begin())) {
      code = code.subspan(sizeof mark);
      break;
    }
  if (std::equal(std::begin(nop), std::end(nop), code.begin()))
    return Entry::untouched;
  return code[0] == 0xe8 || code[0] == 0xe9 ? Entry::patched : Entry::unknown;
}

std::string describe(const link_record &link) {
  const char *what = "tracing program";
  if (link.program_type == BPF_PROG_TYPE_EXT)
    what = "extension (freplace)";
  else if (link.attach_type == BPF_TRACE_FENTRY)
    what = "fentry program";
  else if (link.attach_type == BPF_TRACE_FEXIT)
    what = "fexit program";
  else if (link.attach_type == BPF_MODIFY_RETURN)
    what = "fmod_ret program";
  return formatv("{0} '{1}' (id {2}) is attached to it: detach it (bpftool link detach id {3})", what,
                 StringRef(link.program_name, strnlen(link.program_name, sizeof link.program_name)),
                 link.program_id, link.link_id)
      .str();
}

/// Masks that the verifier puts around pointer arithmetic of programs that it does not trust.
bool has_pointer_masks(std::span<const Insn> insns) {
  for (size_t i = 0; i + 1 < insns.size(); i++) {
    const Insn &neg = insns[i], &shift = insns[i + 1];
    if (neg.opcode == (BPF_ALU64 | BPF_NEG) && neg.dst == internal_register &&
        shift.opcode == (BPF_ALU64 | BPF_ARSH | BPF_K) && shift.dst == internal_register && shift.imm == 63)
      return true;
  }
  return false;
}

} // namespace

std::string refusal_of(const CapturedProgram &program, const ProgramInKernel &facts,
                       std::span<const link_record> links, std::span<const CapturedMap> maps) {
  const uint32_t flags = facts.record.flags;
  if (flags & program_not_jited)
    return "it is interpreted, not jited: sysctl net.core.bpf_jit_enable=1 and load it again";
  if (flags & program_classic)
    return "it was made from a classic BPF filter: load it as eBPF";
  if (flags & program_device_bound)
    return "it is bound to a network device: load it without offload and device-bound metadata";
  if (flags & program_sleepable)
    return "it is sleepable: load it without BPF_F_SLEEPABLE";
  if (!(flags & program_gpl))
    return "it is not GPL-compatible, and kernel modules are: load it with a GPL-compatible license";
  if (flags & program_cgroup_storage)
    return "it uses cgroup storage, which depends on where it is attached: use another map type";
  const bool blinded = std::any_of(facts.functions.begin(), facts.functions.end(),
                                   [](const function_record &function) { return function.blinded; });
  if (blinded || flags & program_blinded)
    return "its constants are blinded: sysctl net.core.bpf_jit_harden=1 or 0 and load it again";
  for (const Insn &insn : program.insns)
    if (insn.opcode == opcode_nospec)
      return "it has speculation barriers: load it with CAP_PERFMON";
  if (has_pointer_masks(program.insns))
    return "its pointer arithmetic is masked against speculation: load it with CAP_PERFMON";
  for (uint32_t id : program.map_ids)
    for (const CapturedMap &map : maps)
      if (map.id == id && !map.bypass_spec_v1)
        return formatv("indices into its map '{0}' (id {1}) are masked against speculation: create the map "
                       "with CAP_PERFMON",
                       map.name, id)
            .str();
  std::vector<std::string> names;
  for (const CapturedFunction &function : program.functions)
    names.push_back(function.name);
  return attached_to(facts, names, links);
}

std::string attached_to(const ProgramInKernel &facts, std::span<const std::string> functions,
                        std::span<const link_record> links) {
  for (const link_record &link : links)
    if (link.target_id == facts.record.id)
      return describe(link);
  if (facts.record.flags & program_extended)
    return "one of its functions is replaced by an extension (freplace): detach that";
  for (size_t i = 0; i < facts.functions.size(); i++) {
    const std::string name =
        i < functions.size() && !functions[i].empty() ? functions[i] : formatv("#{0}", i).str();
    switch (look_at_entry(facts.functions[i].entry)) {
    case Entry::untouched: break;
    case Entry::patched:
      return formatv("the jited code of its function '{0}' is patched at its entry: detach the tracing "
                     "programs or extensions (bpftool link)",
                     name)
          .str();
    case Entry::unknown:
      return formatv("the jited code of its function '{0}' does not begin as this version knows it, so it "
                     "cannot be seen whether something is attached there",
                     name)
          .str();
    }
  }
  return "";
}

} // namespace ujit
