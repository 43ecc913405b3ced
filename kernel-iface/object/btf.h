// BTF, the type information in section .BTF, and its companion .BTF.ext (which function, which source line
// and which CO-RE relocation belong to an instruction). Layouts: Documentation/bpf/btf.rst in the kernel's
// sources. Our own reader, since libbpf's needs Linux and this folder does not.
#pragma once

#include "translator/error.h"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

enum class BtfKind : uint8_t {
  unknown,
  int_,
  ptr,
  array,
  struct_,
  union_,
  enum_,
  fwd,
  typedef_,
  volatile_,
  const_,
  restrict_,
  func,
  func_proto,
  var,
  datasec,
  float_,
  decl_tag,
  type_tag,
  enum64,
};

/// A member of a struct or union, a value of an enum, a parameter, or a variable of a section.
struct BtfItem {
  std::string_view name;
  uint32_t type = 0;
  uint32_t offset = 0; ///< members: bits; section variables: bytes
  uint32_t size = 0;   ///< members: bits of a bit field, else 0; section variables: bytes
  uint64_t value = 0;  ///< enums; 32-bit values are sign-extended if the enum is signed
};

struct BtfType {
  BtfKind kind = BtfKind::unknown;
  std::string_view name;
  uint32_t size = 0;     ///< bytes, for kinds that have a size
  uint32_t type = 0;     ///< the type that this one refers to; elements of an array; 0: void
  uint32_t count = 0;    ///< elements of an array
  uint32_t linkage = 0;  ///< func, var: 0 static, 1 global, 2 extern
  int32_t component = 0; ///< decl_tag: -1 is the whole declaration
  std::vector<BtfItem> items;
};

/// All types, by id; [0] is void. Type ids inside are checked to exist. Movable only: names point into
/// `bytes_`.
class Btf {
public:
  /// Errors: damaged, or of a kind that we do not know.
  static Expected<Btf> parse(std::span<const uint8_t> bytes);

  Btf() : types_(1) {}
  Btf(Btf &&) = default;
  Btf &operator=(Btf &&) = default;

  const std::vector<BtfType> &types() const { return types_; }
  const BtfType &operator[](uint32_t id) const { return types_[id]; }
  bool has(uint32_t id) const { return id < types_.size(); }
  bool empty() const { return types_.size() == 1; }

  /// String at an offset of the string table, or none if that is outside.
  std::optional<std::string_view> string_at(uint32_t offset) const;

  /// `id` without typedefs and qualifiers; none if the chain is too long to be sane.
  std::optional<uint32_t> strip(uint32_t id) const;

  /// Size in bytes; none for types without one, endless or overflowing ones.
  std::optional<uint32_t> size_of(uint32_t id) const;

  /// First type of that kind and name, or 0.
  uint32_t find(BtfKind kind, std::string_view name) const;

private:
  std::vector<uint8_t> bytes_;
  std::span<const uint8_t> strings_;
  std::vector<BtfType> types_;
};

/// What .BTF.ext says of the instructions of one section; `insn` counts slots from the section's start.
/// Sorted by insn.
struct BtfExtSection {
  struct Func {
    uint32_t insn = 0;
    uint32_t type = 0; ///< id of a BTF func
  };
  struct Line {
    uint32_t insn = 0;
    std::string_view file, text; ///< point into the Btf
    uint32_t line = 0;
  };
  struct CoreRelocation {
    uint32_t insn = 0;
    uint32_t type = 0;
    std::string_view access; ///< "0:1:2"
    uint32_t kind = 0;       ///< enum bpf_core_relo_kind
  };
  std::vector<Func> funcs;
  std::vector<Line> lines;
  std::vector<CoreRelocation> core;
};

/// By section name. `btf` must outlive the result. Errors: damaged.
Expected<std::map<std::string, BtfExtSection>> parse_btf_ext(std::span<const uint8_t> bytes, const Btf &btf);

/// "field struct sk_buff.len", "existence of struct x", for messages.
std::string describe(const BtfExtSection::CoreRelocation &relocation, const Btf &btf);

} // namespace ujit
