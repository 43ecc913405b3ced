// The capture, in the order in which it must be done. Objects are held by fds before anything about them is
// read, so ids and addresses stay theirs. Programs do not change once they are loaded; prog arrays do, so
// they are compared at the end with what was followed: the pointer in each slot must be the captured program.
// What is attached to a program is looked at last.
#include "kernel-iface/linux/capture.h"

#include "kernel-iface/linux/array_updates.h"
#include "kernel-iface/linux/capture_refusals.h"
#include "kernel-iface/linux/capture_symbols.h"
#include "kernel-iface/linux/hash_tables.h"
#include "kernel-iface/linux/kernel_reader.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/program_info.h"
#include "kernel-iface/linux/skb_helpers.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <future>

namespace ujit {

using llvm::formatv;

const CapturedMap *Capture::map_by_id(uint32_t id) const {
  auto it = std::find_if(maps.begin(), maps.end(), [&](const CapturedMap &map) { return map.id == id; });
  return it == maps.end() ? nullptr : &*it;
}

const CapturedMap *Capture::map_by_address(uint64_t address) const {
  auto it =
      std::find_if(maps.begin(), maps.end(), [&](const CapturedMap &map) { return map.address == address; });
  return it == maps.end() ? nullptr : &*it;
}

const CapturedProgram *Capture::program_by_id(uint32_t id) const {
  auto it = std::find_if(programs.begin(), programs.end(),
                         [&](const CapturedProgram &program) { return program.id == id; });
  return it == programs.end() ? nullptr : &*it;
}

namespace {

constexpr int attempts = 5;

bool has_slots(const CapturedMap &map) { return map.type == MapType::prog_array; }
bool has_inner_maps(const CapturedMap &map) {
  return map.type == MapType::array_of_maps || map.type == MapType::hash_of_maps;
}

std::span<uint8_t> bytes_of(auto &vector) {
  return {reinterpret_cast<uint8_t *>(vector.data()), vector.size() * sizeof vector[0]};
}

/// One try. `changed` tells that the kernel's objects moved under it, so that another one makes sense.
class Attempt {
public:
  Attempt(KernelReader &reader, ProgramTypes &types, std::shared_ptr<const KernelFacts> kernel,
          const CaptureOptions &options)
      : reader_(reader), types_(types), options_(options) {
    out_.kernel = std::move(kernel);
  }

  Expected<Capture> run(std::span<const int> program_fds);
  const std::string &changed() const { return changed_; }

private:
  KernelReader &reader_;
  ProgramTypes &types_;
  const CaptureOptions &options_;
  Capture out_;
  std::string changed_;

  void step(std::string_view name) const {
    if (options_.between)
      options_.between(name);
  }
  Error retry(const std::string &what) {
    changed_ = what;
    return unsupported(what).error();
  }
  Error add_program(Fd fd);
  Error follow();
  Error add_maps(std::span<const uint32_t> ids);
  Error read_addresses(std::span<const uint32_t> map_ids);
  Error read_slots(CapturedMap &map);
  Error add_inner_map(size_t outer);
  Error read_code();
  Error read_contents();
  Error check_slots();
  Error check_refusals();
  Expected<std::vector<std::vector<uint64_t>>> slot_pointers(std::span<const CapturedMap *const> arrays);
};

Error Attempt::add_program(Fd fd) {
  Expected<CapturedProgram> program = read_program_info(std::move(fd), types_);
  if (!program)
    return program.takeError();
  if (!out_.program_by_id(program->id))
    out_.programs.push_back(std::move(*program));
  return Error::success();
}

/// Programs to their maps, prog arrays to their programs, until nothing is new.
Error Attempt::follow() {
  size_t programs_done = 0, maps_done = 0;
  while (programs_done < out_.programs.size()) {
    step("programs");
    std::vector<uint32_t> new_maps;
    for (; programs_done < out_.programs.size(); programs_done++)
      for (uint32_t id : out_.programs[programs_done].map_ids)
        if (!out_.map_by_id(id) && std::find(new_maps.begin(), new_maps.end(), id) == new_maps.end())
          new_maps.push_back(id);
    if (Error e = add_maps(new_maps))
      return e;
    step("maps");
    for (; maps_done < out_.maps.size(); maps_done++) {
      if (has_inner_maps(out_.maps[maps_done]))
        if (Error e = add_inner_map(maps_done)) // adds to the end
          return e;
      if (has_slots(out_.maps[maps_done]))
        if (Error e = read_slots(out_.maps[maps_done]))
          return e;
    }
    step("slots");
  }
  return Error::success();
}

Error Attempt::add_maps(std::span<const uint32_t> ids) {
  for (uint32_t id : ids) {
    Fd fd(bpf_map_get_fd_by_id(id));
    if (!fd && errno == ENOENT)
      return retry(formatv("map {0} went away", id));
    if (!fd)
      return bpf_error(errno, formatv("opening map {0}", id)).error();
    Expected<CapturedMap> map = read_map_info(std::move(fd));
    if (!map)
      return map.takeError();
    out_.maps.push_back(std::move(*map));
  }
  return ids.empty() ? Error::success() : read_addresses(ids);
}

Error Attempt::read_addresses(std::span<const uint32_t> map_ids) {
  Expected<std::vector<map_record>> records = reader_.maps(map_ids);
  if (!records)
    return records.takeError();
  for (const map_record &record : *records)
    for (CapturedMap &map : out_.maps)
      if (map.id == record.id) {
        map.address = record.address;
        map.lookup = record.lookup;
        map.frozen = record.frozen && record.writers == 0;
        // Only arrays have this member set; nothing else is indexed by programs.
        const bool array = map.type == MapType::array || map.type == MapType::percpu_array ||
                           map.type == MapType::prog_array || map.type == MapType::array_of_maps;
        map.bypass_spec_v1 = !array || record.bypass_spec_v1;
        map.special_fields = record.special_fields;
        map.buckets = record.buckets;
        map.bucket_count = record.bucket_count;
        map.hash_seed = record.hash_seed;
      }
  for (const CapturedMap &map : out_.maps)
    if (map.address == 0)
      return internal_error(formatv("the map iterator does not show map {0}", map.id)).error();
  return Error::success();
}

Expected<std::vector<std::vector<uint64_t>>>
Attempt::slot_pointers(std::span<const CapturedMap *const> arrays) {
  std::vector<std::vector<uint64_t>> out;
  std::vector<KernelRange> ranges;
  for (const CapturedMap *array : arrays)
    out.emplace_back(array->max_entries);
  for (size_t i = 0; i < arrays.size(); i++)
    ranges.push_back({arrays[i]->address + out_.kernel->layout.array_value, bytes_of(out[i])});
  if (Error e = reader_.copy(ranges))
    return e;
  return out;
}

/// A prog array's slots and the programs in them. Pointers tell which slots are filled (arrays of 65,536
/// slots with one program are common), bpf() tells the programs' ids.
Error Attempt::read_slots(CapturedMap &map) {
  const CapturedMap *const arrays[] = {&map};
  Expected<std::vector<std::vector<uint64_t>>> pointers = slot_pointers(arrays);
  if (!pointers)
    return pointers.takeError();
  for (uint32_t slot = 0; slot < map.max_entries; slot++) {
    if ((*pointers)[0][slot] == 0)
      continue;
    uint32_t id = 0;
    if (bpf_map_lookup_elem(map.fd.get(), &slot, &id) != 0) {
      if (errno == ENOENT)
        return retry(formatv("slot {0} of prog array '{1}' (id {2}) was emptied", slot, map.name, map.id));
      return bpf_error(errno, formatv("reading prog array '{0}' (id {1})", map.name, map.id)).error();
    }
    map.prog_slots.emplace_back(slot, id);
    if (out_.program_by_id(id))
      continue;
    Fd fd(bpf_prog_get_fd_by_id(id));
    if (!fd && errno == ENOENT)
      return retry(formatv("program {0} went away", id));
    if (!fd)
      return bpf_error(errno, formatv("opening program {0}", id)).error();
    if (Error e = add_program(std::move(fd)))
      return e;
  }
  return Error::success();
}

/// The first inner map that can be had; all have the same shape.
Error Attempt::add_inner_map(size_t outer) {
  std::vector<uint8_t> key(out_.maps[outer].key_size), next(key.size());
  const int fd = out_.maps[outer].fd.get();
  const void *previous = nullptr;
  while (bpf_map_get_next_key(fd, previous, next.data()) == 0) {
    key = next;
    previous = key.data();
    uint32_t id = 0;
    if (bpf_map_lookup_elem(fd, key.data(), &id) != 0)
      continue;
    if (!out_.map_by_id(id)) {
      Fd inner(bpf_map_get_fd_by_id(id));
      if (!inner && errno == ENOENT)
        continue;
      if (!inner)
        return bpf_error(errno, formatv("opening map {0}", id)).error();
      Expected<CapturedMap> map = read_map_info(std::move(inner));
      if (!map)
        return map.takeError();
      out_.maps.push_back(std::move(*map));
      const uint32_t ids[] = {id};
      if (Error e = read_addresses(ids))
        return e;
    }
    out_.maps[outer].inner_id = id;
    return Error::success();
  }
  return Error::success();
}

Error Attempt::read_code() {
  std::vector<uint32_t> ids;
  for (const CapturedProgram &program : out_.programs)
    ids.push_back(program.id);
  Expected<std::vector<ProgramInKernel>> all = reader_.programs(ids);
  if (!all)
    return all.takeError();
  std::vector<KernelRange> ranges;
  for (const ProgramInKernel &facts : *all)
    for (CapturedProgram &program : out_.programs) {
      if (program.id != facts.record.id)
        continue;
      const program_record &record = facts.record;
      program.address = record.address;
      program.attach_type = record.attach_type;
      program.frags = record.flags & program_frags;
      program.gpl_compatible = record.flags & program_gpl;
      program.dst_needed = record.flags & program_dst_needed;
      program.cb_access = record.flags & program_cb_access;
      program.kprobe_override = record.flags & program_kprobe_override;
      program.insns.resize(record.length);
      ranges.push_back({record.insnsi, bytes_of(program.insns)});
      program.functions.resize(facts.functions.size());
      uint32_t start = 0;
      for (size_t i = 0; i < facts.functions.size(); i++) {
        CapturedFunction &function = program.functions[i];
        function.start = start;
        function.length = facts.functions[i].length;
        function.address = facts.functions[i].address;
        start += function.length;
      }
      if (program.functions.front().name.empty())
        program.functions.front().name = program.name;
    }
  for (const CapturedProgram &program : out_.programs)
    if (program.address == 0)
      return internal_error(formatv("the program iterator does not show program {0}", program.id)).error();
  return reader_.copy(ranges);
}

Error Attempt::read_contents() {
  for (CapturedMap &map : out_.maps) {
    if (!map.frozen || map.type != MapType::array || map.max_entries != 1)
      continue;
    map.contents.resize(map.value_size);
    const uint32_t zero = 0;
    if (bpf_map_lookup_elem(map.fd.get(), &zero, map.contents.data()) != 0)
      return bpf_error(errno, formatv("reading map '{0}' (id {1})", map.name, map.id)).error();
  }
  return Error::success();
}

Error Attempt::check_slots() {
  std::vector<const CapturedMap *> arrays;
  for (const CapturedMap &map : out_.maps)
    if (has_slots(map))
      arrays.push_back(&map);
  Expected<std::vector<std::vector<uint64_t>>> now = slot_pointers(arrays);
  if (!now)
    return now.takeError();
  for (size_t i = 0; i < arrays.size(); i++) {
    std::vector<uint64_t> followed(arrays[i]->max_entries);
    for (auto [slot, id] : arrays[i]->prog_slots)
      followed[slot] = out_.program_by_id(id)->address;
    if ((*now)[i] != followed)
      return retry(formatv("prog array '{0}' (id {1}) was changed", arrays[i]->name, arrays[i]->id));
  }
  return Error::success();
}

Error Attempt::check_refusals() {
  Expected<std::vector<ProgramInKernel>> all = reader_.programs({});
  if (!all)
    return all.takeError();
  Expected<std::vector<link_record>> links = reader_.links();
  if (!links)
    return links.takeError();
  for (const ProgramInKernel &facts : *all)
    for (CapturedProgram &program : out_.programs)
      if (program.id == facts.record.id)
        program.refused = refusal_of(program, facts, *links, out_.maps);
  return Error::success();
}

Expected<Capture> Attempt::run(std::span<const int> program_fds) {
  for (int fd : program_fds) {
    Fd own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!own)
      return bpf_error(errno, "holding a program").error();
    if (Error e = add_program(std::move(own)))
      return e;
  }
  out_.entries = out_.programs.size();

  // All programs and maps that can be reached are held from here on.
  if (Error e = follow())
    return e;
  if (Error e = read_code())
    return e;
  if (Error e = read_contents())
    return e;
  if (Error e = resolve_symbols(out_, options_.symbols, reader_))
    return e;

  // Nothing is added from here on: what follows compares with the kernel of now.
  step("again");
  if (Error e = check_slots())
    return e;
  if (Error e = check_refusals())
    return e;
  return std::move(out_);
}

} // namespace

Expected<Capture> capture(std::span<const int> program_fds, const CaptureOptions &options) {
  // Both parse the kernel's BTF, which takes most of the time.
  auto facts = std::async(std::launch::async, read_kernel_facts);
  Expected<KernelReader> reader = KernelReader::load();
  Expected<std::shared_ptr<KernelFacts>> kernel = facts.get();
  if (!reader) {
    llvm::consumeError(kernel.takeError());
    return reader.takeError();
  }
  if (!kernel)
    return kernel.takeError();
  KernelLayout &layout = (*kernel)->layout;
  layout.expand_skb_helpers = can_expand_skb_helpers((*kernel)->release);
  layout.update_arrays = can_update_arrays(*reader, layout.array_value, (*kernel)->release);
  layout.search_htab = can_search_tables(*reader, layout.htab, (*kernel)->release);
  ProgramTypes types;
  std::string changed;
  for (int i = 0; i < attempts; i++) {
    Attempt attempt(*reader, types, *kernel, options);
    Expected<Capture> out = attempt.run(program_fds);
    if (out || attempt.changed().empty())
      return out;
    llvm::consumeError(out.takeError());
    changed = attempt.changed();
  }
  return unsupported("the programs change faster than they can be captured")
      .note(formatv("after {0} attempts: {1}", attempts, changed))
      .with_hint("try again when nothing loads or replaces programs")
      .error();
}

} // namespace ujit
