// The code is copied as it is, all programs at their old distances, so that direct tail calls stay as they
// are. What it shares with the kernel is replaced in place, by something of the same cost:
//
//     kernel                             here
//     call of a helper                   call of a stub, as in our images
//     address of a map                   the embedded kernel's map; for array maps and prog arrays an object
//     with the
//                                        kernel's layout where the code looks into it
//     address of a value in an array     address of the value
//     add %gs:this_cpu_off, reg          add zero(%rip), reg: addresses of per-CPU values are absolute
//     context                            the same struct, filled from the packet
#include "lto/bench_replay.h"

#include "lto/bench_context.h"

#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/helpers.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace ujit {

namespace {

using llvm::StringRef;

// ---- Helpers, as the kernel's code calls them: with the stack aligned to 8 bytes only.

#define UJIT_CALLED_BY_KERNEL_CODE __attribute__((force_align_arg_pointer))

/// Contexts of the replay whose code runs now.
const KernelContexts *contexts_in_use = nullptr;

/// Helpers that move the packet or change fields of the context beside it. (Pulling data does neither:
/// packets are linear here.)
template <const char *name>
HelperFunction *const original = find_helper_address(name);

template <const char *name>
UJIT_CALLED_BY_KERNEL_CODE uint64_t change_packet(uint64_t context, uint64_t r2, uint64_t r3, uint64_t r4,
                                                  uint64_t r5) {
  auto *c = reinterpret_cast<void *>(context);
  Packet &packet = current_cpu->packet;
  contexts_in_use->take_back(c, packet);
  const uint64_t r0 = original<name>(context, r2, r3, r4, r5);
  contexts_in_use->refill(c, packet);
  return r0;
}

#define UJIT_CHANGING_HELPERS(X)                                                                             \
  X(bpf_xdp_adjust_head)                                                                                     \
  X(bpf_xdp_adjust_meta)                                                                                     \
  X(bpf_xdp_adjust_tail)                                                                                     \
  X(bpf_skb_adjust_room)                                                                                     \
  X(bpf_skb_change_head)                                                                                     \
  X(bpf_skb_change_proto)                                                                                    \
  X(bpf_skb_change_tail)                                                                                     \
  X(bpf_skb_change_type)                                                                                     \
  X(bpf_skb_vlan_pop)                                                                                        \
  X(bpf_skb_vlan_push)                                                                                       \
  X(bpf_get_hash_recalc)                                                                                     \
  X(bpf_set_hash)                                                                                            \
  X(bpf_set_hash_invalid)

#define UJIT_NAME(helper) constexpr char name_of_##helper[] = #helper;
UJIT_CHANGING_HELPERS(UJIT_NAME)

constexpr uint64_t element_key = 48; ///< offset of the key in the kernel's struct htab_elem

/// __htab_map_lookup_elem of an LRU or per-CPU map gives the element; its caller adds the offset of the
/// value, and for per-CPU maps loads the value's address from there.
UJIT_CALLED_BY_KERNEL_CODE uint64_t lookup_element(uint64_t map, uint64_t key, uint64_t, uint64_t, uint64_t) {
  auto &object = *reinterpret_cast<MapObject *>(map);
  auto value = reinterpret_cast<uint64_t>(object.lookup(reinterpret_cast<const void *>(key)));
  if (!value)
    return 0;
  static uint64_t percpu_value;
  const Map &shape = object.shape();
  if (shape.type == MapType::percpu_hash || shape.type == MapType::lru_percpu_hash) {
    percpu_value = value;
    value = reinterpret_cast<uint64_t>(&percpu_value);
  }
  return value - element_key - ((uint64_t(shape.key_size) + 7) & ~uint64_t(7));
}

/// Array maps are other objects in the code than in the embedded kernel.
std::vector<std::pair<uint64_t, MapObject *>> array_objects;

UJIT_CALLED_BY_KERNEL_CODE uint64_t array_update(uint64_t map, uint64_t key, uint64_t value, uint64_t flags,
                                                 uint64_t) {
  for (const auto &[object, array] : array_objects)
    if (object == map)
      return uint64_t(
          array->update(reinterpret_cast<const void *>(key), reinterpret_cast<const void *>(value), flags));
  return failed(EINVAL);
}

struct Replacement {
  std::string helper; ///< whose cost it has
  HelperFunction *function = nullptr;
};

Replacement replacement(StringRef name) {
  name.consume_front("____");
  if (name == "__htab_map_lookup_elem")
    return {"bpf_map_lookup_elem", lookup_element};
  if (name == "array_map_update_elem")
    return {"bpf_map_update_elem", array_update};
#define UJIT_CASE(helper)                                                                                    \
  if (name == #helper)                                                                                       \
    return {#helper, original<name_of_##helper> ? change_packet<name_of_##helper> : nullptr};
  UJIT_CHANGING_HELPERS(UJIT_CASE)
  const StringRef same = llvm::StringSwitch<StringRef>(name)
                             .Cases("htab_map_update_elem", "htab_lru_map_update_elem", "bpf_map_update_elem")
                             .Case("htab_percpu_map_update_elem", "bpf_map_update_elem")
                             .Case("trie_update_elem", "bpf_map_update_elem")
                             .Cases("htab_map_delete_elem", "htab_lru_map_delete_elem", "trie_delete_elem",
                                    "bpf_map_delete_elem")
                             .Case("trie_lookup_elem", "bpf_map_lookup_elem")
                             .Cases("bpf_xdp_fib_lookup", "bpf_skb_fib_lookup", "bpf_fib_lookup")
                             .Case("bpf_xdp_redirect", "bpf_redirect")
                             .Cases("dev_map_redirect", "cpu_map_redirect", "bpf_redirect_map")
                             .Cases("bpf_xdp_event_output", "bpf_skb_event_output", "bpf_perf_event_output")
                             .Default(name);
  return {same.str(), find_helper_address(std::string_view(same))};
}

constexpr uint64_t page = 4096;
uint64_t page_up(uint64_t v) { return (v + page - 1) & ~(page - 1); }

struct Mapping {
  uint8_t *base = nullptr;
  uint64_t size = 0;
  explicit Mapping(uint64_t bytes) : size(page_up(bytes)) {
    void *at = mmap(nullptr, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base = at == MAP_FAILED ? nullptr : static_cast<uint8_t *>(at);
  }
  Mapping(Mapping &&o) noexcept : base(std::exchange(o.base, nullptr)), size(o.size) {}
  ~Mapping() {
    if (base)
      munmap(base, size);
  }
};

/// Objects with the kernel's layout, for one kernel.
struct Objects {
  const Kernel *kernel = nullptr;
  std::map<MapId, std::vector<uint64_t>> memory; ///< arrays that the code looks into
  std::vector<std::vector<uint64_t>> programs;   ///< struct bpf_prog, by ProgId
};

struct MapSite {
  uint64_t offset;
  MapId map;
  bool value;
  uint64_t value_offset;
};

/// Bytes of a copy that are written over, the distance from the end of a jump or call to follow.
void put_distance(uint8_t *at, const uint8_t *target) {
  const auto distance = int32_t(target - (at + 4));
  memcpy(at, &distance, 4);
}

} // namespace

struct JitReplay::State {
  const Execution &x;
  JitCode code;
  std::unique_ptr<KernelContexts> contexts;
  uint32_t array_values = 0, max_entries = 0, program_function = 0, program_size = 0;
  uint64_t entry = 0;                           ///< offset
  std::vector<std::optional<uint64_t>> entries; ///< offsets by ProgId
  std::vector<MapSite> maps;
  std::vector<std::pair<uint64_t, Replacement>> calls; ///< by offset of the distance
  std::vector<Mapping> copies;

  explicit State(const Execution &execution) : x(execution) {}
  void install(Kernel &kernel, uint8_t *code, Objects &objects) const;
  uint64_t map_address(Kernel &kernel, const MapSite &site, Objects &objects) const;
};

JitReplay::JitReplay(std::unique_ptr<State> state) : state_(std::move(state)) {}
JitReplay::~JitReplay() = default;

uint64_t JitReplay::code_bytes() const { return state_->code.code_bytes(); }

Expected<std::unique_ptr<JitReplay>> JitReplay::create(const Execution &x, JitCode code,
                                                       const std::string &entry) {
  auto state = std::make_unique<State>(x);
  State &s = *state;
  s.code = std::move(code);
  Expected<std::unique_ptr<KernelContexts>> contexts = KernelContexts::create(s.code);
  if (!contexts)
    return contexts.takeError();
  s.contexts = std::move(*contexts);
  for (auto [name, to] :
       {std::pair("bpf_array.value", &s.array_values), std::pair("bpf_map.max_entries", &s.max_entries),
        std::pair("bpf_prog.bpf_func", &s.program_function), std::pair("sizeof bpf_prog", &s.program_size)}) {
    Expected<uint32_t> offset = s.code.member(name);
    if (!offset)
      return offset.takeError();
    *to = *offset;
  }
  Expected<uint32_t> key = s.code.member("htab_elem.key");
  if (!key)
    return key.takeError();
  if (*key != element_key || s.program_function + 8 > s.program_size || s.program_size > page ||
      s.max_entries + 4 > s.array_values)
    return unsupported("struct layouts of another kind of kernel").error();

  s.entries.resize(x.pipeline.programs.size());
  bool found = false;
  for (const JitCode::Entry &e : s.code.entries) {
    if (const std::optional<ProgId> id = x.pipeline.find_program(e.program))
      s.entries[index(*id)] = e.offset;
    if (e.program == entry) {
      s.entry = e.offset;
      found = true;
    }
  }
  if (!found)
    return unsupported("no code of " + entry).error();
  for (const JitCode::MapSite &m : s.code.maps) {
    const std::optional<MapId> id = x.pipeline.find_map(m.map);
    if (!id)
      return unsupported("code that uses a map " + m.map + " which the pipeline has not").error();
    s.maps.push_back({m.offset, *id, m.value, m.value_offset});
  }
  auto adds_element = [&](uint64_t call_end) {
    for (uint64_t at : s.code.element_adds)
      if (at == call_end + 5)
        return true;
    return false;
  };
  for (const JitCode::CallSite &c : s.code.calls) {
    Replacement r = replacement(c.function);
    if (c.function == "__htab_map_lookup_elem" && adds_element(c.offset + 4))
      r.function = find_helper_address("bpf_map_lookup_elem"); // gives the value; the add becomes one of zero
    if (!r.function)
      return unsupported("a call of " + c.function + " in the kernel's code").error();
    s.calls.emplace_back(c.offset, std::move(r));
  }
  return std::unique_ptr<JitReplay>(new JitReplay(std::move(state)));
}

/// The 8 bytes that stand for a map in the code.
uint64_t JitReplay::State::map_address(Kernel &kernel, const MapSite &site, Objects &objects) const {
  MapObject *map = kernel.map(site.map);
  const Map &shape = map->shape();
  if (site.value)
    return reinterpret_cast<uint64_t>(map->values(0)) + site.value_offset;
  auto with_layout = [&](uint32_t slots) {
    std::vector<uint64_t> &memory = objects.memory[site.map];
    const bool fresh = memory.empty();
    memory.resize(array_values / 8 + slots);
    memcpy(reinterpret_cast<uint8_t *>(memory.data()) + max_entries, &shape.max_entries, 4);
    return std::pair(memory.data() + array_values / 8, fresh);
  };
  switch (shape.type) {
  case MapType::array: {
    const uint64_t address = reinterpret_cast<uint64_t>(map->values(0)) - array_values;
    array_objects.emplace_back(address, map);
    return address;
  }
  case MapType::percpu_array: {
    auto [slots, fresh] = with_layout(shape.max_entries);
    for (uint32_t i = 0; fresh && i < shape.max_entries; ++i)
      slots[i] = reinterpret_cast<uint64_t>(map->values(0)) + i * array_stride(shape.value_size);
    const auto address = reinterpret_cast<uint64_t>(objects.memory[site.map].data());
    if (fresh)
      array_objects.emplace_back(address, map);
    return address;
  }
  case MapType::prog_array: {
    auto [slots, fresh] = with_layout(shape.max_entries);
    for (uint32_t i = 0; fresh && i < shape.max_entries; ++i)
      if (const ProgramObject *program = static_cast<const ProgramObject *const *>(map->values(0))[i])
        slots[i] = reinterpret_cast<uint64_t>(objects.programs[program->id].data());
    return reinterpret_cast<uint64_t>(objects.memory[site.map].data());
  }
  default: return reinterpret_cast<uint64_t>(map);
  }
}

void JitReplay::State::install(Kernel &kernel, uint8_t *at, Objects &objects) const {
  contexts_in_use = contexts.get();
  if (objects.kernel == &kernel)
    return;
  objects = {};
  objects.kernel = &kernel;
  for (const std::optional<uint64_t> &entry : entries) {
    std::vector<uint64_t> &program = objects.programs.emplace_back((program_size + 7) / 8);
    const uint64_t function = entry ? reinterpret_cast<uint64_t>(at) + *entry : 0;
    memcpy(reinterpret_cast<uint8_t *>(program.data()) + program_function, &function, 8);
  }
  for (const MapSite &site : maps) {
    const uint64_t address = map_address(kernel, site, objects);
    memcpy(at + site.offset, &address, 8);
  }
}

Expected<PlacedCode> JitReplay::place(uint32_t page_offset, ReturnThunks *thunks) {
  State &s = *state_;
  const JitCode::Function &last = s.code.functions.back();
  const uint64_t span = page_up(last.offset + last.code.size() + page);
  // Behind the code: pages of stubs, and pages with their targets, a zero and a thunk.
  const uint64_t tail = page_up(s.calls.size() * 8 + 128);
  Mapping copy(span + 2 * tail);
  if (!copy.base)
    return unsupported("no memory for a copy of the kernel's code").error();
  uint8_t *code = copy.base + page_offset, *stubs = copy.base + span, *targets = stubs + tail;
  uint8_t *thunk = targets + tail - 64;
  memcpy(thunk, return_thunk().data(), return_thunk().size());

  PlacedCode out;
  for (const JitCode::Function &f : s.code.functions) {
    memcpy(code + f.offset, f.code.data(), f.code.size());
    out.ranges.emplace_back(reinterpret_cast<uint64_t>(code + f.offset), f.code.size());
  }
  for (uint64_t at : s.code.returns) {
    static constexpr uint8_t plain[] = {0xc3, 0xcc, 0xcc, 0xcc, 0xcc};
    if (thunks) {
      code[at] = 0xe9;
      put_distance(code + at + 1, thunk);
    } else {
      memcpy(code + at, plain, sizeof plain);
    }
  }
  for (uint64_t at : s.code.indirect_jumps) {
    static constexpr uint8_t plain[] = {0xff, 0xe1, 0xcc, 0xcc, 0xcc}; // jmp *%rcx
    memcpy(code + at, plain, sizeof plain);
  }
  std::map<HelperFunction *, uint8_t *> stub_of;
  for (const auto &[at, r] : s.calls) {
    uint8_t *&stub = stub_of[r.function];
    if (!stub) { // jmp *target(%rip)
      const size_t n = stub_of.size() - 1;
      stub = stubs + n * 8;
      uint8_t *target = targets + 8 + n * 8;
      HelperFunction *function = thunks ? thunks->helper(r.helper, r.function) : r.function;
      memcpy(target, &function, 8);
      stub[0] = 0xff;
      stub[1] = 0x25;
      put_distance(stub + 2, target);
    }
    put_distance(code + at, stub);
  }
  for (uint64_t offset : s.code.percpu_adds) { // ds ds rex.w add zero(%rip), reg: of the same length
    uint8_t *at = code + offset;
    const uint8_t reg = at[3] & 0x38;
    const uint8_t head[] = {0x3e, 0x3e, 0x48, 0x03, uint8_t(reg | 0x05)};
    memcpy(at, head, sizeof head);
    put_distance(at + 5, targets);
  }
  for (uint64_t offset : s.code.element_adds) // add $imm8 or $imm32
    memset(code + offset + (code[offset + 1] == 0x83 ? 3 : 2), 0, code[offset + 1] == 0x83 ? 1 : 4);

  out.entry = reinterpret_cast<NativeEntry>(code + s.entry);
  if (thunks) {
    if (s.code.returns.empty()) // of a kernel without thunks: only the last return can have one
      out.entry = thunks->entry(out.entry);
    out.thunks = {thunks->range(), {reinterpret_cast<uint64_t>(thunk), return_thunk().size()}};
  }
  auto objects = std::make_shared<Objects>();
  out.install = [&s, code, objects](Kernel &kernel) { s.install(kernel, code, *objects); };
  out.context = [&s](Cpu &cpu, size_t slot) { return s.contexts->fill(cpu, slot); };
  out.finish = [&s](Cpu &cpu, void *context) { s.contexts->take_back(context, cpu.packet); };
  s.copies.push_back(std::move(copy));
  return out;
}

} // namespace ujit
