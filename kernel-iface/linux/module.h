// A fused image as a kernel module, written without the kernel's headers or build system: the image's
// sections and relocations, a `struct module` of the size that the kernel's BTF tells, an init function that
// checks and holds every map and program, and split BTF that makes each entry a kfunc. Nothing of the kernel
// is patched.
#pragma once

#include "kernel-iface/linux/capture.h"

#include <span>
#include <string>
#include <vector>

namespace ujit {

/// What the running kernel demands of a module and of its code.
struct ModuleKernel {
  std::string vermagic;
  std::optional<uint32_t>
      module_layout_crc; ///< from an installed module's __versions; none: kernel without modversions
  uint32_t module_size = 0, module_init = 0, module_exit = 0, module_name = 0; ///< struct module
  bool return_thunks = false, retpolines = false, ibt = false, sls = false;
  bool call_sites = false, return_sites = false, retpoline_sites = false; ///< sections that the kernel wants
  std::string refusal; ///< not empty: why this kernel takes no module of ours, and what would help
};
Expected<ModuleKernel> read_module_kernel();

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
  std::map<std::string, uint64_t> addresses;     ///< of undefined symbols; all checked in init by name
};

/// The .ko file's bytes. The same input gives the same bytes.
/// Errors: an undefined symbol without an address, a call out of reach, a relocation type outside the
/// allow-list.
Expected<std::vector<uint8_t>> write_module(const ModuleSpec &spec, const ModuleKernel &kernel);

/// A module that is loaded; dropping the object does not unload it.
struct InsertedModule {
  std::string name;
  Fd btf;                          ///< of its split BTF: what stubs name in their fd_array
  std::vector<uint32_t> kfunc_ids; ///< by entry: BTF ids in it
};

/// finit_module from memory. Errors: each refusal of the kernel or of our init with its cause and what to do.
Expected<InsertedModule> insert_module(const ModuleSpec &spec, std::span<const uint8_t> module);
Error remove_module(const std::string &name);

} // namespace ujit
