#include "translator/map_contents.h"

#include "translator/json.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <optional>
#include <set>

namespace ujit {
namespace {

namespace json = llvm::json;

/// Reads one document; every error names the file and the map that it is in.
class SeedReader {
public:
  explicit SeedReader(const std::string &file) : file_(file) {}

  Expected<std::vector<MapSeed>> document(const json::Value &root) {
    const json::Object *object = root.getAsObject();
    if (!object)
      return fail("the document must be an object with a member 'maps'");
    if (Error e = only_members(*object, {"maps"}))
      return e;
    const json::Array *maps = object->getArray("maps");
    if (!maps)
      return fail("member 'maps' must be an array");
    std::vector<MapSeed> out;
    std::set<std::string> seen;
    for (const json::Value &value : *maps) {
      Expected<MapSeed> seed = map(value);
      if (!seed)
        return seed.takeError();
      if (!seen.insert(seed->map).second)
        return fail("map appears twice");
      out.push_back(std::move(*seed));
    }
    return out;
  }

private:
  Error fail(const llvm::Twine &message) const {
    std::string text = map_.empty() ? message.str() : ("map '" + map_ + "': " + message).str();
    return input_error(std::move(text)).in_file(file_).error();
  }

  Error only_members(const json::Object &object, std::initializer_list<llvm::StringRef> known) const {
    for (const auto &member : object)
      if (std::find(known.begin(), known.end(), llvm::StringRef(member.first)) == known.end())
        return fail("unknown member '" + llvm::StringRef(member.first) + "'");
    return Error::success();
  }

  Expected<MapSeed> map(const json::Value &value) {
    map_.clear();
    const json::Object *object = value.getAsObject();
    if (!object)
      return fail("an item of 'maps' must be an object");
    std::optional<llvm::StringRef> name = object->getString("name");
    if (!name || name->empty())
      return fail("a map without a 'name'");
    map_ = name->str();
    if (Error e = only_members(*object, {"name", "entries"}))
      return e;
    const json::Array *entries = object->getArray("entries");
    if (!entries)
      return fail("member 'entries' must be an array");
    MapSeed seed{map_, {}};
    for (const json::Value &item : *entries) {
      Expected<MapEntry> read = entry(item);
      if (!read)
        return read.takeError();
      seed.entries.push_back(std::move(*read));
    }
    std::sort(seed.entries.begin(), seed.entries.end());
    auto same_key = [](const MapEntry &a, const MapEntry &b) { return a.key == b.key; };
    auto twice = std::adjacent_find(seed.entries.begin(), seed.entries.end(), same_key);
    if (twice != seed.entries.end())
      return fail("key " + to_hex(twice->key) + " appears twice");
    return seed;
  }

  Expected<MapEntry> entry(const json::Value &value) const {
    const json::Object *object = value.getAsObject();
    if (!object)
      return fail("an item of 'entries' must be an object");
    if (Error e = only_members(*object, {"key", "value", "values"}))
      return e;
    MapEntry out;
    Expected<std::vector<uint8_t>> key = bytes(object->get("key"), "key");
    if (!key)
      return key.takeError();
    out.key = std::move(*key);
    const json::Value *one = object->get("value");
    const json::Array *many = object->getArray("values");
    if ((one != nullptr) == (many != nullptr))
      return fail("an entry has either 'value' or an array 'values'");
    if (one) {
      Expected<std::vector<uint8_t>> read = bytes(one, "value");
      if (!read)
        return read.takeError();
      out.values.push_back(std::move(*read));
      return out;
    }
    if (many->empty())
      return fail("'values' must not be empty");
    for (const json::Value &item : *many) {
      Expected<std::vector<uint8_t>> read = bytes(&item, "values");
      if (!read)
        return read.takeError();
      out.values.push_back(std::move(*read));
    }
    return out;
  }

  Expected<std::vector<uint8_t>> bytes(const json::Value *value, llvm::StringRef member) const {
    std::optional<llvm::StringRef> text = value ? value->getAsString() : std::nullopt;
    if (!text)
      return fail("member '" + member + "' must be a string of hex digits");
    std::optional<std::vector<uint8_t>> out = from_hex(*text);
    if (!out)
      return fail("member '" + member + "': '" + *text + "' is not an even number of hex digits");
    return std::move(*out);
  }

  const std::string &file_;
  std::string map_;
};

} // namespace

std::string to_hex(std::span<const uint8_t> bytes) {
  return llvm::toHex(llvm::ArrayRef<uint8_t>(bytes.data(), bytes.size()), /*LowerCase=*/true);
}

std::optional<std::vector<uint8_t>> from_hex(std::string_view digits) {
  std::string bytes;
  if (digits.size() % 2 || !llvm::tryGetFromHex(digits, bytes))
    return std::nullopt;
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

Expected<std::vector<MapSeed>> parse_map_seeds(std::string_view text, const std::string &file) {
  Expected<json::Value> root = parse_json(text);
  if (!root)
    return input_error(llvm::toString(root.takeError())).in_file(file).error();
  return SeedReader(file).document(*root);
}

std::string print_map_seeds(std::span<const MapSeed> seeds) {
  std::string out;
  llvm::raw_string_ostream os(out);
  json::OStream j(os, 2);
  j.object([&] {
    j.attributeArray("maps", [&] {
      for (const MapSeed &seed : seeds)
        j.object([&] {
          j.attribute("name", json::fixUTF8(seed.map));
          j.attributeArray("entries", [&] {
            for (const MapEntry &entry : seed.entries)
              j.object([&] {
                j.attribute("key", to_hex(entry.key));
                if (entry.values.size() == 1) {
                  j.attribute("value", to_hex(entry.values.front()));
                  return;
                }
                j.attributeArray("values", [&] {
                  for (const std::vector<uint8_t> &value : entry.values)
                    j.value(to_hex(value));
                });
              });
          });
        });
    });
  });
  os << '\n';
  return out;
}

} // namespace ujit
