#include "kernel-iface/embedded/helpers.h"

#include <algorithm>
#include <vector>

namespace ujit {

std::span<const HelperSymbol> helper_symbols() {
  static const std::vector<HelperSymbol> all = [] {
    std::vector<HelperSymbol> out;
    for (std::span<const HelperSymbol> part : {map_helpers(), packet_helpers(), skb_room_helpers(),
                                               checksum_helpers(), route_helpers(), system_helpers()})
      out.insert(out.end(), part.begin(), part.end());
    std::sort(out.begin(), out.end(),
              [](const HelperSymbol &a, const HelperSymbol &b) { return a.name < b.name; });
    return out;
  }();
  return all;
}

HelperFunction *find_helper_address(std::string_view name) {
  std::span<const HelperSymbol> all = helper_symbols();
  auto it = std::lower_bound(all.begin(), all.end(), name,
                             [](const HelperSymbol &s, std::string_view wanted) { return s.name < wanted; });
  return it != all.end() && it->name == name ? it->address : nullptr;
}

} // namespace ujit
