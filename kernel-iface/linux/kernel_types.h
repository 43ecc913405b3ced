// Layouts of the running kernel's structs, from its BTF.
#pragma once

#include "translator/error.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct btf;

namespace ujit {

class KernelTypes {
public:
  /// Errors: the kernel tells no BTF.
  static Expected<KernelTypes> read();

  /// Byte offset of a member, also of one in an unnamed struct or union inside. Errors: no such struct or
  /// member.
  Expected<uint32_t> offset_of(const std::string &type, const std::string &member) const;
  /// First bit of a member, counted from the struct's start. Errors: as above.
  Expected<uint32_t> bit_offset_of(const std::string &type, const std::string &member) const;
  /// Byte offsets of all pointers in a struct, also in structs and unions inside, sorted.
  Expected<std::vector<uint32_t>> pointers_in(const std::string &type) const;
  /// Bytes of a struct.
  Expected<uint32_t> size_of(const std::string &type) const;

private:
  struct Free {
    void operator()(btf *b) const;
  };
  explicit KernelTypes(btf *b) : btf_(b) {}
  std::unique_ptr<btf, Free> btf_;
};

} // namespace ujit
