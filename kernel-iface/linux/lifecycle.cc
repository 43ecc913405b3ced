#include "kernel-iface/linux/lifecycle.h"

#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/module.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <unistd.h>

namespace ujit {

using llvm::formatv;

std::string stub_pin(size_t entry) { return "stub_" + std::to_string(entry); }
std::string original_pin(size_t entry) { return "original_" + std::to_string(entry); }
std::string originals_pin(size_t entry) { return "originals_" + std::to_string(entry); }
std::string link_pin(size_t entry) { return "link_" + std::to_string(entry); }
std::string left_pin(size_t image) { return "left_" + std::to_string(image); }
std::string prog_array_pin(size_t array) { return "array_" + std::to_string(array); }
std::string image_pin(size_t image) { return "image_" + std::to_string(image); }

namespace {

uint64_t module_number(const std::string &module, const char *what) {
  auto buffer = llvm::MemoryBuffer::getFileAsStream("/sys/module/" + module + "/" + what);
  uint64_t n = 0;
  if (buffer && (*buffer)->getBuffer().trim().getAsInteger(10, n))
    n = 0;
  return n;
}

Expected<std::vector<uint64_t>> read_left(const InstallationFolder &folder, size_t image) {
  std::vector<uint64_t> sums;
  Expected<Fd> map = folder.get(left_pin(image));
  if (!map)
    return map.takeError();
  if (!*map)
    return sums;
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(map->get(), &info, &size))
    return bpf_error(-e, "reading the leave counters").error();
  std::vector<uint64_t> copies(possible_cpus());
  for (uint32_t i = 0; i < info.max_entries; ++i) {
    if (int e = bpf_map_lookup_elem(map->get(), &i, copies.data()))
      return bpf_error(-e, "reading the leave counters").error();
    uint64_t sum = 0;
    for (uint64_t c : copies)
      sum += c;
    sums.push_back(sum);
  }
  return sums;
}

/// The stub's id by its pin, which is there before the state names it.
Expected<uint32_t> pinned_stub_id(const InstallationFolder &folder, size_t entry) {
  Expected<Fd> fd = folder.get(stub_pin(entry));
  if (!fd)
    return fd.takeError();
  if (!*fd)
    return 0;
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(fd->get(), &info, &size))
    return bpf_error(-e, "reading a stub").error();
  return info.id;
}

/// One attach point back to what it was.
Error restore(const InstallationFolder &folder, size_t n, InstalledEntry entry, Uninstalled &result) {
  Expected<uint32_t> stub = pinned_stub_id(folder, n);
  if (!stub)
    return stub.takeError();
  if (entry.fresh) {
    Expected<Fd> link = folder.get(link_pin(n));
    if (!link)
      return link.takeError();
    if (*link) { // detached at once; a link whose last reference goes is freed a little later
      if (int e = bpf_link_detach(link->get()))
        return bpf_error(-e, "detaching " + describe(entry.point)).error();
    }
    if (Error e = folder.unpin(link_pin(n)))
      return e;
    if (*link || entry.point.link_id != 0 || entry.point.hook == HookKind::tcx_ingress ||
        entry.point.hook == HookKind::tcx_egress)
      return Error::success();
  }
  if (*stub == 0)
    return Error::success(); // never came that far
  Expected<std::optional<uint32_t>> now = attached_at(entry.point);
  if (!now)
    return now.takeError();
  if (*now != *stub) {
    if (*now && **now != entry.original_id)
      result.notes.push_back(
          formatv("{0}: program {1} is attached there now; left as it is", describe(entry.point), **now));
    return Error::success();
  }
  if (entry.fresh)
    return detach(entry.point, *stub);
  Expected<Fd> original = folder.get(original_pin(n));
  if (!original)
    return original.takeError();
  if (!*original) {
    *original = Fd(bpf_prog_get_fd_by_id(entry.original_id));
    if (!*original)
      return bpf_error(errno, "opening the original of " + describe(entry.point)).error();
  }
  return exchange(entry.point, *stub, original->get());
}

} // namespace

ModuleStatus module_status(const std::string &name) {
  ModuleStatus m{.name = name};
  m.loaded = access(("/sys/module/" + name).c_str(), F_OK) == 0;
  if (m.loaded) {
    m.references = module_number(name, "refcnt");
    m.bytes = module_number(name, "coresize");
  }
  return m;
}

Expected<InstallationStatus> installation_status(const std::string &name) {
  Expected<InstallationFolder> folder = InstallationFolder::open(name);
  if (!folder)
    return folder.takeError();
  InstallationStatus r;
  r.installation = folder->installation();
  r.broken = r.installation.phase != "installed";
  for (const InstalledEntry &e : r.installation.entries) {
    Expected<std::optional<uint32_t>> now = std::optional<uint32_t>();
    if (e.stub_id)
      now = attached_at(e.point);
    if (!now)
      return now.takeError();
    r.entries.push_back({e, *now});
  }
  for (const std::string &m : r.installation.modules)
    r.modules.push_back(module_status(m));
  Expected<Fd> kill = folder->get(switch_pin);
  if (!kill)
    return kill.takeError();
  if (*kill) {
    uint32_t zero = 0, value[2] = {};
    if (int e = bpf_map_lookup_elem(kill->get(), &zero, value))
      return bpf_error(-e, "reading the kill switch").error();
    r.enabled = value[0] == 0;
  }
  for (size_t i = 0; i < r.modules.size(); ++i) {
    Expected<std::vector<uint64_t>> left = read_left(*folder, i);
    if (!left)
      return left.takeError();
    r.left.push_back(std::move(*left));
  }
  return r;
}

Error set_enabled(const std::string &name, bool enabled) {
  Expected<InstallationFolder> folder = InstallationFolder::open(name);
  if (!folder)
    return folder.takeError();
  Expected<Fd> kill = folder->get(switch_pin);
  if (!kill)
    return kill.takeError();
  if (!*kill)
    return input_error(formatv("'{0}' has no kill switch: its installation broke off", name))
        .with_hint(formatv("take it out: ujit-lto uninstall {0}", name))
        .error();
  uint32_t zero = 0, value[2] = {enabled ? 0u : 1u, 0};
  if (int e = bpf_map_update_elem(kill->get(), &zero, value, BPF_ANY))
    return bpf_error(-e, "writing the kill switch of " + name).error();
  return Error::success();
}

Expected<Uninstalled> uninstall(const std::string &name) {
  Expected<InstallationFolder> folder = InstallationFolder::open(name);
  if (!folder)
    return folder.takeError();
  Uninstalled result;
  Installation state = folder->installation();
  // Last swapped, first restored.
  for (size_t n = state.entries.size(); n-- > 0;)
    if (Error e = restore(*folder, n, state.entries[n], result))
      return e;
  // The modules are in use while a stub is pinned; the state, which names them, goes last.
  for (const std::string &pin : folder->pins())
    if (pin != "state")
      if (Error e = folder->unpin(pin))
        return e;
  for (const std::string &m : state.modules)
    if (module_status(m).loaded)
      if (Error e = remove_module(m))
        return e;
  if (Error e = folder->remove())
    return e;
  return result;
}

} // namespace ujit
