// install, enable, disable, uninstall: fused code on live traffic, and out again.
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
  Expected<std::string> text = status_text(done->state.name, json);
  if (!text)
    return text.takeError();
  if (Error e = put_text({}, *text))
    return e;
  return exit_done;
}

struct NamedCommand {
  std::string name;
  bool json = false;
};

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

  auto named = [&](const char *word, const char *what, auto run) {
    auto n = std::make_shared<NamedCommand>();
    CLI::App *command = app.add_subcommand(word, what);
    command->add_option("NAME", n->name, "Name of the installation")->required();
    command->add_flag("--json", n->json, "Print JSON");
    command->callback([=, &action] { action = [=] { return run(*n); }; });
  };
  named("disable", "Kill switch: the original programs run from the next packet on",
        [](const NamedCommand &n) { return run_switch(n, false); });
  named("enable", "Back to the fused image", [](const NamedCommand &n) { return run_switch(n, true); });
  named("uninstall", "Put the originals back and remove everything", run_uninstall);
}

} // namespace ujit
