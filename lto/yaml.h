// YAML as plain values with places. LLVM's parser reads the text; what comes out is a tree that owns its
// strings, so that checking a manifest is ordinary code and every complaint can name a line and column.
#pragma once

#include "translator/error.h"

#include <string>
#include <string_view>
#include <vector>

namespace ujit {

/// A position in a text file, counted from 1.
struct Place {
  uint32_t line = 0, column = 0;
  std::string text() const; ///< "line 3, column 7"
  friend bool operator==(const Place &, const Place &) = default;
};

struct YamlEntry;

struct YamlNode {
  enum Kind : uint8_t { null, scalar, sequence, mapping } kind = null;
  Place place;
  std::string text;               ///< scalar: without quotes and escapes
  std::vector<YamlNode> items;    ///< sequence
  std::vector<YamlEntry> entries; ///< mapping, in the order of the file; keys are unique
};

struct YamlEntry {
  std::string key;
  Place place; ///< of the key
  YamlNode value;
};

std::string_view name_of(YamlNode::Kind kind);

/// Reads one YAML document. The text is untrusted: it may be at most 1 MiB of UTF-8 without control
/// characters, nested at most 32 deep, with plain keys; anchors, aliases, tags and directives are refused,
/// since a manifest needs none and aliases can grow exponentially. Errors (input): `line N, column M: cause`.
Expected<YamlNode> read_yaml(std::string_view text, const std::string &path);

} // namespace ujit
