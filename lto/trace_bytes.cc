// One description of the fields serves both directions: `visit` goes through them in one order, with a writer
// or a reader. The reader checks every length, since what it reads comes out of a process that ran unknown
// code.
#include "lto/trace_bytes.h"

#include <cstring>

namespace ujit {

namespace {

class Writer {
public:
  static constexpr bool reading = false;
  std::vector<uint8_t> out;

  template <typename T>
  void number(T &value) {
    const auto *p = reinterpret_cast<const uint8_t *>(&value);
    out.insert(out.end(), p, p + sizeof value);
  }
  template <typename C>
  void bytes(C &c) {
    uint64_t size = c.size();
    number(size);
    out.insert(out.end(), c.begin(), c.end());
  }
};

class Reader {
public:
  static constexpr bool reading = true;
  explicit Reader(std::span<const uint8_t> in) : in_(in) {}
  bool good() const { return good_; }
  bool finished() const { return good_ && in_.empty(); }

  template <typename T>
  void number(T &value) {
    if ((good_ = good_ && in_.size() >= sizeof value)) {
      std::memcpy(&value, in_.data(), sizeof value);
      in_ = in_.subspan(sizeof value);
    }
  }
  template <typename C>
  void bytes(C &c) {
    const uint64_t size = count();
    c.assign(in_.begin(), in_.begin() + ptrdiff_t(size));
    in_ = in_.subspan(size);
  }
  /// A number of things of at least one byte each.
  uint64_t count() {
    uint64_t n = 0;
    number(n);
    good_ = good_ && n <= in_.size();
    return good_ ? n : 0;
  }

private:
  std::span<const uint8_t> in_;
  bool good_ = true;
};

template <typename A, typename T>
void visit_list(A &a, std::vector<T> &list) {
  if constexpr (A::reading) {
    const uint64_t n = a.count();
    for (uint64_t i = 0; i < n && a.good(); ++i)
      visit(a, list.emplace_back());
  } else {
    uint64_t n = list.size();
    a.number(n);
    for (T &item : list)
      visit(a, item);
  }
}

template <typename A>
void visit(A &a, std::string &s) {
  a.bytes(s);
}
template <typename A>
void visit(A &a, std::vector<uint8_t> &b) {
  a.bytes(b);
}

template <typename A>
void visit(A &a, Redirect &r) {
  a.number(r.kind);
  a.number(r.ifindex);
  a.number(r.flags);
  a.number(r.map_id);
  a.number(r.key);
  a.number(r.target);
  visit(a, r.next_hop);
}

template <typename A>
void visit(A &a, Event &e) {
  a.number(e.map);
  a.number(e.cpu);
  visit(a, e.data);
}

template <typename A>
void visit(A &a, Clone &c) {
  a.number(c.ifindex);
  a.number(c.flags);
  visit(a, c.packet);
}

template <typename A>
void visit(A &a, Observation &o) {
  a.number(o.result.value);
  visit(a, o.result.packet);
  visit(a, o.result.metadata);
  visit(a, o.result.context);
  visit(a, o.result.redirect);
  visit_list(a, o.result.events);
  visit_list(a, o.result.clones);
  visit_list(a, o.result.printed);
  visit(a, o.not_run);
}

template <typename A>
void visit(A &a, MapEntry &e) {
  visit(a, e.key);
  visit_list(a, e.values);
}

template <typename A>
void visit(A &a, MapSeed &m) {
  visit(a, m.map);
  visit_list(a, m.entries);
}

template <typename A>
void visit(A &a, Trace &t) {
  visit(a, t.executor);
  visit_list(a, t.packets);
  visit_list(a, t.maps);
  a.number(t.measured_seconds);
}

} // namespace

std::vector<uint8_t> pack(Trace trace) {
  Writer writer;
  visit(writer, trace);
  return std::move(writer.out);
}

Expected<Trace> unpack(std::span<const uint8_t> bytes) {
  Trace trace;
  Reader reader(bytes);
  visit(reader, trace);
  if (!reader.finished())
    return internal_error("a worker's result is damaged").error();
  return trace;
}

} // namespace ujit
