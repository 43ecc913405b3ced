#include "tests/bench/results.h"

#include "tests/bench/plot.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>

namespace ujit {

namespace {

using llvm::formatv;

double geomean(const std::vector<double> &values) {
  double sum = 0;
  for (double v : values)
    sum += std::log(v);
  return values.empty() ? 0 : std::exp(sum / double(values.size()));
}

/// What fused code is compared with.
enum class Against { median, best_placement };

/// Of a form against the kernel's chain, over pipelines.
std::vector<std::pair<std::string, double>> speedups(const std::vector<Row> &rows, BenchForm form,
                                                     bool mitigated, Against against) {
  std::vector<std::pair<std::string, double>> out;
  for (const Row &row : rows)
    if (row.result && !row.workload.single)
      if (const BenchRow *found = row.result->find(form); found && row.result->find(BenchForm::jit_chain))
        out.emplace_back(row.workload.label(), against == Against::median
                                                   ? row.result->speedup(*found, mitigated)
                                                   : row.result->speedup_of_best(*found, mitigated));
  return out;
}

double mean_speedup(const std::vector<Row> &rows, BenchForm form, bool mitigated, Against against) {
  std::vector<double> values;
  for (const auto &[name, value] : speedups(rows, form, mitigated, against))
    values.push_back(value);
  return geomean(values);
}

/// What one program costs with 5,000 of them against 500; 0: not measured.
double growth(const std::vector<LinkPoint> &points, double LinkPoint::*seconds) {
  double few = 0, many = 0;
  for (const LinkPoint &p : points) {
    if (p.programs == 500)
      few = p.*seconds / p.programs;
    if (p.programs == 5000)
      many = p.*seconds / p.programs;
  }
  return few > 0 ? many / few : 0;
}

PowerFit fit(const std::vector<LinkPoint> &points) {
  std::vector<std::pair<double, double>> measured;
  for (const LinkPoint &p : points)
    if (p.programs >= 10) // below, it is the start of the process
      measured.emplace_back(p.programs, p.seconds);
  return fit_power(measured);
}

void print_summary(const std::vector<Row> &rows, llvm::json::OStream &j) {
  auto one = [&](BenchForm form, bool mitigated, Against against) {
    std::pair<std::string, double> worst{"", 0};
    for (const auto &s : speedups(rows, form, mitigated, against))
      if (worst.first.empty() || s.second < worst.second)
        worst = s;
    j.attribute("geomean", mean_speedup(rows, form, mitigated, against));
    j.attribute("worst", worst.second);
    j.attribute("worst_pipeline", worst.first);
  };
  one(BenchForm::fused, true, Against::median);
  j.attributeObject("against_best_placement", [&] { one(BenchForm::fused, true, Against::best_placement); });
  j.attributeObject("without_mitigations", [&] { one(BenchForm::fused, false, Against::median); });
  j.attributeObject("with_profile", [&] { one(BenchForm::profiled, true, Against::median); });
  j.attributeArray("fusing_loses", [&] {
    for (const Row &row : rows)
      if (row.result && !row.workload.single && row.result->verdict &&
          row.result->verdict->best != LinkForm::fused)
        j.value(row.workload.label());
  });
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
        j.attribute("user_seconds", p.user_seconds);
        j.attribute("peak_kilobytes", int64_t(p.peak_kilobytes));
      });
  });
}

std::string nanoseconds(const BenchResult &r, BenchForm form) {
  const BenchRow *row = r.find(form);
  return row ? formatv("{0:F1}", row->median_ns(true)).str() : "-";
}

std::string own_insns(const BenchResult &r, BenchForm form) {
  const BenchRow *row = r.find(form);
  return row ? formatv("{0:F0}", row->measured.own_insns).str() : "-";
}

std::string speed(const BenchResult &r, BenchForm form, bool mitigated, Against against = Against::median) {
  const BenchRow *row = r.find(form);
  if (!row || !r.find(BenchForm::jit_chain))
    return "-";
  return formatv("{0:F2}x", against == Against::median ? r.speedup(*row, mitigated)
                                                       : r.speedup_of_best(*row, mitigated));
}

/// Name without "fused, no ".
std::string optimisation_of(const BenchRow &row) {
  llvm::StringRef name = row.name;
  name.consume_front("fused, no ");
  return name.str();
}

} // namespace

std::string print_results(const Results &results) {
  std::string text;
  llvm::raw_string_ostream os(text);
  llvm::json::OStream j(os, 1);
  j.object([&] {
    j.attributeObject("summary", [&] { print_summary(results.rows, j); });
    j.attributeArray("pipelines", [&] {
      for (const Row &row : results.rows)
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
      print_points(results.by_programs, "by_programs", j);
      print_points(results.by_threads, "by_threads", j);
      print_points(results.large, "one_program", j);
      const PowerFit f = fit(results.by_programs);
      j.attributeObject("fit", [&] {
        j.attribute("factor", f.factor);
        j.attribute("exponent", f.exponent);
      });
      j.attribute("program_of_5000_to_of_500", growth(results.by_programs, &LinkPoint::user_seconds));
    });
  });
  os << '\n';
  return text;
}

std::string print_table(const Results &results) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "| ns a packet, return thunks | kernel JIT, chain | JIT, one program | ours, one by one | **fused** "
        "| "
        "with a profile | plain C | fused: speed | of JIT's best | without thunks | own instructions, JIT -> "
        "fused "
        "-> C | placements |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const Row &row : results.rows) {
    if (!row.result) {
      os << "| " << row.workload.label() << " | " << row.failed << " | | | | | | | | | | |\n";
      continue;
    }
    const BenchResult &r = *row.result;
    os << "| " << row.workload.label();
    for (BenchForm form : {BenchForm::jit_chain, BenchForm::jit_one, BenchForm::chain, BenchForm::fused,
                           BenchForm::profiled, BenchForm::plain})
      os << " | " << nanoseconds(r, form);
    os << " | " << speed(r, BenchForm::fused, true) << " | "
       << speed(r, BenchForm::fused, true, Against::best_placement) << " | "
       << speed(r, BenchForm::fused, false) << " | " << own_insns(r, BenchForm::jit_chain) << " -> "
       << own_insns(r, BenchForm::fused) << " -> " << own_insns(r, BenchForm::plain) << " | " << r.placements
       << " |\n";
  }
  os << formatv("| geometric mean of the pipelines | | | | | | | {0:F2}x | {1:F2}x | {2:F2}x | | |\n",
                mean_speedup(results.rows, BenchForm::fused, true, Against::median),
                mean_speedup(results.rows, BenchForm::fused, true, Against::best_placement),
                mean_speedup(results.rows, BenchForm::fused, false, Against::median));
  return text;
}

std::string print_short_table(const Results &results) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "| | the kernel's JIT code | fused | speed | of the JIT's best placement | own instructions |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n";
  for (const Row &row : results.rows) {
    if (row.workload.single)
      continue;
    if (!row.result) {
      os << "| " << row.workload.label() << " | " << row.failed << " | | | | |\n";
      continue;
    }
    const BenchResult &r = *row.result;
    os << "| " << row.workload.label() << " | " << nanoseconds(r, BenchForm::jit_chain) << " ns | "
       << nanoseconds(r, BenchForm::fused) << " ns | " << speed(r, BenchForm::fused, true) << " | "
       << speed(r, BenchForm::fused, true, Against::best_placement) << " | "
       << own_insns(r, BenchForm::jit_chain) << " -> " << own_insns(r, BenchForm::fused) << " |\n";
  }
  os << formatv("| geometric mean | | | {0:F2}x | {1:F2}x | |\n",
                mean_speedup(results.rows, BenchForm::fused, true, Against::median),
                mean_speedup(results.rows, BenchForm::fused, true, Against::best_placement));
  return text;
}

std::string print_optimisations(const Results &results) {
  std::vector<const BenchResult *> columns;
  std::vector<std::string> names;
  std::string head = "| own instructions more without it |", line = "| --- |";
  for (const Row &row : results.rows) {
    if (!row.result || row.workload.single ||
        (row.workload.forms && !llvm::StringRef(row.workload.packets).ends_with("-4096.pcap")))
      continue;
    columns.push_back(&*row.result);
    head += " " + row.workload.name + " |";
    line += " ---: |";
    for (const BenchRow &r : row.result->rows)
      if (r.form == BenchForm::without && std::find(names.begin(), names.end(), r.name) == names.end())
        names.push_back(r.name);
  }
  if (names.empty())
    return {};
  std::string text = head + "\n" + line + "\n";
  auto add_row = [&](const std::string &label, auto is_row) {
    text += "| " + label + " |";
    for (const BenchResult *r : columns) {
      const double all = r->find(BenchForm::fused)->measured.own_insns;
      const auto row = std::find_if(r->rows.begin(), r->rows.end(), is_row);
      if (row == r->rows.end() || !row->left_out.empty())
        text += " - |";
      else if (const double more = row->measured.own_insns - all; std::abs(more) < 0.5)
        text += " |";
      else
        text += formatv(" {0}{1:F0} |", more > 0 ? "+" : "", more).str();
    }
    text += '\n';
  };
  for (const std::string &name : names)
    add_row(name.substr(strlen("fused, no ")), [&](const BenchRow &row) { return row.name == name; });
  add_row("*with a profile*", [](const BenchRow &row) { return row.form == BenchForm::profiled; });
  return text;
}

std::string print_scaling(const Results &results) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "| programs | instructions each | threads | seconds | user seconds | ms a program, user | peak "
        "memory, MB | kB a "
        "program |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const auto *points : {&results.by_programs, &results.by_threads, &results.large})
    for (const LinkPoint &p : *points)
      os << formatv("| {0} | {1} | {2} | {3:F2} | {4:F2} | {5:F2} | {6:F0} | {7:F0} |\n", p.programs,
                    p.insns_each, p.threads, p.seconds, p.user_seconds, p.user_seconds * 1e3 / p.programs,
                    double(p.peak_kilobytes) / 1024, double(p.peak_kilobytes) / p.programs);
  return text;
}

/// A bar is the speed-up; what is above 1 is shared out by what each optimisation gives when it alone is
/// missing.
std::string plot_speedups(const Results &results) {
  std::vector<Bar> bars;
  for (const Row &row : results.rows) {
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
        bar.parts.emplace_back(optimisation_of(w), part);
        left -= part;
      }
    bar.parts.emplace_back("fusing itself", std::max(0.0, left));
    bars.push_back(std::move(bar));
  }
  return plot_bars("Fused against the kernel's JIT, with return thunks", "x", bars, 1);
}

std::string plot_scaling(const Results &results) {
  const PowerFit f = fit(results.by_programs);
  std::vector<std::pair<double, double>> wall, user, fitted;
  for (const LinkPoint &p : results.by_programs) {
    wall.emplace_back(p.programs, p.seconds);
    user.emplace_back(p.programs, p.user_seconds);
    fitted.emplace_back(p.programs, f.factor * std::pow(p.programs, f.exponent));
  }
  return plot_lines("Link time", "programs of 200 instructions", "seconds",
                    {{"wall time", wall},
                     {"user time", user},
                     {formatv("{0:F1} ms * n^{1:F2}", f.factor * 1e3, f.exponent), fitted}});
}

std::string plot_threads(const Results &results) {
  std::vector<Bar> bars;
  for (const LinkPoint &p : results.by_threads) {
    const double user = std::min(p.seconds, p.user_seconds / p.threads);
    bars.push_back({formatv("{0} thread{1}", p.threads, p.threads == 1 ? "" : "s"),
                    formatv("{0:F2} s", p.seconds),
                    {{"busy, average of the threads", user}, {"waiting", p.seconds - user}}});
  }
  const LinkPoint &one = results.by_threads.front();
  return plot_bars(formatv("Link time of {0} programs", one.programs), "s: one thread", bars, one.seconds);
}

} // namespace ujit
