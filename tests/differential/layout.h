// What all parts of the generator know of a function's registers and stack.
#pragma once

#include <cstdint>
#include <linux/bpf.h>

#ifndef BPF_MEMSX
#define BPF_MEMSX 0x80
#endif
#ifndef BPF_LOAD_ACQ
#define BPF_LOAD_ACQ 0x100
#define BPF_STORE_REL 0x110
#endif

namespace ujit {

// The stack of every function, by offset from r10.
constexpr int16_t key_slot = -8, long_key_slot = -16, value_slot = -32, spill_slot = -40, callback_slot = -48,
                  buffer_slot = -64;
constexpr int16_t free_low = -128, free_high = -72; ///< for scalars at any place

/// Registers with a purpose: the pointer that is kept, the context, the count of loops.
constexpr unsigned held = 9, context = 6, counter = 8;

constexpr uint8_t size_code(uint32_t bytes) {
  return bytes == 1 ? BPF_B : bytes == 2 ? BPF_H : bytes == 4 ? BPF_W : BPF_DW;
}

} // namespace ujit
