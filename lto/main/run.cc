// run: packets through the fused image on the embedded kernel.
#include "lto/main/command.h"

#include "lto/main/input.h"
#include "lto/output_file.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <map>
#include <memory>

namespace ujit {

namespace {

struct RunCommand : PacketArguments {
  std::string write_packets, dump_maps;
  uint32_t repeat = 10;
  bool unfused = false, json = false;

  Expected<int> run() const;
  Error write_results(const Trace &trace, std::span<const CapturedPacket> packets) const;
  Error report(const PacketInput &in, ProgId entry, const Trace &trace, size_t refused) const;
};

/// The packets as they came out, with the times they came in at.
Error RunCommand::write_results(const Trace &trace, std::span<const CapturedPacket> in) const {
  if (!write_packets.empty()) {
    std::vector<CapturedPacket> out;
    for (size_t i = 0; i < in.size(); ++i) {
      const std::vector<uint8_t> &bytes = trace.packets[i].result.packet;
      out.push_back({in[i].time_ns, bytes, uint32_t(bytes.size())});
    }
    if (Error e = write_pcap(write_packets, out))
      return with_place(std::move(e), write_packets);
  }
  if (!dump_maps.empty())
    if (Error e = write_file(dump_maps, print_map_seeds(trace.maps)))
      return e;
  return Error::success();
}

Error RunCommand::report(const PacketInput &in, ProgId entry, const Trace &trace, size_t refused) const {
  std::map<uint32_t, size_t> verdicts;
  size_t events = 0;
  for (const Observation &o : trace.packets) {
    ++verdicts[o.result.value];
    events += o.result.events.size();
  }
  const size_t packets = trace.packets.size();
  const double runs = double(packets) * repeat;
  const double ns = runs > 0 ? trace.measured_seconds * 1e9 / runs : 0;
  const ProgType type = in.pipeline[entry].type;

  std::string text;
  llvm::raw_string_ostream os(text);
  if (json) {
    llvm::json::OStream j(os, 2);
    j.object([&] {
      j.attribute("name", in.manifest.name);
      j.attribute("entry", in.pipeline[entry].name);
      j.attribute("mode", trace.executor);
      j.attribute("packets", int64_t(packets));
      j.attribute("refused_packets", int64_t(refused));
      j.attributeObject("verdicts", [&] {
        for (const auto &[value, count] : verdicts)
          j.attribute(verdict_name(type, value), int64_t(count));
      });
      j.attribute("events", int64_t(events));
      if (repeat)
        j.attribute("ns_per_packet", ns);
    });
    os << '\n';
  } else {
    os << llvm::formatv("{0}: {1} packets through {2}, {3}\n", in.manifest.name, packets,
                        in.pipeline[entry].name, trace.executor);
    for (const auto &[value, count] : verdicts)
      os << llvm::formatv("  {0,-18} {1,8}  {2,5:F1} %\n", verdict_name(type, value), count,
                          100.0 * double(count) / double(packets));
    if (events)
      os << llvm::formatv("  {0,-18} {1,8}\n", "events", events);
    if (refused)
      os << llvm::formatv("  {0,-18} {1,8}  too short or too long for a program of type {2}\n", "refused",
                          refused, name_of(type));
    if (repeat && packets)
      os << llvm::formatv("  {0:F1} ns a packet, {1:F2} million packets a second on one CPU ({2} rounds)\n",
                          ns, 1e3 / ns, repeat);
  }
  return put_text({}, text);
}

Expected<int> RunCommand::run() const {
  Expected<PacketInput> in = read_packet_input(manifest, packets);
  if (!in)
    return in.takeError();
  Expected<ProgId> chosen = choose_entry(in->pipeline, entry);
  if (!chosen)
    return chosen.takeError();
  const size_t refused = std::erase_if(in->packets, [&](const CapturedPacket &p) {
    return !refuse_packet(in->pipeline[*chosen].type, p.bytes).empty();
  });
  in->options.progress = progress_line();
  in->options.plan.mode = unfused ? PlanOptions::chain : PlanOptions::fused;
  in->options.plan.target_left_is_supported = false; // no originals are loaded beside the image
  Expected<LinkResult> linked = link(in->pipeline, in->options);
  if (!linked)
    return linked.takeError();
  Expected<Trace> trace =
      execute_image(in->execution(*chosen), linked->image.object, unfused ? "unfused" : "fused", repeat);
  if (!trace)
    return with_place(trace.takeError(), manifest);
  if (Error e = write_results(*trace, in->packets))
    return e;
  if (Error e = report(*in, *chosen, *trace, refused))
    return e;
  return exit_done;
}

} // namespace

void add_run(CLI::App &app, Action &action) {
  auto c = std::make_shared<RunCommand>();
  CLI::App *command =
      app.add_subcommand("run", "Fuse, and run packets through the image in the embedded kernel");
  c->add_to(*command);
  command->add_option("--write-packets", c->write_packets, "Write the packets as they came out, pcap");
  command->add_option("--dump-maps", c->dump_maps, "Write the maps as they are afterwards, JSON");
  command->add_flag("--unfused", c->unfused, "Each program by itself, chained through the prog arrays");
  command->add_option("--repeat", c->repeat, "Rounds over all packets to measure; 0: none")
      ->check(CLI::Range(0, 1000000));
  command->add_flag("--json", c->json, "Print JSON");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
