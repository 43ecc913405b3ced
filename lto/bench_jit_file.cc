// JitCode as text. One object, hexadecimal bytes, so that a difference between two kernels' code is one in
// the file.
#include "lto/bench_jit.h"

#include "translator/json.h"
#include "translator/map_contents.h"

#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace {

namespace json = llvm::json;

Expected<JitCode> wrong(const std::string &file, const std::string &what) {
  return input_error("not a file of a kernel's code: " + what).in_file(file).error();
}

} // namespace

std::string print_jit_code(const JitCode &code) {
  std::string text;
  llvm::raw_string_ostream os(text);
  json::OStream j(os, 1);
  auto numbers = [&](llvm::StringRef name, const std::vector<uint64_t> &values) {
    j.attribute(name, json::Array(values));
  };
  j.object([&] {
    j.attribute("kernel", code.kernel);
    j.attribute("digest", code.digest);
    j.attribute("type", std::string(name_of(code.type)));
    j.attributeObject("layout", [&] {
      for (const JitCode::Member &m : code.layout)
        j.attribute(m.name, m.offset);
    });
    j.attributeArray("functions", [&] {
      for (const JitCode::Function &f : code.functions)
        j.object([&] {
          j.attribute("at", int64_t(f.offset));
          j.attribute("code", to_hex(f.code));
        });
    });
    j.attributeObject("entries", [&] {
      for (const JitCode::Entry &e : code.entries)
        j.attribute(e.program, int64_t(e.offset));
    });
    j.attributeArray("maps", [&] {
      for (const JitCode::MapSite &m : code.maps)
        j.object([&] {
          j.attribute("at", int64_t(m.offset));
          j.attribute("map", m.map);
          if (m.value)
            j.attribute("value", int64_t(m.value_offset));
        });
    });
    j.attributeArray("calls", [&] {
      for (const JitCode::CallSite &c : code.calls)
        j.object([&] {
          j.attribute("at", int64_t(c.offset));
          j.attribute("function", c.function);
        });
    });
    numbers("returns", code.returns);
    numbers("indirect_jumps", code.indirect_jumps);
    numbers("percpu_adds", code.percpu_adds);
    numbers("element_adds", code.element_adds);
  });
  os << '\n';
  return text;
}

Expected<JitCode> parse_jit_code(std::string_view text, const std::string &file) {
  Expected<json::Value> value = parse_json(text);
  if (!value)
    return wrong(file, llvm::toString(value.takeError()));
  const json::Object *top = value->getAsObject();
  if (!top)
    return wrong(file, "no object");
  JitCode out;
  std::string missing;
  auto string = [&](const json::Object &o, llvm::StringRef name) {
    if (auto v = o.getString(name))
      return v->str();
    missing = name.str();
    return std::string();
  };
  auto number = [&](const json::Value *v, llvm::StringRef name) {
    if (const std::optional<int64_t> n = v ? v->getAsInteger() : std::nullopt; n && *n >= 0)
      return uint64_t(*n);
    missing = name.str();
    return uint64_t(0);
  };
  auto each = [&](llvm::StringRef name, auto take) {
    const json::Array *array = top->getArray(name);
    if (!array)
      missing = name.str();
    else
      for (const json::Value &v : *array)
        if (const json::Object *o = v.getAsObject())
          take(*o);
  };
  auto numbers = [&](llvm::StringRef name, std::vector<uint64_t> &to) {
    const json::Array *array = top->getArray(name);
    if (!array)
      missing = name.str();
    else
      for (const json::Value &v : *array)
        to.push_back(number(&v, name));
  };
  out.kernel = string(*top, "kernel");
  out.digest = string(*top, "digest");
  out.type = prog_type_by_name(string(*top, "type")).value_or(ProgType::unspec);
  for (auto [name, to] : {std::pair("layout", 0), std::pair("entries", 1)}) {
    const json::Object *o = top->getObject(name);
    if (!o)
      missing = name;
    else
      for (const auto &[key, v] : *o) {
        const uint64_t n = number(&v, name);
        if (to == 0)
          out.layout.push_back({key.str(), uint32_t(n)});
        else
          out.entries.push_back({key.str(), n});
      }
  }
  std::ranges::sort(out.layout, {}, &JitCode::Member::name);
  std::ranges::sort(out.entries, {}, &JitCode::Entry::program);
  each("functions", [&](const json::Object &o) {
    std::optional<std::vector<uint8_t>> code = from_hex(string(o, "code"));
    if (!code)
      missing = "code";
    else
      out.functions.push_back({number(o.get("at"), "at"), std::move(*code)});
  });
  each("maps", [&](const json::Object &o) {
    const json::Value *value = o.get("value");
    out.maps.push_back(
        {number(o.get("at"), "at"), string(o, "map"), value != nullptr, value ? number(value, "value") : 0});
  });
  each("calls", [&](const json::Object &o) {
    out.calls.push_back({number(o.get("at"), "at"), string(o, "function")});
  });
  numbers("returns", out.returns);
  numbers("indirect_jumps", out.indirect_jumps);
  numbers("percpu_adds", out.percpu_adds);
  numbers("element_adds", out.element_adds);
  if (!missing.empty() || out.functions.empty() || out.entries.empty())
    return wrong(file, missing.empty() ? "no code" : "no " + missing);

  // Sites are written to: each must lie in a function.
  auto inside = [&](uint64_t at, size_t size) {
    for (const JitCode::Function &f : out.functions)
      if (at >= f.offset && at - f.offset < f.code.size() && size <= f.code.size() - (at - f.offset))
        return true;
    return false;
  };
  bool good = std::is_sorted(out.functions.begin(), out.functions.end(),
                             [](const auto &a, const auto &b) { return a.offset < b.offset; }) &&
              out.functions.back().offset < uint64_t(256) << 20;
  for (const JitCode::Entry &e : out.entries)
    good &= inside(e.offset, 1);
  for (const JitCode::MapSite &m : out.maps)
    good &= inside(m.offset, 8);
  for (const JitCode::CallSite &c : out.calls)
    good &= inside(c.offset, 4);
  for (const auto *sites : {&out.returns, &out.indirect_jumps})
    for (uint64_t at : *sites)
      good &= inside(at, 5);
  for (uint64_t at : out.percpu_adds)
    good &= inside(at, 9);
  for (uint64_t at : out.element_adds)
    good &= inside(at, 4);
  if (!good)
    return wrong(file, "a place outside of its functions");
  return out;
}

} // namespace ujit
