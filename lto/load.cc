#include "lto/load.h"

#include "kernel-iface/object/gather.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

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

std::vector<std::string> map_names(const Pipeline &pipeline) {
  std::vector<std::string> out;
  for (const Map &m : pipeline.maps)
    out.push_back(m.name);
  return out;
}

Error unknown_map(const Manifest &manifest, const Pipeline &pipeline, Place place, const std::string &what,
                  const std::string &name) {
  const std::string near = nearest(name, map_names(pipeline));
  return manifest_error(manifest, place, llvm::formatv("{0} '{1}' does not exist", what, name))
      .with_hint(near.empty() ? "" : "did you mean '" + near + "'?")
      .error();
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
  for (const ManifestProgArray &a : manifest.prog_arrays)
    for (const ManifestSlot &s : a.slots)
      request.slots.push_back({a.map, s.slot, s.program});
  for (const NamedPlace &e : manifest.entries)
    request.entries.push_back(e.name);
  Expected<Pipeline> pipeline = gather(std::move(request));
  if (!pipeline)
    return with_place(pipeline.takeError(), manifest.file);
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

Expected<LinkOptions> link_options(const Manifest &manifest, const Pipeline &pipeline) {
  LinkOptions out;
  out.name = manifest.name;
  out.cpu = manifest.cpu;
  out.policies.resize(pipeline.maps.size());
  Error errors = Error::success();
  auto fail = [&](Error e) { errors = llvm::joinErrors(std::move(errors), std::move(e)); };
  for (const ManifestProgArray &a : manifest.prog_arrays) {
    const std::optional<MapId> map = pipeline.find_map(a.map);
    if (!map)
      fail(unknown_map(manifest, pipeline, a.place, "prog array", a.map));
    else if (pipeline[*map].type != MapType::prog_array)
      fail(manifest_error(
               manifest, a.place,
               llvm::formatv("map '{0}' is no prog array but a {1}", a.map, name_of(pipeline[*map].type)))
               .error());
    else
      out.policies[index(*map)].edges = a.edges;
  }
  for (const NamedPlace &s : manifest.scratch_maps) {
    const std::optional<MapId> map = pipeline.find_map(s.name);
    if (!map)
      fail(unknown_map(manifest, pipeline, s.place, "scratch map", s.name));
    else if (pipeline[*map].type != MapType::percpu_array)
      fail(manifest_error(manifest, s.place,
                          llvm::formatv("scratch map '{0}' is no percpu_array but a {1}", s.name,
                                        name_of(pipeline[*map].type)))
               .error());
  }
  if (errors)
    return errors;
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
