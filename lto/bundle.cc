#include "lto/bundle.h"

#include "lto/output_file.h"
#include "lto/profile.h"

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
  const std::string profile = profile_path(manifest.file);
  if (llvm::sys::fs::exists(profile))
    if (Error e = copy_file(profile, inside(folder, profile_path("manifest.ujit.yaml"))))
      return e;
  return copied;
}

std::string_view role_name(PlannedProgram::Role role) {
  switch (role) {
  case PlannedProgram::dead: return "dead";
  case PlannedProgram::unfused: return "unfused";
  case PlannedProgram::function: return "function";
  case PlannedProgram::inlined: return "inlined";
  }
  return "";
}

std::string print_plan_json(const Pipeline &pipeline, const LinkPlan &plan) {
  std::string out;
  llvm::raw_string_ostream os(out);
  llvm::json::OStream json(os, 2);
  auto name = [&](ProgId p) { return planned_name(pipeline, plan, p); };
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
          json.attribute("name", name(ProgId(i)));
          json.attribute("role", llvm::StringRef(role_name(p.role)));
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
          json.attribute("select", llvm::StringRef(name_of(s.select)));
          json.attributeArray("alternatives", [&] {
            for (const PlannedEdge &e : s.alternatives)
              json.object([&] {
                json.attribute("map", pipeline[e.edge.map].name);
                json.attribute("slot", e.edge.slot);
                if (e.edge.to)
                  json.attribute("to", name(*e.edge.to));
                json.attribute("kind", llvm::StringRef(name_of(e.edge.kind)));
                json.attribute("treatment", llvm::StringRef(name_of(e.treatment)));
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

} // namespace

Error write_bundle(const std::string &path, const Manifest &manifest, const Pipeline &pipeline,
                   const LinkResult &result, const LinkReport &report) {
  return write_folder(path, "manifest.ujit.yaml", [&](const std::string &folder) -> Error {
    Expected<Manifest> copied = copy_inputs(manifest, folder);
    if (!copied)
      return copied.takeError();
    std::string report_text, graph, drawing;
    llvm::raw_string_ostream report_os(report_text), graph_os(graph), drawing_os(drawing);
    print_report_json(report, /*times=*/false, report_os);
    draw_json(pipeline, result.graph, graph_os);
    const std::pair<const char *, std::string> files[] = {
        {"manifest.ujit.yaml", print_manifest(*copied)},
        {"plan.json", print_plan_json(pipeline, result.plan)},
        {"graph.json", graph},
        {"report.json", report_text},
    };
    for (const auto &[name, text] : files)
      if (Error e = write_file(inside(folder, name), text))
        return e;
    if (Error e = write_file(inside(folder, "image.o"), result.image.object))
      return e;
    // The drawing is for people and depends on graphviz: a bundle is whole without it.
    if (Error no_drawing = write_svg(pipeline, result.graph, drawing_os)) {
      llvm::consumeError(std::move(no_drawing));
      return Error::success();
    }
    return write_file(inside(folder, "graph.svg"), drawing);
  });
}

} // namespace ujit
