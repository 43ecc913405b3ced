#include "lto/load.h"

#include "kernel-iface/object/gather.h"
#include "lto/profile.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <system_error>

namespace ujit {

namespace {

ObjectOptions object_options(const ManifestObject &o) {
  ObjectOptions out;
  for (const ManifestType &t : o.types)
    out.types[t.section] = t.type;
  for (const NamedPlace &s : o.value_sections)
    out.value_sections.insert(s.name);
  return out;
}

std::vector<ConstantSetting> constant_settings(const ManifestObject &o) {
  std::vector<ConstantSetting> out;
  for (const ManifestConstant &c : o.constants)
    out.push_back({c.name, c.bind ? ConstantSetting::bind : ConstantSetting::fold,
                   c.bind ? *c.bind : c.fold.value_or(0), c.bytes});
  return out;
}

/// gather() knows nothing of lines: what the manifest names is looked up here first, so that a slip of the
/// pen is shown where it is. A name may have its object's prefix ("STEM:name"); whether that is right,
/// gather() decides.
class NameCheck {
public:
  NameCheck(const Manifest &manifest, const std::vector<Object> &objects) : manifest_(manifest) {
    for (const Object &o : objects) {
      for (const Program &p : o.programs)
        programs_.push_back(p.name);
      for (const RefusedProgram &r : o.refused)
        programs_.push_back(r.name);
      for (const Map &m : o.maps)
        maps_.push_back(m.name);
    }
  }

  Error run() {
    for (const NamedPlace &e : manifest_.entries)
      check(e.name, e.place, "entry", programs_);
    for (const ManifestProgArray &a : manifest_.prog_arrays) {
      check(a.map, a.place, "prog array", maps_);
      for (const ManifestSlot &s : a.slots)
        check(s.program, s.place, "program", programs_);
    }
    for (const NamedPlace &m : manifest_.scratch_maps)
      check(m.name, m.place, "scratch map", maps_);
    return std::move(errors_);
  }

private:
  void check(const std::string &name, Place place, const char *what, const std::vector<std::string> &known) {
    if (llvm::is_contained(known, name) || llvm::is_contained(known, name.substr(name.rfind(':') + 1)))
      return;
    const std::string near = nearest(name, known);
    errors_ = llvm::joinErrors(
        std::move(errors_),
        manifest_error(manifest_, place, llvm::formatv("{0} '{1}' does not exist", what, name))
            .with_hint(near.empty() ? "" : "did you mean '" + near + "'?")
            .error());
  }

  const Manifest &manifest_;
  std::vector<std::string> programs_, maps_;
  Error errors_ = Error::success();
};

/// A map of the pipeline that the manifest names, which must be of that type.
Expected<MapId> find_map(const Manifest &manifest, const Pipeline &pipeline, const std::string &name,
                         Place place, MapType type) {
  const std::optional<MapId> map = pipeline.find_map(name);
  if (!map)
    return manifest_error(manifest, place, llvm::formatv("map '{0}' does not exist", name))
        .with_hint("names that several objects have need a prefix: see the graph")
        .error();
  if (pipeline[*map].type != type)
    return manifest_error(manifest, place,
                          llvm::formatv("map '{0}' must have type {1}, it has {2}", name, name_of(type),
                                        name_of(pipeline[*map].type)))
        .error();
  return *map;
}

/// Sizes that the manifest gives to maps. Not to data, whose size is that of its contents, and not below what
/// the objects say of slots.
Error set_sizes(const Manifest &manifest, Pipeline &pipeline) {
  for (const ManifestMap &m : manifest.maps) {
    const std::optional<MapId> id = pipeline.find_map(m.map);
    if (!id)
      return manifest_error(manifest, m.place, llvm::formatv("map '{0}' does not exist", m.map)).error();
    Map &map = pipeline.maps[index(*id)];
    if (map.is_data())
      return manifest_error(manifest, m.place, llvm::formatv("map '{0}' is data: it has one entry", m.map))
          .error();
    const auto beyond = [&](const auto &slot) { return slot.first >= m.max_entries; };
    if (llvm::any_of(map.prog_slots, beyond) || llvm::any_of(map.inner_slots, beyond))
      return manifest_error(manifest, m.place,
                            llvm::formatv("map '{0}' has slots beyond {1} entries", m.map, m.max_entries))
          .error();
    map.max_entries = m.max_entries;
  }
  return Error::success();
}

} // namespace

Expected<Pipeline> load_pipeline(const Manifest &manifest) {
  GatherRequest request;
  std::vector<Error> errors;
  for (const ManifestObject &o : manifest.objects) {
    Expected<Object> object = read_object_file(o.file, object_options(o));
    if (object)
      request.objects.push_back(std::move(*object));
    else
      errors.push_back(object.takeError());
    request.constants[o.file] = constant_settings(o);
  }
  if (Error e = join_sorted(std::move(errors)))
    return e;
  if (Error e = NameCheck(manifest, request.objects).run())
    return e;
  for (const ManifestProgArray &a : manifest.prog_arrays)
    for (const ManifestSlot &s : a.slots)
      request.slots.push_back({a.map, s.slot, s.program});
  for (const NamedPlace &e : manifest.entries)
    request.entries.push_back(e.name);
  Expected<Pipeline> pipeline = gather(std::move(request));
  if (!pipeline)
    return with_place(pipeline.takeError(), manifest.file);
  if (Error e = set_sizes(manifest, *pipeline))
    return e;
  return pipeline;
}

Expected<Pipeline> load_objects(const std::vector<std::string> &paths) {
  Manifest manifest;
  for (const std::string &path : paths) {
    ManifestObject object;
    object.path = object.file = path;
    manifest.objects.push_back(std::move(object));
  }
  manifest.file = paths.size() == 1 ? paths.front() : "";
  return load_pipeline(manifest);
}

static bool is_inner(const Pipeline &pipeline, MapId id) {
  return llvm::any_of(pipeline.maps, [&](const Map &m) {
    return llvm::any_of(m.inner_slots, [&](const auto &slot) { return slot.second == id; });
  });
}

/// How the pipeline is linked by what was measured, and what is said of it.
static void follow(const Verdict &verdict, const std::string &file, Fuse fuse, LinkOptions &out) {
  std::vector<std::string> figures;
  for (const Verdict::Measured &m : verdict.measured)
    figures.push_back(llvm::formatv("{0} {1:F0} instructions{2}", name_of(m.form), m.insns,
                                    m.ns > 0 ? llvm::formatv(" and {0:F1} ns", m.ns).str() : ""));
  const std::string measured = file + " has, a packet, " + llvm::join(figures, ", ");
  if (verdict.best == LinkForm::fused)
    return;
  if (fuse == Fuse::always) {
    out.notes.push_back("fused, as the manifest says, though that loses: " + measured);
    return;
  }
  set_form(verdict.best, out.plan);
  out.notes.push_back(llvm::formatv("fusing loses here, so it is linked {0}: {1}",
                                    verdict.best == LinkForm::chain ? "unfused" : "without inlining",
                                    measured));
}

/// What a run has shown, if it is kept beside the manifest.
static Error use_profile(const Manifest &manifest, const Pipeline &pipeline, LinkOptions &out) {
  const std::string path = profile_path(manifest.file);
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (buffer.getError() == std::errc::no_such_file_or_directory)
    return Error::success();
  if (!buffer)
    return input_error(buffer.getError().message()).in_file(path).error();
  Expected<StoredProfile> stored = parse_profile(std::string_view((*buffer)->getBuffer()), path, pipeline);
  if (!stored)
    return stored.takeError();
  const std::string file = llvm::sys::path::filename(path).str();
  out.notes.push_back(llvm::formatv("{0}: {1}", file, stored->note));
  out.profile = std::move(stored->profile);
  if (stored->verdict && manifest.fuse != Fuse::never)
    follow(*stored->verdict, file, manifest.fuse, out);
  return Error::success();
}

Expected<LinkOptions> link_options(const Manifest &manifest, const Pipeline &pipeline) {
  LinkOptions out;
  out.name = manifest.name;
  out.cpu = manifest.cpu;
  out.policies.resize(pipeline.maps.size());
  out.scratch.resize(pipeline.maps.size());
  Error errors = Error::success();
  for (const ManifestProgArray &a : manifest.prog_arrays) {
    if (Expected<MapId> map = find_map(manifest, pipeline, a.map, a.place, MapType::prog_array))
      out.policies[index(*map)].edges = a.edges;
    else
      errors = llvm::joinErrors(std::move(errors), map.takeError());
  }
  for (const NamedPlace &s : manifest.scratch_maps) {
    Expected<MapId> map = find_map(manifest, pipeline, s.name, s.place, MapType::percpu_array);
    if (!map)
      errors = llvm::joinErrors(std::move(errors), map.takeError());
    else if (is_inner(pipeline, *map)) // a lookup through the outer map would lead to it behind our back
      errors = llvm::joinErrors(
          std::move(errors),
          manifest_error(manifest, s.place, "scratch map '" + s.name + "' is an inner map as well").error());
    else
      out.scratch[index(*map)] = true;
  }
  if (errors)
    return errors;
  if (manifest.fuse == Fuse::never) {
    out.plan.mode = PlanOptions::chain;
    out.notes.push_back("linked unfused, as the manifest says");
  }
  if (Error e = use_profile(manifest, pipeline, out))
    return e;
  return out;
}

Expected<std::vector<MapSeed>> load_seed(const Manifest &manifest) {
  if (manifest.seed.empty())
    return std::vector<MapSeed>();
  auto buffer = llvm::MemoryBuffer::getFile(manifest.seed);
  if (!buffer)
    return input_error("cannot read map contents: " + buffer.getError().message())
        .in_file(manifest.seed)
        .error();
  return parse_map_seeds(std::string_view((*buffer)->getBuffer()), manifest.seed);
}

} // namespace ujit
