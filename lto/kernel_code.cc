#include "lto/kernel_code.h"

#include "kernel-iface/image/elf.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {

using namespace llvm;

std::string kernel_features(const KernelCodeOptions &options) {
  std::string features;
  if (options.retpolines)
    features += ",+retpoline-external-thunk,+retpoline-indirect-calls,+retpoline-indirect-branches";
  if (options.sls)
    features += ",+harden-sls-ret,+harden-sls-ijmp";
  return features;
}

void prepare_kernel_code(Module &module, const KernelCodeOptions &options) {
  if (options.ibt)
    module.addModuleFlag(Module::Override, "cf-protection-branch", 1);
  if (options.return_thunks || options.retpolines)
    module.addModuleFlag(Module::Override, "indirect_branch_cs_prefix", 1);
  for (Function &f : module) {
    if (f.isDeclaration())
      continue;
    f.addFnAttr("frame-pointer", "all"); // stack dumps of a kernel follow them
    if (options.return_thunks)
      f.addFnAttr(Attribute::FnRetThunkExtern);
    // A jump table is an indirect jump: a retpoline each time, under IBT it would need a landing pad, and
    // check_single_fetch() does not follow it.
    f.addFnAttr("no-jump-tables", "true");
    // Only entries and callbacks are called through a register.
    if (options.ibt && f.getCallingConv() != CallingConv::C)
      f.addFnAttr(Attribute::NoCfCheck);
  }
}

bool is_invented(StringRef symbol) {
  return StringSwitch<bool>(symbol).Cases("memset", "memcpy", "memmove", "memcmp", true).Default(false);
}

std::span<const StringLiteral> kernel_support() {
  static constexpr StringLiteral symbols[] = {
      "memset", "memcpy", "memmove", "memcmp",
      // hash lookups and loads that may fault
      "__htab_map_lookup_elem", "copy_from_kernel_nofault", "this_cpu_off",
      // mitigations
      "__x86_return_thunk", "__x86_indirect_thunk_rax", "__x86_indirect_thunk_rcx",
      "__x86_indirect_thunk_rdx", "__x86_indirect_thunk_rbx", "__x86_indirect_thunk_rbp",
      "__x86_indirect_thunk_rsi", "__x86_indirect_thunk_rdi", "__x86_indirect_thunk_r8",
      "__x86_indirect_thunk_r9", "__x86_indirect_thunk_r10", "__x86_indirect_thunk_r11",
      "__x86_indirect_thunk_r12", "__x86_indirect_thunk_r13", "__x86_indirect_thunk_r14",
      "__x86_indirect_thunk_r15"};
  return symbols;
}

static bool is_kernel_relocation(uint32_t type) {
  switch (type) {
  case ELF::R_X86_64_PLT32:
  case ELF::R_X86_64_PC32:
  case ELF::R_X86_64_32S:
  case ELF::R_X86_64_64: return true;
  default: return false;
  }
}

Expected<std::vector<std::string>> check_kernel_image(std::span<const uint8_t> image) {
  Expected<ElfObject> object = read_elf(image);
  if (!object)
    return object.takeError();
  for (const ImageElfSection &s : object->sections) {
    if (!(s.flags & ELF::SHF_ALLOC))
      continue;
    if (s.size != 0 && s.name != ".text" && !StringRef(s.name).starts_with(".rodata"))
      return internal_error(formatv("section {0} in an image for the kernel", s.name)).error();
    for (const Elf::Rela &r : s.relocations)
      if (!is_kernel_relocation(r.getType(false)))
        return internal_error(formatv("{0}+{1:x}: relocation type {2} in an image for the kernel", s.name,
                                      uint64_t(r.r_offset), uint32_t(r.getType(false))))
            .error();
  }
  std::vector<std::string> undefined;
  for (size_t i = 1; i < object->symbols.size(); ++i)
    if (const ImageElfSymbol &s = object->symbols[i]; !s.defined())
      undefined.push_back(s.name.str());
  std::ranges::sort(undefined);
  return undefined;
}

} // namespace ujit
