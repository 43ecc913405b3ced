// What the linker links: programs and maps as plain values. Object files, test cases and the running
// kernel all produce these; nothing behind this header knows where a program came from.
#pragma once

#include "translator/isa.h"

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ujit {

struct KernelFacts;

/// Index into Pipeline::programs.
enum class ProgId : uint32_t {};
/// Index into Pipeline::maps; also the `imm` of map references in canonical instructions.
enum class MapId : uint32_t {};

constexpr uint32_t index(ProgId id) { return static_cast<uint32_t>(id); }
constexpr uint32_t index(MapId id) { return static_cast<uint32_t>(id); }

/// enum bpf_prog_type; only the values that we name anywhere.
enum class ProgType : uint32_t {
  unspec = 0,
  socket_filter = 1,
  kprobe = 2,
  sched_cls = 3,
  sched_act = 4,
  tracepoint = 5,
  xdp = 6,
  perf_event = 7,
  cgroup_skb = 8,
  raw_tracepoint = 17,
  tracing = 26,
};
std::string_view name_of(ProgType type);
std::optional<ProgType> prog_type_by_name(std::string_view name);

/// enum bpf_map_type.
enum class MapType : uint32_t {
  unspec = 0,
  hash = 1,
  array = 2,
  prog_array = 3,
  perf_event_array = 4,
  percpu_hash = 5,
  percpu_array = 6,
  stack_trace = 7,
  cgroup_array = 8,
  lru_hash = 9,
  lru_percpu_hash = 10,
  lpm_trie = 11,
  array_of_maps = 12,
  hash_of_maps = 13,
  devmap = 14,
  sockmap = 15,
  cpumap = 16,
  xskmap = 17,
  sockhash = 18,
  devmap_hash = 25,
  ringbuf = 27,
};
std::string_view name_of(MapType type);
std::optional<MapType> map_type_by_name(std::string_view name);

/// Source position of the instructions from `insn` up to the next LineInfo, from BTF.
struct LineInfo {
  uint32_t insn = 0;
  std::string file;
  uint32_t line = 0;
  std::string text; ///< the source line as BTF has it; may be empty
  friend bool operator==(const LineInfo &, const LineInfo &) = default;
};

/// A function inside a program: slots [start, end).
struct Subprogram {
  std::string name;
  uint32_t start = 0;
  uint32_t end = 0;
  uint32_t btf_func = 0; ///< type id of its BTF FUNC in the object's BTF; 0: none
  friend bool operator==(const Subprogram &, const Subprogram &) = default;
};

/// The kernel function behind a call: of a helper that has one implementation for each type of map, or a
/// kfunc. At an ld_btf_id or a read of the CPU's number: the (per-CPU) variable.
struct KernelCall {
  uint32_t insn = 0;
  std::string symbol;  ///< name in kallsyms
  uint32_t offset = 0; ///< variables: bytes behind the symbol
  friend bool operator==(const KernelCall &, const KernelCall &) = default;
};

/// One program as the kernel's verifier would get it: its main function first, the subprograms that it
/// reaches behind it, calls as slot distances, maps as MapIds.
struct Program {
  std::string name;    ///< unique in the pipeline
  std::string object;  ///< path of the file it came from, for messages
  std::string section; ///< ELF section, e.g. "xdp" or "tc/tail"
  ProgType type = ProgType::unspec;
  std::vector<Insn> insns;
  std::vector<Subprogram> subprograms; ///< sorted by start; [0] is main, start 0
  std::vector<LineInfo> lines;         ///< sorted by insn; empty without BTF line info
  /// Verified form: kernel functions that the verifier put in place of what the program called. Sorted by
  /// insn.
  std::vector<KernelCall> kernel_calls;
  friend bool operator==(const Program &, const Program &) = default;

  const KernelCall *kernel_call_at(uint32_t insn) const;
};

/// Bytes of a map's value which the linker may not take as constant: they differ by instance.
struct BoundConstant {
  std::string name;
  uint32_t offset = 0;
  uint32_t size = 0;
  uint64_t value = 0; ///< of the instance that the manifest describes
  friend bool operator==(const BoundConstant &, const BoundConstant &) = default;
};

struct Map {
  std::string name; ///< unique in the pipeline
  MapType type = MapType::unspec;
  uint32_t key_size = 0;
  uint32_t value_size = 0;
  uint32_t max_entries = 0;
  uint32_t flags = 0;            ///< BPF_F_*, as at map creation
  uint64_t extra = 0;            ///< map_extra, as at map creation
  bool frozen = false;           ///< data maps: neither programs nor user space can write (.rodata)
  bool pinned = false;           ///< LIBBPF_PIN_BY_NAME or an equivalent: shared by name between objects
  std::vector<uint8_t> contents; ///< data maps (.rodata, .data, .bss): the value of key 0; else empty
  std::vector<BoundConstant> bound;
  std::optional<MapId> inner; ///< array_of_maps, hash_of_maps: a map with the shape of the inner ones
  std::vector<std::pair<uint32_t, MapId>> inner_slots; ///< initial inner maps (`.values`)
  std::vector<std::pair<uint32_t, ProgId>> prog_slots; ///< prog_array: initial contents, sorted by slot
  bool is_template = false;                            ///< only describes inner maps, is never created
  /// Values hold a lock, a timer, kernel pointers or the like, which copies of a value leave alone.
  bool special_fields = false;
  friend bool operator==(const Map &, const Map &) = default;

  bool is_data() const { return !contents.empty(); }
};

/// Its values are maps.
inline bool is_map_in_map(const Map &map) {
  return map.type == MapType::array_of_maps || map.type == MapType::hash_of_maps;
}

/// Everything that one link sees.
struct Pipeline {
  std::vector<Program> programs;
  std::vector<Map> maps;
  std::vector<ProgId> entries; ///< attached from outside; sorted
  /// Set: all programs are in verified form, and this is the kernel that verified them (translator/kernel.h).
  std::shared_ptr<const KernelFacts> kernel;

  const Program &operator[](ProgId id) const { return programs[index(id)]; }
  const Map &operator[](MapId id) const { return maps[index(id)]; }
  std::optional<ProgId> find_program(std::string_view name) const;
  std::optional<MapId> find_map(std::string_view name) const;
};

/// Index of the subprogram that holds slot `insn`.
size_t subprogram_at(const Program &program, uint32_t insn);

/// Source line of an instruction, or null.
const LineInfo *line_at(const Program &program, uint32_t insn);

} // namespace ujit
