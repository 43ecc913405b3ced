// The benchmark's result for people, for documents and for scripts.
#include "lto/bench.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace {

using llvm::formatv;

double insn_change(const BenchResult &r, const BenchRow &row) {
  const double base = r.baseline().measured.own_insns;
  return base > 0 ? 100.0 * (row.measured.own_insns / base - 1) : 0;
}

void print_measured(const BenchResult &r, const BenchRow &row, bool mitigated, llvm::json::OStream &j) {
  const Measured &m = row.under(mitigated);
  j.attribute("median_ns", row.median_ns(mitigated));
  j.attribute("best_ns", row.best_ns(mitigated));
  j.attribute("speedup", r.speedup(row, mitigated));
  j.attribute("speedup_of_best", r.speedup_of_best(row, mitigated));
  if (m.own_insns > 0) { // counted
    j.attribute("own_insns", m.own_insns);
    j.attribute("helper_insns", m.other_insns);
    j.attribute("thunk_insns", m.thunk_insns);
  }
  j.attributeArray("placement_ns", [&] {
    for (double ns : m.ns)
      j.value(ns);
  });
}

} // namespace

std::string_view name_of(BenchForm form) {
  static constexpr std::string_view names[] = {"jit-chain", "jit-one",     "chain",   "fused",
                                               "profiled",  "not-inlined", "without", "plain"};
  return names[size_t(form)];
}

void print_bench(const BenchResult &r, llvm::raw_ostream &os) {
  os << formatv("{0}: {1} packets through {2}, {3} placements of the code, {4} rounds each{5}\n", r.name,
                r.packets, r.entry, r.placements, r.rounds,
                r.ablation_placements == r.placements || !r.find(BenchForm::without)
                    ? ""
                    : formatv("; rows without an optimisation: {0} placements", r.ablation_placements).str());
  if (!r.jit_source.empty())
    os << "kernel's code: " << r.jit_source << '\n';
  if (!r.fidelity.empty())
    os << "chain: " << r.fidelity << '\n';
  os << formatv("\n{0,-26} {1,9} {2,7} {3,8} {4,9} {5,7} {6,7} {7,8} {8,6} {9,9} {10,7} {11,7}\n", "",
                "ns/packet", "speed", "best ns", "thunks ns", "speed", "of best", "own insn", "", "helpers'",
                "bytes", "link ms");
  for (const BenchRow &row : r.rows) {
    if (!row.left_out.empty()) {
      os << formatv("{0,-26} left out: {1}\n", row.name, row.left_out);
      continue;
    }
    os << formatv(
        "{0,-26} {1,9:F1} {2,6:F2}x {3,8:F1} {4,9:F1} {5,6:F2}x {6,6:F2}x {7,8:F1} {8,5:F0}% {9,9:F1} "
        "{10,7} {11,7:F1}\n",
        row.name, row.median_ns(false), r.speedup(row, false), row.best_ns(false), row.median_ns(true),
        r.speedup(row, true), r.speedup_of_best(row, true), row.measured.own_insns, insn_change(r, row),
        row.measured.other_insns, row.code_bytes, row.link_seconds * 1e3);
  }
  os << formatv(
      "\n{0:F1} ns of each figure are the loop around the code. Instructions of helpers, a packet:\n",
      r.harness_ns);
  const BenchRow &base = r.baseline(), &fused = *r.find(BenchForm::fused);
  os << formatv("{0,-28} {1,24} {2,24}\n", "", base.name + ": calls, insn", "fused: calls, insn");
  for (const HelperShare &h : base.measured.helpers) {
    HelperShare mine{h.helper, 0, 0};
    for (const HelperShare &f : fused.measured.helpers)
      if (f.helper == h.helper)
        mine = f;
    os << formatv("{0,-28} {1,14:F2} {2,9:F1} {3,14:F2} {4,9:F1}\n", h.helper, h.calls, h.insns, mine.calls,
                  mine.insns);
  }
  if (r.verdict)
    os << formatv("\nbest form: {0}\n", name_of(r.verdict->best));
}

void print_bench_markdown(const BenchResult &r, llvm::raw_ostream &os) {
  os << "| " << r.name
     << " | ns a packet | speed | with return thunks, ns | speed | of best | own instructions | helpers' | "
        "code bytes | "
        "link ms |\n";
  os << "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const BenchRow &row : r.rows) {
    if (!row.left_out.empty()) {
      os << "| " << row.name << " | left out: " << row.left_out << " | | | | | | | | |\n";
      continue;
    }
    os << formatv("| {0} | {1:F1} | {2:F2}x | {3:F1} | {4:F2}x | {5:F2}x | {6:F0} ({7:F0} %) | {8:F0} | {9} "
                  "| {10:F0} |\n",
                  row.name, row.median_ns(false), r.speedup(row, false), row.median_ns(true),
                  r.speedup(row, true), r.speedup_of_best(row, true), row.measured.own_insns,
                  insn_change(r, row), row.measured.other_insns, row.code_bytes, row.link_seconds * 1e3);
  }
}

void print_bench_json(const BenchResult &r, llvm::json::OStream &j) {
  j.object([&] {
    j.attribute("name", r.name);
    j.attribute("entry", r.entry);
    j.attribute("packets", int64_t(r.packets));
    j.attribute("placements", int64_t(r.placements));
    j.attribute("ablation_placements", int64_t(r.ablation_placements));
    j.attribute("rounds", int64_t(r.rounds));
    if (r.verdict)
      j.attribute("best_form", llvm::StringRef(name_of(r.verdict->best)));
    j.attribute("harness_ns", r.harness_ns);
    j.attribute("kernel_code", r.jit_source);
    j.attribute("fidelity", r.fidelity);
    j.attribute("baseline", r.baseline().name);
    j.attributeArray("rows", [&] {
      for (const BenchRow &row : r.rows)
        j.object([&] {
          j.attribute("name", row.name);
          j.attribute("form", llvm::StringRef(name_of(row.form)));
          j.attribute("what", row.what);
          j.attribute("left_out", row.left_out);
          if (!row.left_out.empty())
            return;
          j.attribute("code_bytes", int64_t(row.code_bytes));
          j.attribute("link_seconds", row.link_seconds);
          print_measured(r, row, false, j);
          if (r.mitigations)
            j.attributeObject("mitigated", [&] { print_measured(r, row, true, j); });
          j.attributeArray("own_insns_at", [&] { // text offset, times a packet
            for (const auto &[offset, count] : row.measured.at)
              j.array([&] {
                j.value(int64_t(offset));
                j.value(count);
              });
          });
          j.attributeArray("helpers", [&] {
            for (const HelperShare &h : row.measured.helpers)
              j.object([&] {
                j.attribute("name", h.helper);
                j.attribute("calls", h.calls);
                j.attribute("insns", h.insns);
              });
          });
        });
    });
  });
}

} // namespace ujit
