#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/module.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <thread>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

/// The kernel's log from now on.
class KernelLog {
public:
  KernelLog() : fd_(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (fd_)
      lseek(fd_.get(), 0, SEEK_END);
  }

  /// Lines that name the module or, of BTF, nobody.
  std::vector<std::string> lines_about(const std::string &module) {
    std::vector<std::string> out;
    char record[8192];
    while (fd_) {
      const ssize_t n = ::read(fd_.get(), record, sizeof record);
      if (n < 0 && (errno == EPIPE || errno == EINTR))
        continue; // older records were overwritten
      if (n <= 0)
        break;
      // "priority,number,time,flags;text\n key=value\n"
      StringRef text = StringRef(record, n).split(';').second.split('\n').first;
      if (text.contains(module) || text.starts_with("BPF:") || text.contains("unsigned module"))
        out.push_back(text.str());
    }
    return out;
  }

private:
  Fd fd_;
};

struct Refusal {
  int error;
  const char *message, *hint;
};

/// What init returns (module_table.h), and what the kernel's loader does.
constexpr Refusal refusals[] = {
    {ujit_symbol_moved, "a kernel function is not where it was when the image was linked",
     "the image is of another boot or another kernel: install again"},
    {ujit_name_taken, "the kernel has another function of the name of an entry",
     "uninstall what has this name, or choose another name for the pipeline"},
    {ujit_map_differs, "a map was replaced after it was captured", "install again"},
    {ujit_map_shape, "a map has another type, size or flags than the image was linked for", "install again"},
    {ujit_program_differs, "a program was replaced after it was captured", "install again"},
    {ujit_program_changed, "a program's instructions changed after it was captured", "install again"},
    {EBADF, "a map or program was closed after it was captured", ""},
    {EKEYREJECTED, "module.sig_enforce refuses unsigned modules: boot without module.sig_enforce=1", ""},
    {EEXIST, "a module of this name is loaded", "uninstall the pipeline first"},
    {ENOMEM, "the kernel has no memory for the module", ""},
    {ENOENT, "the kernel lacks a function that the module imports", ""},
    {EMFILE, "too many open files", "ulimit -n"},
    {ENOEXEC, "the kernel does not take the module as one of its own",
     "modules in /lib/modules must be of the running kernel"},
};

Error refused(int error, const std::string &module, KernelLog &log) {
  LinkError out = unsupported(formatv("module {0} cannot be loaded: ", module));
  const Refusal *known = llvm::find_if(refusals, [&](const Refusal &r) { return r.error == error; });
  if (error == EPERM) {
    Capability can = probe_capabilities().modules;
    out.message += can.ok ? "the kernel refuses it (a security module or a seccomp filter)" : can.reason;
  } else if (known != std::end(refusals)) {
    out.message += known->message;
    out.hint = known->hint;
  } else {
    out.message += std::strerror(error);
  }
  for (std::string &line : log.lines_about(module))
    out.note("kernel: " + line);
  return out.error();
}

Fd find_btf(const std::string &module) {
  for (uint32_t id = 0; bpf_btf_get_next_id(id, &id) == 0;) {
    Fd fd(bpf_btf_get_fd_by_id(id));
    if (!fd)
      continue;
    char name[64] = {};
    bpf_btf_info info{};
    info.name = reinterpret_cast<uint64_t>(name);
    info.name_len = sizeof name;
    uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) == 0 && info.kernel_btf && module == name)
      return fd;
  }
  return {};
}

/// The file that init opened in this process: "anon_inode:NAME".
Fd find_open_file(const std::string &module) {
  std::error_code error;
  for (llvm::sys::fs::directory_iterator it("/proc/self/fd", error), end; it != end && !error;
       it.increment(error)) {
    char target[128];
    const ssize_t n = readlink(it->path().c_str(), target, sizeof target);
    if (n > 0 && StringRef(target, n) == "anon_inode:" + module) {
      int fd = -1;
      StringRef number = StringRef(it->path()).rsplit('/').second;
      std::from_chars(number.begin(), number.end(), fd);
      return Fd(fd);
    }
  }
  return {};
}

/// BTF ids of the entries, as write_module() put them into the kfunc set.
Expected<std::vector<uint32_t>> kfunc_ids(std::span<const uint8_t> module) {
  auto object = read_elf(module);
  if (!object)
    return object.takeError();
  for (const ImageElfSymbol &s : object->symbols) {
    if (s.name != "ujit_module_set" || s.section == 0 || s.section >= object->sections.size())
      continue;
    llvm::ArrayRef<uint8_t> set = object->sections[s.section].contents.slice(s.value, s.size);
    std::vector<uint32_t> words(set.size() / 4), ids;
    std::memcpy(words.data(), set.data(), words.size() * 4);
    for (size_t i = 2; i < words.size(); i += 2)
      ids.push_back(words[i]);
    return ids;
  }
  return internal_error("the module has no set of kfuncs").error();
}

std::optional<unsigned> references(const std::string &module) {
  auto file = llvm::MemoryBuffer::getFileAsStream("/sys/module/" + module + "/refcnt");
  unsigned n = 0;
  if (!file || (*file)->getBuffer().trim().getAsInteger(10, n))
    return std::nullopt;
  return n;
}

/// Calls `done` every millisecond until it is true.
template <class F>
bool wait_for(unsigned milliseconds, F done) {
  using namespace std::chrono;
  const auto end = steady_clock::now() + std::chrono::milliseconds(milliseconds);
  while (!done()) {
    if (steady_clock::now() >= end)
      return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

} // namespace

Expected<InsertedModule> insert_module(const ModuleSpec &spec, std::span<const uint8_t> module) {
  InsertedModule out{.name = spec.name};
  auto ids = kfunc_ids(module);
  if (!ids)
    return ids.takeError();
  out.kfunc_ids = std::move(*ids);

  Fd memory(memfd_create(spec.name.c_str(), MFD_CLOEXEC));
  if (!memory)
    return unsupported(formatv("no memory file for module {0}: {1}", spec.name, std::strerror(errno)))
        .error();
  for (size_t done = 0; done < module.size();) {
    const ssize_t n = write(memory.get(), module.data() + done, module.size() - done);
    if (n <= 0)
      return unsupported(formatv("no memory for module {0}: {1}", spec.name, std::strerror(errno))).error();
    done += n;
  }
  KernelLog log;
  if (syscall(SYS_finit_module, memory.get(), "", 0) != 0)
    return refused(errno, spec.name, log);

  out.open = find_open_file(spec.name);
  out.btf = find_btf(spec.name);
  if (out.open && out.btf)
    return out;
  LinkError error = out.open
                        ? unsupported(formatv("the kernel does not take the BTF of module {0}", spec.name))
                              .with_hint("CONFIG_DEBUG_INFO_BTF_MODULES; is the image damaged?")
                        : internal_error(formatv("the file of module {0} is not open here", spec.name))
                              .with_hint("is /proc mounted?");
  for (std::string &line : log.lines_about(spec.name))
    error.note("kernel: " + line);
  out.open = Fd();
  out.btf = Fd();
  if (Error e = remove_module(spec.name))
    error.note(llvm::toString(std::move(e)));
  return error.error();
}

Error seal_module(InsertedModule &module, unsigned stubs) {
  // The length of what is written is the number of stubs; its bytes are not looked at.
  const std::vector<char> bytes(stubs);
  int error = 0;
  const bool done = wait_for(500, [&] {
    error = write(module.open.get(), bytes.data(), stubs) >= 0 ? 0 : errno;
    return error != EBUSY;
  });
  module.open = Fd();
  if (done && error == 0)
    return Error::success();
  if (done)
    return internal_error(formatv("module {0} cannot be sealed: {1}", module.name, std::strerror(error)))
        .error();
  return unsupported(formatv("module {0} is used by {1} programs, and {2} of them are ours", module.name,
                             references(module.name).value_or(0), stubs))
      .with_hint("another process bound a program to the image while it was installed: find it "
                 "with bpftool prog, and uninstall")
      .error();
}

Error remove_module(const std::string &name, unsigned patience_ms) {
  int error = 0;
  const bool gone = wait_for(patience_ms, [&] {
    error = syscall(SYS_delete_module, name.c_str(), O_NONBLOCK) == 0 ? 0 : errno;
    return error != EAGAIN && error != EBUSY;
  });
  if (gone && error == 0)
    return Error::success();
  LinkError out = unsupported(formatv("module {0} cannot be removed: ", name));
  if (error == ENOENT)
    out.message += "it is not loaded";
  else if (error == EPERM)
    out.message += "CAP_SYS_MODULE is missing, or kernel.modules_disabled is set";
  else if (!gone) {
    out.message += formatv("{0} programs use it", references(name).value_or(0)).str();
    out.hint = "a stub is attached, pinned, in a prog array or held by a process: bpftool prog";
  } else
    out.message += std::strerror(error);
  return out.error();
}

} // namespace ujit
