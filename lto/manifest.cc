// Checks a manifest's tree against its fields. A complaint does not end the check: all of them are collected
// and reported together, in the order of the file.
#include "lto/manifest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace ujit {

namespace {

using llvm::formatv;
using llvm::StringRef;

constexpr size_t max_errors = 20;

class Reader {
public:
  explicit Reader(const std::string &file) : file_(file) {}

  Manifest read(const YamlNode &root) {
    Manifest m;
    m.file = file_;
    fields(
        root, "the manifest",
        {{"ujit-lto", [&](const YamlNode &n) { version(n); }},
         {"name", [&](const YamlNode &n) { m.name = name(n, "name"); }},
         {"objects",
          [&](const YamlNode &n) {
            each(n, "objects", [&](const YamlNode &i) { m.objects.push_back(object(i)); });
          }},
         {"attach",
          [&](const YamlNode &n) {
            each(n, "attach", [&](const YamlNode &i) { m.attach.push_back(attach(i)); });
          }},
         {"entries", [&](const YamlNode &n) { m.entries = names(n, "entries"); }},
         {"prog-arrays",
          [&](const YamlNode &n) {
            each(n, "prog-arrays", [&](const YamlNode &i) { m.prog_arrays.push_back(prog_array(i)); });
          }},
         {"maps",
          [&](const YamlNode &n) { each(n, "maps", [&](const YamlNode &i) { m.maps.push_back(map(i)); }); }},
         {"scratch-maps", [&](const YamlNode &n) { m.scratch_maps = names(n, "scratch-maps"); }},
         {"fuse", [&](const YamlNode &n) { fuse(n, m); }},
         {"target", [&](const YamlNode &n) { target(n, m); }},
         {"gates", [&](const YamlNode &n) { gates(n, m.gates); }},
         {"fib",
          [&](const YamlNode &n) { each(n, "fib", [&](const YamlNode &i) { m.fib.push_back(route(i)); }); }},
         {"seed", [&](const YamlNode &n) { m.seed = resolve(name(n, "seed")); }}},
        {"ujit-lto"});
    if (m.objects.empty() && m.attach.empty() && errors_.empty())
      fail(root.place, "key 'objects' is missing or empty: there is nothing to link",
           "objects names files; a manifest with only `attach` takes the programs that run there");
    for (const ManifestAttach &a : m.attach) {
      if (a.program.empty() != m.objects.empty())
        fail(a.place,
             a.program.empty() ? "key 'program' is missing in an attach point"
                               : "without objects, an attach point names no program",
             "with objects, each attach point names the program that goes there");
    }
    unique(m.attach, "attach point", [](const ManifestAttach &a) { return describe(a.point); });
    unique(m.objects, "object", [](const ManifestObject &o) { return o.file; });
    unique(m.entries, "entry", [](const NamedPlace &e) { return e.name; });
    unique(m.scratch_maps, "scratch map", [](const NamedPlace &e) { return e.name; });
    unique(m.maps, "map", [](const ManifestMap &a) { return a.map; });
    unique(m.prog_arrays, "prog array", [](const ManifestProgArray &a) { return a.map; });
    return m;
  }

  Error take_error() {
    std::stable_sort(errors_.begin(), errors_.end(), [](const Complaint &a, const Complaint &b) {
      return std::tie(a.place.line, a.place.column) < std::tie(b.place.line, b.place.column);
    });
    Error out = Error::success();
    for (const Complaint &c : llvm::ArrayRef(errors_).take_front(max_errors))
      out = llvm::joinErrors(
          std::move(out),
          input_error(c.place.text() + ": " + c.message).in_file(file_).with_hint(c.hint).error());
    return out;
  }

private:
  struct Field {
    std::string key;
    std::function<void(const YamlNode &)> take;
  };
  struct Complaint {
    Place place;
    std::string message, hint;
  };

  void fail(Place place, std::string message, std::string hint = {}) {
    errors_.push_back({place, std::move(message), std::move(hint)});
  }

  bool is(const YamlNode &node, YamlNode::Kind kind, const std::string &what) {
    if (node.kind == kind)
      return true;
    fail(node.place, formatv("{0} must be {1}, not {2}", what, name_of(kind), name_of(node.kind)));
    return false;
  }

  void fields(const YamlNode &node, const std::string &what, const std::vector<Field> &known,
              const std::vector<std::string> &required) {
    if (!is(node, YamlNode::mapping, what))
      return;
    std::vector<std::string> keys;
    for (const Field &f : known)
      keys.push_back(f.key);
    for (const YamlEntry &entry : node.entries) {
      const auto field = llvm::find_if(known, [&](const Field &f) { return f.key == entry.key; });
      if (field != known.end()) {
        field->take(entry.value);
        continue;
      }
      const std::string near = nearest(entry.key, keys);
      fail(entry.place, formatv("unknown key '{0}' in {1}", entry.key, what),
           near.empty() ? "the keys of " + what + " are " + llvm::join(keys, ", ")
                        : "did you mean '" + near + "'?");
    }
    for (const std::string &key : required)
      if (llvm::none_of(node.entries, [&](const YamlEntry &e) { return e.key == key; }))
        fail(node.place, formatv("key '{0}' is missing in {1}", key, what));
  }

  void each(const YamlNode &node, const std::string &what,
            const std::function<void(const YamlNode &)> &take) {
    if (is(node, YamlNode::sequence, what))
      for (const YamlNode &item : node.items)
        take(item);
  }

  template <typename T, typename Key>
  void unique(const std::vector<T> &items, const char *what, Key key) {
    std::map<std::string, Place> seen;
    for (const T &item : items)
      if (auto [at, fresh] = seen.emplace(key(item), item.place); !fresh && !key(item).empty())
        fail(item.place,
             formatv("{0} '{1}' is there twice, first at {2}", what, key(item), at->second.text()));
  }

  std::string name(const YamlNode &node, const std::string &what) {
    if (!is(node, YamlNode::scalar, what))
      return {};
    if (node.text.empty())
      fail(node.place, what + " is empty");
    else if (node.text.size() > 4096 || node.text.find('\n') != std::string::npos)
      fail(node.place, what + " must be one short line");
    return node.text;
  }

  std::vector<NamedPlace> names(const YamlNode &node, const std::string &what) {
    std::vector<NamedPlace> out;
    each(node, what, [&](const YamlNode &item) {
      out.push_back({name(item, "a name in " + what), item.place});
    });
    return out;
  }

  uint64_t number(const YamlNode &node, const std::string &what, uint64_t low, uint64_t high) {
    uint64_t value = 0;
    if (!is(node, YamlNode::scalar, what))
      return 0;
    if (StringRef(node.text).getAsInteger(0, value))
      fail(node.place, formatv("{0} must be a number, not '{1}'", what, node.text));
    else if (value < low || value > high)
      fail(node.place, formatv("{0} must be from {1} to {2}, not {3}", what, low, high, value));
    else
      return value;
    return low;
  }

  /// A constant's value: number of up to 64 bits, negative ones as two's complement, true or false.
  uint64_t constant_value(const YamlNode &node, const std::string &what) {
    if (!is(node, YamlNode::scalar, what))
      return 0;
    uint64_t value = 0;
    int64_t negative = 0;
    const StringRef text(node.text);
    if (text == "true" || text == "false")
      return text == "true";
    if (!text.getAsInteger(0, value))
      return value;
    if (!text.getAsInteger(0, negative))
      return static_cast<uint64_t>(negative);
    fail(node.place, formatv("{0} must be a 64-bit number, true or false, not '{1}'", what, node.text));
    return 0;
  }

  template <typename T>
  T choice(const YamlNode &node, const std::string &what,
           const std::vector<std::pair<std::string, T>> &choices) {
    if (!is(node, YamlNode::scalar, what))
      return choices.front().second;
    std::vector<std::string> words;
    for (const auto &[word, value] : choices) {
      if (node.text == word)
        return value;
      words.push_back(word);
    }
    fail(node.place, formatv("{0} must be {1}, not '{2}'", what, llvm::join(words, " or "), node.text));
    return choices.front().second;
  }

  std::string resolve(const std::string &path) const {
    if (path.empty() || llvm::sys::path::is_absolute(path))
      return path;
    llvm::SmallString<128> out(llvm::sys::path::parent_path(file_));
    llvm::sys::path::append(out, path);
    return std::string(out);
  }

  void version(const YamlNode &node) {
    const uint64_t v = number(node, "ujit-lto", 0, UINT64_MAX);
    if (v != 1 && node.kind == YamlNode::scalar)
      fail(node.place, formatv("version {0} of the manifest format is not known, only 1", node.text));
  }

  ManifestConstant constant(const YamlNode &node) {
    ManifestConstant c;
    c.place = node.place;
    fields(node, "a constant",
           {{"name", [&](const YamlNode &n) { c.name = name(n, "a constant's name"); }},
            {"fold",
             [&](const YamlNode &n) {
               if (n.kind == YamlNode::sequence)
                 each(n, "fold",
                      [&](const YamlNode &i) { c.bytes.push_back(uint8_t(number(i, "a byte", 0, 255))); });
               else
                 c.fold = constant_value(n, "fold");
             }},
            {"bind", [&](const YamlNode &n) { c.bind = constant_value(n, "bind"); }}},
           {"name"});
    if (node.kind == YamlNode::mapping && (c.fold || !c.bytes.empty()) == c.bind.has_value())
      fail(node.place, formatv("constant '{0}' needs either fold or bind", c.name),
           "fold compiles the value in, bind leaves it to the instance");
    return c;
  }

  ManifestType type(const YamlNode &node) {
    ManifestType t;
    t.place = node.place;
    fields(node, "a type",
           {{"section", [&](const YamlNode &n) { t.section = name(n, "section"); }},
            {"type",
             [&](const YamlNode &n) {
               const std::string word = name(n, "type");
               if (auto found = prog_type_by_name(word))
                 t.type = *found;
               else if (!word.empty())
                 fail(n.place, formatv("'{0}' is not a program type", word),
                      "examples: xdp, sched_cls, socket_filter");
             }}},
           {"section", "type"});
    return t;
  }

  ManifestObject object(const YamlNode &node) {
    ManifestObject o;
    o.place = node.place;
    fields(node, "an object",
           {{"value-sections", [&](const YamlNode &n) { o.value_sections = names(n, "value-sections"); }},
            {"path", [&](const YamlNode &n) { o.path = name(n, "path"); }},
            {"constants",
             [&](const YamlNode &n) {
               each(n, "constants", [&](const YamlNode &i) { o.constants.push_back(constant(i)); });
             }},
            {"types",
             [&](const YamlNode &n) {
               each(n, "types", [&](const YamlNode &i) { o.types.push_back(type(i)); });
             }}},
           {"path"});
    o.file = resolve(o.path);
    unique(o.constants, "constant", [](const ManifestConstant &c) { return c.name; });
    unique(o.types, "the type of section", [](const ManifestType &t) { return t.section; });
    return o;
  }

  ManifestProgArray prog_array(const YamlNode &node) {
    ManifestProgArray a;
    a.place = node.place;
    fields(node, "a prog array",
           {{"map", [&](const YamlNode &n) { a.map = name(n, "map"); }},
            {"edges",
             [&](const YamlNode &n) {
               a.edges = choice<EdgeKind>(n, "edges",
                                          {{"guarded", EdgeKind::guarded}, {"sealed", EdgeKind::sealed}});
             }},
            {"slots",
             [&](const YamlNode &n) {
               each(n, "slots", [&](const YamlNode &i) { a.slots.push_back(slot(i)); });
             }}},
           {"map"});
    unique(a.slots, "slot", [](const ManifestSlot &s) { return std::to_string(s.slot); });
    return a;
  }

  ManifestMap map(const YamlNode &node) {
    ManifestMap m;
    m.place = node.place;
    fields(node, "a map",
           {{"map", [&](const YamlNode &n) { m.map = name(n, "map"); }},
            {"max-entries",
             [&](const YamlNode &n) { m.max_entries = uint32_t(number(n, "max-entries", 1, UINT32_MAX)); }}},
           {"map", "max-entries"});
    return m;
  }

  ManifestAttach attach(const YamlNode &node) {
    ManifestAttach a;
    a.place = node.place;
    bool has_hook = false, has_slot = false;
    std::string map;
    fields(node, "an attach point",
           {{"program", [&](const YamlNode &n) { a.program = name(n, "program"); }},
            {"interface", [&](const YamlNode &n) { a.point.interface = name(n, "interface"); }},
            {"hook",
             [&](const YamlNode &n) {
               const std::string word = name(n, "hook");
               if (auto hook = hook_by_name(word); hook && *hook != HookKind::slot)
                 a.point.hook = *hook;
               else if (!word.empty())
                 fail(n.place, formatv("'{0}' is not a hook", word),
                      "hooks: xdp, xdp-generic, tc-ingress, tc-egress, tcx-ingress, tcx-egress");
               has_hook = true;
             }},
            {"priority",
             [&](const YamlNode &n) { a.point.priority = uint32_t(number(n, "priority", 1, 65535)); }},
            {"handle",
             [&](const YamlNode &n) { a.point.handle = uint32_t(number(n, "handle", 1, UINT32_MAX)); }},
            {"map", [&](const YamlNode &n) { map = name(n, "map"); }},
            {"slot",
             [&](const YamlNode &n) {
               a.point.slot = uint32_t(number(n, "slot", 0, UINT32_MAX - 1));
               has_slot = true;
             }}},
           {});
    if (!map.empty() && has_slot && !has_hook && a.point.interface.empty()) {
      a.point.hook = HookKind::slot;
      a.point.interface = map;
    } else if (!map.empty() || has_slot || !has_hook || a.point.interface.empty()) {
      fail(node.place, "an attach point is an interface and a hook, or a map and a slot");
    }
    return a;
  }

  ManifestSlot slot(const YamlNode &node) {
    ManifestSlot s;
    s.place = node.place;
    fields(node, "a slot",
           {{"slot", [&](const YamlNode &n) { s.slot = uint32_t(number(n, "slot", 0, UINT32_MAX - 1)); }},
            {"program", [&](const YamlNode &n) { s.program = name(n, "program"); }}},
           {"slot", "program"});
    return s;
  }

  void fuse(const YamlNode &node, Manifest &m) {
    std::vector<std::pair<std::string, Fuse>> words;
    for (Fuse f : {Fuse::measured, Fuse::always, Fuse::never})
      words.emplace_back(name_of(f), f);
    m.fuse = choice(node, "fuse", words);
    m.fuse_place = node.place;
  }

  void target(const YamlNode &node, Manifest &m) {
    fields(node, "target",
           {{"cpu", [&](const YamlNode &n) { m.cpu = name(n, "cpu"); }},
            {"kernel",
             [&](const YamlNode &n) {
               m.kernel = choice<std::string>(n, "kernel", {{"running", "running"}});
             }}},
           {});
  }

  void gates(const YamlNode &node, ManifestGates &g) {
    auto take = [&](const char *what, std::optional<uint64_t> &to) {
      return Field{what,
                   [this, what, &to](const YamlNode &n) { to = number(n, what, 0, uint64_t(1) << 40); }};
    };
    fields(node, "gates",
           {take("stack", g.stack), take("code-bytes", g.code_bytes), take("unfused-edges", g.unfused_edges)},
           {});
  }

  ManifestRoute route(const YamlNode &node) {
    ManifestRoute r;
    r.place = node.place;
    uint32_t ifindex = 0, mtu = 1500;
    const size_t errors_before = errors_.size();
    fields(node, "a route",
           {{"prefix", [&](const YamlNode &n) { r.prefix = name(n, "prefix"); }},
            {"ifindex", [&](const YamlNode &n) { ifindex = uint32_t(number(n, "ifindex", 1, INT32_MAX)); }},
            {"dmac", [&](const YamlNode &n) { r.dmac = name(n, "dmac"); }},
            {"smac", [&](const YamlNode &n) { r.smac = name(n, "smac"); }},
            {"gateway", [&](const YamlNode &n) { r.gateway = name(n, "gateway"); }},
            {"mtu", [&](const YamlNode &n) { mtu = uint32_t(number(n, "mtu", 68, 65535)); }}},
           {"prefix", "ifindex", "dmac", "smac"});
    if (errors_.size() > errors_before)
      return r;
    if (Expected<FibRoute> route = make_route(r.prefix, ifindex, r.smac, r.dmac, r.gateway)) {
      r.route = *route;
      r.route.mtu = mtu;
    } else {
      fail(node.place, llvm::toString(route.takeError()));
    }
    return r;
  }

  const std::string &file_;
  std::vector<Complaint> errors_;
};

} // namespace

std::string_view name_of(Fuse fuse) {
  switch (fuse) {
  case Fuse::measured: return "measured";
  case Fuse::always: return "always";
  case Fuse::never: return "never";
  }
  return "";
}

std::string nearest(std::string_view word, const std::vector<std::string> &candidates) {
  const unsigned far = unsigned(std::max<size_t>(2, word.size() / 2));
  std::string best;
  unsigned best_distance = far + 1;
  for (const std::string &c : candidates) {
    const unsigned d = StringRef(word).edit_distance(c, true, far);
    if (d < best_distance) {
      best = c;
      best_distance = d;
    }
  }
  return best;
}

LinkError manifest_error(const Manifest &manifest, Place place, std::string message) {
  return input_error(place.text() + ": " + std::move(message)).in_file(manifest.file);
}

Expected<Manifest> parse_manifest(std::string_view text, const std::string &file) {
  Expected<YamlNode> root = read_yaml(text, file);
  if (!root)
    return root.takeError();
  Reader reader(file);
  Manifest m = reader.read(*root);
  if (Error e = reader.take_error())
    return e;
  return m;
}

Expected<Manifest> read_manifest(const std::string &file) {
  auto buffer = llvm::MemoryBuffer::getFile(file);
  if (!buffer)
    return input_error("cannot read the manifest: " + buffer.getError().message()).in_file(file).error();
  return parse_manifest(std::string_view((*buffer)->getBuffer()), file);
}

} // namespace ujit
