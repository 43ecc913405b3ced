#include "lto/trace.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <span>

namespace ujit {

namespace {

using llvm::formatv;
using Bytes = std::span<const uint8_t>;

constexpr size_t line_bytes = 16;

/// The sixteen bytes around position `at`, which is marked: "4 bytes, 0x0000: 0a 00 [00] 01".
std::string hex_line(Bytes bytes, std::optional<size_t> at) {
  const size_t start = at.value_or(0) / line_bytes * line_bytes;
  std::string out = formatv("{0} byte{1}", bytes.size(), bytes.size() == 1 ? "" : "s");
  if (start >= bytes.size())
    return out;
  out += formatv(", {0:x4}:", start);
  for (size_t i = start; i < std::min(bytes.size(), start + line_bytes); ++i) {
    const std::string byte = formatv("{0:x-2}", bytes[i]);
    out += i == at ? " [" + byte + "]" : " " + byte;
  }
  return out;
}

class Comparer {
public:
  Comparer(const Pipeline &pipeline, const Trace &left, const Trace &right, size_t limit)
      : pipeline_(pipeline), left_(left), right_(right), limit_(limit) {}

  Comparison run() {
    for (size_t i = 0; i < std::min(left_.packets.size(), right_.packets.size()); ++i) {
      packet_ = i;
      if (left_.packets[i].not_run.empty() && right_.packets[i].not_run.empty())
        observation(left_.packets[i], right_.packets[i]);
    }
    packet_.reset();
    for (const MapSeed &l : left_.maps) {
      const auto r = llvm::find_if(right_.maps, [&](const MapSeed &m) { return m.map == l.map; });
      if (r != right_.maps.end())
        map(l, *r);
    }
    return std::move(out_);
  }

private:
  void differ(const std::string &field, const std::string &left, const std::string &right) {
    if (++out_.total <= limit_)
      out_.differences.push_back({left_.executor, right_.executor, packet_, field, left, right});
  }

  void numbers(const std::string &field, int64_t left, int64_t right) {
    if (left != right)
      differ(field, std::to_string(left), std::to_string(right));
  }

  void bytes(const std::string &field, Bytes left, Bytes right) {
    const auto [l, r] = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
    if (l == left.end() && r == right.end())
      return;
    const auto at = size_t(l - left.begin());
    differ(field, hex_line(left, at), hex_line(right, at));
  }

  void observation(const Observation &l, const Observation &r) {
    packet(l.result, r.result);
    if (left_.sees_calls && right_.sees_calls && l.calls != r.calls)
      differ("helper calls", llvm::join(l.calls, ", "), llvm::join(r.calls, ", "));
  }

  void packet(const PacketResult &l, const PacketResult &r) {
    numbers("return value", int32_t(l.value), int32_t(r.value));
    bytes("packet", l.packet, r.packet);
    bytes("metadata", l.metadata, r.metadata);
    context(l.context, r.context);
    if (left_.sees_redirects && right_.sees_redirects && l.redirect != r.redirect)
      differ("redirect", text(l.redirect), text(r.redirect));
    if (left_.sees_clones && right_.sees_clones)
      clones(l.clones, r.clones);
    if (left_.sees_printed && right_.sees_printed && l.printed != r.printed)
      differ("printed text", llvm::join(l.printed, " | "), llvm::join(r.printed, " | "));
    events(l.events, r.events);
  }

  /// Where an executor does not see everything, only the ranges that it sees count.
  void context(Bytes l, Bytes r) {
    std::vector<uint8_t> seen_l(l.begin(), l.end()), seen_r(r.begin(), r.end());
    for (const auto *ranges : {&left_.context_ranges, &right_.context_ranges})
      if (*ranges) {
        keep(seen_l, **ranges);
        keep(seen_r, **ranges);
      }
    if (left_.context_ranges || right_.context_ranges) {
      seen_l.resize(std::max(seen_l.size(), seen_r.size()));
      seen_r.resize(seen_l.size());
    }
    bytes("context", seen_l, seen_r);
  }

  /// Zeroes everything outside of `ranges`.
  static void keep(std::vector<uint8_t> &context, std::span<const std::pair<uint32_t, uint32_t>> ranges) {
    std::vector<uint8_t> out(context.size());
    for (const auto &[offset, size] : ranges)
      for (size_t i = offset; i < std::min<size_t>(context.size(), offset + size); ++i)
        out[i] = context[i];
    context = std::move(out);
  }

  std::string text(const Redirect &r) const {
    const std::string flags = r.flags ? formatv(", flags {0:x}", r.flags).str() : "";
    switch (r.kind) {
    case Redirect::none: return "none";
    case Redirect::interface: return formatv("interface {0}{1}", r.ifindex, flags);
    case Redirect::neighbour:
      return formatv("neighbour on interface {0}{1}, {2}", r.ifindex, flags, to_hex(r.next_hop));
    case Redirect::peer: return formatv("peer of interface {0}{1}", r.ifindex, flags);
    case Redirect::map:
      return formatv("{0}[{1}] -> {2}{3}", pipeline_[r.map_id].name, r.key, r.target, flags);
    }
    return "";
  }

  void clones(const std::vector<Clone> &l, const std::vector<Clone> &r) {
    numbers("number of clones", int64_t(l.size()), int64_t(r.size()));
    for (size_t i = 0; i < std::min(l.size(), r.size()); ++i) {
      numbers(formatv("interface of clone {0}", i), l[i].ifindex, r[i].ifindex);
      numbers(formatv("flags of clone {0}", i), int64_t(l[i].flags), int64_t(r[i].flags));
      bytes(formatv("clone {0}", i), l[i].packet, r[i].packet);
    }
  }

  /// Order counts among the events of one map only: the kernel has a ring for each.
  void events(const std::vector<Event> &left, const std::vector<Event> &right) {
    auto by_map = [](const std::vector<Event> &events) {
      std::vector<const Event *> out;
      for (const Event &e : events)
        out.push_back(&e);
      llvm::stable_sort(out, [](const Event *a, const Event *b) { return index(a->map) < index(b->map); });
      return out;
    };
    const std::vector<const Event *> l = by_map(left), r = by_map(right);
    numbers("number of events", int64_t(l.size()), int64_t(r.size()));
    if (l.size() != r.size())
      return;
    for (size_t i = 0; i < l.size(); ++i) {
      const std::string field = formatv("event {0} of {1}", i, pipeline_[l[i]->map].name);
      if (l[i]->map != r[i]->map) {
        differ(formatv("map of event {0}", i), pipeline_[l[i]->map].name, pipeline_[r[i]->map].name);
        continue;
      }
      Bytes a = l[i]->data, b = r[i]->data;
      if (left_.pads_events && a.size() > b.size())
        a = a.first(b.size());
      if (right_.pads_events && b.size() > a.size())
        b = b.first(a.size());
      bytes(field, a, b);
    }
  }

  void map(const MapSeed &l, const MapSeed &r) {
    auto a = l.entries.begin(), b = r.entries.begin();
    while (a != l.entries.end() || b != r.entries.end()) {
      if (b == r.entries.end() || (a != l.entries.end() && a->key < b->key)) {
        differ(field(l, *a), value_text(*a), "absent");
        ++a;
      } else if (a == l.entries.end() || b->key < a->key) {
        differ(field(r, *b), "absent", value_text(*b));
        ++b;
      } else {
        values(field(l, *a), *a, *b);
        ++a, ++b;
      }
    }
  }

  /// Executors may play different numbers of CPUs: copies that only one of them has are not compared.
  void values(const std::string &field, const MapEntry &l, const MapEntry &r) {
    const size_t copies = std::min(l.values.size(), r.values.size());
    for (size_t cpu = 0; cpu < copies; ++cpu)
      bytes(copies > 1 ? formatv("{0}, CPU {1}", field, cpu).str() : field, l.values[cpu], r.values[cpu]);
  }

  static std::string field(const MapSeed &map, const MapEntry &e) {
    return formatv("{0}[{1}]", map.map, to_hex(e.key));
  }
  static std::string value_text(const MapEntry &e) {
    return e.values.empty() ? "" : hex_line(e.values[0], {});
  }

  const Pipeline &pipeline_;
  const Trace &left_;
  const Trace &right_;
  const size_t limit_;
  std::optional<size_t> packet_;
  Comparison out_;
};

} // namespace

Comparison compare(const Pipeline &pipeline, const Trace &left, const Trace &right, size_t limit) {
  return Comparer(pipeline, left, right, limit).run();
}

std::string print_difference(const Difference &d) {
  const std::string where = d.packet ? formatv("packet {0}, {1}", *d.packet + 1, d.field).str() : d.field;
  const size_t width = std::max(d.left.size(), d.right.size());
  std::string out = formatv("difference: {0}\n", where);
  for (const auto &[name, value] : {std::pair(&d.left, &d.left_value), std::pair(&d.right, &d.right_value)})
    out += "  " + *name + std::string(width - name->size() + 2, ' ') + *value + '\n';
  return out;
}

} // namespace ujit
