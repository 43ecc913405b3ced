// bench: what does fusing gain, on the user's own packets?
#include "lto/main/command.h"

#include "lto/bench.h"
#include "lto/load.h"
#include "lto/main/input.h"

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

struct BenchCommand : PacketArguments {
  std::string json, markdown;
  std::string one_program, chain_code, one_code, write_chain_code, write_one_code;
  std::vector<std::string> plain;
  bool no_mitigations = false, no_ablations = false, profile = false;
  BenchOptions options;

  Expected<int> run();
  Error read_files();
  Expected<bool> write_codes(const Pipeline &pipeline);
  Error write_profile(const Pipeline &pipeline, const Profile &counts, const BenchResult &result) const;

private:
  Pipeline one_;
};

Expected<std::string> read_text(const std::string &file) {
  auto buffer = llvm::MemoryBuffer::getFile(file);
  if (!buffer)
    return input_error(buffer.getError().message()).in_file(file).error();
  return (*buffer)->getBuffer().str();
}

Error read_code(const std::string &file, std::optional<JitCode> &to) {
  if (file.empty())
    return Error::success();
  Expected<std::string> text = read_text(file);
  if (!text)
    return text.takeError();
  Expected<JitCode> code = parse_jit_code(*text, file);
  if (!code)
    return code.takeError();
  to = std::move(*code);
  return Error::success();
}

Error BenchCommand::read_files() {
  if (!one_program.empty()) {
    Expected<Pipeline> one = load_objects({one_program});
    if (!one)
      return one.takeError();
    one_ = std::move(*one);
    if (one_.entries.size() != 1)
      return input_error("not one program").in_file(one_program).error();
    options.one_program = &one_;
  }
  for (const std::string &file : plain) {
    Expected<std::string> bytes = read_text(file);
    if (!bytes)
      return bytes.takeError();
    options.plain.push_back(
        {plain.size() == 1 ? "plain C" : "plain C, " + file, {bytes->begin(), bytes->end()}});
  }
  if (Error e = read_code(chain_code, options.chain_code))
    return e;
  return read_code(one_code, options.one_code);
}

/// Whether that is all that was asked for.
Expected<bool> BenchCommand::write_codes(const Pipeline &pipeline) {
  for (const auto &[file, source] :
       {std::pair(write_chain_code, &pipeline), std::pair(write_one_code, &std::as_const(one_))}) {
    if (file.empty())
      continue;
    if (source->entries.empty())
      return input_error("--write-one-code needs --one-program").error();
    Expected<JitCode> code = capture_jit_code(*source);
    if (!code)
      return code.takeError();
    if (Error e = put_text(file, print_jit_code(*code)))
      return e;
  }
  return !write_chain_code.empty() || !write_one_code.empty();
}

Expected<int> BenchCommand::run() {
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
  options.mitigations = !no_mitigations;
  options.ablations = !no_ablations;
  if (Error e = read_files())
    return e;
  Expected<bool> written = write_codes(in->pipeline);
  if (!written)
    return written.takeError();
  if (*written)
    return exit_done;
  const Execution execution = in->execution(*chosen);
  Profile counts;
  if (profile) {
    Expected<Profile> counted = count_profile(execution);
    if (!counted)
      return with_place(counted.takeError(), manifest);
    counts = std::move(*counted);
    options.profile = &counts;
    in->options.profile = {}; // what is there is made anew
  }
  options.measure.progress = llvm::errs().is_displayed();
  Expected<BenchResult> result = bench(execution, in->options, options);
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
  if (profile)
    if (Error e = write_profile(in->pipeline, counts, *result))
      return e;
  return exit_done;
}

Error BenchCommand::write_profile(const Pipeline &pipeline, const Profile &counts,
                                  const BenchResult &result) const {
  const std::string file = profile_path(manifest);
  const Verdict *verdict = result.verdict ? &*result.verdict : nullptr;
  if (Error e = put_text(file, print_profile(pipeline, counts, verdict)))
    return e;
  return put_text({}, "profile written to " + file + "\n");
}

} // namespace

void add_bench(CLI::App &app, Action &action) {
  auto c = std::make_shared<BenchCommand>();
  CLI::App *command =
      app.add_subcommand("bench", "Measure fused code side by side with the chain as the kernel runs it");
  c->add_to(*command);
  command->add_option("--placements", c->options.placements, "Places in memory that each code is measured at")
      ->check(CLI::Range(1, 256));
  command->add_option("--rounds", c->options.measure.rounds, "Rounds over all packets at each place")
      ->check(CLI::Range(1, 1000));
  command->add_option("--one-program", c->one_program, "Object with the same source as one program");
  command->add_option("--plain", c->plain, "Object with the same source as C for this machine");
  command->add_option("--kernel-code", c->chain_code,
                      "Kept code of a kernel, instead of the running kernel's");
  command->add_option("--kernel-code-of-one", c->one_code, "The same for --one-program");
  command->add_option("--write-kernel-code", c->write_chain_code,
                      "Keep the running kernel's code there, and end");
  command->add_option("--write-kernel-code-of-one", c->write_one_code, "The same for --one-program");
  command->add_flag("--fidelity", c->options.fidelity, "Compare with test runs of the running kernel too");
  command->add_flag("--no-mitigations", c->no_mitigations, "Leave out the figures with return thunks");
  command->add_flag("--no-ablations", c->no_ablations, "Leave out the rows without each optimisation");
  command->add_flag("--profile", c->profile,
                    "Keep what these packets show beside the manifest, for every later link: how often each "
                    "branch and tail call is taken, and whether fusing pays");
  command->add_option("--json", c->json, "Write all figures as JSON");
  command->add_option("--markdown", c->markdown, "Write the table as markdown");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
