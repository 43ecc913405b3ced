// Return thunks, as a kernel with return mitigations has them: every `ret` is a jump to a piece of code that
// returns in a way the processor does not speculate on.
#pragma once

#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/kernel.h"

#include "translator/error.h"

#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace ujit {

/// Bytes of a return thunk (the kernel's srso_alias_return_thunk), which may be copied anywhere. Its first
/// byte is where it is jumped to.
std::span<const uint8_t> return_thunk();

/// Stubs that make code which returns plainly return through a thunk: helpers, each as often as the kernel's
/// function of that name returns on its usual path, and entries of programs. A stub costs one call more than
/// code that was compiled so; it is the same for all that is measured.
class ReturnThunks {
public:
  /// Errors: no memory.
  static Expected<std::unique_ptr<ReturnThunks>> create();
  ~ReturnThunks();
  ReturnThunks(const ReturnThunks &) = delete;

  /// Null stays null.
  HelperFunction *helper(std::string_view name, HelperFunction *function);
  NativeEntry entry(NativeEntry function);
  /// All of them lie here, as (address, size).
  std::pair<uint64_t, uint64_t> range() const;

private:
  ReturnThunks() = default;
  uint8_t *stub(uint64_t target, unsigned returns);

  uint8_t *base_ = nullptr, *next_ = nullptr;
  std::map<std::pair<uint64_t, unsigned>, uint8_t *> stubs_;
};

} // namespace ujit
