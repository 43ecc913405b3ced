// read_module_kernel(): layouts from the kernel's BTF, mitigations from the names of its functions, and what
// only the kernel's build knows (vermagic, check sums of exported symbols) from any module that was built
// with it.
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/kernel_types.h"
#include "kernel-iface/linux/module.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <libkmod.h>
#include <sys/utsname.h>

#include <memory>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

Error read_layouts(ModuleKernel &kernel) {
  auto types = KernelTypes::read();
  if (!types)
    return types.takeError();
  ujit_module_table &t = kernel.layout;
  struct Member {
    const char *type, *member;
    uint32_t &to;
  };
  for (const Member &m : {Member{"module", "name", kernel.module_name},
                          {"module", "init", kernel.module_init},
                          {"module", "exit", kernel.module_exit},
                          {"file_operations", "release", kernel.file_operations_release},
                          {"file_operations", "write", kernel.file_operations_write},
                          {"bpf_map", "id", t.map_id_at},
                          {"bpf_map", "map_type", t.map_type_at},
                          {"bpf_map", "key_size", t.map_key_size_at},
                          {"bpf_map", "value_size", t.map_value_size_at},
                          {"bpf_map", "max_entries", t.map_max_entries_at},
                          {"bpf_map", "map_flags", t.map_flags_at},
                          {"bpf_map", "map_extra", t.map_extra_at},
                          {"bpf_prog", "len", t.program_len_at},
                          {"bpf_prog", "insnsi", t.program_insns_at},
                          {"bpf_prog", "aux", t.program_aux_at},
                          {"bpf_prog_aux", "id", t.aux_id_at},
                          {"bpf_prog_aux", "load_time", t.aux_load_time_at}}) {
    auto offset = types->offset_of(m.type, m.member);
    if (!offset)
      return offset.takeError();
    m.to = *offset;
  }
  for (auto [type, to] :
       {std::pair{"module", &kernel.module_size}, {"file_operations", &kernel.file_operations_size}}) {
    auto size = types->size_of(type);
    if (!size)
      return size.takeError();
    *to = *size;
  }
  // Since 6.4.
  if (auto filter = types->offset_of("btf_kfunc_id_set", "filter"))
    t.set_filter_at = *filter;
  else
    llvm::consumeError(filter.takeError());
  return Error::success();
}

/// The names are shown also where addresses are not.
Error read_mitigations(ModuleKernel &kernel) {
  auto file = llvm::MemoryBuffer::getFileAsStream("/proc/kallsyms");
  if (!file)
    return unsupported("/proc/kallsyms: " + file.getError().message())
        .with_hint("CONFIG_KALLSYMS; is /proc mounted?")
        .error();
  struct Sign {
    const char *function;
    bool &means;
  };
  bool kcfi = false;
  const Sign signs[] = {{"__x86_return_thunk", kernel.return_thunks},
                        {"__x86_indirect_thunk_rax", kernel.retpolines},
                        {"ibt_save", kernel.ibt},
                        {"apply_returns", kernel.return_sites},
                        {"apply_retpolines", kernel.retpoline_sites},
                        {"callthunks_patch_module_calls", kernel.call_sites},
                        {"__cfi_bpf_map_get", kcfi}};
  StringRef rest = (*file)->getBuffer();
  while (!rest.empty()) {
    auto [line, after] = rest.split('\n');
    rest = after;
    // "ffffffff81000000 T name", of modules also "\t[module]"
    StringRef name = line.split(' ').second.split(' ').second;
    if (name.contains('\t'))
      continue;
    for (const Sign &s : signs)
      if (name == s.function)
        s.means = true;
  }
  if (kcfi && kernel.refusal.empty())
    kernel.refusal = "its calls through pointers check types of functions (CONFIG_CFI_CLANG), which modules "
                     "that are written here do not have; a kernel without it is needed";
  return Error::success();
}

using Kmod = std::unique_ptr<kmod_ctx, decltype(&kmod_unref)>;
using KmodModule = std::unique_ptr<kmod_module, decltype(&kmod_module_unref)>;

/// Symbols whose check sums are worth having.
bool is_wanted(StringRef symbol) { return symbol == "module_layout" || resolved_by_kernel(symbol); }

/// Takes what one .ko tells; true if it is one of this kernel.
bool read_installed(kmod_ctx *ctx, const std::string &path, ModuleKernel &kernel) {
  kmod_module *raw = nullptr;
  if (kmod_module_new_from_path(ctx, path.c_str(), &raw) < 0)
    return false;
  KmodModule module(raw, &kmod_module_unref);
  kmod_list *list = nullptr, *it = nullptr;
  std::string vermagic;
  if (kmod_module_get_info(module.get(), &list) < 0)
    return false;
  kmod_list_foreach(it, list) if (StringRef(kmod_module_info_get_key(it)) == "vermagic") vermagic =
      kmod_module_info_get_value(it);
  kmod_module_info_free_list(list);
  if (!StringRef(vermagic).starts_with(kernel.release + " "))
    return false;
  kernel.vermagic = vermagic;
  list = nullptr;
  if (kmod_module_get_versions(module.get(), &list) < 0)
    return true;
  kmod_list_foreach(it, list) {
    const char *symbol = kmod_module_version_get_symbol(it);
    if (is_wanted(symbol))
      kernel.symbol_crcs.try_emplace(symbol, uint32_t(kmod_module_version_get_crc(it)));
  }
  kmod_module_versions_free_list(list);
  return true;
}

/// What a module of ours imports and has no check sum for, although this kernel wants them.
std::vector<std::string> missing_imports(const ModuleKernel &kernel) {
  std::vector<std::string> out;
  if (kernel.symbol_crcs.empty()) // no modversions, or nothing was read
    return out;
  for (const char *name : {"module_layout", "_printk", "snprintf", "__x86_return_thunk"})
    if (!kernel.symbol_crcs.contains(name) &&
        (kernel.return_thunks || name != StringRef("__x86_return_thunk")))
      out.push_back(name);
  return out;
}

/// Every module was built with the same kernel, so any will do that imports what ours does: one of six
/// imports snprintf.
void read_installed_modules(const std::string &folder, ModuleKernel &kernel) {
  Kmod ctx(kmod_new(nullptr, nullptr), &kmod_unref);
  if (!ctx)
    return;
  kmod_set_log_fn(
      ctx.get(), [](void *, int, const char *, int, const char *, const char *, va_list) {}, nullptr);
  std::error_code error;
  for (llvm::sys::fs::recursive_directory_iterator it(folder, error), end; it != end && !error;
       it.increment(error)) {
    StringRef path = it->path();
    if (!path.ends_with(".ko") && !path.ends_with(".ko.xz") && !path.ends_with(".ko.zst") &&
        !path.ends_with(".ko.gz"))
      continue;
    if (read_installed(ctx.get(), path.str(), kernel) && missing_imports(kernel).empty())
      break;
  }
}

} // namespace

Expected<ModuleKernel> read_module_kernel(const std::string &modules) {
  ModuleKernel kernel;
  utsname name{};
  if (uname(&name) == 0)
    kernel.release = name.release;
  if (Capability can = probe_capabilities().modules; !can.ok)
    kernel.refusal = can.reason;
  if (Error e = read_layouts(kernel)) {
    if (kernel.refusal.empty())
      return e;
    llvm::consumeError(std::move(e)); // a kernel without modules has no layout of them
  }
  if (Error e = read_mitigations(kernel))
    return e;
  const std::string folder = modules.empty() ? "/lib/modules/" + kernel.release : modules;
  read_installed_modules(folder, kernel);
  if (!kernel.refusal.empty())
    return kernel;
  if (kernel.vermagic.empty())
    kernel.refusal =
        formatv("there is no module of this kernel in {0} from which to learn its version string; "
                "install one with the kernel's package",
                folder);
  return kernel;
}

} // namespace ujit
