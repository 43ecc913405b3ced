// ujit-bench: the whole benchmark. Every pipeline at every number of flows, single programs, and how link
// time grows; one table, one JSON file, figures.
//
//     ujit-bench BUILD [--quick] [--only NAME]... [--keep FOLDER] [--code FOLDER] [--table FILE]...
//
// BUILD is where the pipelines were built (BUILD/bench, BUILD/edge-lb) and where the results go. The kernel's
// code is the running kernel's where bpf() is allowed, else what --code holds. --keep writes that folder.
// --table replaces what stands between two markers of a document.
#include "lto/bench.h"
#include "lto/load.h"
#include "lto/main/input.h"
#include "lto/output_file.h"
#include "tests/bench/plot.h"
#include "tests/bench/scaling.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <thread>

namespace ujit {

namespace {

using llvm::formatv;

struct Workload {
  std::string name;
  std::string folder; ///< in BUILD
  std::string packets;
  bool single = false; ///< a program without tail calls: compared with C
  bool forms = true;   ///< there are one-program and C forms of it
  std::string label() const {
    const size_t dash = packets.rfind('-');
    return forms && !single && dash != std::string::npos
               ? name + ", " + packets.substr(dash + 1, packets.size() - dash - 6) + " flows"
               : name;
  }
};

std::vector<Workload> workloads() {
  std::vector<Workload> out = {{"edge-lb", "edge-lb", "edge-lb.pcap", false, false},
                               {"edge-lb-tc", "edge-lb", "edge-lb.pcap", false, false}};
  for (const char *name : {"balancer", "parser", "alu", "dissector", "policy", "recirculate"})
    for (const char *flows : {"64", "4096"})
      out.push_back({name, "bench", std::string(name) + "-" + flows + ".pcap"});
  for (const char *name : {"checksum", "hash", "states", "primes"})
    out.push_back({name, "bench", std::string(name) + "-1.pcap", true});
  return out;
}

struct Options {
  std::string build, keep, code;
  bool quick = false, no_scaling = false;
  std::vector<std::string> only, tables;
  uint32_t placements = 0, rounds = 0;
};

struct Row {
  Workload workload;
  std::optional<BenchResult> result;
  std::string failed; ///< why there is none
};

class Suite {
public:
  explicit Suite(Options options) : o_(std::move(options)) {}
  Error run();

private:
  Expected<BenchResult> measure_one(const Workload &w);
  Error keep(const Workload &w);
  Error scale();
  Error write_results();
  std::string table() const;
  std::string plot_speedups() const;
  std::string file(const Workload &w, const std::string &name) const {
    return o_.build + "/" + w.folder + "/" + name;
  }

  Options o_;
  std::vector<Row> rows_;
  std::vector<LinkPoint> by_programs_, by_threads_, large_;
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

  BenchOptions options;
  options.placements = o_.placements ? o_.placements : o_.quick ? 4 : 32;
  options.measure.rounds = o_.rounds ? o_.rounds : o_.quick ? 2 : 5;
  options.fidelity = true;
  options.ablations = !w.single;
  if (w.single)
    options.measure.counted_packets = 1; // a hundred thousand instructions each
  use_kept_code(o_.code + "/" + w.name + ".json", in->pipeline, options.chain_code);
  Pipeline one;
  if (w.forms) {
    if (!w.single) {
      Expected<Pipeline> p = one_program(file(w, w.name + "-one.bpf.o"));
      if (!p)
        return p.takeError();
      one = std::move(*p);
      options.one_program = &one;
      use_kept_code(o_.code + "/" + w.name + "-one.json", one, options.one_code);
    }
    for (auto [name, end] : {std::pair("plain C", ".o"), std::pair("plain C, no vectors", "-scalar.o")}) {
      Expected<std::string> bytes = read_text(file(w, w.name + end));
      if (!bytes)
        return bytes.takeError();
      options.plain.push_back({name, {bytes->begin(), bytes->end()}});
    }
  }
  return bench(in->execution(*entry), in->options, options);
}

Error Suite::keep(const Workload &w) {
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

Error Suite::scale() {
  auto add = [&](std::vector<LinkPoint> &to, uint32_t programs, uint32_t insns, unsigned threads) -> Error {
    Expected<LinkPoint> p = measure_link(programs, insns, threads);
    if (!p)
      return p.takeError();
    llvm::outs() << formatv("link: {0} programs of {1} instructions, {2} threads: {3:F3} s, {4} kB\n",
                            p->programs, p->insns_each, p->threads, p->seconds, p->peak_kilobytes);
    to.push_back(*p);
    return Error::success();
  };
  const unsigned all = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t programs : {1u, 5u, 10u, 50u, 100u, 500u, 1000u, 5000u})
    if (!o_.quick || programs <= 100)
      if (Error e = add(by_programs_, programs, 200, all))
        return e;
  for (unsigned threads = 1; threads <= all; threads *= 2)
    if (Error e = add(by_threads_, o_.quick ? 100 : 500, 200, threads))
      return e;
  for (uint32_t insns : {1000u, 10'000u, 100'000u, 1'000'000u})
    if (!o_.quick || insns <= 10'000)
      if (Error e = add(large_, 1, insns, all))
        return e;
  return Error::success();
}

// ---- Results.

double geomean(const std::vector<double> &values) {
  double sum = 0;
  for (double v : values)
    sum += std::log(v);
  return values.empty() ? 0 : std::exp(sum / double(values.size()));
}

/// Of fused against the kernel's chain, over pipelines.
std::vector<std::pair<std::string, double>> speedups(const std::vector<Row> &rows, bool mitigated,
                                                     bool of_best) {
  std::vector<std::pair<std::string, double>> out;
  for (const Row &row : rows)
    if (row.result && !row.workload.single)
      if (const BenchRow *fused = row.result->find(BenchForm::fused);
          fused && row.result->find(BenchForm::jit_chain))
        out.emplace_back(row.workload.label(), of_best ? row.result->speedup_of_best(*fused, mitigated)
                                                       : row.result->speedup(*fused, mitigated));
  return out;
}

void print_summary(const std::vector<Row> &rows, llvm::json::OStream &j) {
  auto one = [&](bool mitigated, bool of_best) {
    std::vector<double> values;
    std::pair<std::string, double> worst{"", 0};
    for (const auto &[name, value] : speedups(rows, mitigated, of_best)) {
      values.push_back(value);
      if (worst.first.empty() || value < worst.second)
        worst = {name, value};
    }
    j.attribute("geomean", geomean(values));
    j.attribute("worst", worst.second);
    j.attribute("worst_pipeline", worst.first);
  };
  one(true, false);
  j.attributeObject("against_best_placement", [&] { one(true, true); });
  j.attributeObject("without_mitigations", [&] { one(false, false); });
  std::vector<double> fewer, to_plain;
  for (const Row &row : rows) {
    const BenchRow *jit = row.result ? row.result->find(BenchForm::jit_chain) : nullptr;
    const BenchRow *fused = row.result ? row.result->find(BenchForm::fused) : nullptr;
    const BenchRow *plain = row.result ? row.result->find(BenchForm::plain) : nullptr;
    if (jit && fused && !row.workload.single)
      fewer.push_back(fused->measured.own_insns / jit->measured.own_insns);
    if (plain && fused && row.workload.single)
      to_plain.push_back(fused->median_ns(false) / plain->median_ns(false));
  }
  j.attribute("own_insns_of_jit_geomean", geomean(fewer));
  j.attribute("single_worst_of_plain_c",
              to_plain.empty() ? 0 : *std::max_element(to_plain.begin(), to_plain.end()));
}

void print_points(const std::vector<LinkPoint> &points, llvm::StringRef name, llvm::json::OStream &j) {
  j.attributeArray(name, [&] {
    for (const LinkPoint &p : points)
      j.object([&] {
        j.attribute("programs", p.programs);
        j.attribute("insns_each", p.insns_each);
        j.attribute("threads", p.threads);
        j.attribute("insns", int64_t(p.bytecode_insns));
        j.attribute("code_bytes", int64_t(p.code_bytes));
        j.attribute("seconds", p.seconds);
        j.attribute("peak_kilobytes", int64_t(p.peak_kilobytes));
      });
  });
}

std::string Suite::table() const {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "| ns a packet, return thunks | kernel JIT, chain | JIT, one program | ours, one by one | **fused** "
        "| plain C | "
        "fused: speed | of JIT's best | without thunks | own instructions, JIT -> fused -> C |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const Row &row : rows_) {
    if (!row.result) {
      os << "| " << row.workload.label() << " | " << row.failed << " | | | | | | | | |\n";
      continue;
    }
    const BenchResult &r = *row.result;
    auto ns = [&](BenchForm form) {
      const BenchRow *found = r.find(form);
      return found ? formatv("{0:F1}", found->median_ns(true)).str() : std::string("-");
    };
    auto insns = [&](BenchForm form) {
      const BenchRow *found = r.find(form);
      return found ? formatv("{0:F0}", found->measured.own_insns).str() : std::string("-");
    };
    const BenchRow &fused = *r.find(BenchForm::fused);
    const bool jit = r.find(BenchForm::jit_chain);
    os << formatv("| {0} | {1} | {2} | {3} | {4} | {5} ", row.workload.label(), ns(BenchForm::jit_chain),
                  ns(BenchForm::jit_one), ns(BenchForm::chain), ns(BenchForm::fused), ns(BenchForm::plain));
    if (jit)
      os << formatv("| {0:F2}x | {1:F2}x | {2:F2}x ", r.speedup(fused, true), r.speedup_of_best(fused, true),
                    r.speedup(fused, false));
    else
      os << "| - | - | - ";
    os << formatv("| {0} -> {1} -> {2} |\n", insns(BenchForm::jit_chain), insns(BenchForm::fused),
                  insns(BenchForm::plain));
  }
  std::vector<double> all, best, off;
  for (const auto &[name, v] : speedups(rows_, true, false))
    all.push_back(v);
  for (const auto &[name, v] : speedups(rows_, true, true))
    best.push_back(v);
  for (const auto &[name, v] : speedups(rows_, false, false))
    off.push_back(v);
  os << formatv("| geometric mean of the pipelines | | | | | | {0:F2}x | {1:F2}x | {2:F2}x | |\n",
                geomean(all), geomean(best), geomean(off));
  return text;
}

/// A bar is the speed-up; what is above 1 is shared out by what each optimisation gives when it alone is
/// missing.
std::string Suite::plot_speedups() const {
  std::vector<Bar> bars;
  for (const Row &row : rows_) {
    if (!row.result || row.workload.single || !row.result->find(BenchForm::jit_chain))
      continue;
    const BenchResult &r = *row.result;
    const BenchRow &fused = *r.find(BenchForm::fused);
    const double speed = r.speedup(fused, true), ours = r.speedup(*r.find(BenchForm::chain), true);
    Bar bar{row.workload.label(), formatv("{0:F2}x", speed), {{"the kernel's chain", std::min(1.0, speed)}}};
    double left = std::max(0.0, speed - 1);
    const double codegen = std::clamp(ours - 1, 0.0, left);
    bar.parts.emplace_back("better code of each program", codegen);
    left -= codegen;
    double lost = 0;
    for (const BenchRow &w : r.rows)
      if (w.form == BenchForm::without && w.left_out.empty())
        lost += std::max(0.0, w.median_ns(true) - fused.median_ns(true));
    const double share = lost > 0 ? std::min(1.0, left / (lost / fused.median_ns(true))) : 0;
    for (const BenchRow &w : r.rows)
      if (w.form == BenchForm::without && w.left_out.empty()) {
        const double part = std::max(0.0, w.median_ns(true) / fused.median_ns(true) - 1) * share;
        bar.parts.emplace_back(llvm::StringRef(w.name).drop_front(strlen("fused, no ")).str(), part);
        left -= part;
      }
    bar.parts.emplace_back("fusing itself", std::max(0.0, left));
    bars.push_back(std::move(bar));
  }
  return plot_bars("Fused against the kernel's JIT, with return thunks", "x", bars, 1);
}

std::vector<std::pair<double, double>> points_of(const std::vector<LinkPoint> &points, bool by_insns) {
  std::vector<std::pair<double, double>> out;
  for (const LinkPoint &p : points)
    out.emplace_back(by_insns ? p.insns_each : p.programs, p.seconds);
  return out;
}

/// Replaces what stands between the markers.
Error put_table(const std::string &path, const std::string &table) {
  static constexpr llvm::StringRef begin = "<!-- bench: table -->", end = "<!-- bench: end -->";
  Expected<std::string> text = read_text(path);
  if (!text)
    return text.takeError();
  const size_t from = text->find(begin), to = text->find(end);
  if (from == std::string::npos || to == std::string::npos || to < from)
    return input_error("there is no place for the table").in_file(path).error();
  return write_file(path, text->substr(0, from + begin.size()) + "\n" + table + text->substr(to));
}

Error Suite::write_results() {
  const std::string out = o_.build + "/bench/";
  std::string text;
  llvm::raw_string_ostream os(text);
  llvm::json::OStream j(os, 1);
  const PowerFit fit = fit_power(points_of(by_programs_, false));
  j.object([&] {
    j.attributeObject("summary", [&] { print_summary(rows_, j); });
    j.attributeArray("pipelines", [&] {
      for (const Row &row : rows_)
        j.object([&] {
          j.attribute("name", row.workload.label());
          j.attribute("single", row.workload.single);
          if (!row.result) {
            j.attribute("failed", row.failed);
            return;
          }
          j.attributeBegin("result");
          print_bench_json(*row.result, j);
          j.attributeEnd();
        });
    });
    j.attributeObject("scaling", [&] {
      print_points(by_programs_, "by_programs", j);
      print_points(by_threads_, "by_threads", j);
      print_points(large_, "one_program", j);
      j.attributeObject("fit", [&] {
        j.attribute("factor", fit.factor);
        j.attribute("exponent", fit.exponent);
      });
    });
  });
  os << '\n';
  if (Error e = write_file(out + "bench.json", text))
    return e;
  const std::string t = table();
  llvm::outs() << t;
  if (Error e = write_file(out + "bench.md", t))
    return e;
  for (const std::string &path : o_.tables)
    if (Error e = put_table(path, t))
      return e;
  if (Error e = write_file(out + "speedup.svg", plot_speedups()))
    return e;
  if (by_programs_.empty())
    return Error::success();
  std::vector<std::pair<double, double>> fitted;
  for (const LinkPoint &p : by_programs_)
    fitted.emplace_back(p.programs, fit.factor * std::pow(p.programs, fit.exponent));
  if (Error e = write_file(out + "scaling.svg",
                           plot_lines("Link time", "programs of 200 instructions", "s",
                                      {{"measured", points_of(by_programs_, false)},
                                       {formatv("{0:E1} * n^{1:F2}", fit.factor, fit.exponent), fitted}})))
    return e;
  std::vector<Bar> threads;
  for (const LinkPoint &p : by_threads_)
    threads.push_back(
        {formatv("{0} threads", p.threads), formatv("{0:F2} s", p.seconds), {{"link time, s", p.seconds}}});
  return write_file(out + "threads.svg",
                    plot_bars(formatv("Link time of {0} programs", by_threads_.front().programs), "s",
                              threads, by_threads_.front().seconds));
}

Error Suite::run() {
  std::string last_kept;
  for (const Workload &w : workloads()) {
    if (!o_.only.empty() && std::find(o_.only.begin(), o_.only.end(), w.name) == o_.only.end())
      continue;
    if (!o_.keep.empty()) {
      if (w.name != last_kept)
        if (Error e = keep(w))
          return with_place(std::move(e), w.name);
      last_kept = w.name;
      continue;
    }
    Row row{w, std::nullopt, {}};
    Expected<BenchResult> result = measure_one(w);
    if (result) {
      print_bench(*result, llvm::outs());
      llvm::outs() << '\n';
      row.result = std::move(*result);
    } else {
      row.failed = llvm::toString(result.takeError());
      llvm::errs() << w.label() << ": " << row.failed << '\n';
    }
    rows_.push_back(std::move(row));
  }
  if (!o_.keep.empty())
    return Error::success();
  if (!o_.no_scaling)
    if (Error e = scale())
      return e;
  return write_results();
}

} // namespace

} // namespace ujit

int main(int argc, char **argv) {
  ujit::Options o;
  CLI::App app("Measures fused pipelines against the kernel's JIT and C");
  app.add_option("BUILD", o.build, "Folder with bench/ and edge-lb/")->required();
  app.add_flag("--quick", o.quick, "Few placements and packets: figures for a look");
  app.add_flag("--no-scaling", o.no_scaling, "Leave out how link time grows");
  app.add_option("--only", o.only, "This pipeline only; may be repeated")

      ->allow_extra_args(false);
  app.add_option("--placements", o.placements, "Places in memory that each code is measured at");
  app.add_option("--rounds", o.rounds, "Rounds over all packets at each place");
  app.add_option("--keep", o.keep, "Only write the running kernel's code into this folder");
  app.add_option("--code", o.code, "Folder with kept code of a kernel");
  app.add_option("--table", o.tables, "Document that gets the table; may be repeated")

      ->allow_extra_args(false);
  CLI11_PARSE(app, argc, argv);
  if (llvm::Error e = ujit::Suite(std::move(o)).run()) {
    llvm::logAllUnhandledErrors(std::move(e), llvm::errs(), "ujit-bench: error: ");
    return 1;
  }
  return 0;
}
