// install, list, status, enable, disable, uninstall: fused code on live traffic, and out again.
#include "lto/main/command.h"

#include "lto/install.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

std::string text_of(json::Value v) { return formatv("{0:2}\n", v); }

const char *state_of(const InstallationStatus &s, const EntryStatus &e) {
  if (!e.now)
    return "detached";
  if (!e.fused())
    return *e.now == e.entry.original_id ? "original" : "replaced by somebody else";
  return s.enabled ? "fused" : "switched off";
}

json::Value to_json(const InstallationStatus &s) {
  json::Array entries, modules, left;
  for (const EntryStatus &e : s.entries)
    entries.push_back(json::Object{{"program", e.entry.program},
                                   {"at", describe(e.entry.point)},
                                   {"hook", llvm::StringRef(name_of(e.entry.point.hook))},
                                   {"state", state_of(s, e)},
                                   {"original", e.entry.original_id},
                                   {"stub", e.entry.stub_id}});
  for (const ModuleStatus &m : s.modules)
    modules.push_back(json::Object{{"name", m.name},
                                   {"loaded", m.loaded},
                                   {"references", int64_t(m.references)},
                                   {"bytes", int64_t(m.bytes)}});
  for (const std::vector<uint64_t> &image : s.left) {
    json::Array counts;
    for (uint64_t n : image)
      counts.push_back(int64_t(n));
    left.push_back(std::move(counts));
  }
  json::Object o;
  o["name"] = s.installation.name;
  o["tool"] = s.installation.tool;
  o["phase"] = s.installation.phase;
  o["enabled"] = s.enabled;
  o["entries"] = std::move(entries);
  o["modules"] = std::move(modules);
  o["left"] = std::move(left);
  for (const auto &[key, value] : s.installation.image)
    o[key] = value;
  return o;
}

void print_image(const json::Object &image, const std::vector<uint64_t> *left, llvm::raw_ostream &os) {
  const json::Array *programs = image.getArray("programs");
  if (programs)
    os << formatv("  programs    {0} fused\n", programs->size());
  if (const json::Object *edges = image.getObject("edges")) {
    os << "  edges      ";
    for (const char *kind : {"sealed", "guarded", "dispatched", "left"})
      os << formatv(" {0} {1}", edges->getInteger(kind).value_or(0), kind);
    os << '\n';
  }
  os << formatv("  code        {0} bytes, stack {1} bytes, leave frame {2} bytes\n",
                image.getInteger("code-bytes").value_or(0), image.getInteger("stack-bytes").value_or(0),
                image.getInteger("frame-bytes").value_or(0));
  const json::Array *arrays = image.getArray("prog-arrays");
  for (size_t i = 0; arrays && left && i < arrays->size() && i < left->size(); ++i)
    os << formatv("  left        {0} times through {1}\n", (*left)[i],
                  (*arrays)[i].getAsString().value_or("?"));
}

void print_status(const InstallationStatus &s, llvm::raw_ostream &os) {
  os << s.installation.name
     << (s.broken    ? ": broken off; take it out with uninstall\n"
         : s.enabled ? ": on\n"
                     : ": switched off, the originals run\n");
  for (const EntryStatus &e : s.entries)
    os << formatv("  entry       {0} at {1}: {2}\n", e.entry.program, describe(e.entry.point),
                  state_of(s, e));
  const json::Array *images = s.installation.image.getArray("images");
  for (size_t i = 0; images && i < images->size(); ++i)
    if (const json::Object *image = (*images)[i].getAsObject())
      print_image(*image, i < s.left.size() ? &s.left[i] : nullptr, os);
  for (const ModuleStatus &m : s.modules)
    if (m.loaded)
      os << formatv("  module      {0}, {1} bytes of kernel memory, {2} references\n", m.name, m.bytes,
                    m.references);
    else
      os << formatv("  module      {0}: not loaded\n", m.name);
}

struct InstallCommand {
  std::string manifest;
  InstallOptions options;
  bool dry_run = false, json = false;

  Expected<int> run() const;
  Expected<int> dry() const;
  Expected<Manifest> read() const {
    Expected<Manifest> m = read_manifest(manifest);
    return m;
  }
};

Expected<int> InstallCommand::dry() const {
  Expected<Manifest> m = read();
  if (!m)
    return m.takeError();
  InstallOptions o = options;
  o.progress = progress_line();
  Expected<DryRun> result = install_dry_run(*m, o);
  if (!result)
    return with_place(result.takeError(), manifest);
  std::string text;
  llvm::raw_string_ostream os(text);
  if (json) {
    json::Array sizes, refusals;
    for (size_t n : result->module_bytes)
      sizes.push_back(int64_t(n));
    for (const std::string &r : result->refusals)
      refusals.push_back(r);
    json::Object all;
    all["module-bytes"] = std::move(sizes);
    all["would-load"] = refusals.empty();
    all["refusals"] = std::move(refusals);
    os << text_of(std::move(all));
  } else {
    for (size_t i = 0; i < result->reports.size(); ++i) {
      print_report(result->reports[i], false, os);
      if (i < result->module_bytes.size())
        os << formatv("  module      {0} bytes\n", result->module_bytes[i]);
    }
    for (const std::string &r : result->refusals)
      os << "  not loadable here: " << r << '\n';
  }
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

Expected<int> InstallCommand::run() const {
  if (dry_run)
    return dry();
  Expected<Manifest> m = read();
  if (!m)
    return m.takeError();
  InstallOptions o = options;
  o.tool = UJIT_VERSION;
  o.progress = progress_line();
  Expected<Installed> done = install(*m, o);
  if (!done)
    return with_place(done.takeError(), manifest);
  Expected<InstallationStatus> status = installation_status(done->state.name);
  if (!status)
    return status.takeError();
  std::string text;
  llvm::raw_string_ostream os(text);
  if (json)
    os << text_of(to_json(*status));
  else
    print_status(*status, os);
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

struct NamedCommand {
  std::string name;
  bool json = false;
};

Expected<int> run_list(bool json) {
  Expected<std::vector<std::string>> names = InstallationFolder::list();
  if (!names)
    return names.takeError();
  std::string text;
  llvm::raw_string_ostream os(text);
  json::Array all;
  for (const std::string &name : *names) {
    Expected<InstallationStatus> s = installation_status(name);
    if (!s) {
      std::string why = toString(s.takeError());
      os << name << ": " << why << '\n';
      all.push_back(json::Object{{"name", name}, {"error", why}});
      continue;
    }
    os << formatv("{0,-20} {1,-10} {2} entries\n", name,
                  s->broken    ? "broken"
                  : s->enabled ? "on"
                               : "off",
                  s->entries.size());
    all.push_back(to_json(*s));
  }
  if (names->empty())
    os << "nothing is installed\n";
  if (Error e = put_text({}, json ? text_of(std::move(all)) : text))
    return e;
  return exit_done;
}

Expected<int> run_status(const NamedCommand &c) {
  if (c.name.empty())
    return run_list(c.json);
  Expected<InstallationStatus> s = installation_status(c.name);
  if (!s)
    return s.takeError();
  std::string text;
  llvm::raw_string_ostream os(text);
  if (c.json)
    os << text_of(to_json(*s));
  else
    print_status(*s, os);
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

Expected<int> run_switch(const NamedCommand &c, bool enabled) {
  if (Error e = set_enabled(c.name, enabled))
    return e;
  json::Object o;
  o["name"] = c.name;
  o["enabled"] = enabled;
  if (Error e = put_text({}, c.json    ? text_of(std::move(o))
                             : enabled ? c.name + ": on\n"
                                       : c.name + ": switched off, the originals run\n"))
    return e;
  return exit_done;
}

Expected<int> run_uninstall(const NamedCommand &c) {
  Expected<Uninstalled> u = uninstall(c.name);
  if (!u)
    return u.takeError();
  std::string text;
  for (const std::string &note : u->notes)
    text += "note: " + note + "\n";
  text += c.name + ": uninstalled\n";
  if (c.json) {
    json::Object o;
    o["name"] = c.name;
    o["notes"] = json::Array(u->notes);
    text = text_of(std::move(o));
  }
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

} // namespace

void add_install(CLI::App &app, Action &action) {
  auto c = std::make_shared<InstallCommand>();
  CLI::App *install =
      app.add_subcommand("install", "Fuse verified programs and put them into the running kernel");
  install->add_option("MANIFEST", c->manifest, "The manifest, *.ujit.yaml, with its attach points")
      ->required();
  install->add_option("--name", c->options.name, "Name of the installation (default: the manifest's)");
  install->add_option("--threads", c->options.threads, "Threads; 0: as many as there are CPUs")
      ->check(CLI::Range(0, 1024));
  install->add_option("--no-opt", c->options.disabled, "Leave an optimisation out (repeatable)")
      ->allow_extra_args(false);
  install->add_flag("--dry-run", c->dry_run,
                    "Everything but loading the module: sizes, and whether it would load");
  install->add_flag("--json", c->json, "Print JSON");
  install->callback([=, &action] { action = [=] { return c->run(); }; });

  auto named = [&](const char *word, const char *what, bool required, auto run) {
    auto n = std::make_shared<NamedCommand>();
    CLI::App *command = app.add_subcommand(word, what);
    CLI::Option *name = command->add_option("NAME", n->name, "Name of the installation");
    if (required)
      name->required();
    command->add_flag("--json", n->json, "Print JSON");
    command->callback([=, &action] { action = [=] { return run(*n); }; });
  };
  auto json = std::make_shared<bool>(false);
  CLI::App *list = app.add_subcommand("list", "What is installed");
  list->add_flag("--json", *json, "Print JSON");
  list->callback([=, &action] { action = [=] { return run_list(*json); }; });
  named("status", "Entries, edges, times left, kernel memory of an installation", false, run_status);
  named("disable", "Kill switch: the original programs run from the next packet on", true,
        [](const NamedCommand &n) { return run_switch(n, false); });
  named("enable", "Back to the fused image", true, [](const NamedCommand &n) { return run_switch(n, true); });
  named("uninstall", "Put the originals back and remove everything", true, run_uninstall);
}

} // namespace ujit
