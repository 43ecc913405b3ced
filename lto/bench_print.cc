// The benchmark's result for people, for documents and for scripts.
#include "lto/bench.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace {

using llvm::formatv;

double insn_change(const BenchResult &r, const BenchRow &row) {
  const double chain = r.chain().measured.own_insns;
  return chain > 0 ? 100.0 * (row.measured.own_insns / chain - 1) : 0;
}

} // namespace

void print_bench(const BenchResult &r, llvm::raw_ostream &os) {
  os << formatv("{0}: {1} packets through {2}, {3} placements of the code, {4} rounds each\n\n", r.name,
                r.packets, r.entry, r.placements, r.rounds);
  os << formatv("{0,-28} {1,9} {2,7} {3,9} {4,9} {5,7} {6,9} {7,8} {8,8}\n", "", "ns/packet", "speed",
                "best ns", "own insn", "", "helpers'", "bytes", "link ms");
  for (const BenchRow &row : r.rows) {
    if (!row.left_out.empty()) {
      os << formatv("{0,-28} left out: {1}\n", row.name, row.left_out);
      continue;
    }
    os << formatv("{0,-28} {1,9:F1} {2,6:F2}x {3,9:F1} {4,9:F1} {5,6:F1}% {6,9:F1} {7,8} {8,8:F1}\n",
                  row.name, row.median_ns(), r.speedup(row), row.best_ns(), row.measured.own_insns,
                  insn_change(r, row), row.measured.other_insns, row.code_bytes, row.link_seconds * 1e3);
  }
  os << formatv(
      "\n{0:F1} ns of each figure are the loop around the code. Instructions of helpers, a packet:\n",
      r.harness_ns);
  os << formatv("{0,-28} {1,16} {2,16}\n", "", "chain: calls, insn", "fused: calls, insn");
  for (const HelperShare &h : r.chain().measured.helpers) {
    HelperShare fused{h.helper, 0, 0};
    for (const HelperShare &f : r.fused().measured.helpers)
      if (f.helper == h.helper)
        fused = f;
    os << formatv("{0,-28} {1,8:F2} {2,9:F1} {3,8:F2} {4,9:F1}\n", h.helper, h.calls, h.insns, fused.calls,
                  fused.insns);
  }
}

void print_bench_markdown(const BenchResult &r, llvm::raw_ostream &os) {
  os << "| " << r.name
     << " | ns a packet | speed | best placement, ns | own instructions | helpers' | code bytes | link ms "
        "|\n";
  os << "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const BenchRow &row : r.rows) {
    if (!row.left_out.empty()) {
      os << "| " << row.name << " | left out: " << row.left_out << " | | | | | | |\n";
      continue;
    }
    os << formatv("| {0} | {1:F1} | {2:F2}x | {3:F1} | {4:F0} ({5:F0} %) | {6:F0} | {7} | {8:F0} |\n",
                  row.name, row.median_ns(), r.speedup(row), row.best_ns(), row.measured.own_insns,
                  insn_change(r, row), row.measured.other_insns, row.code_bytes, row.link_seconds * 1e3);
  }
}

void print_bench_json(const BenchResult &r, llvm::json::OStream &j) {
  j.object([&] {
    j.attribute("name", r.name);
    j.attribute("entry", r.entry);
    j.attribute("packets", int64_t(r.packets));
    j.attribute("placements", int64_t(r.placements));
    j.attribute("rounds", int64_t(r.rounds));
    j.attribute("harness_ns", r.harness_ns);
    j.attributeArray("rows", [&] {
      for (const BenchRow &row : r.rows)
        j.object([&] {
          j.attribute("name", row.name);
          j.attribute("what", row.what);
          j.attribute("left_out", row.left_out);
          if (!row.left_out.empty())
            return;
          j.attribute("median_ns", row.median_ns());
          j.attribute("best_ns", row.best_ns());
          j.attribute("speedup", r.speedup(row));
          j.attribute("own_insns", row.measured.own_insns);
          j.attribute("helper_insns", row.measured.other_insns);
          j.attribute("code_bytes", int64_t(row.code_bytes));
          j.attribute("link_seconds", row.link_seconds);
          j.attributeArray("placement_ns", [&] {
            for (double ns : row.measured.ns)
              j.value(ns);
          });
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
