#include "lto/noise.h"

#include "llvm/ADT/STLExtras.h"

#include <algorithm>

namespace ujit {

namespace {

using Bytes = std::vector<uint8_t>;
using Entries = std::map<Bytes, std::vector<Bytes>>;

constexpr size_t word = 4;

class Leveller {
public:
  explicit Leveller(const Pipeline &pipeline) : pipeline_(pipeline) {}

  void observation(const Observation &before, Observation &between, const Observation &after) {
    if (before.calls != after.calls) {
      between.calls = before.calls;
      ++varied_["helper calls"];
    }
    packet(before.result, between.result, after.result);
  }

  void packet(const PacketResult &before, PacketResult &between, const PacketResult &after) {
    if (before.value != after.value) {
      between.value = before.value;
      ++varied_["return value"];
    }
    bytes("packet", before.packet, between.packet, after.packet);
    bytes("metadata", before.metadata, between.metadata, after.metadata);
    bytes("context", before.context, between.context, after.context);
    events(before.events, between.events, after.events);
  }

  void map(const MapSeed &before, MapSeed &between, const MapSeed &after) {
    const Entries a = by_key(before), c = by_key(after);
    Entries b = by_key(between);
    bool keys_vary = false;
    auto only = [&](const Bytes &key, bool in_before) {
      keys_vary = true;
      ++varied_[before.map];
      b.erase(key);
      if (in_before)
        b.emplace(key, a.at(key));
    };
    for (const auto &[key, values] : c)
      if (!a.count(key))
        only(key, false);
    for (const auto &[key, values] : a) {
      const auto again = c.find(key);
      if (again == c.end()) {
        only(key, true);
      } else if (const auto it = b.find(key); it != b.end()) {
        for (size_t i = 0; i < std::min({values.size(), again->second.size(), it->second.size()}); ++i)
          bytes(before.map, values[i], it->second[i], again->second[i]);
      }
    }
    if (keys_vary)
      std::erase_if(b, [&](const auto &e) { return !a.count(e.first); });
    between.entries.clear();
    for (auto &[key, values] : b)
      between.entries.push_back({key, std::move(values)});
  }

  std::map<std::string, size_t> take() { return std::move(varied_); }

private:
  void bytes(const std::string &field, const Bytes &before, Bytes &between, const Bytes &after) {
    if (before == after)
      return;
    if (before.size() != after.size()) {
      between = before;
      ++varied_[field];
      return;
    }
    for (size_t at = 0; at < before.size(); at += word) {
      const size_t end = std::min(at + word, before.size());
      if (std::equal(before.begin() + at, before.begin() + end, after.begin() + at))
        continue;
      ++varied_[field];
      if (between.size() == before.size())
        std::copy(before.begin() + at, before.begin() + end, between.begin() + at);
    }
  }

  void events(const std::vector<Event> &before, std::vector<Event> &between,
              const std::vector<Event> &after) {
    const auto same_map = [](const Event &a, const Event &b) { return a.map == b.map; };
    if (!std::equal(before.begin(), before.end(), after.begin(), after.end(), same_map)) {
      between = before;
      ++varied_["events"];
      return;
    }
    if (between.size() != before.size())
      return;
    for (size_t i = 0; i < before.size(); ++i)
      bytes("events of " + pipeline_[before[i].map].name, before[i].data, between[i].data, after[i].data);
  }

  static Entries by_key(const MapSeed &map) {
    Entries out;
    for (const MapEntry &e : map.entries)
      out.emplace(e.key, e.values);
    return out;
  }

  const Pipeline &pipeline_;
  std::map<std::string, size_t> varied_;
};

} // namespace

std::map<std::string, size_t> level_noise(const Pipeline &pipeline, const Trace &before, Trace &between,
                                          const Trace &after) {
  Leveller leveller(pipeline);
  for (size_t i = 0; i < before.packets.size(); ++i)
    leveller.observation(before.packets[i], between.packets[i], after.packets[i]);
  for (MapSeed &m : between.maps) {
    const auto named = [&](const MapSeed &other) { return other.map == m.map; };
    const auto a = llvm::find_if(before.maps, named), c = llvm::find_if(after.maps, named);
    if (a != before.maps.end() && c != after.maps.end())
      leveller.map(*a, m, *c);
  }
  return leveller.take();
}

} // namespace ujit
