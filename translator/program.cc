#include "translator/program.h"

#include "translator/kernel.h"

#include <algorithm>
#include <array>

namespace ujit {
namespace {

template <class E>
struct Named {
  E value;
  std::string_view name;
};

constexpr std::array prog_types = {
    Named{ProgType::unspec, "unspec"},
    Named{ProgType::socket_filter, "socket_filter"},
    Named{ProgType::kprobe, "kprobe"},
    Named{ProgType::sched_cls, "sched_cls"},
    Named{ProgType::sched_act, "sched_act"},
    Named{ProgType::tracepoint, "tracepoint"},
    Named{ProgType::xdp, "xdp"},
    Named{ProgType::perf_event, "perf_event"},
    Named{ProgType::cgroup_skb, "cgroup_skb"},
    Named{ProgType::raw_tracepoint, "raw_tracepoint"},
    Named{ProgType::tracing, "tracing"},
};

constexpr std::array map_types = {
    Named{MapType::unspec, "unspec"},
    Named{MapType::hash, "hash"},
    Named{MapType::array, "array"},
    Named{MapType::prog_array, "prog_array"},
    Named{MapType::perf_event_array, "perf_event_array"},
    Named{MapType::percpu_hash, "percpu_hash"},
    Named{MapType::percpu_array, "percpu_array"},
    Named{MapType::stack_trace, "stack_trace"},
    Named{MapType::cgroup_array, "cgroup_array"},
    Named{MapType::lru_hash, "lru_hash"},
    Named{MapType::lru_percpu_hash, "lru_percpu_hash"},
    Named{MapType::lpm_trie, "lpm_trie"},
    Named{MapType::array_of_maps, "array_of_maps"},
    Named{MapType::hash_of_maps, "hash_of_maps"},
    Named{MapType::devmap, "devmap"},
    Named{MapType::sockmap, "sockmap"},
    Named{MapType::cpumap, "cpumap"},
    Named{MapType::xskmap, "xskmap"},
    Named{MapType::sockhash, "sockhash"},
    Named{MapType::devmap_hash, "devmap_hash"},
    Named{MapType::ringbuf, "ringbuf"},
};

std::string_view name_in(const auto &table, auto value) {
  auto row = std::ranges::find_if(table, [&](auto &r) { return r.value == value; });
  return row == table.end() ? "unknown" : row->name;
}

auto value_in(const auto &table, std::string_view name) -> std::optional<decltype(table[0].value)> {
  auto row = std::ranges::find_if(table, [&](auto &r) { return r.name == name; });
  return row == table.end() ? std::nullopt : std::optional(row->value);
}

template <class Id>
std::optional<Id> find_by_name(const auto &items, std::string_view name) {
  auto item = std::ranges::find_if(items, [&](auto &i) { return i.name == name; });
  if (item == items.end())
    return std::nullopt;
  return Id(item - items.begin());
}

} // namespace

std::string_view name_of(ProgType type) { return name_in(prog_types, type); }
std::optional<ProgType> prog_type_by_name(std::string_view name) { return value_in(prog_types, name); }
std::string_view name_of(MapType type) { return name_in(map_types, type); }
std::optional<MapType> map_type_by_name(std::string_view name) { return value_in(map_types, name); }

std::optional<ProgId> Pipeline::find_program(std::string_view name) const {
  return find_by_name<ProgId>(programs, name);
}

std::optional<MapId> Pipeline::find_map(std::string_view name) const {
  return find_by_name<MapId>(maps, name);
}

size_t subprogram_at(const Program &program, uint32_t insn) {
  auto behind = std::ranges::upper_bound(program.subprograms, insn, {}, &Subprogram::start);
  return behind == program.subprograms.begin() ? 0 : behind - program.subprograms.begin() - 1;
}

const KernelCall *Program::kernel_call_at(uint32_t insn) const {
  auto it = std::lower_bound(kernel_calls.begin(), kernel_calls.end(), insn,
                             [](const KernelCall &c, uint32_t i) { return c.insn < i; });
  return it != kernel_calls.end() && it->insn == insn ? &*it : nullptr;
}

const KernelContext *KernelLayout::context(ProgType type) const {
  for (const KernelContext &c : contexts)
    if (c.type == type)
      return &c;
  return nullptr;
}

const KernelContextMember *KernelContext::member(uint64_t offset) const {
  auto it = std::ranges::lower_bound(members, offset, {}, &KernelContextMember::offset);
  return it != members.end() && it->offset == offset ? &*it : nullptr;
}

const LineInfo *line_at(const Program &program, uint32_t insn) {
  auto behind = std::ranges::upper_bound(program.lines, insn, {}, &LineInfo::insn);
  return behind == program.lines.begin() ? nullptr : &*std::prev(behind);
}

} // namespace ujit
