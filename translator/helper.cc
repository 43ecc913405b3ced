#include "translator/helper.h"

#include <algorithm>
#include <iterator>

namespace ujit {

static constexpr Helper generated_rows[] = {
#include "helper_table.inc"
};

static constexpr size_t row_count = std::size(generated_rows);

/// Sorted at compile time, so that nothing depends on the order in libbpf's header.
static constexpr auto rows_by(auto less) {
  std::array<Helper, row_count> rows{};
  std::copy(std::begin(generated_rows), std::end(generated_rows), rows.begin());
  std::sort(rows.begin(), rows.end(), less);
  return rows;
}

static constexpr auto by_id = rows_by([](const Helper &a, const Helper &b) { return a.id < b.id; });
static constexpr auto by_name = rows_by([](const Helper &a, const Helper &b) { return a.name < b.name; });

static constexpr bool ids_are_unique() {
  return std::adjacent_find(by_id.begin(), by_id.end(),
                            [](const Helper &a, const Helper &b) { return a.id == b.id; }) == by_id.end();
}
static_assert(ids_are_unique());

std::span<const Helper> helper_table() { return by_id; }

const Helper *find_helper(uint32_t id) {
  auto it = std::lower_bound(by_id.begin(), by_id.end(), id,
                             [](const Helper &h, uint32_t wanted) { return h.id < wanted; });
  return it != by_id.end() && it->id == id ? &*it : nullptr;
}

const Helper *find_helper(std::string_view name) {
  auto it = std::lower_bound(by_name.begin(), by_name.end(), name,
                             [](const Helper &h, std::string_view wanted) { return h.name < wanted; });
  return it != by_name.end() && it->name == name ? &*it : nullptr;
}

bool is_pointer(Arg a) {
  switch (a) {
  case Arg::none:
  case Arg::scalar:
  case Arg::size:
  case Arg::any: return false;
  default: return true;
  }
}

EffectsOverride effects_override_for_tests = nullptr;

const HelperEffects *find_effects(uint32_t id) {
  if (effects_override_for_tests)
    if (const HelperEffects *row = effects_override_for_tests(id))
      return row;
  std::span<const HelperEffects> rows = effects_table();
  auto it = std::lower_bound(rows.begin(), rows.end(), id,
                             [](const HelperEffects &e, uint32_t wanted) { return e.id < wanted; });
  return it != rows.end() && it->id == id ? &*it : nullptr;
}

} // namespace ujit
