#include "kernel-iface/linux/dump.h"

#include "kernel-iface/linux/maps.h"

#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::StringRef;

Expected<ProgramDump> dump_program(int program_fd) {
  // The first call tells the sizes, the second one fills the arrays.
  bpf_prog_info sizes{};
  uint32_t length = sizeof sizes;
  if (bpf_obj_get_info_by_fd(program_fd, &sizes, &length) != 0)
    return bpf_error(errno, "reading a loaded program").error();
  if (sizes.jited_prog_len == 0 || sizes.xlated_prog_len == 0 || sizes.nr_jited_ksyms == 0)
    return unsupported("the kernel hides this program's code and addresses, or has not jited it")
        .with_hint("see `ujit-lto doctor`")
        .error();

  ProgramDump out;
  std::vector<uint8_t> code(sizes.jited_prog_len), xlated(sizes.xlated_prog_len);
  std::vector<uint64_t> addresses(sizes.nr_jited_ksyms);
  std::vector<uint32_t> lengths(sizes.nr_jited_func_lens);
  out.map_ids.resize(sizes.nr_map_ids);
  auto address_of = [](auto &vector) { return reinterpret_cast<uint64_t>(vector.data()); };
  bpf_prog_info info{};
  info.jited_prog_len = sizes.jited_prog_len;
  info.jited_prog_insns = address_of(code);
  info.xlated_prog_len = sizes.xlated_prog_len;
  info.xlated_prog_insns = address_of(xlated);
  info.nr_jited_ksyms = sizes.nr_jited_ksyms;
  info.jited_ksyms = address_of(addresses);
  info.nr_jited_func_lens = sizes.nr_jited_func_lens;
  info.jited_func_lens = address_of(lengths);
  info.nr_map_ids = sizes.nr_map_ids;
  info.map_ids = address_of(out.map_ids);
  length = sizeof info;
  if (bpf_obj_get_info_by_fd(program_fd, &info, &length) != 0)
    return bpf_error(errno, "reading a loaded program's code").error();
  if (addresses.front() == 0)
    return unsupported("the kernel hides this program's addresses")
        .with_hint("see `ujit-lto doctor`")
        .error();

  out.id = info.id;
  out.name = StringRef(info.name, strnlen(info.name, sizeof info.name)).str();
  std::copy_n(info.tag, out.tag.size(), out.tag.begin());
  out.load_time_ns = info.load_time;
  out.verified_insns = info.verified_insns;
  out.xlated.resize(xlated.size() / sizeof(Insn));
  std::memcpy(static_cast<void *>(out.xlated.data()), xlated.data(), out.xlated.size() * sizeof(Insn));
  size_t at = 0;
  for (size_t i = 0; i < std::min(addresses.size(), lengths.size()); i++) {
    if (lengths[i] > code.size() - at)
      return internal_error("function lengths of a program do not add up to its code").error();
    out.functions.push_back({addresses[i], {code.begin() + at, code.begin() + at + lengths[i]}});
    at += lengths[i];
  }
  return out;
}

Expected<KernelSymbols> KernelSymbols::read() {
  auto file = llvm::MemoryBuffer::getFileAsStream("/proc/kallsyms");
  if (!file)
    return unsupported("/proc/kallsyms: " + file.getError().message()).error();
  KernelSymbols out;
  bool any = false;
  StringRef rest = (*file)->getBuffer();
  while (!rest.empty()) { // "ffffffff81000000 T _stext [module]"
    auto [line, next] = rest.split('\n');
    rest = next;
    uint64_t address = 0;
    if (line.split(' ').first.getAsInteger(16, address))
      continue;
    StringRef name = line.split(' ').second.split(' ').second.split('\t').first.trim();
    any |= address != 0;
    out.by_name_.try_emplace(name.str(), address);
    const auto [at, fresh] = out.by_address_.try_emplace(address, name.str());
    if (!fresh && StringRef(at->second).starts_with("__pi_"))
      at->second = name.str(); // that was the name for early code of the same function
  }
  if (!any)
    return unsupported("/proc/kallsyms shows no addresses")
        .with_hint("kernel.kptr_restrict or a missing CAP_SYSLOG hides them")
        .error();
  return out;
}

std::optional<uint64_t> KernelSymbols::address_of(std::string_view name) const {
  auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? std::nullopt : std::optional(it->second);
}

std::optional<std::string> KernelSymbols::name_at(uint64_t address) const {
  auto it = by_address_.find(address);
  return it == by_address_.end() ? std::nullopt : std::optional(it->second);
}

} // namespace ujit
