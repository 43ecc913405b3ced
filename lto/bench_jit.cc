// What the code shares with the kernel is noted and taken out: distances to helpers, addresses of maps, the
// offset of per-CPU data. The n-th map address in the machine code belongs to the n-th map reference of the
// verified instructions: the JIT goes through them in order.
#include "lto/bench_jit.h"

#include "lto/digest.h"
#include "lto/machine_code.h"

#include "kernel-iface/linux/dump.h"
#include "kernel-iface/linux/kernel_types.h"
#include "kernel-iface/linux/load.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace ujit {

namespace {

using llvm::formatv;
using llvm::StringRef;

constexpr uint64_t page = 4096;

/// Members that the replay needs of any program, and of programs of a type.
constexpr std::string_view members_of_all[] = {"bpf_array.value", "bpf_map.max_entries", "bpf_prog.bpf_func",
                                               "htab_elem.key"};
constexpr std::string_view members_of_xdp[] = {"net_device.ifindex",       "xdp_buff.data",
                                               "xdp_buff.data_end",        "xdp_buff.data_meta",
                                               "xdp_buff.data_hard_start", "xdp_buff.rxq"};
constexpr std::string_view members_of_skb[] = {"net_device.ifindex",
                                               "sk_buff.data",
                                               "sk_buff.head",
                                               "sk_buff.len",
                                               "sk_buff.mark",
                                               "sk_buff.priority",
                                               "sk_buff.hash",
                                               "sk_buff.protocol",
                                               "sk_buff.vlan_proto",
                                               "sk_buff.vlan_tci",
                                               "sk_buff.queue_mapping",
                                               "sk_buff.tc_index",
                                               "sk_buff.skb_iif",
                                               "sk_buff.dev",
                                               "sk_buff.tstamp",
                                               "sk_buff.cb",
                                               "sk_buff.__pkt_type_offset",
                                               "qdisc_skb_cb.pkt_len",
                                               "qdisc_skb_cb.tc_classid",
                                               "qdisc_skb_cb.data",
                                               "bpf_skb_data_end.data_meta",
                                               "bpf_skb_data_end.data_end"};

Error read_layout(ProgType type, JitCode &out) {
  Expected<KernelTypes> types = KernelTypes::read();
  if (!types)
    return types.takeError();
  auto add = [&](std::span<const std::string_view> names) -> Error {
    for (std::string_view name : names) {
      const auto [record, field] = StringRef(name).split('.');
      Expected<uint32_t> offset = types->offset_of(record.str(), field.str());
      if (!offset)
        return offset.takeError();
      out.layout.push_back({std::string(name), *offset});
    }
    return Error::success();
  };
  if (Error e = add(members_of_all))
    return e;
  if (Error e = type == ProgType::xdp ? add(members_of_xdp) : add(members_of_skb))
    return e;
  for (const char *record : {"bpf_prog", "sk_buff"}) {
    Expected<uint32_t> size = types->size_of(record);
    if (!size)
      return size.takeError();
    out.layout.push_back({std::string("sizeof ") + record, *size});
  }
  return Error::success();
}

class Capture {
public:
  Capture(const KernelSymbols &symbols, std::vector<ProgramDump> dumps, std::map<uint32_t, std::string> maps)
      : symbols_(symbols), dumps_(std::move(dumps)), map_names_(std::move(maps)) {}

  Error run(JitCode &out);

private:
  struct Range {
    uint64_t address, size;
  };
  bool is_ours(uint64_t address) const;
  Error read(const ProgramDump &dump, const JitedFunction &f, size_t &reference, JitCode &out);
  Error read_branch(const ProgramDump &dump, uint64_t address, const MachineStep &step, JitCode &out);
  Error read_constant(const ProgramDump &dump, uint64_t address, const uint8_t *bytes, size_t &reference,
                      JitCode &out);
  static void read_element_add(llvm::ArrayRef<uint8_t> behind_call, uint64_t offset, JitCode &out);

  const KernelSymbols &symbols_;
  std::vector<ProgramDump> dumps_;
  std::map<uint32_t, std::string> map_names_; ///< by map id
  std::vector<Range> ranges_;                 ///< by address
  uint64_t first_ = 0;
  MachineDecoder decoder_;
};

bool Capture::is_ours(uint64_t address) const {
  auto after = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                [](uint64_t a, const Range &r) { return a < r.address; });
  return after != ranges_.begin() && address < std::prev(after)->address + std::prev(after)->size;
}

Error Capture::read_branch(const ProgramDump &dump, uint64_t address, const MachineStep &step, JitCode &out) {
  if (is_ours(*step.target))
    return Error::success();
  const std::string name = symbols_.name_at(*step.target).value_or("an unknown function");
  const uint64_t offset = address - first_;
  if (step.call) {
    out.calls.push_back({offset + step.size - 4, name});
    return Error::success();
  }
  if (step.size == 5 && StringRef(name).ends_with("return_thunk"))
    out.returns.push_back(offset);
  else if (step.size == 5 && name == "__x86_indirect_thunk_rcx")
    out.indirect_jumps.push_back(offset);
  else
    return unsupported("a jump to " + name + " in the kernel's code").in_program(dump.name).error();
  return Error::success();
}

Error Capture::read_constant(const ProgramDump &dump, uint64_t address, const uint8_t *bytes,
                             size_t &reference, JitCode &out) {
  constexpr uint8_t load_imm64 = 0x18, pseudo_map = 1, pseudo_value = 2;
  uint64_t value;
  memcpy(&value, bytes + 2, 8);
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
    auto name = map_names_.find(uint32_t(low.imm));
    if (name == map_names_.end())
      return unsupported("a map that is not the pipeline's").in_program(dump.name).error();
    out.maps.push_back({address + 2 - first_, name->second, low.src == pseudo_value, uint32_t(high.imm)});
    break;
  }
  reference += 2;
  return Error::success();
}

/// test %rax, %rax; je; add $imm, %rax. A per-CPU map's goes on with a load, an LRU map's has more before the
/// add.
void Capture::read_element_add(llvm::ArrayRef<uint8_t> code, uint64_t offset, JitCode &out) {
  static constexpr uint8_t test[] = {0x48, 0x85, 0xc0, 0x74}, add8[] = {0x48, 0x83, 0xc0},
                           add32[] = {0x48, 0x05}, load[] = {0x48, 0x8b, 0x40, 0x00};
  auto starts = [&](size_t at, llvm::ArrayRef<uint8_t> what) {
    return code.size() >= at + what.size() && code.slice(at, what.size()) == what;
  };
  if (!starts(0, test))
    return;
  const size_t size = starts(5, add8) ? 4 : starts(5, add32) ? 6 : 0;
  if (size && !starts(5 + size, load))
    out.element_adds.push_back(offset + 5);
}

Error Capture::read(const ProgramDump &dump, const JitedFunction &f, size_t &reference, JitCode &out) {
  for (uint64_t at = 0; at < f.code.size();) {
    const llvm::ArrayRef<uint8_t> left = llvm::ArrayRef(f.code).drop_front(at);
    const uint64_t address = f.address + at;
    const std::optional<MachineStep> step = decoder_.decode(left, address);
    if (!step)
      return unsupported(formatv("code of the kernel that is not understood at {0}", at))
          .in_program(dump.name)
          .error();
    if (step->target) {
      const size_t before = out.calls.size();
      if (Error e = read_branch(dump, address, *step, out))
        return e;
      if (out.calls.size() != before && out.calls.back().function == "__htab_map_lookup_elem")
        read_element_add(left.drop_front(step->size), address + step->size - first_, out);
    } else if (step->size == 10 && (left[0] & 0xfe) == 0x48 && (left[1] & 0xf8) == 0xb8) { // movabs
      if (Error e = read_constant(dump, address, left.data(), reference, out))
        return e;
    } else if (left[0] == 0x65) { // %gs
      // The JIT adds nothing but this_cpu_off in this way.
      if (step->size != 9 || left[1] != 0x48 || left[2] != 0x03 || left[4] != 0x25)
        return unsupported("per-CPU data of the kernel").in_program(dump.name).error();
      out.percpu_adds.push_back(address - first_);
    }
    at += step->size;
  }
  return Error::success();
}

Error Capture::run(JitCode &out) {
  for (const ProgramDump &dump : dumps_)
    for (const JitedFunction &f : dump.functions)
      ranges_.push_back({f.address, f.code.size()});
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range &a, const Range &b) { return a.address < b.address; });
  first_ = ranges_.front().address & ~(page - 1);
  if (ranges_.back().address - first_ > uint64_t(256) << 20)
    return unsupported("the kernel's code lies too far apart").error();
  for (const ProgramDump &dump : dumps_) {
    size_t reference = 0;
    for (const JitedFunction &f : dump.functions) {
      if (Error e = read(dump, f, reference, out))
        return e;
      out.functions.push_back({f.address - first_, f.code});
    }
    out.entries.push_back({dump.name, dump.functions.front().address - first_});
  }
  std::sort(out.functions.begin(), out.functions.end(),
            [](const JitCode::Function &a, const JitCode::Function &b) { return a.offset < b.offset; });
  return Error::success();
}

/// Takes out what tells where the kernel is.
void blank(JitCode &code) {
  auto clear = [&](uint64_t offset, size_t size) {
    for (JitCode::Function &f : code.functions)
      if (offset >= f.offset && offset + size <= f.offset + f.code.size())
        memset(&f.code[offset - f.offset], 0, size);
  };
  for (const JitCode::MapSite &m : code.maps)
    clear(m.offset, 8);
  for (const JitCode::CallSite &c : code.calls)
    clear(c.offset, 4);
  for (uint64_t at : code.returns)
    clear(at + 1, 4);
  for (uint64_t at : code.indirect_jumps)
    clear(at + 1, 4);
  for (uint64_t at : code.percpu_adds)
    clear(at + 5, 4);
}

} // namespace

uint64_t JitCode::code_bytes() const {
  uint64_t bytes = 0;
  for (const Function &f : functions)
    bytes += f.code.size();
  return bytes;
}

Expected<uint32_t> JitCode::member(std::string_view name) const {
  for (const Member &m : layout)
    if (m.name == name)
      return m.offset;
  return unsupported("a layout without " + std::string(name)).error();
}

Expected<JitCode> capture_jit_code(const Pipeline &pipeline) {
  Expected<KernelSymbols> symbols = KernelSymbols::read();
  if (!symbols)
    return symbols.takeError();
  Expected<LoadedPipeline> loaded = load_into_kernel(pipeline);
  if (!loaded)
    return loaded.takeError();
  JitCode out;
  utsname name{};
  uname(&name);
  out.kernel = name.release;
  out.digest = pipeline_digest(pipeline);
  out.type = pipeline[pipeline.entries.front()].type;
  if (Error e = read_layout(out.type, out))
    return e;

  std::map<uint32_t, std::string> ids;
  for (uint32_t m = 0; m < pipeline.maps.size(); ++m) {
    bpf_map_info info{};
    uint32_t length = sizeof info;
    if (!pipeline.maps[m].is_template && bpf_obj_get_info_by_fd(loaded->fd(MapId(m)), &info, &length) == 0)
      ids[info.id] = pipeline.maps[m].name;
  }
  std::vector<ProgramDump> dumps;
  for (uint32_t p = 0; p < pipeline.programs.size(); ++p) {
    Expected<ProgramDump> dump = dump_program(loaded->fd(ProgId(p)));
    if (!dump)
      return dump.takeError();
    dump->name = pipeline.programs[p].name; // the kernel keeps 15 characters
    dumps.push_back(std::move(*dump));
  }
  if (Error e = Capture(*symbols, std::move(dumps), std::move(ids)).run(out))
    return e;
  blank(out);
  return out;
}

} // namespace ujit
