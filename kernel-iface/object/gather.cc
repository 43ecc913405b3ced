// Names come first: what the objects call their programs and maps, and under which final name each goes into
// the pipeline. Everything else refers to final indices. Slots that objects name are dropped together with
// refused programs only if no entry can reach their prog array.
#include "kernel-iface/object/gather.h"

#include "kernel-iface/object/constants.h"
#include "kernel-iface/object/nearest.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <set>
#include <unordered_map>

namespace ujit {

using llvm::formatv;

namespace {

/// "lb" for "out/lb.bpf.o".
std::string stem_of(const std::string &path) {
  std::string name = path.substr(path.rfind('/') + 1);
  size_t dot = name.find('.', 1);
  return dot == std::string::npos ? name : name.substr(0, dot);
}

/// `name`, or with "#2" and so on if it is taken already; taken afterwards.
std::string unique(const std::string &name, std::set<std::string> &taken) {
  std::string result = name;
  for (int n = 2; !taken.insert(result).second; ++n)
    result = formatv("{0}#{1}", name, n).str();
  return result;
}

/// Program types that packets come into.
bool is_network_hook(ProgType type) {
  switch (static_cast<uint32_t>(type)) {
  case 1:  // socket_filter
  case 3:  // sched_cls
  case 4:  // sched_act
  case 6:  // xdp
  case 8:  // cgroup_skb
  case 10: // lwt_in
  case 11: // lwt_out
  case 12: // lwt_xmit
  case 14: // sk_skb
  case 19: // lwt_seg6local
  case 22: // flow_dissector
  case 32: // netfilter
    return true;
  default: return false;
  }
}

std::string type_text(ProgType type) {
  std::string_view name = name_of(type);
  return name.empty() ? formatv("type {0}", static_cast<uint32_t>(type)).str() : std::string(name);
}

/// Finds things by final name, or by short name where that is unambiguous.
class Names {
public:
  void add(const std::string &short_name, const std::string &final_name, uint32_t id) {
    final_.emplace(final_name, id);
    if (short_name != final_name)
      short_[short_name].push_back(id);
    all_.push_back(final_name);
  }

  Expected<uint32_t> find(const std::string &name, const char *what) const {
    if (auto it = final_.find(name); it != final_.end())
      return it->second;
    if (auto it = short_.find(name); it != short_.end()) {
      if (it->second.size() == 1)
        return it->second[0];
      LinkError e = input_error(formatv("{0} {1} exists in several objects", what, name).str());
      for (uint32_t id : it->second)
        for (const auto &[full, other] : final_)
          if (other == id)
            e.note("as " + full);
      return e.error();
    }
    return input_error(formatv("{0} {1} does not exist", what, name).str())
        .with_hint(nearest_hint(name, all_))
        .error();
  }

private:
  std::map<std::string, uint32_t> final_;
  std::map<std::string, std::vector<uint32_t>> short_;
  std::vector<std::string> all_;
};

class Gatherer {
public:
  explicit Gatherer(GatherRequest request) : request_(std::move(request)) {}

  Expected<Pipeline> run() {
    if (Error e = apply_constants())
      return e;
    name_objects();
    add_maps();
    add_programs();
    if (Error e = fill_slots())
      return e;
    if (Error e = choose_entries())
      return e;
    if (Error e = settle_slots())
      return e;
    if (Error e = check_types())
      return e;
    return std::move(pipeline_);
  }

private:
  /// What a slot holds: a program of the pipeline, or one that was refused.
  struct Target {
    std::optional<ProgId> program;
    const RefusedProgram *refused = nullptr;
    bool operator==(const Target &) const = default;
  };

  Error apply_constants() {
    for (const auto &[path, settings] : request_.constants) {
      auto object = std::find_if(request_.objects.begin(), request_.objects.end(),
                                 [&](const Object &o) { return o.path == path; });
      if (object == request_.objects.end())
        return input_error(formatv("constants are given for {0}, which is not an object here", path).str())
            .error();
      if (Error e = set_constants(*object, settings))
        return e;
    }
    return Error::success();
  }

  void name_objects() {
    std::set<std::string> taken;
    for (const Object &o : request_.objects)
      stems_.push_back(unique(stem_of(o.path), taken));
  }

  static bool same_shape(const Object &a, const Map &x, const Object &b, const Map &y) {
    if (x.inner.has_value() != y.inner.has_value() ||
        (x.inner && !same_shape(a, a.maps[index(*x.inner)], b, b.maps[index(*y.inner)])))
      return false;
    return std::tie(x.type, x.key_size, x.value_size, x.max_entries, x.flags, x.extra) ==
           std::tie(y.type, y.key_size, y.value_size, y.max_entries, y.flags, y.extra);
  }

  /// Maps keep their order; a shared one is where its first object has it. Templates stand behind the maps
  /// that they belong to, so a template whose map is shared is not counted.
  void add_maps() {
    struct First {
      size_t object;
      uint32_t map;
    };
    std::map<std::string, First> shared; // by name
    std::map<std::string, int> uses;     // definitions left after sharing
    std::vector<std::vector<std::optional<First>>> same_as(request_.objects.size());
    for (size_t o = 0; o < request_.objects.size(); ++o) {
      const Object &object = request_.objects[o];
      same_as[o].resize(object.maps.size());
      for (uint32_t m = 0; m < object.maps.size(); ++m) {
        const Map &map = object.maps[m];
        if (map.is_data() || same_as[o][m])
          continue;
        if (map.pinned && !map.is_template && !object.replaced.count(MapId{m})) {
          auto [it, is_first] = shared.emplace(map.name, First{o, m});
          const Object &other = request_.objects[it->second.object];
          if (!is_first && same_shape(object, map, other, other.maps[it->second.map])) {
            same_as[o][m] = it->second;
            if (map.inner && object.maps[index(*map.inner)].is_template)
              same_as[o][index(*map.inner)] =
                  First{it->second.object, index(*other.maps[it->second.map].inner)};
            continue;
          }
        }
        ++uses[map.name];
      }
    }

    std::set<std::string> map_names;
    for (size_t o = 0; o < request_.objects.size(); ++o) {
      const Object &object = request_.objects[o];
      std::vector<MapId> &ids = map_ids_.emplace_back(object.maps.size());
      for (uint32_t m = 0; m < object.maps.size(); ++m) {
        if (same_as[o][m]) {
          ids[m] = map_ids_[same_as[o][m]->object][same_as[o][m]->map];
          continue;
        }
        Map map = object.maps[m];
        ids[m] = MapId{uint32_t(pipeline_.maps.size())};
        std::string short_name = map.name;
        if (map.is_data())
          map.name = stems_[o] + map.name;
        else if (uses[map.name] > 1)
          map.name = stems_[o] + ":" + map.name;
        map.name = unique(map.name, map_names);
        if (!map.is_template)
          maps_.add(short_name, map.name, index(ids[m]));
        pipeline_.maps.push_back(std::move(map));
      }
      for (uint32_t m = 0; m < object.maps.size(); ++m)
        renumber(object.maps[m], ids, pipeline_.maps[index(ids[m])], same_as[o][m].has_value());
    }
  }

  /// Inner maps of a map of object `ids`; what a shared map names more than its first definition is added.
  static void renumber(const Map &from, const std::vector<MapId> &ids, Map &to, bool shared) {
    if (!shared) {
      to.inner_slots.clear();
      if (from.inner)
        to.inner = ids[index(*from.inner)];
    }
    for (auto [slot, inner] : from.inner_slots)
      if (std::none_of(to.inner_slots.begin(), to.inner_slots.end(),
                       [&](auto &s) { return s.first == slot; }))
        to.inner_slots.push_back({slot, ids[index(inner)]});
    std::sort(to.inner_slots.begin(), to.inner_slots.end());
  }

  void add_programs() {
    std::map<std::string, int> uses;
    for (const Object &object : request_.objects) {
      for (const Program &p : object.programs)
        ++uses[p.name];
      for (const RefusedProgram &p : object.refused)
        ++uses[p.name];
    }
    for (size_t o = 0; o < request_.objects.size(); ++o) {
      Object &object = request_.objects[o];
      std::map<std::string, Target> &targets = object_targets_.emplace_back();
      auto add = [&](const std::string &name, Target target) {
        std::string full = uses[name] > 1 ? stems_[o] + ":" + name : name;
        targets[name] = target;
        programs_.add(name, full, targets_.size());
        targets_.push_back(target);
        return full;
      };
      for (Program &p : object.programs) {
        ProgId id{uint32_t(pipeline_.programs.size())};
        p.name = add(p.name, {id, nullptr});
        for (size_t i = 0; i < p.insns.size(); ++i) {
          Insn &insn = p.insns[i];
          if (!is_wide(insn))
            continue;
          if (insn.src == 1 || insn.src == 2) // ld_map, ld_map_value
            insn.imm = int32_t(index(map_ids_[o][uint32_t(insn.imm)]));
          ++i;
        }
        pipeline_.programs.push_back(std::move(p));
      }
      for (const RefusedProgram &p : object.refused)
        add(p.name, {std::nullopt, &p});
    }
  }

  Error fill_slots() {
    using Slot = std::pair<MapId, uint32_t>;
    std::map<Slot, uint32_t> assigned; // index into targets_
    for (const SlotAssignment &s : request_.slots) {
      auto map = maps_.find(s.map, "map");
      if (!map)
        return map.takeError();
      const Map &m = pipeline_.maps[*map];
      if (m.type != MapType::prog_array)
        return input_error(formatv("map {0} is no prog array and has no slots for programs", s.map).str())
            .error();
      if (s.slot >= m.max_entries)
        return out_of_range(m, s.slot);
      auto target = programs_.find(s.program, "program");
      if (!target)
        return with_note(target.takeError(),
                         formatv("named by slot {0} of prog array {1}", s.slot, s.map).str());
      auto [it, is_new] = assigned.emplace(Slot{MapId{*map}, s.slot}, *target);
      if (!is_new && it->second != *target)
        return named_twice(m, s.slot, name_of_target(targets_[it->second]), s.program);
    }
    for (const auto &[slot, target] : assigned)
      slots_[slot] = targets_[target];

    for (size_t o = 0; o < request_.objects.size(); ++o)
      for (const ObjectSlot &s : request_.objects[o].slots) {
        Slot slot{map_ids_[o][index(s.map)], s.slot};
        if (assigned.count(slot))
          continue;
        auto target = object_targets_[o].find(s.program);
        if (target == object_targets_[o].end())
          return internal_error(formatv("slot names {0}, which the object does not have", s.program).str())
              .in_file(request_.objects[o].path)
              .error();
        auto [it, is_new] = slots_.emplace(slot, target->second);
        if (!is_new && !(it->second == target->second))
          return named_twice(pipeline_[slot.first], s.slot, name_of_target(it->second),
                             name_of_target(target->second));
      }
    return Error::success();
  }

  static Error with_note(Error e, const std::string &note) {
    return llvm::handleErrors(std::move(e), [&](LinkError &le) { return LinkError(le).note(note).error(); });
  }

  static Error out_of_range(const Map &map, uint32_t slot) {
    return input_error(formatv("slot {0} of prog array {1} is out of range (max_entries is {2})", slot,
                               map.name, map.max_entries)
                           .str())
        .error();
  }

  static Error named_twice(const Map &map, uint32_t slot, const std::string &a, const std::string &b) {
    return input_error(formatv("slot {0} of prog array {1} is named twice", slot, map.name).str())
        .note("by " + a)
        .note("by " + b)
        .with_hint("state the slot in the manifest: that wins over what objects say")
        .error();
  }

  std::string name_of_target(const Target &t) const {
    return t.program ? pipeline_[*t.program].name : t.refused->name;
  }

  Error choose_entries() {
    std::set<ProgId> entries;
    for (const std::string &name : request_.entries) {
      auto target = programs_.find(name, "entry");
      if (!target)
        return target.takeError();
      if (targets_[*target].refused)
        return LinkError(targets_[*target].refused->error).error();
      entries.insert(*targets_[*target].program);
    }
    if (request_.entries.empty()) {
      std::set<ProgId> in_slots;
      for (const auto &[slot, target] : slots_)
        if (target.program)
          in_slots.insert(*target.program);
      for (uint32_t i = 0; i < pipeline_.programs.size(); ++i)
        if (is_network_hook(pipeline_.programs[i].type) && !in_slots.count(ProgId{i}))
          entries.insert(ProgId{i});
    }
    pipeline_.entries.assign(entries.begin(), entries.end());
    return entries.empty() ? no_entry() : Error::success();
  }

  Error no_entry() const {
    LinkError e = input_error("no program that could be an entry");
    for (const Object &o : request_.objects)
      for (const RefusedProgram &r : o.refused)
        if (e.notes.size() < 8)
          e.note(r.name + " is refused: " + r.error.message);
    bool untyped = std::any_of(pipeline_.programs.begin(), pipeline_.programs.end(),
                               [](const Program &p) { return p.type == ProgType::unspec; });
    return e
        .with_hint(untyped ? "name the entries; section names that say no program type need one as well"
                           : "name the entries")
        .error();
  }

  /// Writes the slots into the maps. A refused program is an error if its prog array can be reached from an
  /// entry.
  Error settle_slots() {
    std::set<MapId> reached_maps;
    std::vector<bool> seen(pipeline_.programs.size());
    std::vector<ProgId> work = pipeline_.entries;
    std::vector<Error> errors;
    auto reach = [&](ProgId p) {
      if (!seen[index(p)]) {
        seen[index(p)] = true;
        work.push_back(p);
      }
    };
    for (ProgId p : pipeline_.entries)
      seen[index(p)] = true;
    while (!work.empty()) {
      ProgId id = work.back();
      work.pop_back();
      const std::vector<Insn> &insns = pipeline_[id].insns;
      for (size_t i = 0; i < insns.size(); ++i) {
        if (!is_wide(insns[i]))
          continue;
        MapId map{uint32_t(insns[i++].imm)};
        if (insns[i - 1].src != 1 || pipeline_[map].type != MapType::prog_array ||
            !reached_maps.insert(map).second)
          continue;
        for (auto s = slots_.lower_bound({map, 0}); s != slots_.end() && s->first.first == map; ++s) {
          if (s->second.program)
            reach(*s->second.program);
          else
            errors.push_back(LinkError(s->second.refused->error)
                                 .note(formatv("reached from {0} through {1}[{2}]", pipeline_[id].name,
                                               pipeline_[map].name, s->first.second)
                                           .str())
                                 .error());
        }
      }
    }
    for (const auto &[slot, target] : slots_)
      if (target.program)
        pipeline_.maps[index(slot.first)].prog_slots.push_back({slot.second, *target.program});
    return join_sorted(std::move(errors));
  }

  /// All programs of a prog array have one type; those whose section says none take it from the others.
  Error check_types() {
    for (const Map &map : pipeline_.maps) {
      const Program *typed = nullptr;
      for (auto [slot, id] : map.prog_slots) {
        const Program &p = pipeline_[id];
        if (p.type == ProgType::unspec)
          continue;
        if (typed && typed->type != p.type)
          return input_error(formatv("prog array {0} holds programs of different types", map.name).str())
              .note(formatv("{0} is {1}", typed->name, type_text(typed->type)).str())
              .note(formatv("{0} is {1}", p.name, type_text(p.type)).str())
              .in_file(p.object)
              .in_program(p.name)
              .error();
        typed = &p;
      }
      for (auto [slot, id] : map.prog_slots)
        if (typed)
          pipeline_.programs[index(id)].type = typed->type;
    }
    return Error::success();
  }

  GatherRequest request_;
  Pipeline pipeline_;
  std::vector<std::string> stems_;                            ///< by object
  std::vector<std::vector<MapId>> map_ids_;                   ///< by object and local MapId
  std::vector<Target> targets_;                               ///< all programs, refused ones too
  std::vector<std::map<std::string, Target>> object_targets_; ///< by object and local name
  Names maps_, programs_;                                     ///< programs_: index into targets_
  std::map<std::pair<MapId, uint32_t>, Target> slots_;
};

} // namespace

Expected<Pipeline> gather(GatherRequest request) { return Gatherer(std::move(request)).run(); }

} // namespace ujit
