// BTF function records for programs with several functions. The kernel needs them for callbacks (a
// subprogram whose address is taken must be known as static) and shows their names in traces. They are
// made from the instructions alone, so programs without BTF (assembler text) get them as well.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/program.h"

#include <linux/bpf.h>

#include <vector>

namespace ujit {

struct FunctionRecords {
  Fd btf;                                             ///< none if no program has more than one function
  std::vector<std::vector<bpf_func_info>> by_program; ///< by ProgId; empty for programs of one function
};

/// First slots of the functions that the kernel will find: 0 and all targets of calls and of addresses
/// taken, sorted. A subprogram that nothing refers to is not among them.
std::vector<uint32_t> function_starts(const Program &program);

/// Declares every function as `static int f(void)`: the verifier then follows calls into it with what
/// it knows of the caller, whatever its real parameters are.
Expected<FunctionRecords> make_function_records(const Pipeline &pipeline);

} // namespace ujit
