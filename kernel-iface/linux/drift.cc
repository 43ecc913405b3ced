#include "kernel-iface/linux/drift.h"

#include "kernel-iface/linux/capture_refusals.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>

#include <cerrno>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

// --- what is remembered ------------------------------------------------------------------------------

json::Value to_json(const FusedProgram &p) {
  return json::Object{
      {"name", p.name}, {"digest", p.digest}, {"id", p.id}, {"functions", json::Array(p.functions)}};
}

json::Value to_json(const FusedArray &a) {
  json::Array slots;
  for (auto [slot, id] : a.slots)
    slots.push_back(json::Array{slot, id});
  return json::Object{
      {"name", a.name}, {"pin", a.pin}, {"map", a.map_id}, {"sealed", a.sealed}, {"slots", std::move(slots)}};
}

namespace {

std::string text_of(const json::Object &o, llvm::StringRef key) {
  return o.getString(key).value_or("").str();
}
uint32_t number_of(const json::Object &o, llvm::StringRef key) {
  return uint32_t(o.getInteger(key).value_or(0));
}

FusedProgram program_from(const json::Object &o) {
  FusedProgram p{text_of(o, "name"), text_of(o, "digest"), number_of(o, "id"), {}};
  if (const json::Array *functions = o.getArray("functions"))
    for (const json::Value &f : *functions)
      p.functions.push_back(f.getAsString().value_or("").str());
  return p;
}

FusedArray array_from(const json::Object &o) {
  FusedArray a{
      text_of(o, "name"), text_of(o, "pin"), number_of(o, "map"), o.getBoolean("sealed").value_or(false), {}};
  if (const json::Array *slots = o.getArray("slots"))
    for (const json::Value &s : *slots)
      if (const json::Array *pair = s.getAsArray(); pair && pair->size() == 2)
        a.slots.emplace_back((*pair)[0].getAsInteger().value_or(0), (*pair)[1].getAsInteger().value_or(0));
  return a;
}

/// Every object of the lists `key` of all images.
template <class T>
std::vector<T> all_of(const Installation &installation, llvm::StringRef key,
                      T (*from)(const json::Object &)) {
  std::vector<T> out;
  const json::Array *images = installation.image.getArray("images");
  for (size_t i = 0; images && i < images->size(); ++i)
    if (const json::Object *image = (*images)[i].getAsObject())
      if (const json::Array *list = image->getArray(key))
        for (const json::Value &v : *list)
          if (const json::Object *o = v.getAsObject())
            out.push_back(from(*o));
  return out;
}

// --- what is there now -------------------------------------------------------------------------------

/// Only the file's information tells it to user space.
bool is_frozen(const Fd &map) {
  auto file = llvm::MemoryBuffer::getFileAsStream("/proc/self/fdinfo/" + std::to_string(map.get()));
  return file && (*file)->getBuffer().contains("frozen:\t1\n");
}

Expected<uint32_t> id_of_map(const Fd &map) {
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(map.get(), &info, &size))
    return bpf_error(-e, "asking for a prog array's id").error();
  return info.id;
}

Expected<ArrayNow> look_at(const InstallationFolder &folder, FusedArray array) {
  ArrayNow now{.array = std::move(array)};
  Expected<Fd> map = folder.get(now.array.pin);
  if (!map)
    return map.takeError();
  if (*map) {
    Expected<uint32_t> id = id_of_map(*map);
    if (!id)
      return id.takeError();
    now.pinned = *id == now.array.map_id;
  }
  if (!now.pinned)
    *map = Fd(bpf_map_get_fd_by_id(now.array.map_id)); // the module holds it
  if (!*map)
    return bpf_error(errno, "opening prog array " + now.array.name).error();
  now.frozen = is_frozen(*map);
  for (auto [slot, program] : now.array.slots) {
    uint32_t id = 0;
    if (bpf_map_lookup_elem(map->get(), &slot, &id) && errno != ENOENT)
      return bpf_error(errno, "reading prog array " + now.array.name).error();
    now.changed += id != program;
  }
  return now;
}

} // namespace

std::vector<std::string> Drift::differences() const {
  std::vector<std::string> out = attached;
  for (const ArrayNow &a : arrays)
    if (a.array.sealed && a.changed)
      out.push_back(formatv("prog array {0} is sealed, and {1} of its {2} slots do not hold the program that "
                            "was fused any more: install again",
                            a.array.name, a.changed, a.array.slots.size()));
  return out;
}

Expected<Drift> look_for_drift(const InstallationFolder &folder, KernelReader &reader) {
  Drift out;
  const std::vector<FusedProgram> programs = all_of(folder.installation(), "programs", program_from);
  std::vector<uint32_t> ids;
  for (const FusedProgram &p : programs)
    ids.push_back(p.id);
  Expected<std::vector<ProgramInKernel>> all = reader.programs(ids);
  if (!all)
    return all.takeError();
  Expected<std::vector<link_record>> links = reader.links();
  if (!links)
    return links.takeError();
  for (const FusedProgram &p : programs)
    for (const ProgramInKernel &facts : *all)
      if (facts.record.id == p.id)
        if (std::string what = attached_to(facts, p.functions, *links); !what.empty())
          out.attached.push_back(p.name + ": " + what);
  for (FusedArray &array : all_of(folder.installation(), "slots", array_from)) {
    Expected<ArrayNow> now = look_at(folder, std::move(array));
    if (!now)
      return now.takeError();
    out.arrays.push_back(std::move(*now));
  }
  return out;
}

} // namespace ujit
