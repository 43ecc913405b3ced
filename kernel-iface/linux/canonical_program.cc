// One pass over a program's raw instructions. Each slot keeps its place: what the verifier put in for one
// instruction becomes that instruction, followed by jumps to the next slot, so slots are the kernel's own and
// line information stays true.
//
// What the raw instructions hold, by kernel:
//
//   all         ld_imm64 of maps, map values and kernel variables: the address, src cleared; of callbacks:
//   src 4,
//               distance, and the subprogram's number in the second half. Calls of subprograms: the number in
//               imm, the distance in offset, cut to 16 bits. Helpers and kfuncs: distance from
//               __bpf_call_base. Tail calls: opcode 0xf5, imm the number of the JIT's patch descriptor.
//   all         context accesses through the scratch register (r11), `r2 ^= r2` on an r2 that was never set
//   6.10 on     per-CPU moves (`mov` with offset -1), may_goto as a counter on the stack
//   6.15 on     may_goto by time: a call with conventions of its own, refused
//
// An ld_imm64 whose value is the address of a map that the program uses is a reference to that map. The INFO
// dump finds map references in the same way, so it cannot tell more. Should a program really hold that number
// as a number, the address is still what it computes with.
#include "kernel-iface/linux/canonical_program.h"

#include "translator/helper.h"
#include "translator/instance.h"
#include "translator/make_insn.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

constexpr uint8_t op_call = 0x85, op_tail_call = 0xf5, op_mov64 = 0xbf, op_mov64_imm = 0xb7,
                  op_mov32_imm = 0xb4, op_xor64 = 0xaf, op_xor32 = 0xac, op_load32 = 0x61, op_load64 = 0x79,
                  op_ja = 0x05, op_barrier = 0xc2, op_arena_mode = 0xa0;
constexpr int16_t per_cpu_move = -1, address_space_move = 1, cpu_move = -2;

bool is_jump(const Insn &i) {
  const uint8_t kind = i.opcode & 7, op = i.opcode & 0xf0;
  return (kind == 5 || kind == 6) && op != 0x80 && op != 0x90 && i.opcode != op_tail_call;
}

class Rewriter {
public:
  Rewriter(const Capture &capture, const CapturedProgram &captured) : capture_(capture), from_(captured) {}

  Expected<Program> run() {
    out_.name = from_.name;
    out_.object = "running kernel";
    out_.type = from_.type;
    out_.insns = from_.insns;
    out_.lines = from_.lines;
    if (Error e = take_functions())
      return e;
    if (Error e = take_maps())
      return e;
    find_entered();
    for (const Subprogram &f : out_.subprograms)
      for (uint32_t at = f.start; at < f.end;) {
        Expected<uint32_t> slots = rewrite(at, f.end);
        if (!slots)
          return slots.takeError();
        at += *slots;
      }
    std::vector<uint32_t> starts;
    for (const Subprogram &f : out_.subprograms)
      starts.push_back(f.start);
    if (Error e = check_program(out_.insns, starts, ImmediateRules::standard, Form::verified))
      return with_place(std::move(e), out_.object, out_.name);
    return std::move(out_);
  }

private:
  Error refuse(uint32_t at, std::string message, std::string hint = {}) const {
    return unsupported(std::move(message))
        .in_file(out_.object)
        .in_program(out_.name)
        .at(at)
        .with_hint(std::move(hint))
        .error();
  }

  Error take_functions() {
    uint32_t at = 0;
    for (size_t i = 0; i < from_.functions.size(); i++) {
      const CapturedFunction &f = from_.functions[i];
      if (f.start != at || f.length == 0 || f.length > out_.insns.size() - at)
        return refuse(f.start, "the program's functions do not cover its instructions");
      at += f.length;
      // Static functions of different files may share a name.
      std::string name = f.name.empty() ? formatv("sub{0}", i).str() : f.name;
      for (const Subprogram &s : out_.subprograms)
        if (s.name == name) {
          name += formatv(".{0}", i).str();
          break;
        }
      out_.subprograms.push_back({name, f.start, at, 0});
    }
    if (at != out_.insns.size() || at == 0)
      return refuse(at, "the program's functions do not cover its instructions");
    return Error::success();
  }

  Error take_maps() {
    for (uint32_t id : from_.map_ids) {
      const CapturedMap *m = capture_.map_by_id(id);
      if (!m)
        return internal_error(formatv("map {0} was not captured", id)).error();
      if (name_of(m->type) == "unknown")
        return refuse(0,
                      formatv("map '{0}' has a type that is not supported: {1}", m->name, uint32_t(m->type)));
      if (!m->bypass_spec_v1)
        return refuse(0, formatv("map '{0}' needs index masks against speculation", m->name),
                      "load the programs with CAP_BPF and CAP_PERFMON, or boot with mitigations=off");
      maps_.push_back(m);
    }
    return Error::success();
  }

  void find_entered() {
    entered_.resize(out_.insns.size() + 1);
    for (uint32_t at = 0; at < out_.insns.size(); at += is_wide(out_.insns[at]) ? 2 : 1) {
      const Insn &i = out_.insns[at];
      if (!is_jump(i))
        continue;
      const int64_t target = int64_t(at) + 1 + (i.opcode == 0x06 ? i.imm : i.offset);
      if (target < 0 || target >= int64_t(entered_.size()))
        continue;
      Sources &s = entered_[size_t(target)];
      s.first = std::min(s.first, at);
      s.last = std::max(s.last, at);
    }
  }

  /// Whether [at, at + slots) is entered from outside at its top only, and lies in one function.
  bool is_closed(uint32_t at, uint32_t slots, uint32_t end) const {
    if (at + slots > end)
      return false;
    for (uint32_t i = at + 1; i < at + slots; i++)
      if (entered_[i].any() && (entered_[i].first < at || entered_[i].last >= at + slots))
        return false;
    return true;
  }

  uint32_t replace(uint32_t at, uint32_t slots, const Insn &by) {
    out_.insns[at] = by;
    for (uint32_t i = at + 1; i < at + slots; i++)
      out_.insns[i] = make_insn(op_ja, 0, 0, 0, 0);
    return slots;
  }

  static Insn helper_call(uint32_t id) { return make_insn(op_call, 0, 0, 0, int32_t(id)); }

  void name_symbol(uint32_t at, std::string symbol, uint32_t offset = 0) {
    out_.kernel_calls.push_back({at, std::move(symbol), offset});
  }

  /// Rewrites what begins at `at`; its length in slots.
  Expected<uint32_t> rewrite(uint32_t at, uint32_t end) {
    Insn &insn = out_.insns[at];
    if (is_wide(insn))
      return immediate(at, end);
    if (std::optional<uint32_t> slots = array_lookup(at, end))
      return *slots;
    if (std::optional<uint32_t> slots = cpu_number(at, end))
      return *slots;
    if (insn.opcode == op_call)
      return call(at, end);
    if (insn.opcode == op_tail_call)
      return replace(at, 1, helper_call(helper_tail_call));
    if ((insn.opcode == op_xor64 || insn.opcode == op_xor32) && insn.dst == insn.src && !insn.offset &&
        !insn.imm)
      return replace(at, 1,
                     make_insn(insn.opcode == op_xor64 ? op_mov64_imm : op_mov32_imm, insn.dst, 0, 0, 0));
    if (Error e = refuse_private(at))
      return e;
    return 1;
  }

  /// What a kernel uses among itself and we do not take.
  Error refuse_private(uint32_t at) {
    const Insn &i = out_.insns[at];
    if (i.opcode == op_barrier)
      return refuse(at, "speculation barrier", "load the programs with CAP_BPF and CAP_PERFMON");
    if ((i.opcode == op_mov32_imm || i.opcode == op_mov64_imm) && i.dst == scratch_register)
      return refuse(
          at, "the scratch register is set to a constant: a mask against speculation, a blinded constant, "
              "or a loop bounded by time (may_goto)");
    if (i.opcode == op_mov64 && i.offset == per_cpu_move)
      return refuse(at, "per-CPU address outside of a lookup");
    if (i.opcode == op_mov64 && i.offset == address_space_move)
      return refuse(at, "cast between address spaces (arena)");
    const uint8_t kind = i.opcode & 7;
    if (kind >= 1 && kind <= 3 && (i.opcode & 0xe0) == op_arena_mode)
      return refuse(at, "access to an arena");
    const InsnRow *row = find_row(i);
    if (!row || row->op == Op::cpu)
      return refuse(at, formatv("instruction that is not known: opcode {0:x2}, src {1}, offset {2}, imm {3}",
                                i.opcode, unsigned(i.src), i.offset, i.imm));
    if (row->op == Op::may_goto || row->op == Op::callx || row->op == Op::ld_abs || row->op == Op::ld_ind)
      return refuse(at, "`" + print_insn(out_.insns, at) + "` in a verified program");
    return Error::success();
  }

  // --- 64-bit immediates ---

  Expected<uint32_t> immediate(uint32_t at, uint32_t end) {
    if (at + 2 > end)
      return refuse(at, "64-bit immediate without its second slot");
    Insn &low = out_.insns[at], &high = out_.insns[at + 1];
    if (low.src == 4)
      return callback(at);
    if (low.src != 0)
      return refuse(at, formatv("64-bit immediate of kind {0} in a verified program", unsigned(low.src)));
    const uint64_t value = imm64(out_.insns, at);
    for (const CapturedMap *m : maps_) {
      const uint32_t number = uint32_t(m - capture_.maps.data());
      const uint64_t values = m->address + capture_.kernel->layout.array_value;
      if (value == m->address) {
        low = make_insn(low.opcode, low.dst, 1, 0, int32_t(number));
        high.imm = 0;
        return 2;
      }
      if (m->type == MapType::array && m->max_entries == 1 && value >= values &&
          value < values + array_stride(m->value_size)) {
        low = make_insn(low.opcode, low.dst, 2, 0, int32_t(number));
        high.imm = int32_t(value - values);
        return 2;
      }
    }
    auto symbol = capture_.symbols.find(value);
    if (symbol == capture_.symbols.end()) {
      if (looks_like_address(value))
        return refuse(at,
                      "address of something in the kernel that is no map, function or variable known to us");
      return 2;
    }
    const Insn *next = at + 2 < end ? &out_.insns[at + 2] : nullptr;
    const bool jiffies = symbol->second == "jiffies" || symbol->second == "jiffies_64";
    if (jiffies && low.dst == 0 && next && *next == make_insn(op_load64, 0, 0, 0, 0) &&
        is_closed(at, 3, end)) {
      replace(at, 3, helper_call(find_helper("bpf_jiffies64")->id));
      return 3;
    }
    name_symbol(at, symbol->second);
    low = make_insn(low.opcode, low.dst, 3, 0, 0);
    high.imm = 0;
    return 2;
  }

  /// Kernel addresses on x86-64: linear map, vmalloc, memory map; text and modules. Numbers with nothing in
  /// their lower half are masks.
  static bool looks_like_address(uint64_t v) {
    return uint32_t(v) != 0 && ((v >= 0xffff'8000'0000'0000 && v < 0xffff'ffff'0000'0000) ||
                                (v > 0xffff'ffff'8000'0000 && v < 0xffff'ffff'ff00'0000));
  }

  Expected<uint32_t> callback(uint32_t at) {
    Insn &low = out_.insns[at], &high = out_.insns[at + 1];
    const int64_t target = call_target(at, low);
    const uint32_t number = uint32_t(high.imm);
    if (number >= out_.subprograms.size() || target != out_.subprograms[number].start)
      return refuse(at, "address of a subprogram whose number and distance differ");
    low.offset = 0;
    high.imm = 0;
    return 2;
  }

  // --- calls ---

  Expected<uint32_t> call(uint32_t at, uint32_t end) {
    Insn &insn = out_.insns[at];
    if (insn.src == 1)
      return local_call(at);
    if (insn.src > 2)
      return refuse(at, formatv("call of kind {0}", unsigned(insn.src)));
    auto it = capture_.symbols.find(capture_.call_base + uint64_t(int64_t(insn.imm)));
    if (it == capture_.symbols.end())
      return refuse(at, "call of a kernel function whose name is not known");
    const std::string &symbol = it->second;
    if (StringRef(symbol).contains(' '))
      return refuse(at, formatv("call of {0}: functions of modules are not supported", symbol));
    if (insn.src == 2)
      return kernel_call(at, symbol);
    if (symbol == "__htab_map_lookup_elem") {
      std::optional<OpenLookup> found = match_hash_lookup(out_.insns, at, capture_.kernel->layout);
      if (!found || !is_closed(at, found->slots, end) || !agrees(at, *found))
        return refuse(at, "lookup in a hash table that is not as this kernel's source has it");
      name_symbol(at, symbol);
      return replace(at, found->slots, helper_call(helper_map_lookup_elem));
    }
    if (StringRef(symbol).starts_with("bpf_skb_load_helper_")) // what ld_abs and ld_ind became
      return kernel_call(at, symbol);
    std::optional<HelperOfSymbol> helper = helper_of_symbol(from_.type, symbol);
    if (!helper)
      return refuse(at, formatv("call of {0}, which is no helper that is supported here", symbol));
    if (!helper->own_name)
      name_symbol(at, symbol);
    return replace(at, 1, helper_call(helper->id));
  }

  Expected<uint32_t> kernel_call(uint32_t at, const std::string &symbol) {
    for (const char *refused : {"bpf_throw", "arch_bpf_timed_may_goto"})
      if (symbol == refused)
        return refuse(at, formatv("call of {0}", symbol));
    name_symbol(at, symbol);
    return replace(at, 1, make_insn(op_call, 0, 2, 0, 0));
  }

  Expected<uint32_t> local_call(uint32_t at) {
    Insn &insn = out_.insns[at];
    const uint32_t number = uint32_t(insn.imm);
    if (number >= out_.subprograms.size())
      return refuse(at, formatv("call of subprogram {0}, which does not exist", number));
    const int64_t distance = int64_t(out_.subprograms[number].start) - at - 1;
    if (int16_t(distance) != insn.offset)
      return refuse(at, "call of a subprogram whose number and distance differ");
    return replace(at, 1, make_insn(op_call, 0, 1, 0, int32_t(distance)));
  }

  // --- what the verifier open-coded ---

  std::optional<uint32_t> array_lookup(uint32_t at, uint32_t end) {
    std::optional<OpenLookup> found = match_array_lookup(out_.insns, at, capture_.kernel->layout);
    if (!found || found->masked || !is_closed(at, found->slots, end) || !agrees(at, *found))
      return std::nullopt;
    return replace(at, found->slots, helper_call(helper_map_lookup_elem));
  }

  /// Where the map in r1 is loaded right before, the sequence has its numbers.
  bool agrees(uint32_t at, const OpenLookup &found) const {
    for (uint32_t i = at; i-- > 0 && !entered_[i + 1].any();) {
      const Insn &insn = out_.insns[i];
      if (insn.opcode == 0 && i > 0 && is_wide(out_.insns[i - 1])) {
        const Insn &load = out_.insns[--i];
        if (load.dst != 1)
          continue;
        if (load.src != 1)
          return false;
        const CapturedMap &m = capture_.maps[uint32_t(load.imm)];
        if (m.type != found.type)
          return false;
        if (found.max_entries) {
          const uint64_t stride = m.type == MapType::array ? array_stride(m.value_size) : 8;
          return m.max_entries == found.max_entries && stride == found.stride;
        }
        return found.value_offset == capture_.kernel->layout.htab.key + array_stride(m.key_size);
      }
      const InsnRow *row = find_row(insn);
      if (!row || is_jump(insn) || insn.opcode == op_call || insn.dst == 1)
        return true; // it comes from elsewhere
    }
    return true;
  }

  /// bpf_get_smp_processor_id() as a load of a per-CPU variable (6.10 on).
  std::optional<uint32_t> cpu_number(uint32_t at, uint32_t end) {
    if (at + 3 > end || !is_closed(at, 3, end))
      return std::nullopt;
    const Insn address = out_.insns[at];
    if ((address.opcode != op_mov32_imm && address.opcode != op_mov64_imm) || address.dst != 0 ||
        out_.insns[at + 1] != make_insn(op_mov64, 0, 0, per_cpu_move, 0) ||
        out_.insns[at + 2] != make_insn(op_load32, 0, 0, 0, 0))
      return std::nullopt;
    for (const char *variable : {"cpu_number", "pcpu_hot"})
      if (auto it = capture_.addresses.find(variable); it != capture_.addresses.end())
        if (const uint32_t offset = uint32_t(address.imm) - uint32_t(it->second); offset < 64) {
          name_symbol(at, variable, offset);
          break;
        }
    return replace(at, 3, make_insn(op_mov64, 0, 0, cpu_move, 0));
  }

  const Capture &capture_;
  const CapturedProgram &from_;
  Program out_;
  std::vector<const CapturedMap *> maps_;
  /// Slots of the first and the last jump to a slot.
  struct Sources {
    uint32_t first = ~0u, last = 0;
    bool any() const { return first != ~0u; }
  };
  std::vector<Sources> entered_; ///< by slot
};

} // namespace

Expected<Program> canonical_program(const Capture &capture, const CapturedProgram &captured) {
  return Rewriter(capture, captured).run();
}

} // namespace ujit
