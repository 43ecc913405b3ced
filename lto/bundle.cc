#include "lto/bundle.h"

#include "lto/output_file.h"

#include "graph/draw.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <set>

namespace ujit {

namespace {

std::string inside(const std::string &folder, llvm::StringRef name) {
  llvm::SmallString<128> path(folder);
  llvm::sys::path::append(path, name);
  return std::string(path);
}

Error copy_file(const std::string &from, const std::string &to) {
  if (std::error_code ec = llvm::sys::fs::copy_file(from, to))
    return input_error("cannot copy into the bundle: " + ec.message()).in_file(from).error();
  return Error::success();
}

/// Copies what the manifest names, and gives the manifest that names the copies.
Expected<Manifest> copy_inputs(const Manifest &manifest, const std::string &folder) {
  if (std::error_code ec = llvm::sys::fs::create_directory(inside(folder, "objects")))
    return input_error("cannot write: " + ec.message()).in_file(folder).error();
  Manifest copied = manifest;
  std::set<std::string> taken;
  for (ManifestObject &o : copied.objects) {
    std::string name = llvm::sys::path::filename(o.file).str();
    for (unsigned n = 2; !taken.insert(name).second; ++n)
      name = llvm::formatv("{0}-{1}", n, llvm::sys::path::filename(o.file));
    o.path = "objects/" + name;
    if (Error e = copy_file(o.file, inside(folder, o.path)))
      return e;
  }
  if (!manifest.seed.empty()) {
    copied.seed = "maps.json";
    if (Error e = copy_file(manifest.seed, inside(folder, copied.seed)))
      return e;
  }
  return copied;
}

} // namespace

std::string print_plan_json(const Pipeline &pipeline, const LinkPlan &plan) {
  std::string out;
  llvm::raw_string_ostream os(out);
  llvm::json::OStream json(os, 2);
  auto name = [&](ProgId p) { return pipeline[p].name; };
  auto names = [&](const std::vector<ProgId> &programs) {
    return [&, programs] {
      for (ProgId p : programs)
        json.value(name(p));
    };
  };
  json.object([&] {
    json.attributeArray("entries", names(plan.entries));
    json.attributeArray("programs", [&] {
      for (size_t i = 0; i < plan.programs.size(); ++i)
        json.object([&] {
          const PlannedProgram &p = plan.programs[i];
          json.attribute("name", pipeline.programs[i].name);
          json.attribute("role", name_of(p.role));
          json.attribute("entry", p.entry);
          json.attribute("counted", p.counted);
          if (!p.reason.empty())
            json.attribute("reason", p.reason);
        });
    });
    json.attributeArray("sites", [&] {
      for (const PlannedSite &s : plan.sites)
        json.object([&] {
          json.attribute("program", name(s.from));
          json.attribute("site", s.site);
          json.attribute("select", name_of(s.select));
          json.attributeArray("alternatives", [&] {
            for (const PlannedEdge &e : s.alternatives)
              json.object([&] {
                json.attribute("map", pipeline[e.edge.map].name);
                json.attribute("slot", e.edge.slot);
                if (e.edge.to)
                  json.attribute("to", name(*e.edge.to));
                json.attribute("kind", name_of(e.edge.kind));
                json.attribute("treatment", name_of(e.treatment));
                json.attribute("guard", e.guard);
              });
          });
        });
    });
    json.attributeArray("partitions", [&] {
      for (const Partition &p : plan.partitions)
        json.object([&] {
          json.attribute("cost", int64_t(p.cost));
          json.attributeArray("functions", names(p.functions));
          json.attributeArray("members", names(p.members));
        });
    });
  });
  os << '\n';
  return out;
}

Error write_bundle(const std::string &path, const Manifest &manifest, const Pipeline &pipeline,
                   const LinkResult &result, const LinkReport &report) {
  return write_folder(path, "manifest.ujit.yaml", [&](const std::string &folder) -> Error {
    Expected<Manifest> copied = copy_inputs(manifest, folder);
    if (!copied)
      return copied.takeError();
    std::string report_text;
    llvm::raw_string_ostream os(report_text);
    print_report_json(report, /*times=*/false, os);
    Error e = write_file(inside(folder, "manifest.ujit.yaml"), print_manifest(*copied));
    if (!e)
      e = write_file(inside(folder, "image.o"), result.image.object);
    if (!e)
      e = write_file(inside(folder, "plan.json"), print_plan_json(pipeline, result.plan));
    if (!e)
      e = write_file(inside(folder, "report.json"), report_text);
    return e;
  });
}

} // namespace ujit
