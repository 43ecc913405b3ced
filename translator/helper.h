// The kernel's helper functions: number, name and arity are generated at build time from libbpf's
// bpf_helper_defs.h; what a helper does to memory is stated in one reviewed table (helper_effects.cc).
// A helper without a row there is taken to read, write and capture everything and to move packet data.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace ujit {

/// What an argument is. Sizes of `key`/`value` come from the map that is passed in r1.
enum class Arg : uint8_t {
  none,
  scalar,
  ctx,
  map,
  key,        ///< read, map's key_size
  value,      ///< read, map's value_size
  value_out,  ///< written, map's value_size
  mem_read,   ///< read; the size is the next argument
  mem_write,  ///< written; the size is the next argument (bytes need not be initialised before)
  mem_rw,     ///< read and written
  size,       ///< byte count of the memory argument before it
  fixed_mem,  ///< read and written; size HelperEffects::fixed_size
  func,       ///< address of a callback subprogram
  callback_ctx, ///< pointer handed on to the callback
  any,        ///< scalar or any pointer; may be captured
};

enum class Ret : uint8_t { scalar, none, map_value_or_null, map_or_value_or_null, mem_or_null, object_or_null };

/// Arguments that helpers take as addresses; `any` may be one.
bool is_pointer(Arg arg);

/// Memory that a helper may touch beside its pointer arguments.
enum Touch : uint16_t {
  touch_nothing = 0,
  reads_packet = 1, writes_packet = 2,
  reads_ctx = 4, writes_ctx = 8,       ///< the context struct, cb and mark included
  reads_maps = 16, writes_maps = 32,   ///< values of maps that programs can have pointers to
  touches_everything = reads_packet | writes_packet | reads_ctx | writes_ctx | reads_maps | writes_maps,
};

struct HelperEffects {
  uint32_t id = 0;
  std::array<Arg, 5> args{};
  Ret ret = Ret::scalar;
  uint16_t touches = touch_nothing;
  bool moves_packet = false; ///< packet pointers are invalid behind it
  bool captures = false;     ///< keeps a pointer argument beyond the call
  bool callback = false;     ///< calls a subprogram of ours
  bool pure = false;         ///< no side effect: may be dropped if its result is unused
  uint32_t fixed_size = 0;
  friend bool operator==(const HelperEffects &, const HelperEffects &) = default;
};

struct Helper {
  uint32_t id;
  std::string_view name; ///< with the bpf_ prefix: "bpf_map_lookup_elem"
  uint8_t argc;          ///< 5 where variadic
};

constexpr uint32_t helper_map_lookup_elem = 1, helper_map_update_elem = 2, helper_map_delete_elem = 3,
                   helper_tail_call = 12, helper_for_each_map_elem = 164, helper_loop = 181;

std::span<const Helper> helper_table();
const Helper *find_helper(uint32_t id);
const Helper *find_helper(std::string_view name);

/// The reviewed row of a helper, or null: then it must be taken to touch everything.
const HelperEffects *find_effects(uint32_t id);
std::span<const HelperEffects> effects_table();

/// For the tests that show what a wrong row does: asked first by find_effects() if set; null leaves the row as it is. Set
/// only while nothing is translated.
using EffectsOverride = const HelperEffects *(*)(uint32_t id);
extern EffectsOverride effects_override_for_tests;

} // namespace ujit
