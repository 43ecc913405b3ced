#include "kernel-iface/linux/load.h"

#include "kernel-iface/linux/events.h"
#include "kernel-iface/linux/func_info.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/verifier_log.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;

// Defined by newer headers than those we build with; kernels that do not know it refuse the program.
constexpr uint32_t prog_flag_xdp_has_frags = 1u << 5;

LoadedPipeline::LoadedPipeline() = default;
LoadedPipeline::LoadedPipeline(LoadedPipeline &&) noexcept = default;
LoadedPipeline &LoadedPipeline::operator=(LoadedPipeline &&) noexcept = default;
LoadedPipeline::~LoadedPipeline() = default;

namespace {

LinkError in(const Program &program, LinkError error) {
  return error.in_file(program.object).in_program(program.name);
}

/// Instructions as the kernel takes them: map fds in the place of MapIds. Everything else is the same.
Expected<std::vector<Insn>> with_map_fds(const Program &program, std::span<const Map> maps,
                                         std::span<const Fd> fds) {
  std::vector<Insn> out = program.insns;
  for (uint32_t at = 0; at < out.size(); at++) {
    Insn &insn = out[at];
    if (!is_wide(insn))
      continue;
    if (insn.src == BPF_PSEUDO_MAP_FD || insn.src == BPF_PSEUDO_MAP_VALUE) {
      auto id = static_cast<uint32_t>(insn.imm);
      if (id >= fds.size())
        return in(program, input_error("reference to a map that does not exist").at(at)).error();
      if (!fds[id])
        return in(program,
                  input_error("reference to map '" + maps[id].name + "', which only describes inner maps")
                      .at(at))
            .error();
      insn.imm = fds[id].get();
    } else if (insn.src == BPF_PSEUDO_MAP_IDX || insn.src == BPF_PSEUDO_MAP_IDX_VALUE) {
      return in(program, unsupported("map reference by fd_array index").at(at)).error();
    }
    at++;
  }
  return out;
}

bool accepts_frags(const Program &program) {
  return program.type == ProgType::xdp && StringRef(program.section).starts_with("xdp.frags");
}

/// Program types that cannot be loaded without naming what they are bound to.
Error check_loadable(const Program &program) {
  if (program.type == ProgType::unspec)
    return in(program,
              unsupported("a program without a type runs on plain memory: the kernel has no such thing"))
        .error();
  if (program.type == ProgType::tracing)
    return in(program,
              unsupported("a tracing program is bound to one kernel function and is not loaded here"))
        .error();
  return Error::success();
}

Expected<Fd> load_program(const Program &program, std::span<const Insn> insns, int btf_fd,
                          const std::vector<bpf_func_info> &functions) {
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  if (accepts_frags(program))
    options.prog_flags |= prog_flag_xdp_has_frags;
  if (!functions.empty()) {
    options.prog_btf_fd = btf_fd;
    options.func_info = functions.data();
    options.func_info_cnt = functions.size();
    options.func_info_rec_size = sizeof(bpf_func_info);
  }
  auto load = [&] {
    return Fd(bpf_prog_load(static_cast<bpf_prog_type>(program.type),
                            kernel_object_name(program.name).c_str(), "GPL",
                            reinterpret_cast<const bpf_insn *>(insns.data()), insns.size(), &options));
  };
  Fd fd = load();
  if (fd)
    return fd;
  if (errno == EPERM)
    return in(program, bpf_error(errno, "the kernel does not load the program")).error();
  // Once more with a log: writing it costs more than verifying, so good programs go without.
  std::vector<char> log(verifier_log_bytes);
  options.log_level = 1;
  options.log_buf = log.data();
  options.log_size = log.size();
  int error = errno;
  fd = load();
  if (fd)
    return fd;
  if (errno != ENOSPC) // the log was cut at its end, the first error stands
    error = errno;
  return verifier_error(program, error, StringRef(log.data(), strnlen(log.data(), log.size()))).error();
}

Error fill_prog_array(const Pipeline &pipeline, const Map &map, int fd, std::span<const Fd> programs) {
  for (auto [slot, id] : map.prog_slots) {
    if (index(id) >= programs.size())
      return input_error(formatv("slot {0} of map '{1}' names no program", slot, map.name)).error();
    int program = programs[index(id)].get();
    if (bpf_map_update_elem(fd, &slot, &program, BPF_ANY) == 0)
      continue;
    LinkError error =
        bpf_error(errno, formatv("slot {0} of map '{1}' ({2} entries) does not take the program", slot,
                                 map.name, map.max_entries));
    if (errno == EINVAL)
      error.note("programs that share a prog array must agree in type, attach type and XDP frags");
    return in(pipeline[id], error).error();
  }
  return Error::success();
}

Error write_seeds(const Pipeline &pipeline, std::span<const Fd> fds, const std::vector<MapSeed> &seeds) {
  for (const MapSeed &seed : seeds) {
    std::optional<MapId> id = pipeline.find_map(seed.map);
    if (!id)
      return input_error("seed for map '" + seed.map + "', which the pipeline does not have").error();
    if (Error e = write_map(pipeline[*id], fds[index(*id)].get(), seed.entries))
      return e;
  }
  return Error::success();
}

Error freeze(const Map &map, int fd) {
  if (bpf_map_freeze(fd) != 0)
    return bpf_error(errno, "freezing map '" + map.name + "'").error();
  return Error::success();
}

} // namespace

Expected<LoadedPipeline> load_into_kernel(const Pipeline &pipeline, const LoadOptions &options) {
  // What goes wrong is returned, not printed.
  [[maybe_unused]] static const libbpf_print_fn_t before = libbpf_set_print(nullptr);
  LoadedPipeline out;
  for (const Map &map : pipeline.maps) {
    out.maps_.push_back(map);
    out.maps_.back().contents.clear();
  }
  Expected<std::vector<Fd>> maps = create_maps(pipeline, options.pin_directory);
  if (!maps)
    return maps.takeError();
  out.map_fds_ = std::move(*maps);
  if (Error e = write_seeds(pipeline, out.map_fds_, options.seeds))
    return e;

  // Data is frozen before any program is verified: its contents are constants for the verifier.
  for (size_t i = 0; i < pipeline.maps.size(); i++)
    if (pipeline.maps[i].frozen && out.map_fds_[i] && pipeline.maps[i].type != MapType::prog_array)
      if (Error e = freeze(pipeline.maps[i], out.map_fds_[i].get()))
        return e;

  out.events_.resize(pipeline.maps.size());
  for (size_t i = 0; i < pipeline.maps.size(); i++) {
    const Map &map = pipeline.maps[i];
    bool perf = map.type == MapType::perf_event_array && options.capture_events;
    if (!out.map_fds_[i] || (!perf && map.type != MapType::ringbuf))
      continue;
    Expected<std::unique_ptr<EventReader>> reader = open_events(map, out.map_fds_[i].get());
    if (!reader)
      return reader.takeError();
    out.events_[i] = std::move(*reader);
  }

  Expected<FunctionRecords> functions = make_function_records(pipeline);
  if (!functions)
    return functions.takeError();
  std::vector<Error> errors;
  for (size_t i = 0; i < pipeline.programs.size(); i++) {
    const Program &program = pipeline.programs[i];
    out.programs_.push_back({program.name, program.object, program.type, accepts_frags(program)});
    out.program_fds_.emplace_back();
    if (Error e = check_loadable(program)) {
      errors.push_back(std::move(e));
      continue;
    }
    Expected<std::vector<Insn>> insns = with_map_fds(program, pipeline.maps, out.map_fds_);
    if (!insns) {
      errors.push_back(insns.takeError());
      continue;
    }
    Expected<Fd> fd = load_program(program, *insns, functions->btf.get(), functions->by_program[i]);
    if (fd)
      out.program_fds_.back() = std::move(*fd);
    else
      errors.push_back(fd.takeError());
  }
  if (!errors.empty())
    return join_sorted(std::move(errors));

  // Every program is verified from here on.
  for (size_t i = 0; i < pipeline.maps.size(); i++) {
    const Map &map = pipeline.maps[i];
    if (map.type != MapType::prog_array || !out.map_fds_[i])
      continue;
    if (Error e = fill_prog_array(pipeline, map, out.map_fds_[i].get(), out.program_fds_))
      return e;
    if (map.frozen)
      if (Error e = freeze(map, out.map_fds_[i].get()))
        return e;
  }
  if (Error e = pin_maps(pipeline, out.map_fds_, options.pin_directory))
    return e;
  return out;
}

Expected<MapContents> LoadedPipeline::read(MapId id) const {
  return read_map(maps_[index(id)], map_fds_[index(id)].get());
}

Error LoadedPipeline::write(MapId id, const MapContents &entries) {
  return write_map(maps_[index(id)], map_fds_[index(id)].get(), entries);
}

Expected<EventSamples> LoadedPipeline::drain_events(MapId id) {
  if (!events_[index(id)])
    return unsupported("events of map '" + maps_[index(id)].name + "' are not captured").error();
  return events_[index(id)]->drain();
}

Fd load_own_program(uint32_t type, const char *name, std::span<const Insn> insns) {
  return Fd(bpf_prog_load(bpf_prog_type(type), name, "GPL", reinterpret_cast<const bpf_insn *>(insns.data()),
                          insns.size(), nullptr));
}

} // namespace ujit
