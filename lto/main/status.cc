// status, list, watch: what is installed, and what has changed around it.
#include "lto/main/command.h"

#include "kernel-iface/linux/drift.h"
#include "kernel-iface/linux/lifecycle.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <memory>
#include <thread>

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

struct Observer {
  InstallationFolder folder;
  KernelReader reader;

  static Expected<Observer> of(const std::string &name) {
    Expected<InstallationFolder> folder = InstallationFolder::open(name);
    if (!folder)
      return folder.takeError();
    Expected<KernelReader> reader = KernelReader::load();
    if (!reader)
      return reader.takeError();
    return Observer{std::move(*folder), std::move(*reader)};
  }
  Expected<Drift> look() { return look_for_drift(folder, reader); }
};

/// What is around an installation, or why it cannot be looked at.
struct Surroundings {
  std::optional<Drift> drift;
  std::string problem;
};

Surroundings look_around(const std::string &name) {
  Surroundings out;
  Expected<Observer> observer = Observer::of(name);
  Expected<Drift> drift = observer ? observer->look() : observer.takeError();
  if (drift)
    out.drift = std::move(*drift);
  else
    out.problem = toString(drift.takeError());
  return out;
}

json::Array to_json(const std::vector<ArrayNow> &arrays) {
  json::Array out;
  for (const ArrayNow &a : arrays)
    out.push_back(json::Object{{"name", a.array.name},
                               {"map", a.array.map_id},
                               {"slots", int64_t(a.array.slots.size())},
                               {"changed", int64_t(a.changed)},
                               {"sealed", a.array.sealed},
                               {"frozen", a.frozen},
                               {"pinned", a.pinned}});
  return out;
}

json::Object to_json(const InstallationStatus &s) {
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

void print_around(const Surroundings &around, llvm::raw_ostream &os) {
  if (!around.drift) {
    os << "  tracers     cannot be looked for: " << around.problem << '\n';
    return;
  }
  for (const ArrayNow &a : around.drift->arrays) {
    os << formatv("  slots       {0} of {1} as fused in {2}", a.array.slots.size() - a.changed,
                  a.array.slots.size(), a.array.name);
    if (a.array.sealed)
      os << ", sealed: " << (a.frozen ? "frozen" : "NOT FROZEN");
    os << (a.pinned ? ", pinned\n" : ", NOT PINNED\n");
  }
  for (const std::string &d : around.drift->differences())
    os << "  attention   fused packets differ: " << d << '\n';
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

/// Looks again and again. What is attached to an original after the installation makes fused packets differ
/// from those of the originals: then the originals are to run, until somebody who knows better says `enable`.
struct WatchCommand {
  std::string name;
  unsigned seconds = 5;
  bool keep_on = false, once = false;

  Expected<int> run() const;

private:
  Error say(const std::string &text) const { return put_text({}, name + ": " + text + "\n"); }
  Error act(const std::vector<std::string> &differences) const;
};

/// The differences are others than before.
Error WatchCommand::act(const std::vector<std::string> &differences) const {
  for (const std::string &d : differences)
    if (Error e = say(d))
      return e;
  if (differences.empty())
    return say("as it was fused; if it was switched off: ujit-lto enable " + name);
  if (keep_on)
    return Error::success();
  if (Error e = set_enabled(name, false))
    return e;
  return say("switched off, the originals run");
}

Expected<int> WatchCommand::run() const {
  Expected<Observer> observer = Observer::of(name);
  if (!observer)
    return observer.takeError();
  std::vector<std::string> known;
  for (;;) {
    Expected<Drift> drift = observer->look();
    if (!drift)
      return drift.takeError();
    std::vector<std::string> differences = drift->differences();
    if (differences != known)
      if (Error e = act(differences))
        return e;
    known = std::move(differences);
    if (once)
      return known.empty() ? exit_done : exit_input;
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    Expected<std::vector<std::string>> names = InstallationFolder::list();
    if (!names)
      return names.takeError();
    if (!llvm::is_contained(*names, name)) {
      if (Error e = say("uninstalled"))
        return e;
      return exit_done;
    }
  }
}

} // namespace

Expected<std::string> status_text(const std::string &name, bool json) {
  Expected<InstallationStatus> s = installation_status(name);
  if (!s)
    return s.takeError();
  const Surroundings around = look_around(name);
  std::string text;
  llvm::raw_string_ostream os(text);
  if (!json) {
    print_status(*s, os);
    print_around(around, os);
    return text;
  }
  llvm::json::Object o = to_json(*s);
  if (around.drift) {
    o["arrays"] = to_json(around.drift->arrays);
    o["attached"] = llvm::json::Array(around.drift->attached);
    o["differences"] = llvm::json::Array(around.drift->differences());
  } else {
    o["problem"] = around.problem;
  }
  return text_of(std::move(o));
}

void add_status(CLI::App &app, Action &action) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App *list = app.add_subcommand("list", "What is installed");
  list->add_flag("--json", *as_json, "Print JSON");
  list->callback([=, &action] { action = [=] { return run_list(*as_json); }; });

  auto name = std::make_shared<std::string>();
  CLI::App *status =
      app.add_subcommand("status", "Entries, edges, slots, times left, kernel memory of an installation");
  status->add_option("NAME", *name, "Name of the installation; none: as `list`");
  status->add_flag("--json", *as_json, "Print JSON");
  status->callback([=, &action] {
    action = [=]() -> Expected<int> {
      if (name->empty())
        return run_list(*as_json);
      Expected<std::string> text = status_text(*name, *as_json);
      if (!text)
        return text.takeError();
      if (Error e = put_text({}, *text))
        return e;
      return exit_done;
    };
  });

  auto w = std::make_shared<WatchCommand>();
  CLI::App *watch = app.add_subcommand(
      "watch", "Switch an installation off once a tracer or an extension is attached to a fused program");
  watch->add_option("NAME", w->name, "Name of the installation")->required();
  watch->add_option("--every", w->seconds, "Seconds between two looks")->check(CLI::Range(1, 86400));
  watch->add_flag("--keep-on", w->keep_on, "Only tell, switch nothing off");
  watch->add_flag("--once", w->once, "Look once; exit code 1 if fused packets differ");
  watch->callback([=, &action] { action = [=] { return w->run(); }; });
}

} // namespace ujit
