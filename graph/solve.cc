// Interprocedural constant propagation along tail calls, in the manner of jump functions (Callahan, Cooper,
// Kennedy, Torczon 1986), optimistic and sparse (Wegman, Zadeck 1991).
//
// A node is a program, a prog array (a dynamic index reaches all of its slots, so calls meet there instead of
// being multiplied out) or "any array" (the map is not known). The state of a node maps slots to small sets
// of constants and descends: not visited -> constants -> unknown (absent). Programs that are entered from
// outside start with everything unknown, all others not visited, so a cycle keeps the constants that it
// carries round. Only slots that some index is made from, directly or through copies, are followed.
//
// A state can change (slots) * (constants + 1) + 1 times, both bounds being constants; so work is linear in
// sites, edges and prog-array contents.
#include "graph/solve.h"

#include "llvm/ADT/SmallVector.h"

#include <algorithm>
#include <deque>
#include <map>

namespace ujit {
namespace {

using Constants = llvm::SmallVector<uint64_t, 2>;
/// Sorted by slot number; a slot that is missing is unknown.
using State = std::vector<std::pair<uint32_t, Constants>>;

/// The value that one followed slot has at a site, as a function of the program's entry state.
struct Transfer {
  uint32_t slot;                ///< followed slot that is described
  std::optional<uint32_t> from; ///< followed slot at entry whose value it has, else `constants`
  Constants constants;
};

uint64_t mask(unsigned size) { return size >= 8 ? ~uint64_t(0) : (uint64_t(1) << (8 * size)) - 1; }

void normalise(Constants &values) {
  std::ranges::sort(values);
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

bool same_object(const StateSlot &a, const StateSlot &b) {
  return a.region == b.region && (a.region == StateSlot::context || a.map == b.map);
}
bool covers(const StateSlot &wide, const StateSlot &part) {
  return same_object(wide, part) && wide.size <= 8 && part.size > 0 && wide.offset <= part.offset &&
         uint64_t(part.offset) + part.size <= uint64_t(wide.offset) + wide.size;
}
bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

/// What `part` holds when `wide`, which covers it, holds `value`.
AbstractValue part_of(const StateSlot &wide, const AbstractValue &value, const StateSlot &part) {
  uint32_t delta = part.offset - wide.offset;
  AbstractValue result;
  if (value.kind == AbstractValue::constants) {
    result.kind = AbstractValue::constants;
    for (uint64_t v : value.values)
      result.values.push_back((v >> (8 * delta)) & mask(part.size));
  } else if (value.kind == AbstractValue::entry) {
    if (delta + part.size <= value.slot.size) {
      result.kind = AbstractValue::entry;
      result.slot = value.slot;
      result.slot.offset += delta;
      result.slot.size = part.size;
    } else if (delta >= value.slot.size) { // zero-extended
      result.kind = AbstractValue::constants;
      result.values = {0};
    }
  }
  return result;
}

/// The listed slots that can touch `slot`: as no slot is wider than 8 bytes, they start in a window before
/// its end.
template <class Row>
std::span<const Row> window(std::span<const Row> rows, const StateSlot &slot) {
  StateSlot low{slot.region, slot.map, slot.offset >= 7 ? slot.offset - 7 : 0, 0};
  StateSlot high{slot.region, slot.map, slot.offset + slot.size, 0};
  auto first = std::ranges::lower_bound(rows, low, {}, &Row::first);
  auto last = std::ranges::lower_bound(rows, high, {}, &Row::first);
  return first < last ? std::span(first, last) : std::span<const Row>();
}

class Solver {
public:
  explicit Solver(const CallGraph &graph)
      : graph(graph), states(graph.summaries.size() + graph.arrays.size() + 1) {
    find_followed_slots();
    for (auto &summary : graph.summaries) {
      first_transfer.push_back(transfers.size());
      for (auto &site : summary.sites)
        transfers.push_back(followed.empty() ? std::vector<Transfer>() : transfers_of(site));
    }
  }

  Solution run() {
    for (ProgId entry : graph.entries)
      reach(index(entry), {});
    while (!queue.empty()) {
      uint32_t node = queue.front();
      queue.pop_front();
      queued[node] = false;
      visit(node);
    }
    return {resolved_sites(), steps};
  }

private:
  const CallGraph &graph;
  std::vector<StateSlot> followed;              ///< in the order of discovery
  std::map<StateSlot, uint32_t> numbers;        ///< of followed slots
  std::vector<size_t> first_transfer;           ///< by ProgId
  std::vector<std::vector<Transfer>> transfers; ///< by site, sorted by slot
  std::vector<std::optional<State>> states;     ///< by node
  std::vector<bool> queued = std::vector<bool>(states.size());
  std::deque<uint32_t> queue;
  uint64_t steps = 0;

  uint32_t node_of(const ProgArray &array) const {
    return graph.summaries.size() + (&array - graph.arrays.data());
  }
  uint32_t any_array() const { return graph.summaries.size() + graph.arrays.size(); }

  /// Slots that an index is loaded from, and those that are copied into such a slot somewhere.
  void find_followed_slots() {
    auto follow = [&](const StateSlot &slot) {
      if (followed.size() < max_followed_slots && numbers.try_emplace(slot, followed.size()).second)
        followed.push_back(slot);
    };
    std::vector<StateSlot> roots;
    std::vector<std::pair<StateSlot, AbstractValue>> copies;
    for (auto &summary : graph.summaries)
      for (auto &site : summary.sites) {
        for (auto &target : site.targets)
          if (target.index.kind == AbstractValue::entry)
            roots.push_back(target.index.slot);
        for (auto &row : site.state)
          if (row.second.kind == AbstractValue::entry)
            copies.push_back(row);
        steps += site.state.size();
      }
    std::ranges::sort(roots);
    std::ranges::sort(copies);
    copies.erase(std::unique(copies.begin(), copies.end()), copies.end());
    for (auto &slot : roots)
      follow(slot);
    for (size_t i = 0; i < followed.size(); ++i) {
      StateSlot slot = followed[i];
      for (auto &[wide, value] : window(std::span<const std::pair<StateSlot, AbstractValue>>(copies), slot)) {
        ++steps;
        if (!covers(wide, slot))
          continue;
        if (auto part = part_of(wide, value, slot); part.kind == AbstractValue::entry)
          follow(part.slot);
      }
    }
  }

  std::vector<Transfer> transfers_of(const TailCallSite &site) {
    std::vector<Transfer> result;
    for (uint32_t number = 0; number < followed.size(); ++number)
      if (auto value = value_at(site, followed[number]); value.kind == AbstractValue::constants) {
        Transfer t{number, {}, Constants(value.values.begin(), value.values.end())};
        normalise(t.constants);
        if (t.constants.size() <= AbstractValue::max_constants && !t.constants.empty())
          result.push_back(std::move(t));
      } else if (value.kind == AbstractValue::entry) {
        if (auto from = numbers.find(value.slot); from != numbers.end())
          result.push_back({number, from->second, {}});
      }
    return result;
  }

  AbstractValue value_at(const TailCallSite &site, const StateSlot &slot) {
    bool touched = false;
    for (auto &[wide, value] : window(std::span(site.state), slot)) {
      ++steps;
      if (covers(wide, slot))
        if (auto part = part_of(wide, value, slot); part.kind != AbstractValue::unknown)
          return part;
      touched |= overlaps(wide.offset, wide.size, slot.offset, slot.size);
    }
    if (touched || !site.clobbers)
      return {};
    for (auto &range : *site.clobbers) {
      ++steps;
      if (same_object({range.region, range.map, 0, 0}, slot) &&
          overlaps(range.offset, range.size, slot.offset, slot.size))
        return {};
    }
    return {AbstractValue::entry, {}, slot};
  }

  static const Constants *find(const State &state, uint32_t slot) {
    auto row = std::ranges::lower_bound(state, slot, {}, &State::value_type::first);
    return row != state.end() && row->first == slot ? &row->second : nullptr;
  }

  State apply(const std::vector<Transfer> &transfer, const State &entry) {
    State out;
    for (auto &t : transfer) {
      ++steps;
      if (!t.from)
        out.emplace_back(t.slot, t.constants);
      else if (auto *values = find(entry, *t.from))
        out.emplace_back(t.slot, *values);
    }
    return out;
  }

  /// Meets `incoming` into the node's state; returns whether it changed.
  bool meet(State &state, const State &incoming) {
    bool changed = false;
    std::erase_if(state, [&](auto &row) {
      ++steps;
      auto *other = find(incoming, row.first);
      if (other && !std::ranges::includes(row.second, *other)) {
        row.second.append(other->begin(), other->end());
        normalise(row.second);
        changed = true;
      }
      bool drop = !other || row.second.size() > AbstractValue::max_constants;
      changed |= drop;
      return drop;
    });
    return changed;
  }

  void reach(uint32_t node, const State &incoming) {
    ++steps;
    bool changed = !states[node];
    if (changed)
      states[node] = incoming;
    else
      changed = meet(*states[node], incoming);
    if (changed && !queued[node]) {
      queued[node] = true;
      queue.push_back(node);
    }
  }

  void visit(uint32_t node) {
    const State entry = *states[node]; // a copy: a self tail call changes the original
    if (node == any_array()) {
      for (auto &array : graph.arrays)
        reach(node_of(array), entry);
    } else if (node >= graph.summaries.size()) {
      for (auto &[slot, program] : graph.arrays[node - graph.summaries.size()].slots)
        reach(index(program), entry);
    } else {
      auto &sites = graph.summaries[node].sites;
      for (size_t i = 0; i < sites.size(); ++i)
        call(sites[i], entry, apply(transfers[first_transfer[node] + i], entry));
    }
  }

  void call(const TailCallSite &site, const State &entry, const State &out) {
    if (site.targets.empty())
      reach(any_array(), out);
    for (auto &target : site.targets) {
      const ProgArray *array = target.map ? graph.array_of(*target.map) : nullptr;
      if (!array) {
        reach(any_array(), out);
        continue;
      }
      auto indices = resolve(target.index, entry);
      if (indices.empty())
        reach(node_of(*array), out);
      for (uint64_t i : indices) {
        auto slot = std::ranges::lower_bound(array->slots, i, {}, [](auto &s) { return s.first; });
        if (slot != array->slots.end() && slot->first == i)
          reach(index(slot->second), out);
      }
    }
  }

  /// Values of an index: the kernel takes its low 32 bits. Empty: dynamic.
  std::vector<uint64_t> resolve(const AbstractValue &value, const State &entry) {
    Constants result;
    if (value.kind == AbstractValue::constants) {
      result.assign(value.values.begin(), value.values.end());
    } else if (value.kind == AbstractValue::entry) {
      auto number = numbers.find(value.slot);
      if (auto *values = number == numbers.end() ? nullptr : find(entry, number->second))
        result = *values;
    }
    for (auto &v : result)
      v = uint32_t(v);
    normalise(result);
    return {result.begin(), result.end()};
  }

  /// Sites of programs that were not reached see an unknown state.
  std::vector<Site> resolved_sites() {
    std::vector<Site> result;
    for (uint32_t p = 0; p < graph.summaries.size(); ++p) {
      const State entry = states[p].value_or(State());
      auto &sites = graph.summaries[p].sites;
      for (uint32_t i = 0; i < sites.size(); ++i) {
        Site site{.from = ProgId(p), .site = i, .targets = {}};
        size_t pairs = 0;
        bool dynamic = sites[i].targets.empty();
        for (auto &target : sites[i].targets) {
          auto indices = target.map ? resolve(target.index, entry) : std::vector<uint64_t>();
          dynamic |= indices.empty();
          pairs += indices.size();
          site.solved |= target.index.kind == AbstractValue::entry && !indices.empty();
          site.targets.push_back({target.map, std::move(indices)});
        }
        if (sites[i].targets.empty())
          site.targets.emplace_back();
        site.index_class = dynamic ? IndexClass::dynamic : pairs > 1 ? IndexClass::few : IndexClass::constant;
        result.push_back(std::move(site));
      }
    }
    return result;
  }
};

} // namespace

Solution solve_indices(const CallGraph &graph) { return Solver(graph).run(); }

} // namespace ujit
