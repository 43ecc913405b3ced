// Names that say into which slot of which prog array a program goes: sections `2/7` or `jmp_table/7`, and
// declaration tags `tail:jmp_table/7`.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ujit {

struct SlotName {
  std::string_view map;
  std::optional<uint32_t> map_id; ///< `map` as a number, for iproute2's ids
  uint32_t slot = 0;
};

/// Decimal or 0x-hexadecimal.
inline std::optional<uint32_t> parse_number(std::string_view text) {
  int base = text.starts_with("0x") ? 16 : 10;
  if (base == 16)
    text.remove_prefix(2);
  uint32_t n = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n, base);
  if (error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return n;
}

/// `MAP/N`, or none.
inline std::optional<SlotName> parse_slot_section(std::string_view name) {
  size_t slash = name.rfind('/');
  if (slash == 0 || slash == std::string_view::npos)
    return std::nullopt;
  auto slot = parse_number(name.substr(slash + 1));
  if (!slot)
    return std::nullopt;
  return SlotName{name.substr(0, slash), parse_number(name.substr(0, slash)), *slot};
}

/// `tail:MAP/N`, or none.
inline std::optional<SlotName> parse_slot_tag(std::string_view tag) {
  constexpr std::string_view prefix = "tail:";
  return tag.starts_with(prefix) ? parse_slot_section(tag.substr(prefix.size())) : std::nullopt;
}

} // namespace ujit
