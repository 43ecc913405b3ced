#include "lto/kernel_pipeline.h"

#include "kernel-iface/linux/installation.h"
#include "kernel-iface/linux/maps.h"
#include "lto/load.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"

#include <bpf/bpf.h>
#include <net/if.h>

#include <algorithm>
#include <cerrno>
#include <set>

namespace ujit {

using llvm::formatv;

namespace {

/// An entry that was asked for: what is captured, and where it belongs.
struct Wanted {
  int fd = -1;
  std::string program; ///< the manifest's name; empty: as captured
  AttachPoint point;
  bool fresh = true;
};

/// Names of the manifest for what the kernel knows by id.
struct Names {
  std::map<uint32_t, const Program *> programs;
  std::map<uint32_t, const Map *> maps;
};

template <class Info>
Expected<uint32_t> id_of(int fd) {
  Info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(fd, &info, &size))
    return bpf_error(-e, "asking for an id").error();
  return info.id;
}

Expected<Names> names_of(const LoadedPipeline &loaded, const Pipeline &objects) {
  Names names;
  for (uint32_t i = 0; i < objects.programs.size(); ++i) {
    Expected<uint32_t> id = id_of<bpf_prog_info>(loaded.fd(ProgId(i)));
    if (!id)
      return id.takeError();
    names.programs[*id] = &objects.programs[i];
  }
  for (uint32_t i = 0; i < objects.maps.size(); ++i) {
    if (loaded.fd(MapId(i)) < 0)
      continue;
    Expected<uint32_t> id = id_of<bpf_map_info>(loaded.fd(MapId(i)));
    if (!id)
      return id.takeError();
    names.maps[*id] = &objects.maps[i];
  }
  return names;
}

/// Takes over what only the manifest's objects know: full names, files, bound constants.
void take_names(KernelPipeline &k, const Names &names) {
  for (uint32_t i = 0; i < k.canonical.pipeline.programs.size(); ++i) {
    Program &p = k.canonical.pipeline.programs[i];
    if (auto it = names.programs.find(k.captured(ProgId(i)).id); it != names.programs.end()) {
      p.name = it->second->name;
      p.object = it->second->object;
      p.section = it->second->section;
    }
  }
  for (uint32_t i = 0; i < k.canonical.pipeline.maps.size(); ++i) {
    Map &m = k.canonical.pipeline.maps[i];
    if (auto it = names.maps.find(k.captured(MapId(i)).id); it != names.maps.end()) {
      m.name = it->second->name;
      m.bound = it->second->bound;
    }
  }
}

/// Ids of the maps that loaded programs use beside the captured ones, and those which were loaded here but
/// that nothing leads to.
Expected<std::set<uint32_t>> maps_of_others(const Capture &capture, const Names &names) {
  std::set<uint32_t> ids;
  for (uint32_t id = 0; bpf_prog_get_next_id(id, &id) == 0;) {
    if (capture.program_by_id(id) || names.programs.count(id))
      continue;
    Fd program(bpf_prog_get_fd_by_id(id));
    if (!program) // gone meanwhile
      continue;
    std::vector<uint32_t> used(64);
    for (;;) {
      bpf_prog_info info{};
      uint32_t size = sizeof info;
      info.nr_map_ids = uint32_t(used.size());
      info.map_ids = reinterpret_cast<uint64_t>(used.data());
      if (int e = bpf_obj_get_info_by_fd(program.get(), &info, &size))
        return bpf_error(-e, formatv("asking for the maps of program {0}", id)).error();
      const bool all = info.nr_map_ids <= used.size();
      used.resize(info.nr_map_ids);
      if (all)
        break;
    }
    ids.insert(used.begin(), used.end());
  }
  return ids;
}

/// Whether a run of these programs can be interrupted by another of them on the same CPU.
bool reenters(const Pipeline &pipeline) {
  constexpr int32_t clone_redirect = 13;
  return llvm::any_of(pipeline.programs, [](const Program &p) {
    return llvm::any_of(
        p.insns, [](const Insn &i) { return i.opcode == 0x85 && i.src == 0 && i.imm == clone_redirect; });
  });
}

/// Which of the manifest's scratch maps are what it says of them as far as the kernel can tell: per-CPU, and
/// used by these programs only. The others are maps like any other.
Error mark_scratch(const Manifest &manifest, const KernelPipeline &k, const Names &names,
                   LinkOptions &options) {
  const Pipeline &pipeline = k.canonical.pipeline;
  options.scratch.resize(pipeline.maps.size());
  if (manifest.scratch_maps.empty() || reenters(pipeline))
    return Error::success();
  Expected<std::set<uint32_t>> others = maps_of_others(k.capture, names);
  if (!others)
    return others.takeError();
  for (const NamedPlace &s : manifest.scratch_maps) {
    std::optional<MapId> map = pipeline.find_map(s.name);
    if (!map || pipeline[*map].type != MapType::percpu_array || others->count(k.captured(*map).id))
      continue;
    options.scratch[index(*map)] =
        llvm::none_of(pipeline.maps, [&](const Map &outer) { return outer.inner == map; });
  }
  return Error::success();
}

/// The manifest's policies, by name; maps that it names and these programs do not use are no error here.
Expected<LinkOptions> options_for(const Manifest &manifest, const KernelPipeline &k, const Names &names) {
  const Pipeline &pipeline = k.canonical.pipeline;
  LinkOptions options;
  options.name = manifest.name;
  options.cpu = manifest.cpu;
  options.policies.resize(pipeline.maps.size());
  for (const ManifestProgArray &a : manifest.prog_arrays) {
    std::optional<MapId> map = pipeline.find_map(a.map);
    if (!map)
      continue;
    const CapturedMap &captured = k.captured(*map);
    if (a.edges == EdgeKind::sealed && !captured.frozen)
      return manifest_error(manifest, a.place,
                            formatv("prog array '{0}' cannot be sealed: it is not frozen", a.map))
          .note("its slots could change under code that no longer looks at them")
          .with_hint("freeze it (bpf_map_freeze) once it is filled, or take edges: guarded")
          .error();
    options.policies[index(*map)].edges = a.edges;
  }
  if (Error e = mark_scratch(manifest, k, names, options))
    return e;
  return options;
}

Expected<KernelPipeline> capture_group(const Manifest &manifest, ProgType type,
                                       std::span<const Wanted> wanted, const Names &names) {
  std::vector<int> fds;
  for (const Wanted &w : wanted)
    fds.push_back(w.fd);
  KernelPipeline k;
  k.type = type;
  CaptureOptions options;
  for (llvm::StringLiteral symbol : kernel_support())
    options.symbols.push_back(symbol.str());
  for (const std::string &symbol : module_functions())
    options.symbols.push_back(symbol);
  for (const std::string &symbol : translation_symbols())
    options.symbols.push_back(symbol);
  Expected<Capture> captured = capture(fds, options);
  if (!captured)
    return captured.takeError();
  k.capture = std::move(*captured);
  Expected<CanonicalPipeline> canonical = canonicalise(k.capture);
  if (!canonical)
    return canonical.takeError();
  k.canonical = std::move(*canonical);
  take_names(k, names);
  for (const Wanted &w : wanted) {
    Expected<uint32_t> id = id_of<bpf_prog_info>(w.fd);
    if (!id)
      return id.takeError();
    for (uint32_t i = 0; i < k.canonical.programs.size(); ++i)
      if (k.captured(ProgId(i)).id == *id)
        k.entries.push_back({ProgId(i), w.point, w.fresh});
  }
  Expected<LinkOptions> link = options_for(manifest, k, names);
  if (!link)
    return link.takeError();
  k.options = std::move(*link);
  return k;
}

Expected<std::vector<KernelPipeline>> capture_groups(const Manifest &manifest, std::span<const Wanted> wanted,
                                                     const Names &names) {
  std::vector<KernelPipeline> out;
  for (ProgType type : {ProgType::xdp, ProgType::sched_cls}) {
    std::vector<Wanted> group;
    for (const Wanted &w : wanted) {
      bpf_prog_info info{};
      uint32_t size = sizeof info;
      if (int e = bpf_obj_get_info_by_fd(w.fd, &info, &size))
        return bpf_error(-e, "asking for a program's type").error();
      if (ProgType(info.type) == type)
        group.push_back(w);
      else if (ProgType(info.type) != ProgType::xdp && ProgType(info.type) != ProgType::sched_cls)
        return unsupported(
                   formatv("programs of type {0} have no kernel images", name_of(ProgType(info.type))))
            .in_program(w.program)
            .with_hint("XDP and tc (sched_cls) programs have")
            .error();
    }
    if (group.empty())
      continue;
    Expected<KernelPipeline> k = capture_group(manifest, type, group, names);
    if (!k)
      return k.takeError();
    out.push_back(std::move(*k));
  }
  return out;
}

/// A stub is no program to fuse: it stands for one that is fused already.
Error refuse_stub(uint32_t id, const AttachPoint &point) {
  Expected<std::vector<std::string>> names = InstallationFolder::list();
  if (!names)
    return names.takeError();
  for (const std::string &name : *names) {
    Expected<InstallationFolder> folder = InstallationFolder::open(name);
    if (!folder)
      return folder.takeError();
    for (const InstalledEntry &e : folder->installation().entries)
      if (e.stub_id == id)
        return input_error(
                   formatv("what is attached at {0} is installed already, as '{1}'", describe(point), name))
            .with_hint("take that out first: ujit-lto uninstall " + name)
            .error();
  }
  return Error::success();
}

/// Finds what is attached at a point of the manifest, and completes the point.
Expected<Wanted> find_running(const Manifest &manifest, const ManifestAttach &a, std::vector<Fd> &held) {
  Wanted w;
  w.point = a.point;
  w.fresh = false;
  if (Error e = complete(w.point))
    return with_place(std::move(e), manifest.file);
  Expected<std::optional<uint32_t>> id = attached_at(w.point);
  if (!id)
    return id.takeError();
  if (!*id)
    return manifest_error(manifest, a.place, "no program is attached at " + describe(w.point))
        .with_hint("`bpftool net` and `bpftool map dump` show what is")
        .error();
  if (Error e = refuse_stub(**id, w.point))
    return e;
  held.emplace_back(bpf_prog_get_fd_by_id(**id));
  if (!held.back())
    return bpf_error(errno, formatv("opening program {0} at {1}", **id, describe(w.point))).error();
  w.fd = held.back().get();
  return w;
}

} // namespace

Expected<KernelSource> load_and_capture(const Manifest &manifest, const Pipeline &objects,
                                        std::span<const MapSeed> seeds) {
  KernelSource source;
  LoadOptions options;
  options.seeds.assign(seeds.begin(), seeds.end());
  Expected<LoadedPipeline> loaded = load_into_kernel(objects, options);
  if (!loaded)
    return loaded.takeError();
  source.loaded = std::move(*loaded);
  for (const ManifestProgArray &a : manifest.prog_arrays)
    if (std::optional<MapId> map = objects.find_map(a.map); map && a.edges == EdgeKind::sealed)
      if (bpf_map_freeze(source.loaded->fd(*map)))
        return bpf_error(errno, "freezing prog array " + a.map).error();
  std::vector<Wanted> wanted;
  if (manifest.attach.empty()) {
    for (ProgId e : objects.entries)
      wanted.push_back({source.loaded->fd(e), objects[e].name, {}, true});
  }
  for (const ManifestAttach &a : manifest.attach) {
    std::optional<ProgId> program = objects.find_program(a.program);
    if (!program)
      return manifest_error(manifest, a.place, formatv("program '{0}' does not exist", a.program)).error();
    wanted.push_back({source.loaded->fd(*program), a.program, a.point, true});
  }
  Expected<Names> names = names_of(*source.loaded, objects);
  if (!names)
    return names.takeError();
  Expected<std::vector<KernelPipeline>> pipelines = capture_groups(manifest, wanted, *names);
  if (!pipelines)
    return pipelines.takeError();
  source.pipelines = std::move(*pipelines);
  return source;
}

Expected<KernelSource> capture_running(const Manifest &manifest) {
  std::vector<Fd> held; // until the captures hold them
  std::vector<Wanted> wanted;
  for (const ManifestAttach &a : manifest.attach) {
    Expected<Wanted> w = find_running(manifest, a, held);
    if (!w)
      return w.takeError();
    wanted.push_back(std::move(*w));
  }
  KernelSource source;
  Expected<std::vector<KernelPipeline>> pipelines = capture_groups(manifest, wanted, {});
  if (!pipelines)
    return pipelines.takeError();
  source.pipelines = std::move(*pipelines);
  return source;
}

Expected<KernelSource> read_kernel_source(const Manifest &manifest) {
  if (manifest.fuse == Fuse::never)
    return manifest_error(manifest, manifest.fuse_place,
                          "the pipeline is not to be fused: the kernel runs it unfused already")
        .error();
  if (manifest.objects.empty())
    return capture_running(manifest);
  Expected<Pipeline> objects = load_pipeline(manifest);
  if (!objects)
    return objects.takeError();
  Expected<std::vector<MapSeed>> seeds = load_seed(manifest);
  if (!seeds)
    return seeds.takeError();
  return load_and_capture(manifest, *objects, *seeds);
}

} // namespace ujit
