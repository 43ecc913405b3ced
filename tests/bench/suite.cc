// ujit-bench: the whole benchmark. Every pipeline at every number of flows, single programs, and how link
// time grows; tables, one JSON file, figures.
//
//     ujit-bench BUILD [--quick] [--only NAME]... [--keep FOLDER] [--code FOLDER] [--update FILE]...
//
// BUILD is where the pipelines were built (BUILD/bench, BUILD/edge-lb) and where the results go. The kernel's
// code is the running kernel's where bpf() is allowed, else what --code holds. --keep writes that folder.
// --update replaces what stands between markers of a document.
//
// What has been measured is kept in BUILD/bench/measured until the run is complete: if it is interrupted, the
// next one goes on there, unless the programs, the packets, this program or the settings are others.
#include "lto/bench.h"
#include "lto/load.h"
#include "lto/main/input.h"
#include "lto/output_file.h"
#include "tests/bench/results.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace ujit {

namespace {

using llvm::formatv;

struct Options {
  std::string build, keep, code;
  bool quick = false, no_scaling = false;
  std::vector<std::string> only, documents;
  uint32_t placements = 0, rounds = 0;
};

class Suite {
public:
  explicit Suite(Options options) : o_(std::move(options)) {}
  Error run();

private:
  Error measure_all();
  Row measure_kept(const Workload &w);
  Expected<BenchResult> measure_one(const Workload &w);
  Expected<std::string> key(const Workload &w) const;
  Error keep_code();
  Error keep_code(const Workload &w);
  Error scale();
  Error write_results();
  bool wanted(const Workload &w) const {
    return o_.only.empty() || std::find(o_.only.begin(), o_.only.end(), w.name) != o_.only.end();
  }
  std::string file(const Workload &w, const std::string &name) const {
    return o_.build + "/" + w.folder + "/" + name;
  }
  std::string code_file(const Workload &w, const char *end) const { return o_.code + "/" + w.name + end; }
  std::string measured_folder() const { return o_.build + "/bench/measured"; }
  BenchOptions settings(const Workload &w) const;

  Options o_;
  Results results_;
};

Expected<std::string> read_text(const std::string &path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return input_error(buffer.getError().message()).in_file(path).error();
  return (*buffer)->getBuffer().str();
}

Expected<JitCode> read_kept(const std::string &path) {
  Expected<std::string> text = read_text(path);
  if (!text)
    return text.takeError();
  return parse_jit_code(*text, path);
}

/// The kernel's code from a file, if the running kernel does not give it.
void use_kept_code(const std::string &path, const Pipeline &pipeline, std::optional<JitCode> &to) {
  if (Expected<JitCode> fresh = capture_jit_code(pipeline)) {
    return;
  } else {
    llvm::consumeError(fresh.takeError());
  }
  Expected<JitCode> kept = read_kept(path);
  if (kept)
    to = std::move(*kept);
  else
    llvm::consumeError(kept.takeError());
}

Expected<Pipeline> one_program(const std::string &path) {
  Expected<Pipeline> one = load_objects({path});
  if (one && one->entries.size() != 1)
    return internal_error("not one program").in_file(path).error();
  return one;
}

/// Sized so that all pipelines take some 15 minutes on a machine with two cores, or two if quick: a pipeline
/// that is slow gets fewer rounds.
BenchOptions Suite::settings(const Workload &w) const {
  BenchOptions options;
  options.placements = o_.placements ? o_.placements : o_.quick ? 4 : 32;
  options.ablation_placements = o_.quick ? 1 : 8;
  options.measure.rounds = o_.rounds ? o_.rounds : o_.quick ? 2 : 5;
  options.measure.seconds = o_.quick ? 2 : 40;
  options.measure.progress = isatty(STDERR_FILENO);
  options.fidelity = true;
  options.ablations = !w.single;
  options.measure.counted_packets = o_.quick ? 25 : 100;
  if (w.single)
    options.measure.counted_packets = 1; // a hundred thousand instructions each
  return options;
}

Expected<BenchResult> Suite::measure_one(const Workload &w) {
  Expected<PacketInput> in = read_packet_input(file(w, w.name + ".ujit.yaml"), file(w, w.packets));
  if (!in)
    return in.takeError();
  Expected<ProgId> entry = choose_entry(in->pipeline, {});
  if (!entry)
    return entry.takeError();
  std::erase_if(in->packets, [&](const CapturedPacket &p) {
    return !refuse_packet(in->pipeline[*entry].type, p.bytes).empty();
  });
  if (size_t most = o_.quick ? 1024 : 8192; in->packets.size() > most)
    in->packets.resize(most);

  BenchOptions options = settings(w);
  use_kept_code(code_file(w, ".json"), in->pipeline, options.chain_code);
  Pipeline one;
  if (w.forms) {
    if (!w.single) {
      Expected<Pipeline> p = one_program(file(w, w.name + "-one.bpf.o"));
      if (!p)
        return p.takeError();
      one = std::move(*p);
      options.one_program = &one;
      use_kept_code(code_file(w, "-one.json"), one, options.one_code);
    }
    for (auto [name, end] : {std::pair("plain C", ".o"), std::pair("plain C, no vectors", "-scalar.o")}) {
      Expected<std::string> bytes = read_text(file(w, w.name + end));
      if (!bytes)
        return bytes.takeError();
      options.plain.push_back({name, {bytes->begin(), bytes->end()}});
    }
  }
  const Execution execution = in->execution(*entry);
  Profile profile;
  if (!w.single) {
    Expected<Profile> counted = count_profile(execution);
    if (!counted)
      return counted.takeError();
    profile = std::move(*counted);
    options.profile = &profile;
  }
  in->options.profile = {}; // one that a user left here is not what is asked for
  return bench(execution, in->options, options);
}

Expected<std::string> Suite::key(const Workload &w) const {
  Expected<Manifest> manifest = read_manifest(file(w, w.name + ".ujit.yaml"));
  if (!manifest)
    return manifest.takeError();
  std::vector<std::string> files = {"/proc/self/exe", manifest->file, manifest->seed, file(w, w.packets)};
  for (const ManifestObject &o : manifest->objects)
    files.push_back(o.file);
  for (const char *end : {"-one.bpf.o", ".o", "-scalar.o"})
    files.push_back(file(w, w.name + end));
  for (const char *end : {".json", "-one.json"})
    files.push_back(code_file(w, end));
  const BenchOptions s = settings(w);
  return key_of(files,
                formatv("{0} {1} {2} {3}", s.placements, s.ablation_placements, s.measure.rounds, o_.quick));
}

Row Suite::measure_kept(const Workload &w) {
  Row row{w, std::nullopt, {}};
  Expected<std::string> key = this->key(w);
  if (!key) {
    row.failed = llvm::toString(key.takeError());
    return row;
  }
  const std::string kept = measured_folder() + "/" + w.packets + "." + w.name + ".json";
  if ((row.result = kept_result(kept, *key)))
    return row;
  Expected<BenchResult> result = measure_one(w);
  if (!result) {
    row.failed = llvm::toString(result.takeError());
    return row;
  }
  row.result = std::move(*result);
  if (Error e = keep_result(kept, *key, *row.result)) // it is measured again next time
    llvm::consumeError(std::move(e));
  return row;
}

/// On a terminal the whole result of each pipeline, else a line; all of them are in bench.txt too.
Error Suite::measure_all() {
  if (std::error_code ec = llvm::sys::fs::create_directories(measured_folder()))
    return input_error(ec.message()).in_file(measured_folder()).error();
  std::string all;
  for (const Workload &w : workloads()) {
    if (!wanted(w))
      continue;
    const auto start = std::chrono::steady_clock::now();
    results_.rows.push_back(measure_kept(w));
    const Row &row = results_.rows.back();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::string text;
    llvm::raw_string_ostream os(text);
    if (row.result) {
      print_bench(*row.result, os);
      os << '\n';
    } else {
      os << w.label() << ": " << row.failed << '\n';
    }
    all += text;
    if (isatty(STDOUT_FILENO)) {
      llvm::outs() << text;
    } else if (row.result) {
      const BenchResult &r = *row.result;
      llvm::outs() << formatv("{0}: fused {1:F2}x of {2}, {3:F0} s\n", w.label(),
                              r.speedup(*r.find(BenchForm::fused), true), r.baseline().name, took.count());
    } else {
      llvm::outs() << text;
    }
    llvm::outs().flush();
    if (Error e = write_file(o_.build + "/bench/bench.txt", all))
      return e;
    if (Error e = write_file(o_.build + "/bench/bench.json", print_results(results_)))
      return e;
  }
  return Error::success();
}

Error Suite::keep_code(const Workload &w) {
  auto write = [&](const Pipeline &pipeline, const std::string &name) -> Error {
    Expected<JitCode> code = capture_jit_code(pipeline);
    if (!code)
      return code.takeError();
    return write_file(o_.keep + "/" + name + ".json", print_jit_code(*code));
  };
  Expected<Manifest> manifest = read_manifest(file(w, w.name + ".ujit.yaml"));
  if (!manifest)
    return manifest.takeError();
  Expected<Pipeline> pipeline = load_pipeline(*manifest);
  if (!pipeline)
    return pipeline.takeError();
  if (Error e = write(*pipeline, w.name))
    return e;
  if (w.single || !w.forms)
    return Error::success();
  Expected<Pipeline> one = one_program(file(w, w.name + "-one.bpf.o"));
  if (!one)
    return one.takeError();
  return write(*one, w.name + "-one");
}

Error Suite::keep_code() {
  std::string last;
  for (const Workload &w : workloads()) {
    if (!wanted(w) || w.name == last)
      continue;
    if (Error e = keep_code(w))
      return with_place(std::move(e), w.name);
    last = w.name;
  }
  return Error::success();
}

/// Links that fail or take too long are left out, and are errors in the end.
Error Suite::scale() {
  Error failed = Error::success();
  auto add = [&](std::vector<LinkPoint> &to, uint32_t programs, uint32_t insns, unsigned threads) {
    Expected<LinkPoint> p = measure_link(programs, insns, threads);
    if (!p) {
      failed = llvm::joinErrors(std::move(failed), p.takeError());
      return;
    }
    to.push_back(*p);
    if (isatty(STDERR_FILENO))
      llvm::errs() << formatv("\r\x1b[Klinked: {0} programs of {1} instructions, {2:F1} s", p->programs,
                              p->insns_each, p->seconds);
  };
  const unsigned all = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t programs : {1u, 5u, 10u, 50u, 100u, 500u, 1000u, 2000u, 5000u})
    if (!o_.quick || programs <= 500)
      add(results_.by_programs, programs, 200, all);
  for (unsigned threads = 1; threads <= all; threads *= 2)
    add(results_.by_threads, o_.quick ? 100 : 500, 200, threads);
  for (uint32_t insns : {1000u, 10'000u, 100'000u, 1'000'000u})
    if (!o_.quick || insns <= 10'000)
      add(results_.large, 1, insns, all);
  if (isatty(STDERR_FILENO))
    llvm::errs() << "\r\x1b[K";
  return failed;
}

/// Replaces what stands between the markers of that name, if the text has them.
void replace_between(std::string &text, const std::string &name, const std::string &by, unsigned &replaced) {
  const std::string begin = "<!-- bench: " + name + " -->", end = "<!-- bench: end -->";
  const size_t from = text.find(begin);
  const size_t to = from == std::string::npos ? from : text.find(end, from);
  if (to == std::string::npos)
    return;
  text.replace(from + begin.size(), to - from - begin.size(), "\n" + by);
  ++replaced;
}

Error update(const std::string &path, const Results &results) {
  Expected<std::string> text = read_text(path);
  if (!text)
    return text.takeError();
  unsigned replaced = 0;
  replace_between(*text, "table", print_table(results), replaced);
  replace_between(*text, "short table", print_short_table(results), replaced);
  replace_between(*text, "optimisations", print_optimisations(results), replaced);
  replace_between(*text, "link time", print_scaling(results), replaced);
  if (replaced == 0)
    return input_error("there is no place for a table").in_file(path).error();
  return write_file(path, *text);
}

Error Suite::write_results() {
  const std::string out = o_.build + "/bench/";
  const std::string table = print_table(results_);
  llvm::outs() << '\n' << table;
  std::vector<std::pair<const char *, std::string>> files = {
      {"bench.json", print_results(results_)},
      {"bench.md", table + "\n" + print_optimisations(results_) + "\n" + print_scaling(results_)},
      {"speedup.svg", plot_speedups(results_)}};
  if (!results_.by_programs.empty())
    files.emplace_back("scaling.svg", plot_scaling(results_));
  if (!results_.by_threads.empty())
    files.emplace_back("threads.svg", plot_threads(results_));
  for (const auto &[name, text] : files)
    if (Error e = write_file(out + name, text))
      return e;
  for (const std::string &path : o_.documents)
    if (Error e = update(path, results_))
      return e;
  return Error::success();
}

Error Suite::run() {
  if (!o_.keep.empty())
    return keep_code();
  // First: its children would inherit what links in this process leave behind, TBB's belief in threads that
  // they do not have.
  Error failed = o_.no_scaling ? Error::success() : scale();
  if (Error e = measure_all())
    return llvm::joinErrors(std::move(e), std::move(failed));
  if (Error e = write_results()) // what there is, is worth writing
    return llvm::joinErrors(std::move(e), std::move(failed));
  llvm::sys::fs::remove_directories(measured_folder());
  return failed;
}

} // namespace

} // namespace ujit

int main(int argc, char **argv) {
  ujit::Options o;
  CLI::App app("Measures fused pipelines against the kernel's JIT and C");
  app.add_option("BUILD", o.build, "Folder with bench/ and edge-lb/")->required();
  app.add_flag("--quick", o.quick, "Few placements and packets: figures for a look");
  app.add_flag("--no-scaling", o.no_scaling, "Leave out how link time grows");
  app.add_option("--only", o.only, "This pipeline only; may be repeated")->allow_extra_args(false);
  app.add_option("--placements", o.placements, "Places in memory that each code is measured at");
  app.add_option("--rounds", o.rounds, "Rounds over all packets at each place");
  app.add_option("--keep", o.keep, "Only write the running kernel's code into this folder");
  app.add_option("--code", o.code, "Folder with kept code of a kernel");
  app.add_option("--update", o.documents, "Document that gets the tables; may be repeated")
      ->allow_extra_args(false);
  CLI11_PARSE(app, argc, argv);
  if (llvm::Error e = ujit::Suite(std::move(o)).run()) {
    llvm::logAllUnhandledErrors(std::move(e), llvm::errs(), "ujit-bench: error: ");
    return 1;
  }
  return 0;
}
