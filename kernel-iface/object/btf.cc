#include "kernel-iface/object/btf.h"

#include "llvm/Support/FormatVariadic.h"

#include <cstring>

namespace ujit {

using llvm::formatv;

namespace {

/// Longest chain of typedefs, qualifiers and arrays that is followed. The kernel stops at 32 as well.
constexpr int max_depth = 32;

Error damaged(const char *what) {
  return input_error(std::string("section .BTF is damaged: ") + what).error();
}

/// Takes little-endian words from the front of a byte string.
class Cursor {
public:
  explicit Cursor(std::span<const uint8_t> bytes) : rest_(bytes) {}
  size_t left() const { return rest_.size(); }
  bool has(size_t bytes) const { return rest_.size() >= bytes; }
  /// has(4) must hold.
  uint32_t u32() {
    uint32_t v;
    std::memcpy(&v, rest_.data(), 4);
    rest_ = rest_.subspan(4);
    return v;
  }

private:
  std::span<const uint8_t> rest_;
};

/// Bytes of one item behind the 12-byte record of a type, and bytes that the record itself has behind it.
std::optional<std::pair<size_t, size_t>> trailer(BtfKind kind) {
  switch (kind) {
  case BtfKind::int_:
  case BtfKind::var:
  case BtfKind::decl_tag: return {{4, 0}};
  case BtfKind::array: return {{12, 0}};
  case BtfKind::struct_:
  case BtfKind::union_:
  case BtfKind::datasec:
  case BtfKind::enum64: return {{0, 12}};
  case BtfKind::enum_:
  case BtfKind::func_proto: return {{0, 8}};
  case BtfKind::ptr:
  case BtfKind::fwd:
  case BtfKind::typedef_:
  case BtfKind::volatile_:
  case BtfKind::const_:
  case BtfKind::restrict_:
  case BtfKind::func:
  case BtfKind::float_:
  case BtfKind::type_tag: return {{0, 0}};
  case BtfKind::unknown: break;
  }
  return std::nullopt;
}

bool refers_to_type(BtfKind kind) {
  switch (kind) {
  case BtfKind::ptr:
  case BtfKind::typedef_:
  case BtfKind::volatile_:
  case BtfKind::const_:
  case BtfKind::restrict_:
  case BtfKind::func:
  case BtfKind::func_proto:
  case BtfKind::var:
  case BtfKind::decl_tag:
  case BtfKind::type_tag: return true;
  default: return false;
  }
}

} // namespace

std::optional<std::string_view> Btf::string_at(uint32_t offset) const {
  if (offset >= strings_.size())
    return offset == 0 ? std::optional<std::string_view>("") : std::nullopt;
  // The table ends with a zero byte: parse() checked it.
  return std::string_view(reinterpret_cast<const char *>(strings_.data()) + offset);
}

Expected<Btf> Btf::parse(std::span<const uint8_t> bytes) {
  Btf btf;
  btf.bytes_.assign(bytes.begin(), bytes.end());
  std::span<const uint8_t> all = btf.bytes_;
  Cursor header(all);
  if (!header.has(24))
    return damaged("too short for a header");
  if (uint32_t magic = header.u32(); (magic & 0xffff) != 0xeb9f)
    return damaged("no magic number");
  uint32_t header_size = header.u32(), type_offset = header.u32(), type_size = header.u32(),
           string_offset = header.u32(), string_size = header.u32();
  if (header_size < 24 || header_size > all.size())
    return damaged("header size");
  std::span<const uint8_t> body = all.subspan(header_size);
  auto fits = [&](uint64_t offset, uint64_t size) { return offset + size <= body.size(); };
  if (!fits(type_offset, type_size) || !fits(string_offset, string_size))
    return damaged("tables reach beyond the end");
  btf.strings_ = body.subspan(string_offset, string_size);
  if (!btf.strings_.empty() && btf.strings_.back() != 0)
    return damaged("string table does not end with a zero byte");

  Cursor in(body.subspan(type_offset, type_size));
  while (in.left()) {
    if (!in.has(12))
      return damaged("type record is cut off");
    uint32_t name = in.u32(), info = in.u32(), size_or_type = in.u32();
    BtfType t;
    uint32_t raw_kind = (info >> 24) & 0x1f, count = info & 0xffff;
    bool kind_flag = info >> 31;
    if (raw_kind == 0 || raw_kind > uint32_t(BtfKind::enum64))
      return unsupported(
                 formatv("BTF type {0} is of kind {1}, which is not known", btf.types_.size(), raw_kind)
                     .str())
          .error();
    t.kind = BtfKind(raw_kind);
    if (auto s = btf.string_at(name))
      t.name = *s;
    else
      return damaged("name is outside of the string table");
    (refers_to_type(t.kind) ? t.type : t.size) = size_or_type;
    auto [own, per_item] = *trailer(t.kind);
    if (per_item == 0 && t.kind == BtfKind::func)
      t.linkage = count;
    if (!in.has(own + per_item * count))
      return damaged("type record is cut off");
    switch (t.kind) {
    case BtfKind::int_: in.u32(); break;
    case BtfKind::var: t.linkage = in.u32(); break;
    case BtfKind::decl_tag: t.component = int32_t(in.u32()); break;
    case BtfKind::array:
      t.type = in.u32();
      in.u32();
      t.count = in.u32();
      break;
    default: break;
    }
    if (per_item)
      t.items.reserve(count);
    for (uint32_t i = 0; per_item && i < count; ++i) {
      BtfItem item;
      uint32_t first = in.u32(), second = in.u32();
      if (t.kind == BtfKind::datasec) {
        item.type = first;
        item.offset = second;
        item.size = in.u32();
      } else {
        auto s = btf.string_at(first);
        if (!s)
          return damaged("name is outside of the string table");
        item.name = *s;
        if (t.kind == BtfKind::func_proto) {
          item.type = second;
        } else if (t.kind == BtfKind::enum_) {
          item.value = kind_flag ? uint64_t(int64_t(int32_t(second))) : second;
        } else if (t.kind == BtfKind::enum64) {
          item.value = second | uint64_t(in.u32()) << 32;
        } else {
          item.type = second;
          item.offset = in.u32();
          if (kind_flag) {
            item.size = item.offset >> 24;
            item.offset &= 0xffffff;
          }
        }
      }
      t.items.push_back(item);
    }
    btf.types_.push_back(std::move(t));
  }

  for (const BtfType &t : btf.types_) {
    bool ok = btf.has(t.type);
    for (const BtfItem &item : t.items)
      ok = ok && btf.has(item.type);
    if (!ok)
      return damaged("a type refers to one that does not exist");
  }
  return btf;
}

std::optional<uint32_t> Btf::strip(uint32_t id) const {
  for (int i = 0; i < max_depth; ++i) {
    switch (types_[id].kind) {
    case BtfKind::typedef_:
    case BtfKind::volatile_:
    case BtfKind::const_:
    case BtfKind::restrict_:
    case BtfKind::type_tag: id = types_[id].type; break;
    default: return id;
    }
  }
  return std::nullopt;
}

std::optional<uint32_t> Btf::size_of(uint32_t id) const {
  uint64_t elements = 1;
  for (int i = 0; i < max_depth; ++i) {
    auto stripped = strip(id);
    if (!stripped)
      return std::nullopt;
    const BtfType &t = types_[*stripped];
    uint64_t size = 0;
    switch (t.kind) {
    case BtfKind::array:
      elements *= t.count;
      if (elements > UINT32_MAX)
        return std::nullopt;
      id = t.type;
      continue;
    case BtfKind::ptr: size = 8; break;
    case BtfKind::var: id = t.type; continue;
    case BtfKind::int_:
    case BtfKind::struct_:
    case BtfKind::union_:
    case BtfKind::enum_:
    case BtfKind::enum64:
    case BtfKind::float_: size = t.size; break;
    default: return std::nullopt;
    }
    size *= elements;
    return size <= UINT32_MAX ? std::optional<uint32_t>(size) : std::nullopt;
  }
  return std::nullopt;
}

uint32_t Btf::find(BtfKind kind, std::string_view name) const {
  for (uint32_t id = 1; id < types_.size(); ++id)
    if (types_[id].kind == kind && types_[id].name == name)
      return id;
  return 0;
}

} // namespace ujit
