// A fused image as a kernel module, written without the kernel's headers or build system: the image's
// sections and relocations, a `struct module` of the size that the kernel's BTF tells, an init function that
// checks and holds every map and program (module_init.c), and split BTF that makes each entry a kfunc.
// Nothing of the kernel is patched.
#pragma once

#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/module_table.h"

#include <map>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// What the running kernel demands of a module and of its code.
struct ModuleKernel {
  std::string release;  ///< uname -r
  std::string vermagic; ///< from an installed module
  /// Check sums of exported symbols that modules import, from the same modules; empty: kernel without
  /// modversions.
  std::map<std::string, uint32_t> symbol_crcs;
  uint32_t module_size = 0, module_init = 0, module_exit = 0, module_name = 0; ///< struct module
  uint32_t file_operations_size = 0, file_operations_release = 0, file_operations_write = 0;
  ujit_module_table layout{}; ///< only its `..._at` members
  /// What code must use: these thunks exist; indirect branches land on endbr; int3 follows returns.
  bool return_thunks = false, retpolines = false, ibt = false, sls = true;
  /// Sections that the kernel patches code by.
  bool call_sites = false, return_sites = false, retpoline_sites = false;
  std::string refusal; ///< not empty: why this kernel takes no module of ours, and what would help
};

/// Looks at the kernel; `modules` is where installed modules are searched ("" means /lib/modules/RELEASE).
/// Errors: the kernel's BTF or list of symbols cannot be read. What stands against loading is no error but
/// `refusal`.
Expected<ModuleKernel> read_module_kernel(const std::string &modules = "");

/// Names of the kernel functions whose addresses every module needs beside those of its image.
std::span<const std::string> module_functions();

/// The kernel's loader resolves this symbol itself: ModuleSpec::addresses need not have it.
bool resolved_by_kernel(llvm::StringRef symbol);

struct ModuleEntry {
  std::string
      symbol; ///< in the image: uint64_t (void *ctx, const uint64_t *instance, uint32_t where, void *frame)
  std::string name; ///< of the kfunc; unique in the whole kernel
  ProgType type{};
};

struct ModuleSpec {
  std::string name;                              ///< of the module: "ujit_" and 16 hex digits
  std::span<const uint8_t> image;                ///< relocatable object for the kernel target (lto)
  std::vector<ModuleEntry> entries;              ///< all of one program type
  std::vector<uint64_t> instance;                ///< the instance table
  uint32_t frame_bytes = 0;                      ///< largest leave frame; 0: the image never leaves
  std::vector<const CapturedMap *> maps;         ///< held and checked by init
  std::vector<const CapturedProgram *> programs; ///< held and checked by init
  std::map<std::string, uint64_t> addresses;     ///< of undefined symbols and module_functions()
};

/// The .ko file's bytes. The same input gives the same bytes. They hold kernel addresses and descriptor
/// numbers of this process. Errors: an undefined symbol without an address, a call out of reach, a relocation
/// type outside the allow-list, an image with writable data.
Expected<std::vector<uint8_t>> write_module(const ModuleSpec &spec, const ModuleKernel &kernel);

/// A module that is loaded; dropping the object does not unload it.
struct InsertedModule {
  std::string name;
  Fd btf{};                          ///< of its split BTF: what stubs name in their fd_array
  std::vector<uint32_t> kfunc_ids{}; ///< by entry: BTF ids in it
  /// While it is open, programs that this process loads may call the entries. Closed (also by the end of this
  /// process), no program can be bound to them any more.
  Fd open{};
};

/// finit_module from memory. Errors: each refusal of the kernel or of our init with its cause and what to do;
/// nothing is left loaded then.
Expected<InsertedModule> insert_module(const ModuleSpec &spec, std::span<const uint8_t> module);

/// Closes `module.open`: no program can be bound from then on. Checks that `stubs` programs use the module,
/// the stubs and nobody else; on kernels before 6.4 the image runs from then on, and not before. Errors:
/// another number of users; the module is sealed all the same.
Error seal_module(InsertedModule &module, unsigned stubs);

/// Waits for the last user to be gone (the kernel frees programs a little after their last reference).
/// Errors: still in use after `patience_ms`; no such module.
Error remove_module(const std::string &name, unsigned patience_ms = 5000);

} // namespace ujit
