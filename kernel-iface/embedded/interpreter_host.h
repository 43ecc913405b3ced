// The reference interpreter on the embedded kernel: the same maps, helpers and packets as native code.
#pragma once

#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/kernel.h"
#include "translator/interpreter.h"

namespace ujit {

class EmbeddedHost final : public InterpreterHost {
public:
  explicit EmbeddedHost(Kernel &kernel);

  Expected<uint64_t> map_address(MapId map) override;
  Expected<uint64_t> map_value_address(MapId map, uint64_t offset) override;
  Expected<uint64_t> call_helper(Interpreter &interpreter, uint32_t id,
                                 const std::array<uint64_t, 5> &args) override;
  const Program *tail_call_target(uint64_t map, uint32_t index) override;
  std::optional<uint64_t> load_packet(uint64_t context, int32_t offset, unsigned bits) override;

  Kernel &kernel() { return kernel_; }

private:
  Kernel &kernel_;
  std::vector<HelperFunction *> helpers_; ///< by id
};

/// Options for interpreting programs of this type on the embedded kernel.
InterpreterOptions interpreter_options(ProgType type);

/// Kernel::run_packet with the interpreter, which must work on this kernel's host.
Expected<PacketResult> run_interpreted(Kernel &kernel, Interpreter &interpreter, ProgId entry,
                                       std::span<const uint8_t> packet, uint32_t cpu = 0);

/// `bits` (8, 16 or 32) of the current packet in host order, as ld_abs and ld_ind load them: from the start
/// of the packet, or from link or network header for offsets at SKF_LL_OFF and SKF_NET_OFF. None: outside.
std::optional<uint32_t> load_from_packet(int32_t offset, unsigned bits);

} // namespace ujit
