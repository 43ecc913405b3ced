// check-install: the fused image in this kernel against the stock chain, packet by packet and path by path.
#include "lto/main/command.h"

#include "lto/check_installed.h"
#include "lto/main/input.h"
#include "lto/output_file.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <memory>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

/// A path that takes so much longer than the stock chain is named.
constexpr double slower = 1.05;

/// So many paths are printed; the report as JSON has all.
constexpr size_t paths_shown = 20;

struct CheckInstallCommand {
  std::string manifest, packets, entry, maps, contexts, json_file;
  std::vector<std::string> disabled;
  bool dry_run = false;

  Expected<int> run() const;
  Expected<std::vector<WayIn>> ways_in(const Pipeline &pipeline) const;
  Expected<int> finish(const std::string &text, json::Value report, bool good) const;
};

/// What all packets take, installed to stock.
double total_ratio(const InstalledCheck &r) {
  double stock = 0, installed = 0;
  for (const InstalledPath &p : r.paths) {
    stock += p.stock_ns;
    installed += p.installed_ns;
  }
  return stock > 0 ? installed / stock : 0;
}

double ratio(const InstalledPath &p) { return p.stock_ns > 0 ? p.installed_ns / p.stock_ns : 0; }
bool is_slower(const InstalledPath &p) { return p.installed_ns > p.stock_ns * slower; }

/// What fusing loses: each entry has a stub in front, which paths with little behind it do not earn.
void print_slower(const InstalledCheck &r, llvm::raw_ostream &os) {
  size_t paths = 0;
  double most = 0;
  for (const InstalledPath &p : r.paths)
    if (is_slower(p)) {
      ++paths;
      most = std::max(most, (p.installed_ns - p.stock_ns) / double(p.runs));
    }
  if (paths)
    os << formatv(
        "  fusing loses on {0} of them, up to {1:F0} ns a run: entry and stub cost more than it saves\n",
        paths, most);
}

void print_reach(const Reach &reached, const Reach &possible, llvm::raw_ostream &os) {
  os << formatv("  reached     {0} of {1} programs, {2} of {3} tail calls\n", reached.programs.size(),
                possible.programs.size(), reached.edges.size(), possible.edges.size());
  for (const std::string &p : possible.programs)
    if (!reached.programs.count(p))
      os << "  not reached " << p << '\n';
}

void print(const std::string &name, const InstalledCheck &r, llvm::raw_ostream &os) {
  for (const Difference &d : r.comparison.differences)
    os << print_difference(d);
  os << formatv("{0}: {1} packets through the stock chain and the installed image: ", name,
                r.packets - r.not_run);
  if (r.comparison.total)
    os << formatv("{0} differences\n", r.comparison.total);
  else
    os << "no difference\n";
  if (r.not_run)
    os << formatv("  {0} packets are not taken by test runs of this kernel\n", r.not_run);
  if (!r.no_calls.empty())
    os << "  not seen    redirects and tunnel keys: " << r.no_calls << '\n';
  for (const auto &[field, times] : r.varied)
    os << formatv("  varies      {0}: {1} times between two runs of the stock chain, not compared there\n",
                  field, times);
  print_reach(r.reached, r.facts.possible, os);
  const LinkReport &l = r.facts.report;
  for (const auto &[program, reason] : l.unfused_reasons)
    os << formatv("  unfused     {0}: {1}\n", program, reason);
  os << formatv("  image       {0} bytes of code, {1} of stack; module {2} bytes of kernel memory\n",
                l.code_bytes, l.stack_bytes, r.facts.module_bytes);
  for (const std::string &note : l.notes)
    os << "  note        " << note << '\n';
  os << formatv("  times       capture {0:F1} ms, link {1:F1} ms, module {2:F1} ms, stubs {3:F1} ms\n",
                r.facts.capture_ms, r.facts.link_ms, r.facts.insert_ms, r.facts.stubs_ms);
  os << "  path (runs): stock -> installed, ns of one run without its fixed cost\n";
  for (const auto &[i, p] : llvm::enumerate(r.paths))
    if (i < paths_shown || is_slower(p))
      os << formatv("    {0,6:F0} -> {1,6:F0}  {2:F2}{3}  {4} ({5})\n", p.stock_ns / double(p.runs),
                    p.installed_ns / double(p.runs), ratio(p), is_slower(p) ? " SLOWER" : "",
                    llvm::join(p.programs, " > "), p.runs);
  os << formatv("  all {0} paths, by runs: {1:F3} of the stock chain\n", r.paths.size(), total_ratio(r));
  print_slower(r, os);
}

void print(const std::string &name, const ReachCheck &r, llvm::raw_ostream &os) {
  os << formatv("{0}: {1} packets through the stock chain\n", name, r.packets - r.not_run);
  if (r.not_run)
    os << formatv("  {0} packets are not taken by test runs of this kernel\n", r.not_run);
  print_reach(r.reached, r.possible, os);
  for (const auto &[from, to] : r.possible.edges)
    if (r.reached.programs.count(from) && !r.reached.edges.count({from, to}))
      os << formatv("  not taken   {0} > {1}\n", from, to);
  os << "  path (runs)\n";
  for (const ReachedPath &p : llvm::ArrayRef(r.paths).take_front(paths_shown))
    os << formatv("    {0} ({1})\n", llvm::join(p.programs, " > "), p.runs);
}

json::Array edges_json(const Reach &reach) {
  json::Array out;
  for (const auto &[from, to] : reach.edges)
    out.push_back(json::Array{from, to});
  return out;
}

void add_reach(json::Object &o, const Reach &reached, const Reach &possible) {
  o["programs"] = int64_t(possible.programs.size());
  o["edges"] = int64_t(possible.edges.size());
  o["programs_reached"] = json::Array(reached.programs);
  o["edges_reached"] = edges_json(reached);
  Reach missing;
  for (const std::string &p : possible.programs)
    if (!reached.programs.count(p))
      missing.programs.insert(p);
  for (const auto &e : possible.edges)
    if (!reached.edges.count(e))
      missing.edges.insert(e);
  o["programs_not_reached"] = json::Array(missing.programs);
  o["edges_not_reached"] = edges_json(missing);
}

json::Object to_json(const std::string &name, const InstalledCheck &r) {
  json::Array paths, differences, unfused;
  for (const InstalledPath &p : r.paths)
    paths.push_back(json::Object{{"programs", json::Array(p.programs)},
                                 {"runs", int64_t(p.runs)},
                                 {"stock_ns", p.stock_ns},
                                 {"installed_ns", p.installed_ns}});
  for (const Difference &d : r.comparison.differences)
    differences.push_back(print_difference(d));
  for (const auto &[program, reason] : r.facts.report.unfused_reasons)
    unfused.push_back(json::Object{{"program", program}, {"reason", reason}});
  json::Object o, varied;
  for (const auto &[field, times] : r.varied)
    varied[field] = int64_t(times);
  o["name"] = name;
  o["packets"] = int64_t(r.packets - r.not_run);
  o["not_run"] = int64_t(r.not_run);
  o["differences"] = int64_t(r.comparison.total);
  o["first_differences"] = std::move(differences);
  o["varied"] = std::move(varied);
  o["no_calls"] = r.no_calls;
  add_reach(o, r.reached, r.facts.possible);
  o["unfused"] = std::move(unfused);
  o["notes"] = json::Array(r.facts.report.notes);
  o["paths"] = std::move(paths);
  o["ratio"] = total_ratio(r);
  o["capture_ms"] = r.facts.capture_ms;
  o["link_ms"] = r.facts.link_ms;
  o["insert_ms"] = r.facts.insert_ms;
  o["stubs_ms"] = r.facts.stubs_ms;
  o["module_bytes"] = int64_t(r.facts.module_bytes);
  o["code_bytes"] = int64_t(r.facts.report.code_bytes);
  o["stack_bytes"] = r.facts.report.stack_bytes;
  return o;
}

json::Object to_json(const std::string &name, const ReachCheck &r) {
  json::Array paths;
  for (const ReachedPath &p : r.paths)
    paths.push_back(json::Object{{"programs", json::Array(p.programs)}, {"runs", int64_t(p.runs)}});
  json::Object o;
  o["name"] = name;
  o["packets"] = int64_t(r.packets - r.not_run);
  o["not_run"] = int64_t(r.not_run);
  add_reach(o, r.reached, r.possible);
  o["paths"] = std::move(paths);
  return o;
}

Expected<std::string> read_text(const std::string &path, const char *what) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return input_error(formatv("cannot read {0}: {1}", what, buffer.getError().message()))
        .in_file(path)
        .error();
  return (*buffer)->getBuffer().str();
}

Expected<std::vector<WayIn>> CheckInstallCommand::ways_in(const Pipeline &pipeline) const {
  std::vector<RunContext> given;
  if (!contexts.empty()) {
    Expected<std::string> text = read_text(contexts, "contexts");
    if (!text)
      return text.takeError();
    Expected<std::vector<RunContext>> parsed = parse_contexts(*text, contexts);
    if (!parsed)
      return parsed.takeError();
    given = std::move(*parsed);
    for (const RunContext &c : given)
      if (!c.entry.empty() && !pipeline.find_program(c.entry))
        return input_error(formatv("context {0} is for '{1}', which is no program", c.text, c.entry))
            .in_file(contexts)
            .error();
  }
  std::vector<WayIn> out;
  for (ProgId e : pipeline.entries) {
    const std::string &name = pipeline[e].name;
    const size_t before = out.size();
    for (const RunContext &c : given) {
      if (!c.entry.empty() && c.entry != name)
        continue;
      Expected<std::vector<uint8_t>> bytes = context_bytes(c, pipeline[e].type);
      if (!bytes)
        return with_place(bytes.takeError(), contexts);
      out.push_back({e, std::move(*bytes), c.tunnel, name + " with " + c.text});
    }
    if (out.size() == before) // no context is for this entry
      out.push_back({e, {}, {}, name});
  }
  return out;
}

Expected<int> CheckInstallCommand::finish(const std::string &text, json::Value report, bool good) const {
  if (!json_file.empty())
    if (Error e = write_file(json_file, formatv("{0:2}\n", report).str()))
      return e;
  if (Error e = put_text({}, text))
    return e;
  return good ? exit_done : exit_input;
}

Expected<int> CheckInstallCommand::run() const {
  Expected<PacketInput> in = read_packet_input(manifest, packets);
  if (!in)
    return in.takeError();
  if (!maps.empty()) {
    Expected<std::string> text = read_text(maps, "map contents");
    if (!text)
      return text.takeError();
    Expected<std::vector<MapSeed>> seeds = parse_map_seeds(*text, maps);
    if (!seeds)
      return seeds.takeError();
    in->seeds = std::move(*seeds);
  }
  if (!entry.empty()) {
    Expected<ProgId> chosen = choose_entry(in->pipeline, entry);
    if (!chosen)
      return chosen.takeError();
    in->pipeline.entries = {*chosen};
  }
  if (in->pipeline.entries.empty())
    return input_error("the pipeline has no entry").in_file(manifest).error();
  Expected<std::vector<WayIn>> ways = ways_in(in->pipeline);
  if (!ways)
    return ways.takeError();
  const Execution x = in->execution(in->pipeline.entries.front());
  const std::string &name = in->manifest.name;
  std::string text;
  llvm::raw_string_ostream os(text);
  if (dry_run) {
    Expected<ReachCheck> reach = check_reach(x, *ways, in->manifest);
    if (!reach)
      return with_place(reach.takeError(), manifest);
    print(name, *reach, os);
    return finish(text, to_json(name, *reach), true);
  }
  in->options.progress = progress_line();
  in->options.disabled = disabled;
  Expected<InstalledCheck> result = check_installed(x, *ways, in->manifest, in->options);
  if (!result)
    return with_place(result.takeError(), manifest);
  print(name, *result, os);
  return finish(text, to_json(name, *result), result->comparison.total == 0);
}

} // namespace

void add_check_install(CLI::App &app, Action &action) {
  auto c = std::make_shared<CheckInstallCommand>();
  CLI::App *command = app.add_subcommand(
      "check-install",
      "Install a replica in this kernel and compare it with the stock chain, packet by packet");
  command->add_option("MANIFEST", c->manifest, "The manifest, *.ujit.yaml")->required();
  command->add_option("--packets", c->packets, "Packets to run, pcap")->required();
  command->add_option("--entry", c->entry,
                      "Program that gets them (default: every entry, one after the other)");
  command->add_option("--maps", c->maps, "Map contents to start from, JSON (default: the manifest's seed)");
  command->add_option("--contexts", c->contexts,
                      "Contexts that packets come with, JSON: marks, cb, interfaces; each packet with each");
  command->add_option("--no-opt", c->disabled, "Leave an optimisation out (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--dry-run", c->dry_run,
                    "Install nothing: only tell which programs and tail calls the packets reach");
  command->add_option("--json", c->json_file, "Write the report to this file as JSON as well");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
