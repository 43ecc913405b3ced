// What this machine can do for us, and why not. The probes that matter (may we load a program, may we run
// it) are made by doing it with a two-instruction program; the rest is read from /proc and /sys.
#pragma once

#include "llvm/ADT/StringRef.h"

#include <string>
#include <vector>

namespace ujit {

struct Capability {
  std::string name;
  bool ok = false;
  std::string value;  ///< what was found: "6.12.9", "on", "2"
  std::string reason; ///< not ok: why, and what would help; ok: empty, or what to know about it
};

struct Capabilities {
  Capability kernel;        ///< release; ok from 6.1 on
  Capability bpf;           ///< maps and XDP programs can be loaded
  Capability test_run;      ///< BPF_PROG_TEST_RUN works
  Capability jit;           ///< net.core.bpf_jit_enable
  Capability jit_harden;    ///< net.core.bpf_jit_harden: ok where constants are not blinded for us
  Capability jit_dump;      ///< code and addresses of loaded programs can be read back
  Capability btf;           ///< /sys/kernel/btf/vmlinux
  Capability modules;       ///< an unsigned module could be loaded
  Capability return_thunks; ///< value "on" or "off": each helper's return costs several ns where on
  Capability cpus;          ///< value: number of possible CPUs, copies of a per-CPU map's value

  /// All of them, in the order of the declaration.
  std::vector<const Capability *> items() const;
};

/// Looks. `root` is put before /proc and /sys paths ("" on a real machine); what is probed by system calls
/// does not depend on it. Leaves nothing behind.
Capabilities probe_capabilities(const std::string &root = "");

/// Why bpf() refuses this process: missing capabilities, unprivileged_bpf_disabled, a seccomp filter.
std::string bpf_refusal_reason(const std::string &root = "");

/// Copies of a per-CPU map's value; at least 1.
unsigned possible_cpus();

} // namespace ujit
