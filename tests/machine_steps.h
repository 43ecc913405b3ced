#pragma once

#include "kernel-iface/image/elf.h"
#include "lto/machine_code.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <gtest/gtest.h>

namespace ujit {

/// How many machine instructions in the code of an image are `wanted`.
inline size_t count_steps(std::span<const uint8_t> image,
                          llvm::function_ref<bool(const MachineStep &)> wanted) {
  auto object = read_elf(image);
  EXPECT_TRUE(bool(object)) << llvm::toString(object.takeError());
  llvm::ArrayRef<uint8_t> code = object->sections[object->find_section(".text")].contents;
  size_t n = 0;
  MachineDecoder decoder;
  for (uint64_t at = 0; at < code.size();) {
    auto step = decoder.decode(code.drop_front(at), at);
    if (!step) {
      ADD_FAILURE() << "no machine instruction at " << at;
      break;
    }
    n += wanted(*step);
    at += step->size;
  }
  return n;
}

} // namespace ujit
