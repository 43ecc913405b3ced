// The code is copied as it is, all programs at their old distances, so that direct tail calls stay as they
// are. What it shares with the kernel is replaced in place, by something of the same cost:
//
//     kernel                                     here
//     call of a helper                           call of a stub, as in our images
//     address of a map                           the embedded kernel's map, or for array maps and prog arrays
//     an object with
//                                                the kernel's layout where the code looks into it
//     address of a value in an array             address of the value
//     add %gs:this_cpu_off, reg                  add zero(%rip), reg: addresses of per-CPU values are
//     absolute context, struct xdp_buff                   the same struct, filled from the packet
//
// The n-th map address in the machine code belongs to the n-th map reference of the verified instructions:
// the JIT goes through them in order.
#include "lto/bench_replay.h"

#include "lto/machine_code.h"

#include "kernel-iface/embedded/cpu.h"
#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/linux/dump.h"
#include "kernel-iface/linux/kernel_types.h"
#include "kernel-iface/linux/load.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace ujit {

namespace {

using llvm::formatv;
using llvm::StringRef;

// ---- Helpers, as the kernel's code calls them: with the stack aligned to 8 bytes only.

#define UJIT_CALLED_BY_KERNEL_CODE __attribute__((force_align_arg_pointer))

/// struct xdp_buff as far as programs look, with what its pointers lead to.
struct XdpBuff {
  uint8_t *data, *data_end, *data_meta, *data_hard_start;
  const void *rxq, *txq;
  uint64_t sizes_and_flags;
};

void fill(XdpBuff &buff, const Packet &packet) {
  buff.data = packet.data();
  buff.data_end = packet.end();
  buff.data_meta = packet.meta();
}

template <const char *name>
HelperFunction *const original = find_helper_address(name);

template <const char *name>
UJIT_CALLED_BY_KERNEL_CODE uint64_t change_packet(uint64_t context, uint64_t r2, uint64_t r3, uint64_t r4,
                                                  uint64_t r5) {
  const uint64_t r0 = original<name>(context, r2, r3, r4, r5);
  fill(*reinterpret_cast<XdpBuff *>(context), current_cpu->packet);
  return r0;
}
constexpr char adjust_head[] = "bpf_xdp_adjust_head";
constexpr char adjust_meta[] = "bpf_xdp_adjust_meta";
constexpr char adjust_tail[] = "bpf_xdp_adjust_tail";

constexpr uint64_t element_key = 48; ///< offset of the key in the kernel's struct htab_elem

/// __htab_map_lookup_elem gives the element; its caller adds the offset of the value, and for per-CPU maps
/// loads the value's address from there.
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

HelperFunction *replacement(StringRef name) {
  name.consume_front("____");
  if (auto *special = llvm::StringSwitch<HelperFunction *>(name)
                          .Case("__htab_map_lookup_elem", lookup_element)
                          .Case("bpf_xdp_adjust_head", change_packet<adjust_head>)
                          .Case("bpf_xdp_adjust_meta", change_packet<adjust_meta>)
                          .Case("bpf_xdp_adjust_tail", change_packet<adjust_tail>)
                          .Case("array_map_update_elem", array_update)
                          .Default(nullptr))
    return special;
  const StringRef same = llvm::StringSwitch<StringRef>(name)
                             .Cases("htab_map_update_elem", "htab_lru_map_update_elem", "bpf_map_update_elem")
                             .Case("htab_percpu_map_update_elem", "bpf_map_update_elem")
                             .Case("trie_update_elem", "bpf_map_update_elem")
                             .Cases("htab_map_delete_elem", "htab_lru_map_delete_elem", "trie_delete_elem",
                                    "bpf_map_delete_elem")
                             .Case("trie_lookup_elem", "bpf_map_lookup_elem")
                             .Case("bpf_xdp_fib_lookup", "bpf_fib_lookup")
                             .Case("bpf_xdp_redirect", "bpf_redirect")
                             .Case("dev_map_redirect", "bpf_redirect_map")
                             .Case("cpu_map_redirect", "bpf_redirect_map")
                             .Case("bpf_xdp_event_output", "bpf_perf_event_output")
                             .Default(name);
  return find_helper_address(std::string_view(same));
}

// ---- What was captured.

struct Function {
  uint64_t address; ///< in the kernel
  std::vector<uint8_t> code;
};

/// An immediate of 8 bytes that names something of a map.
struct MapSite {
  uint64_t address; ///< of the immediate
  MapId map;
  bool value = false;
  uint64_t offset = 0; ///< in the value
};

struct CallSite {
  uint64_t address; ///< of the 32-bit distance
  HelperFunction *helper;
};

struct Offsets {
  uint32_t array_values, max_entries, program_function, program_size, ifindex;
};

constexpr uint64_t page = 4096;
constexpr uint64_t device_bytes = 2048; ///< of struct net_device, as far as programs look
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

} // namespace

struct JitReplay::State {
  const Execution &x;
  Offsets offsets{};
  std::vector<Function> functions; ///< by address
  std::vector<uint64_t> entries;   ///< in the kernel, by ProgId
  std::vector<MapSite> maps;
  std::vector<CallSite> calls;
  std::vector<uint64_t> percpu_adds; ///< addresses of `add %gs:this_cpu_off, reg`
  std::vector<std::pair<uint64_t, std::vector<uint8_t>>> patches;
  bool thunks = false;
  uint64_t first = 0, last = 0; ///< range of addresses, from the start of a page
  std::vector<Mapping> copies;
  XdpBuff buffs[64] = {};
  uint64_t device[device_bytes / 8] = {}, queue[16] = {}; ///< what xdp_buff leads to

  explicit State(const Execution &execution) : x(execution) {}

  Error read_function(const KernelSymbols &symbols, const MachineDecoder &decoder, const ProgramDump &dump,
                      const JitedFunction &f, const std::map<uint32_t, MapId> &ids, size_t &reference);
  Error read_branch(const KernelSymbols &symbols, const ProgramDump &dump, const JitedFunction &f,
                    uint64_t at, const MachineStep &step);
  void install(Kernel &kernel, uint8_t *code, Objects &objects) const;
  uint64_t map_address(Kernel &kernel, const MapSite &site, uint8_t *code, Objects &objects) const;
  bool is_ours(uint64_t address) const;
};

bool JitReplay::State::is_ours(uint64_t address) const {
  auto after = std::upper_bound(functions.begin(), functions.end(), address,
                                [](uint64_t a, const Function &f) { return a < f.address; });
  return after != functions.begin() && address < std::prev(after)->address + std::prev(after)->code.size();
}

Error JitReplay::State::read_branch(const KernelSymbols &symbols, const ProgramDump &dump,
                                    const JitedFunction &f, uint64_t at, const MachineStep &step) {
  const uint64_t address = f.address + at;
  if (is_ours(*step.target))
    return Error::success();
  const std::string name = symbols.name_at(*step.target).value_or("an unknown function");
  if (step.call) {
    HelperFunction *helper = replacement(name);
    if (!helper)
      return unsupported("a call of " + name + " in the kernel's code").in_program(dump.name).error();
    calls.push_back({address + step.size - 4, helper});
    return Error::success();
  }
  thunks = true;
  if (StringRef(name).ends_with("return_thunk"))
    patches.push_back({address, {0xc3, 0xcc, 0xcc, 0xcc, 0xcc}});
  else if (name == "__x86_indirect_thunk_rcx")
    patches.push_back({address, {0xff, 0xe1, 0xcc, 0xcc, 0xcc}});
  else
    return unsupported("a jump to " + name + " in the kernel's code").in_program(dump.name).error();
  return Error::success();
}

Error JitReplay::State::read_function(const KernelSymbols &symbols, const MachineDecoder &decoder,
                                      const ProgramDump &dump, const JitedFunction &f,
                                      const std::map<uint32_t, MapId> &ids, size_t &reference) {
  constexpr uint8_t load_imm64 = 0x18, pseudo_map = 1, pseudo_value = 2;
  for (uint64_t at = 0; at < f.code.size();) {
    const llvm::ArrayRef<uint8_t> left = llvm::ArrayRef(f.code).drop_front(at);
    const std::optional<MachineStep> step = decoder.decode(left, f.address + at);
    if (!step)
      return unsupported(formatv("code of the kernel that is not understood at {0}", at))
          .in_program(dump.name)
          .error();
    if (step->target) {
      if (Error e = read_branch(symbols, dump, f, at, *step))
        return e;
    } else if (step->size == 10 && (left[0] & 0xfe) == 0x48 && (left[1] & 0xf8) == 0xb8) { // movabs
      uint64_t value;
      memcpy(&value, &left[2], 8);
      for (;; ++reference) {
        if (reference + 1 >= dump.xlated.size())
          return unsupported("an address in the kernel's code that no instruction has")
              .in_program(dump.name)
              .error();
        const Insn &low = dump.xlated[reference], &high = dump.xlated[reference + 1];
        if (low.opcode != load_imm64)
          continue;
        const uint64_t constant = uint64_t(uint32_t(high.imm)) << 32 | uint32_t(low.imm);
        if (low.src == 0 && constant == value)
          break;
        if (low.src != pseudo_map && low.src != pseudo_value) {
          ++reference; // its second slot
          continue;
        }
        auto id = ids.find(uint32_t(low.imm));
        if (id == ids.end())
          return unsupported("a map that is not the pipeline's").in_program(dump.name).error();
        maps.push_back({f.address + at + 2, id->second, low.src == pseudo_value, uint32_t(high.imm)});
        break;
      }
      reference += 2;
    } else if (left[0] == 0x65) { // %gs
      // The JIT adds nothing but this_cpu_off in this way.
      if (step->size != 9 || left[1] != 0x48 || left[2] != 0x03 || left[4] != 0x25)
        return unsupported("per-CPU data of the kernel").in_program(dump.name).error();
      percpu_adds.push_back(f.address + at);
    }
    at += step->size;
  }
  return Error::success();
}

JitReplay::JitReplay(std::unique_ptr<State> state) : state_(std::move(state)) {}
JitReplay::~JitReplay() = default;

uint64_t JitReplay::code_bytes() const {
  uint64_t bytes = 0;
  for (const Function &f : state_->functions)
    bytes += f.code.size();
  return bytes;
}

bool JitReplay::had_thunks() const { return state_->thunks; }

static Expected<Offsets> read_offsets() {
  Expected<KernelTypes> types = KernelTypes::read();
  if (!types)
    return types.takeError();
  Offsets out{};
  auto get = [&](uint32_t &to, const char *type, const char *member) -> Error {
    Expected<uint32_t> offset = types->offset_of(type, member);
    if (!offset)
      return offset.takeError();
    to = *offset;
    return Error::success();
  };
  uint32_t key = 0, data = 1, queue = 0;
  for (Error &e : std::array{
           get(out.array_values, "bpf_array", "value"), get(out.max_entries, "bpf_map", "max_entries"),
           get(out.program_function, "bpf_prog", "bpf_func"), get(out.ifindex, "net_device", "ifindex"),
           get(key, "htab_elem", "key"), get(data, "xdp_buff", "data"), get(queue, "xdp_buff", "rxq")})
    if (e)
      return std::move(e);
  if (key != element_key || data != 0 || out.ifindex + 4 > device_bytes || queue != offsetof(XdpBuff, rxq))
    return unsupported("this kernel's struct layouts").error();
  Expected<uint32_t> size = types->size_of("bpf_prog");
  if (!size)
    return size.takeError();
  out.program_size = *size;
  return out;
}

Expected<std::unique_ptr<JitReplay>> JitReplay::capture(const Execution &x) {
  if (x.pipeline[x.entry].type != ProgType::xdp)
    return unsupported("the replay knows only XDP's context").error();
  auto state = std::make_unique<State>(x);
  Expected<Offsets> offsets = read_offsets();
  if (!offsets)
    return offsets.takeError();
  state->offsets = *offsets;
  Expected<KernelSymbols> symbols = KernelSymbols::read();
  if (!symbols)
    return symbols.takeError();
  Expected<LoadedPipeline> loaded = load_into_kernel(x.pipeline);
  if (!loaded)
    return loaded.takeError();

  std::map<uint32_t, MapId> ids;
  for (uint32_t m = 0; m < x.pipeline.maps.size(); ++m) {
    bpf_map_info info{};
    uint32_t length = sizeof info;
    if (!x.pipeline.maps[m].is_template && bpf_obj_get_info_by_fd(loaded->fd(MapId(m)), &info, &length) == 0)
      ids[info.id] = MapId(m);
  }
  std::vector<ProgramDump> dumps;
  for (uint32_t p = 0; p < x.pipeline.programs.size(); ++p) {
    Expected<ProgramDump> dump = dump_program(loaded->fd(ProgId(p)));
    if (!dump)
      return dump.takeError();
    state->entries.push_back(dump->functions.front().address);
    for (const JitedFunction &f : dump->functions)
      state->functions.push_back({f.address, f.code});
    dumps.push_back(std::move(*dump));
  }
  std::sort(state->functions.begin(), state->functions.end(),
            [](const Function &a, const Function &b) { return a.address < b.address; });
  state->first = state->functions.front().address & ~(page - 1);
  state->last = state->functions.back().address + state->functions.back().code.size();
  if (state->last - state->first > uint64_t(256) << 20)
    return unsupported("the kernel's code lies too far apart").error();

  const MachineDecoder decoder;
  for (const ProgramDump &dump : dumps) {
    size_t reference = 0;
    for (const JitedFunction &f : dump.functions)
      if (Error e = state->read_function(*symbols, decoder, dump, f, ids, reference))
        return e;
  }
  return std::unique_ptr<JitReplay>(new JitReplay(std::move(state)));
}

/// The 8 bytes that stand for a map in the code.
uint64_t JitReplay::State::map_address(Kernel &kernel, const MapSite &site, uint8_t *code,
                                       Objects &objects) const {
  MapObject *map = kernel.map(site.map);
  const Map &shape = map->shape();
  if (site.value)
    return reinterpret_cast<uint64_t>(map->values(0)) + site.offset;
  auto with_layout = [&](uint32_t slots) {
    std::vector<uint64_t> &memory = objects.memory[site.map];
    const bool fresh = memory.empty();
    memory.resize(offsets.array_values / 8 + slots);
    memcpy(reinterpret_cast<uint8_t *>(memory.data()) + offsets.max_entries, &shape.max_entries, 4);
    return std::pair(memory.data() + offsets.array_values / 8, fresh);
  };
  switch (shape.type) {
  case MapType::array: {
    const uint64_t address = reinterpret_cast<uint64_t>(map->values(0)) - offsets.array_values;
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

void JitReplay::State::install(Kernel &kernel, uint8_t *code, Objects &objects) const {
  if (objects.kernel == &kernel)
    return;
  objects = {};
  objects.kernel = &kernel;
  for (uint64_t entry : entries) {
    std::vector<uint64_t> &program = objects.programs.emplace_back((offsets.program_size + 7) / 8);
    const uint64_t function = reinterpret_cast<uint64_t>(code) + (entry - first);
    memcpy(reinterpret_cast<uint8_t *>(program.data()) + offsets.program_function, &function, 8);
  }
  for (const MapSite &site : maps) {
    const uint64_t address = map_address(kernel, site, code, objects);
    memcpy(code + (site.address - first), &address, 8);
  }
}

Expected<PlacedCode> JitReplay::place(uint32_t page_offset) {
  State &s = *state_;
  const uint64_t span = page_up(s.last - s.first + page);
  // Behind the code: a page of stubs, and one with their targets and a zero.
  Mapping copy(span + 2 * page);
  if (!copy.base || s.calls.size() * 8 + 8 > page)
    return unsupported("no memory for a copy of the kernel's code").error();
  uint8_t *code = copy.base + page_offset, *stubs = copy.base + span, *targets = stubs + page;
  auto here = [&](uint64_t address) { return code + (address - s.first); };
  auto distance = [](const uint8_t *to, const uint8_t *from) { return int32_t(to - from); };

  PlacedCode out;
  for (const Function &f : s.functions) {
    memcpy(here(f.address), f.code.data(), f.code.size());
    out.ranges.emplace_back(reinterpret_cast<uint64_t>(here(f.address)), f.code.size());
  }
  for (const auto &[address, bytes] : s.patches)
    memcpy(here(address), bytes.data(), bytes.size());
  std::map<HelperFunction *, uint8_t *> stub_of;
  for (const CallSite &call : s.calls) {
    uint8_t *&stub = stub_of[call.helper];
    if (!stub) { // jmp *target(%rip)
      const size_t n = stub_of.size() - 1;
      stub = stubs + n * 8;
      uint8_t *target = targets + 8 + n * 8;
      memcpy(target, &call.helper, 8);
      const int32_t to_target = distance(target, stub + 6);
      stub[0] = 0xff;
      stub[1] = 0x25;
      memcpy(stub + 2, &to_target, 4);
    }
    const int32_t to_stub = distance(stub, here(call.address) + 4);
    memcpy(here(call.address), &to_stub, 4);
  }
  for (uint64_t address : s.percpu_adds) { // ds ds rex.w add zero(%rip), reg: of the same length
    uint8_t *at = here(address);
    const uint8_t reg = at[3] & 0x38;
    const int32_t to_zero = distance(targets, at + 9);
    const uint8_t head[] = {0x3e, 0x3e, 0x48, 0x03, uint8_t(reg | 0x05)};
    memcpy(at, head, sizeof head);
    memcpy(at + 5, &to_zero, 4);
  }
  // xdp_buff -> rxq -> dev; all of it is zero but the interface.
  s.queue[0] = reinterpret_cast<uint64_t>(s.device);
  for (XdpBuff &buff : s.buffs)
    buff.rxq = s.queue;

  out.entry = reinterpret_cast<NativeEntry>(here(s.entries[index(s.x.entry)]));
  auto objects = std::make_shared<Objects>();
  out.install = [&s, code, objects](Kernel &kernel) { s.install(kernel, code, *objects); };
  out.context = [&s](Cpu &cpu, size_t slot) -> void * {
    XdpBuff &buff = s.buffs[slot % std::size(s.buffs)];
    fill(buff, cpu.packet);
    const auto *context = static_cast<const XdpContext *>(cpu.packet.context());
    memcpy(reinterpret_cast<uint8_t *>(s.device) + s.offsets.ifindex, &context->ingress_ifindex, 4);
    return &buff;
  };
  s.copies.push_back(std::move(copy));
  return out;
}

} // namespace ujit
