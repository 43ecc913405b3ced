// What user space cannot ask the kernel for, through the BPF programs of iterators.bpf.c: where objects are,
// their hidden flags, names of addresses, and kernel memory.
#pragma once

#include "kernel-iface/linux/iterators.h"
#include "translator/error.h"

#include <memory>
#include <span>
#include <string>
#include <vector>

struct bpf_object;
struct bpf_program;

namespace ujit {

struct ProgramInKernel {
  program_record record{};
  std::vector<function_record> functions; ///< main first
};

/// A piece of kernel memory and where it goes.
struct KernelRange {
  uint64_t address = 0;
  std::span<uint8_t> to;
};

class KernelReader {
public:
  /// Loads the programs, once. Errors: missing privileges, lockdown, a kernel without iterators.
  static Expected<KernelReader> load();
  KernelReader(KernelReader &&) noexcept;
  KernelReader &operator=(KernelReader &&) = delete;
  ~KernelReader();

  // Each of these tells of all ids that this reader was ever asked for, as far as they exist, in no order.
  Expected<std::vector<ProgramInKernel>> programs(std::span<const uint32_t> ids);
  Expected<std::vector<map_record>> maps(std::span<const uint32_t> ids);
  /// That of the one map behind `fd`.
  Expected<map_record> map(int fd);
  /// Tracing links (fentry, fexit, fmod_ret, freplace) whose target is one of the programs asked for.
  Expected<std::vector<link_record>> links();

  /// All symbols at these addresses or with these names (at most 62 letters). One pass over all symbols.
  Expected<std::vector<symbol_record>> symbols(std::span<const uint64_t> addresses,
                                               std::span<const std::string> names);

  /// Errors: an address that cannot be read.
  Error copy(std::span<const KernelRange> ranges);

  /// What `imm` of helper calls counts from. To be confirmed by its symbol, __bpf_call_base.
  Expected<uint64_t> call_base();

private:
  struct State;
  explicit KernelReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace ujit
