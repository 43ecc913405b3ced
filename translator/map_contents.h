// Contents of maps as plain values: what a seed file brings, what the embedded kernel and the running
// kernel are asked for after a run, and what `check` compares. Bytes are as the program sees them
// (host order); how a map keeps them is not visible here.
//
//     { "maps": [ { "name": "services", "entries": [
//         { "key": "0a000001", "value": "00000007" },
//         { "key": "0a000002", "values": ["01", "02"] } ] } ] }
//
// `values` has one item for each possible CPU, in CPU order. A single `value` given for a per-CPU map
// is meant for every CPU.
#pragma once

#include "translator/error.h"

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct MapEntry {
  std::vector<uint8_t> key;
  std::vector<std::vector<uint8_t>> values; ///< one; for per-CPU maps one or as many as possible CPUs
  auto operator<=>(const MapEntry &) const = default;
};

/// The entries of one map, sorted by key bytes.
using MapContents = std::vector<MapEntry>;

/// The contents of the map called `map`.
struct MapSeed {
  std::string map;
  MapContents entries;
  friend bool operator==(const MapSeed &, const MapSeed &) = default;
};

/// Reads the JSON form above. The order of maps is kept, entries are sorted by key. `file` is for messages
/// only. Errors: not JSON, unknown or missing members, hex of odd length, a map or a key that appears twice.
Expected<std::vector<MapSeed>> parse_map_seeds(std::string_view json, const std::string &file);

/// The same form, two spaces deep, one line an entry's member; ends with a newline.
std::string print_map_seeds(std::span<const MapSeed> seeds);

/// "0a000001": two lower-case digits a byte.
std::string to_hex(std::span<const uint8_t> bytes);

/// Bytes of a hex string; none if its length is odd or a character is no hex digit.
std::optional<std::vector<uint8_t>> from_hex(std::string_view digits);

} // namespace ujit
