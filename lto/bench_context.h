// The context structs that code of the kernel's JIT works on, as far as it looks: struct xdp_buff and struct
// sk_buff with the running kernel's (or the file's) offsets.
#pragma once

#include "lto/bench_jit.h"

#include "kernel-iface/embedded/cpu.h"

#include <memory>

namespace ujit {

class KernelContexts {
public:
  static constexpr size_t count = 64; ///< packets that are prepared at the same time

  /// Errors: a member that the layout lacks or that lies elsewhere than any kernel has it.
  static Expected<std::unique_ptr<KernelContexts>> create(const JitCode &code);

  /// The slot-th struct, filled from a CPU's packet.
  void *fill(const Cpu &cpu, size_t slot);
  /// Writes what the program may have changed back into the packet.
  void take_back(void *context, Packet &packet) const;
  /// Where packet data is, again: it has moved.
  void refill(void *context, const Packet &packet) const;

private:
  static constexpr size_t context_bytes = 512, device_bytes = 4096;
  struct Field {
    uint16_t uapi;   ///< offset in __sk_buff
    uint32_t offset; ///< in sk_buff
    uint8_t size;
    bool writable;
  };
  bool xdp_ = true;
  uint32_t data_ = 0, end_ = 0, meta_ = 0, hard_start_ = 0, queue_ = 0, device_at_ = 0, ifindex_ = 0,
           length_ = 0, pkt_len_ = 0, type_ = 0;
  std::vector<Field> fields_;
  alignas(8) uint8_t contexts_[count][context_bytes] = {};
  alignas(8) uint8_t device_[device_bytes] = {};
  const void *receive_queue_[16] = {};
};

} // namespace ujit
