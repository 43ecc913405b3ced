// Code that may run in a kernel: how it is generated, and what an image for the kernel may consist of.
#pragma once

#include "translator/error.h"

#include "llvm/IR/Module.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Mitigations that the kernel's own code has.
struct KernelCodeOptions {
  bool return_thunks = false; ///< returns are jumps to __x86_return_thunk
  bool retpolines = false;    ///< indirect calls and jumps go through __x86_indirect_thunk_*
  bool ibt = false;           ///< endbr64 where indirect calls may lead
  bool sls = false;           ///< int3 behind returns and indirect jumps
  friend bool operator==(const KernelCodeOptions &, const KernelCodeOptions &) = default;
};

/// Features of the code generator, as LLVM spells them; begins with a comma if not empty.
std::string kernel_features(const KernelCodeOptions &options);

/// The same for a module that is about to become code: attributes and module flags.
void prepare_kernel_code(llvm::Module &module, const KernelCodeOptions &options);

/// Symbols that code for the kernel may leave undefined beside helpers and the kernel functions that programs
/// call.
std::span<const llvm::StringLiteral> kernel_support();
/// One of those that LLVM invents: memset and the like.
bool is_invented(llvm::StringRef symbol);

/// What is left to be resolved when the image is installed; sorted. Errors (internal): a section or a type of
/// relocation that kernel images do not have.
Expected<std::vector<std::string>> check_kernel_image(std::span<const uint8_t> image);

/// Machine stack that images may use together with the stub, and what a stub uses itself with a frame of so
/// many bytes: its own registers, arguments and return address.
constexpr uint32_t kernel_stack_limit = 1024;
constexpr uint32_t stub_stack(uint32_t frame_bytes) { return (frame_bytes + 7) / 8 * 8 + 112; }

/// Largest leave frame: with what the stub needs beside it, it fits the 512 bytes of a program.
constexpr uint32_t largest_leave_frame = 400;

} // namespace ujit
