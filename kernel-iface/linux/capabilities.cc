#include "kernel-iface/linux/capabilities.h"

#include "kernel-iface/linux/fd.h"
#include "kernel-iface/linux/load.h"
#include "translator/make_insn.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sys/utsname.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

/// First line of a file, or none if it cannot be read.
std::optional<std::string> first_line(const std::string &path) {
  auto file = llvm::MemoryBuffer::getFileAsStream(path);
  if (!file)
    return std::nullopt;
  return (*file)->getBuffer().split('\n').first.str();
}

bool exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

/// The CapEff word of this process; 0 where it cannot be read.
uint64_t effective_capabilities(const std::string &root) {
  auto file = llvm::MemoryBuffer::getFileAsStream(root + "/proc/self/status");
  uint64_t word = 0;
  if (file) {
    StringRef text = (*file)->getBuffer();
    size_t at = text.find("CapEff:");
    if (at != StringRef::npos && text.substr(at + 7).split('\n').first.trim().getAsInteger(16, word))
      word = 0;
  }
  return word;
}

bool has(uint64_t capabilities, unsigned bit) { return capabilities >> bit & 1; }

Capability probe_kernel() {
  Capability out{"kernel", false, "", ""};
  utsname name{};
  if (uname(&name) == 0)
    out.value = name.release;
  unsigned major = 0, minor = 0;
  StringRef rest = out.value;
  bool parsed = !rest.consumeInteger(10, major) && rest.consume_front(".") && !rest.consumeInteger(10, minor);
  out.ok = parsed && (major > 6 || (major == 6 && minor >= 1));
  if (!out.ok)
    out.reason = "fused code is installed in kernels from 6.1 on";
  return out;
}

/// `r0 = 2; exit`: the smallest XDP program that can be run.
Fd load_trivial_program() {
  const Insn insns[] = {make_insn(0xb7, 0, 0, 0, 2), make_insn(0x95, 0, 0, 0, 0)};
  return load_own_program(BPF_PROG_TYPE_XDP, "ujit_probe", insns);
}

void probe_bpf(Capabilities &out, const std::string &root) {
  out.bpf = {"bpf", false, "refused", ""};
  out.test_run = {"test_run", false, "no", "needs bpf()"};
  out.jit_dump = {"jit_dump", false, "no", "needs bpf()"};
  Fd map(bpf_map_create(BPF_MAP_TYPE_ARRAY, "ujit_probe", 4, 8, 1, nullptr));
  Fd program;
  if (map)
    program = load_trivial_program();
  if (!map || !program) {
    int error = errno;
    out.bpf.reason = std::strerror(error);
    if (error == EPERM)
      out.bpf.reason += ": " + bpf_refusal_reason(root);
    return;
  }
  out.bpf = {"bpf", true, "allowed", ""};

  std::array<uint8_t, 64> packet{};
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet.data(), .data_size_in = packet.size(), .repeat = 1);
  if (bpf_prog_test_run_opts(program.get(), &run) == 0 && run.retval == 2)
    out.test_run = {"test_run", true, "yes", ""};
  else
    out.test_run.reason = formatv("BPF_PROG_TEST_RUN: {0}", std::strerror(errno)).str();

  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (bpf_obj_get_info_by_fd(program.get(), &info, &size) == 0 && info.jited_prog_len)
    out.jit_dump = {"jit_dump", true, "yes", ""};
  else
    out.jit_dump.reason = "the kernel hides code and addresses: CAP_SYSLOG is missing, kernel.kptr_restrict "
                          "is 2, or the JIT is off";
}

Capability probe_jit(const std::string &root) {
  Capability out{"jit", false, "unknown", ""};
  std::optional<std::string> value = first_line(root + "/proc/sys/net/core/bpf_jit_enable");
  if (!value) {
    out.reason = "net.core.bpf_jit_enable cannot be read: the kernel has no JIT, or /proc/sys is not mounted";
    return out;
  }
  out.ok = *value != "0";
  out.value = out.ok ? "on" : "off";
  if (!out.ok)
    out.reason = "sysctl net.core.bpf_jit_enable=1";
  return out;
}

Capability probe_jit_harden(const std::string &root) {
  Capability out{"jit_harden", true, "0", ""};
  if (std::optional<std::string> value = first_line(root + "/proc/sys/net/core/bpf_jit_harden"))
    out.value = *value;
  if (out.value == "1")
    out.reason = "constants of unprivileged programs are blinded; ours are not";
  if (out.value == "2") {
    out.ok = false;
    out.reason = "constants are blinded: programs cannot be captured; sysctl net.core.bpf_jit_harden=1";
  }
  return out;
}

Capability probe_btf(const std::string &root) {
  if (exists(root + "/sys/kernel/btf/vmlinux"))
    return {"btf", true, "present", ""};
  return {"btf", false, "missing", "the kernel was built without CONFIG_DEBUG_INFO_BTF"};
}

Capability probe_modules(const std::string &root) {
  auto no = [](std::string reason) { return Capability{"modules", false, "no", std::move(reason)}; };
  if (!exists(root + "/proc/modules"))
    return no("the kernel was built without CONFIG_MODULES");
  if (first_line(root + "/proc/sys/kernel/modules_disabled") == "1")
    return no("kernel.modules_disabled is set until the next boot");
  if (std::optional<std::string> lockdown = first_line(root + "/sys/kernel/security/lockdown"))
    if (!StringRef(*lockdown).contains("[none]"))
      return no("kernel lockdown (" + *lockdown +
                ") refuses unsigned modules: boot without lockdown=, and without Secure Boot, which sets it");
  if (first_line(root + "/sys/module/module/parameters/sig_enforce") == "Y")
    return no("module.sig_enforce refuses unsigned modules: boot without module.sig_enforce=1");
  if (!has(effective_capabilities(root), CAP_SYS_MODULE))
    return no("CAP_SYS_MODULE is missing");
  return {"modules", true, "yes", ""};
}

/// Return thunks come with the mitigations of Retbleed, SRSO and ITS; which of them is on is only told by
/// text.
Capability probe_return_thunks(const std::string &root) {
  Capability out{"return_thunks", true, "off", ""};
  for (const char *name : {"retbleed", "spec_rstack_overflow", "indirect_target_selection"}) {
    std::optional<std::string> state = first_line(root + "/sys/devices/system/cpu/vulnerabilities/" + name);
    if (!state)
      continue;
    StringRef text = *state;
    if (!text.contains_insensitive("thunk") && !text.contains_insensitive("safe ret") &&
        !text.contains_insensitive("stuffing"))
      continue;
    out.value = "on";
    if (!out.reason.empty())
      out.reason += "; ";
    out.reason += formatv("{0}: {1}", name, text).str();
  }
  return out;
}

} // namespace

unsigned possible_cpus() {
  int count = libbpf_num_possible_cpus();
  return count > 0 ? count : 1;
}

std::string bpf_refusal_reason(const std::string &root) {
  uint64_t capabilities = effective_capabilities(root);
  std::vector<std::string> missing;
  bool admin = has(capabilities, CAP_SYS_ADMIN);
  if (!admin && !has(capabilities, CAP_BPF))
    missing.push_back("CAP_BPF");
  if (!admin && !has(capabilities, CAP_PERFMON))
    missing.push_back("CAP_PERFMON");
  if (!has(capabilities, CAP_NET_ADMIN)) // attaching wants it, whoever asks
    missing.push_back("CAP_NET_ADMIN");
  if (missing.empty() && !admin)
    missing.push_back("CAP_SYS_ADMIN (programs and maps are opened by id)");
  if (missing.empty())
    return "this process has the capabilities, so a security module, a seccomp filter or a user namespace "
           "refuses bpf()";
  std::string out = "missing " + llvm::join(missing, ", ");
  if (std::optional<std::string> disabled = first_line(root + "/proc/sys/kernel/unprivileged_bpf_disabled"))
    out += formatv("; kernel.unprivileged_bpf_disabled is {0}", *disabled).str();
  return out;
}

std::vector<const Capability *> Capabilities::items() const {
  return {&kernel, &bpf, &test_run, &jit, &jit_harden, &jit_dump, &btf, &modules, &return_thunks, &cpus};
}

Capabilities probe_capabilities(const std::string &root) {
  Capabilities out;
  out.kernel = probe_kernel();
  probe_bpf(out, root);
  out.jit = probe_jit(root);
  out.jit_harden = probe_jit_harden(root);
  out.btf = probe_btf(root);
  out.modules = probe_modules(root);
  out.return_thunks = probe_return_thunks(root);
  out.cpus = {"cpus", true, std::to_string(possible_cpus()), ""};
  return out;
}

} // namespace ujit
