#include "lto/main/input.h"

#include "lto/load.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <iterator>

namespace ujit {

void PacketArguments::add_to(CLI::App &command) {
  command.add_option("MANIFEST", manifest, "The manifest, *.ujit.yaml")->required();
  command.add_option("--packets", packets, "Packets to run, pcap")->required();
  command.add_option("--entry", entry, "Program that gets them (default: the only entry)");
}

Execution PacketInput::execution(ProgId entry) const {
  Execution out{pipeline, entry, packets, seeds, {}};
  for (const ManifestRoute &r : manifest.fib)
    out.routes.push_back(r.route);
  return out;
}

Expected<PacketInput> read_packet_input(const std::string &manifest, const std::string &packets) {
  PacketInput in;
  Expected<Manifest> m = read_manifest(manifest);
  if (!m)
    return m.takeError();
  in.manifest = std::move(*m);
  Expected<Pipeline> pipeline = load_pipeline(in.manifest);
  if (!pipeline)
    return pipeline.takeError();
  in.pipeline = std::move(*pipeline);
  Expected<LinkOptions> options = link_options(in.manifest, in.pipeline);
  if (!options)
    return options.takeError();
  in.options = std::move(*options);
  Expected<std::vector<MapSeed>> seeds = load_seed(in.manifest);
  if (!seeds)
    return seeds.takeError();
  in.seeds = std::move(*seeds);
  Expected<std::vector<CapturedPacket>> captured = read_pcap(packets);
  if (!captured)
    return with_place(captured.takeError(), packets);
  in.packets = std::move(*captured);
  return in;
}

Expected<ProgId> choose_entry(const Pipeline &pipeline, const std::string &name) {
  std::vector<std::string> names;
  for (ProgId e : pipeline.entries)
    names.push_back(pipeline[e].name);
  if (name.empty() && pipeline.entries.size() == 1)
    return pipeline.entries.front();
  for (ProgId e : pipeline.entries)
    if (pipeline[e].name == name)
      return e;
  return input_error(name.empty() ? "the pipeline has several entries" : "there is no entry '" + name + "'")
      .with_hint("choose one by --entry: " + llvm::join(names, ", "))
      .error();
}

std::string verdict_name(ProgType type, uint32_t value) {
  static constexpr const char *xdp[] = {"XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"};
  static constexpr const char *tc[] = {"TC_ACT_OK",     "TC_ACT_RECLASSIFY", "TC_ACT_SHOT",
                                       "TC_ACT_PIPE",   "TC_ACT_STOLEN",     "TC_ACT_QUEUED",
                                       "TC_ACT_REPEAT", "TC_ACT_REDIRECT",   "TC_ACT_TRAP"};
  if (type == ProgType::xdp && value < std::size(xdp))
    return xdp[value];
  if ((type == ProgType::sched_cls || type == ProgType::sched_act) && value < std::size(tc))
    return tc[value];
  if ((type == ProgType::sched_cls || type == ProgType::sched_act) && value == UINT32_MAX)
    return "TC_ACT_UNSPEC";
  return std::to_string(int32_t(value));
}

} // namespace ujit
