// bench: what does fusing gain, on the user's own packets?
#include "lto/main/command.h"

#include "lto/bench.h"
#include "lto/main/input.h"

#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

struct BenchCommand {
  std::string manifest, packets, entry, json, markdown;
  BenchOptions options;

  Expected<int> run() const;
};

Expected<int> BenchCommand::run() const {
  Expected<PacketInput> in = read_packet_input(manifest, packets);
  if (!in)
    return in.takeError();
  Expected<ProgId> chosen = choose_entry(in->pipeline, entry);
  if (!chosen)
    return chosen.takeError();
  std::erase_if(in->packets, [&](const CapturedPacket &p) {
    return !refuse_packet(in->pipeline[*chosen].type, p.bytes).empty();
  });
  if (in->packets.empty())
    return input_error("there is no packet to measure with").in_file(packets).error();
  Expected<BenchResult> result = bench(in->execution(*chosen), in->options, options);
  if (!result)
    return with_place(result.takeError(), manifest);

  std::string text;
  llvm::raw_string_ostream os(text);
  if (!json.empty()) {
    llvm::json::OStream j(os, 2);
    print_bench_json(*result, j);
    os << '\n';
    if (Error e = put_text(json, text))
      return e;
    text.clear();
  }
  if (!markdown.empty()) {
    print_bench_markdown(*result, os);
    if (Error e = put_text(markdown, text))
      return e;
    text.clear();
  }
  print_bench(*result, os);
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

} // namespace

void add_bench(CLI::App &app, Action &action) {
  auto c = std::make_shared<BenchCommand>();
  CLI::App *command =
      app.add_subcommand("bench", "Measure fused code side by side with the chain as the kernel runs it");
  command->add_option("MANIFEST", c->manifest, "The manifest, *.ujit.yaml")->required();
  command->add_option("--packets", c->packets, "Packets to run, pcap")->required();
  command->add_option("--entry", c->entry, "Program that gets them (default: the only entry)");
  command->add_option("--placements", c->options.placements, "Places in memory that each code is measured at")
      ->check(CLI::Range(1, 256));
  command->add_option("--rounds", c->options.measure.rounds, "Rounds over all packets at each place")
      ->check(CLI::Range(1, 1000));
  command->add_option("--json", c->json, "Write all figures as JSON");
  command->add_option("--markdown", c->markdown, "Write the table as markdown");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
