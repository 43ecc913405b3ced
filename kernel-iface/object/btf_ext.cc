#include "kernel-iface/object/btf.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>

namespace ujit {

using llvm::formatv;

namespace {

Error damaged(const char *what) {
  return input_error(std::string("section .BTF.ext is damaged: ") + what).error();
}

uint32_t word(std::span<const uint8_t> bytes, size_t offset) {
  uint32_t v;
  std::memcpy(&v, bytes.data() + offset, 4);
  return v;
}

/// Walks one of the three tables: a record size, then for each section its name, a count and the records.
/// `add` gets section name and record; all records have at least `least` bytes. It returns false on a bad
/// record.
template <typename Add>
Error read_table(std::span<const uint8_t> table, const Btf &btf, size_t least, Add add) {
  if (table.empty())
    return Error::success();
  if (table.size() < 4)
    return damaged("table is cut off");
  size_t record = word(table, 0);
  if (record < least || record % 4)
    return damaged("record size");
  size_t at = 4;
  while (at < table.size()) {
    if (table.size() - at < 8)
      return damaged("table is cut off");
    auto section = btf.string_at(word(table, at));
    uint64_t count = word(table, at + 4);
    at += 8;
    if (!section)
      return damaged("section name is outside of the string table");
    if (count > (table.size() - at) / record)
      return damaged("table is cut off");
    for (; count; --count, at += record)
      if (!add(std::string(*section), table.subspan(at, record)))
        return damaged("record refers to what does not exist");
  }
  return Error::success();
}

template <typename T>
void sort_by_insn(std::vector<T> &v) {
  std::stable_sort(v.begin(), v.end(), [](const T &a, const T &b) { return a.insn < b.insn; });
}

} // namespace

Expected<std::map<std::string, BtfExtSection>> parse_btf_ext(std::span<const uint8_t> bytes, const Btf &btf) {
  std::map<std::string, BtfExtSection> out;
  if (bytes.size() < 24)
    return damaged("too short for a header");
  if ((word(bytes, 0) & 0xffff) != 0xeb9f)
    return damaged("no magic number");
  uint32_t header_size = word(bytes, 4);
  if (header_size < 24 || header_size > bytes.size())
    return damaged("header size");
  std::span<const uint8_t> body = bytes.subspan(header_size);
  // Header words: (offset, size) of functions at 8, lines at 16, CO-RE relocations at 24 (absent in old
  // files).
  auto table = [&](size_t at) -> std::optional<std::span<const uint8_t>> {
    if (header_size < at + 8)
      return std::span<const uint8_t>{};
    uint64_t offset = word(bytes, at), size = word(bytes, at + 4);
    if (offset + size > body.size())
      return std::nullopt;
    return body.subspan(offset, size);
  };
  auto funcs = table(8), lines = table(16), core = table(24);
  if (!funcs || !lines || !core)
    return damaged("tables reach beyond the end");

  if (Error e = read_table(*funcs, btf, 8, [&](const std::string &section, std::span<const uint8_t> r) {
        uint32_t type = word(r, 4);
        if (!btf.has(type) || btf[type].kind != BtfKind::func)
          return false;
        out[section].funcs.push_back({word(r, 0) / 8, type});
        return true;
      }))
    return e;
  if (Error e = read_table(*lines, btf, 16, [&](const std::string &section, std::span<const uint8_t> r) {
        auto file = btf.string_at(word(r, 4)), text = btf.string_at(word(r, 8));
        if (!file || !text)
          return false;
        out[section].lines.push_back({word(r, 0) / 8, *file, *text, word(r, 12) >> 10});
        return true;
      }))
    return e;
  if (Error e = read_table(*core, btf, 16, [&](const std::string &section, std::span<const uint8_t> r) {
        auto access = btf.string_at(word(r, 8));
        if (!access || !btf.has(word(r, 4)))
          return false;
        out[section].core.push_back({word(r, 0) / 8, word(r, 4), *access, word(r, 12)});
        return true;
      }))
    return e;
  for (auto &[name, section] : out) {
    sort_by_insn(section.funcs);
    sort_by_insn(section.lines);
    sort_by_insn(section.core);
  }
  return out;
}

std::string describe(const BtfExtSection::CoreRelocation &relocation, const Btf &btf) {
  static constexpr const char *kinds[] = {"offset of field",
                                          "size of field",
                                          "existence of field",
                                          "signedness of field",
                                          "left shift of field",
                                          "right shift of field",
                                          "local id of",
                                          "target id of",
                                          "existence of",
                                          "size of",
                                          "existence of enum value",
                                          "enum value",
                                          "type match of"};
  std::string what = relocation.kind < std::size(kinds) ? kinds[relocation.kind]
                                                        : formatv("CO-RE kind {0} of", relocation.kind).str();
  uint32_t id = btf.strip(relocation.type).value_or(relocation.type);
  const BtfType *t = &btf[id];
  const char *keyword = t->kind == BtfKind::struct_                               ? "struct "
                        : t->kind == BtfKind::union_                              ? "union "
                        : t->kind == BtfKind::enum_ || t->kind == BtfKind::enum64 ? "enum "
                                                                                  : "";
  std::string path = t->name.empty() ? formatv("type {0}", id).str() : keyword + std::string(t->name);
  if (relocation.kind >= 6 && relocation.kind != 10 && relocation.kind != 11)
    return what + " " + path;

  // The access string indexes the type as an array first, then members. Anonymous members add no name.
  llvm::SmallVector<llvm::StringRef, 8> steps;
  llvm::StringRef(relocation.access.data(), relocation.access.size()).split(steps, ':');
  bool is_enum = t->kind == BtfKind::enum_ || t->kind == BtfKind::enum64;
  for (size_t i = is_enum ? 0 : 1; i < steps.size(); ++i) {
    uint32_t n = 0;
    if (steps[i].getAsInteger(10, n))
      break;
    if (t->kind == BtfKind::array) {
      path += formatv("[{0}]", n).str();
      id = t->type;
    } else if (n < t->items.size()) {
      if (!t->items[n].name.empty())
        path.append(".").append(t->items[n].name);
      id = t->items[n].type;
    } else {
      break;
    }
    t = &btf[btf.strip(id).value_or(0)];
  }
  return what + " " + path;
}

} // namespace ujit
