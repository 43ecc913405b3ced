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

#include <memory>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

/// A path that takes so much longer than the stock chain is named.
constexpr double slower = 1.05;

struct CheckInstallCommand {
  std::string manifest, packets, entry, maps, json_file;

  Expected<int> run() const;
};

/// Weighted by packets: what all of them take, installed to stock.
double total_ratio(const InstalledCheck &r) {
  double stock = 0, installed = 0;
  for (const InstalledPath &p : r.paths) {
    stock += p.stock_ns * double(p.packets.size());
    installed += p.installed_ns * double(p.packets.size());
  }
  return stock > 0 ? installed / stock : 0;
}

void print(const std::string &name, const Pipeline &pipeline, const InstalledCheck &r,
           llvm::raw_ostream &os) {
  for (const Difference &d : r.comparison.differences)
    os << print_difference(d);
  os << formatv("{0}: {1} packets through the stock chain and the installed image: ", name, r.packets);
  if (r.comparison.total)
    os << formatv("{0} differences\n", r.comparison.total);
  else
    os << "no difference\n";
  if (r.not_run)
    os << formatv("  {0} packets are not taken by test runs of this kernel\n", r.not_run);
  const LinkReport &l = r.facts.report;
  os << formatv("  reached     {0} of {1} programs, {2} different tail calls\n", r.programs.size(),
                pipeline.programs.size(), r.edges);
  for (const auto &[program, reason] : l.unfused_reasons)
    os << formatv("  unfused     {0}: {1}\n", program, reason);
  os << formatv("  image       {0} bytes of code, {1} of stack; module {2} bytes of kernel memory\n",
                l.code_bytes, l.stack_bytes, r.facts.module_bytes);
  os << formatv("  times       capture {0:F1} ms, link {1:F1} ms, module {2:F1} ms, stubs {3:F1} ms\n",
                r.facts.capture_ms, r.facts.link_ms, r.facts.insert_ms, r.facts.stubs_ms);
  os << "  path (packets): stock -> installed, ns of one run without its fixed cost\n";
  for (const InstalledPath &p : r.paths)
    os << formatv("    {0,6:F0} -> {1,6:F0}  {2:F2}{3}  {4} ({5})\n", p.stock_ns, p.installed_ns,
                  p.stock_ns > 0 ? p.installed_ns / p.stock_ns : 0.0,
                  p.installed_ns > p.stock_ns * slower ? " SLOWER" : "", llvm::join(p.programs, " > "),
                  p.packets.size());
  os << formatv("  all packets {0:F3} of the stock chain\n", total_ratio(r));
}

json::Value to_json(const std::string &name, const Pipeline &pipeline, const InstalledCheck &r) {
  json::Array paths, differences, unfused;
  for (const InstalledPath &p : r.paths)
    paths.push_back(json::Object{{"programs", json::Array(p.programs)},
                                 {"packets", int64_t(p.packets.size())},
                                 {"stock_ns", p.stock_ns},
                                 {"installed_ns", p.installed_ns},
                                 {"fixed_ns", p.fixed_ns}});
  for (const Difference &d : r.comparison.differences)
    differences.push_back(print_difference(d));
  for (const auto &[program, reason] : r.facts.report.unfused_reasons)
    unfused.push_back(json::Object{{"program", program}, {"reason", reason}});
  json::Object o;
  o["name"] = name;
  o["packets"] = int64_t(r.packets);
  o["not_run"] = int64_t(r.not_run);
  o["differences"] = int64_t(r.comparison.total);
  o["first_differences"] = std::move(differences);
  o["programs"] = int64_t(pipeline.programs.size());
  o["programs_reached"] = json::Array(r.programs);
  o["edges_reached"] = int64_t(r.edges);
  o["unfused"] = std::move(unfused);
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

Expected<int> CheckInstallCommand::run() const {
  Expected<PacketInput> in = read_packet_input(manifest, packets);
  if (!in)
    return in.takeError();
  if (!maps.empty()) {
    auto buffer = llvm::MemoryBuffer::getFile(maps);
    if (!buffer)
      return input_error("cannot read map contents: " + buffer.getError().message()).in_file(maps).error();
    Expected<std::vector<MapSeed>> seeds = parse_map_seeds(std::string_view((*buffer)->getBuffer()), maps);
    if (!seeds)
      return seeds.takeError();
    in->seeds = std::move(*seeds);
  }
  Expected<ProgId> chosen = choose_entry(in->pipeline, entry);
  if (!chosen)
    return chosen.takeError();
  in->options.progress = progress_line();
  Expected<InstalledCheck> result = check_installed(in->execution(*chosen), in->manifest, in->options);
  if (!result)
    return with_place(result.takeError(), manifest);
  const std::string machine = formatv("{0:2}\n", to_json(in->manifest.name, in->pipeline, *result));
  std::string text;
  llvm::raw_string_ostream os(text);
  print(in->manifest.name, in->pipeline, *result, os);
  if (!json_file.empty())
    if (Error e = write_file(json_file, machine))
      return e;
  if (Error e = put_text({}, text))
    return e;
  return result->comparison.total ? exit_input : exit_done;
}

} // namespace

void add_check_install(CLI::App &app, Action &action) {
  auto c = std::make_shared<CheckInstallCommand>();
  CLI::App *command = app.add_subcommand(
      "check-install",
      "Install a replica in this kernel and compare it with the stock chain, packet by packet");
  command->add_option("MANIFEST", c->manifest, "The manifest, *.ujit.yaml")->required();
  command->add_option("--packets", c->packets, "Packets to run, pcap")->required();
  command->add_option("--entry", c->entry, "Program that gets them (default: the only entry)");
  command->add_option("--maps", c->maps, "Map contents to start from, JSON (default: the manifest's seed)");
  command->add_option("--json", c->json_file, "Write the report to this file as JSON as well");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
