#include "lto/trace.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <map>

namespace ujit {

namespace {

using llvm::formatv;

constexpr size_t line_bytes = 16;

/// The sixteen bytes around the first difference: "4 bytes at 0x10: 0a 00 00 01".
std::string hex_line(std::span<const uint8_t> bytes, size_t at) {
  const size_t start = at / line_bytes * line_bytes;
  std::string out = formatv("{0} bytes", bytes.size());
  if (start >= bytes.size())
    return out;
  out += formatv(", {0:x4}:", start);
  for (size_t i = start; i < std::min(bytes.size(), start + line_bytes); ++i)
    out += formatv(i == at ? " [{0:x-2}]" : " {0:x-2}", bytes[i]);
  return out;
}

class Comparer {
public:
  Comparer(const Trace &left, const Trace &right, size_t limit) : left_(left), right_(right), limit_(limit) {}

  Comparison run() {
    for (size_t i = 0; i < std::min(left_.packets.size(), right_.packets.size()); ++i)
      packet(i, left_.packets[i], right_.packets[i]);
    packet_.reset();
    if (left_.packets.size() != right_.packets.size())
      differ("packets", std::to_string(left_.packets.size()), std::to_string(right_.packets.size()));
    maps();
    events();
    return std::move(out_);
  }

private:
  void differ(std::string field, std::string left, std::string right) {
    if (++out_.total <= limit_)
      out_.differences.push_back(
          {left_.executor, right_.executor, packet_, std::move(field), std::move(left), std::move(right)});
  }

  void bytes(const std::string &field, std::span<const uint8_t> left, std::span<const uint8_t> right) {
    const auto [l, r] = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
    if (l == left.end() && r == right.end())
      return;
    const auto at = size_t(l - left.begin());
    differ(field, hex_line(left, at), hex_line(right, at));
  }

  static std::string text(const std::optional<RedirectTarget> &r) {
    if (!r)
      return "none";
    const std::string flags = r->flags ? formatv(", flags {0:x}", r->flags).str() : "";
    return r->map.empty() ? formatv("interface {0}{1}", r->key, flags).str()
                          : formatv("{0}[{1}]{2}", r->map, r->key, flags).str();
  }

  void packet(size_t i, const Observation &l, const Observation &r) {
    if (l.not_run || r.not_run)
      return;
    packet_ = i;
    if (l.retval != r.retval)
      differ("return value", std::to_string(int32_t(l.retval)), std::to_string(int32_t(r.retval)));
    bytes("packet", l.packet, r.packet);
    bytes("metadata", l.metadata, r.metadata);
    if (l.context && r.context)
      bytes("context", *l.context, *r.context);
    if (l.redirect && r.redirect && *l.redirect != *r.redirect)
      differ("redirect", text(*l.redirect), text(*r.redirect));
  }

  void maps() {
    auto r = right_.maps.begin();
    for (const MapSeed &l : left_.maps) {
      while (r != right_.maps.end() && r->map < l.map)
        ++r;
      if (r != right_.maps.end() && r->map == l.map)
        entries(l, *r);
    }
  }

  void entries(const MapSeed &l, const MapSeed &r) {
    auto a = l.entries.begin(), b = r.entries.begin();
    const std::string field = "map " + l.map;
    while (a != l.entries.end() || b != r.entries.end()) {
      if (b == r.entries.end() || (a != l.entries.end() && a->key < b->key)) {
        differ(formatv("{0}[{1}]", field, to_hex(a->key)), value_text(*a), "absent");
        ++a;
      } else if (a == l.entries.end() || b->key < a->key) {
        differ(formatv("{0}[{1}]", field, to_hex(b->key)), "absent", value_text(*b));
        ++b;
      } else {
        const size_t copies = std::max(a->values.size(), b->values.size());
        for (size_t cpu = 0; cpu < copies; ++cpu) {
          std::string name = formatv("{0}[{1}]", field, to_hex(a->key));
          if (copies > 1)
            name += formatv(", CPU {0}", cpu);
          bytes(name, copy(*a, cpu), copy(*b, cpu));
        }
        ++a, ++b;
      }
    }
  }

  static std::string value_text(const MapEntry &e) {
    return e.values.empty() ? "" : hex_line(e.values[0], 0);
  }

  static std::span<const uint8_t> copy(const MapEntry &e, size_t cpu) {
    return cpu < e.values.size() ? std::span<const uint8_t>(e.values[cpu]) : std::span<const uint8_t>();
  }

  void events() {
    for (const EventTrace &l : left_.events) {
      const auto r = std::find_if(right_.events.begin(), right_.events.end(),
                                  [&](const EventTrace &e) { return e.map == l.map; });
      if (r == right_.events.end())
        continue;
      if (l.samples.size() != r->samples.size())
        differ("number of events of " + l.map, std::to_string(l.samples.size()),
               std::to_string(r->samples.size()));
      for (size_t i = 0; i < std::min(l.samples.size(), r->samples.size()); ++i) {
        std::span<const uint8_t> a = l.samples[i], b = r->samples[i];
        if (l.padded != r->padded) { // compare what the one without padding has
          const size_t length = l.padded ? b.size() : a.size();
          a = a.first(std::min(a.size(), length));
          b = b.first(std::min(b.size(), length));
        }
        bytes(formatv("event {0} of {1}", i, l.map), a, b);
      }
    }
  }

  const Trace &left_;
  const Trace &right_;
  const size_t limit_;
  std::optional<size_t> packet_;
  Comparison out_;
};

} // namespace

Comparison compare(const Trace &left, const Trace &right, size_t limit) {
  return Comparer(left, right, limit).run();
}

std::string print_difference(const Difference &d) {
  const std::string where = d.packet ? formatv("packet {0}, {1}", *d.packet, d.field).str() : d.field;
  const size_t width = std::max(d.left.size(), d.right.size());
  std::string out = formatv("difference: {0}\n", where);
  for (const auto &[name, value] : {std::pair(&d.left, &d.left_value), std::pair(&d.right, &d.right_value)})
    out += "  " + *name + std::string(width - name->size() + 2, ' ') + *value + '\n';
  return out;
}

} // namespace ujit
