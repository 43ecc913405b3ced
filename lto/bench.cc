#include "lto/bench.h"

#include "lto/bench_replay.h"
#include "lto/image.h"
#include "lto/native_image.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <chrono>

namespace ujit {

namespace {

using llvm::formatv;

struct Candidate {
  BenchRow row;
  LinkOptions options;
  std::vector<uint8_t> image; ///< without debug sections
  Trace trace;
};

std::vector<Candidate> candidates(const LinkOptions &options) {
  LinkOptions base = options;
  base.progress = {};
  std::vector<Candidate> out;
  auto add = [&](std::string name, std::string what, LinkOptions o) {
    Candidate c;
    c.row.name = std::move(name);
    c.row.what = std::move(what);
    c.options = std::move(o);
    out.push_back(std::move(c));
  };
  LinkOptions chain = base;
  chain.plan.mode = PlanOptions::chain;
  add("chain", "each program by itself, chained through the prog arrays as the kernel does it", chain);
  base.plan.mode = PlanOptions::fused;
  base.plan.target_left_is_supported = false; // no originals are loaded beside the image
  add("fused", "the whole pipeline", base);
  for (const OptimisationName &o : optimisation_names()) {
    LinkOptions without = base;
    without.disabled.emplace_back(o.name);
    add(formatv("fused, no {0}", o.name), std::string(o.what), without);
  }
  return out;
}

Error build(const Execution &x, Candidate &c) {
  const auto start = std::chrono::steady_clock::now();
  Expected<LinkResult> linked = link(x.pipeline, c.options);
  if (!linked)
    return linked.takeError();
  c.row.link_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  c.row.code_bytes = linked->stats.code_bytes;
  Expected<std::vector<uint8_t>> stripped = strip_debug(linked->image.object);
  if (!stripped)
    return stripped.takeError();
  c.image = std::move(*stripped);
  Expected<Trace> trace = execute_image(x, c.image, c.row.name);
  if (!trace)
    return trace.takeError();
  c.trace = std::move(*trace);
  return Error::success();
}

/// Evenly over a page, in an order that keeps the first few apart too.
uint32_t page_offset(uint32_t placement, uint32_t placements) {
  const uint32_t spread = (placement * 2654435761u) >> 24; // Fibonacci hashing: 256 places of 16 bytes
  return spread * 16;
}

Expected<std::vector<PlacedCode>> place(const Execution &x, const Candidate &c, uint32_t placements,
                                        std::vector<std::shared_ptr<NativeImage>> &keep) {
  std::vector<PlacedCode> out;
  for (uint32_t p = 0; p < placements; ++p) {
    Expected<NativeImage> native =
        load_native(x.pipeline, x.entry, c.image, c.row.name, page_offset(p, placements));
    if (!native)
      return native.takeError();
    auto image = std::make_shared<NativeImage>(std::move(*native));
    keep.push_back(image);
    out.push_back({image->entry, [image](Kernel &k) { image->install(k); }, {}, image->code.code_ranges()});
  }
  return out;
}

struct Replayed {
  BenchRow row;
  std::unique_ptr<JitReplay> replay;
  std::vector<PlacedCode> copies;
};

/// The kernel's code must do what our chain does, as everything else; that the kernel itself does so too is
/// `check`'s business.
Error replay_kernel_code(const Execution &x, const Trace &chain, uint32_t placements, Replayed &out) {
  out.row.name = "kernel JIT chain";
  out.row.what = "the running kernel's own code of the same programs";
  Expected<std::unique_ptr<JitReplay>> replay = JitReplay::capture(x);
  if (!replay)
    return replay.takeError();
  out.replay = std::move(*replay);
  out.row.code_bytes = out.replay->code_bytes();
  for (uint32_t p = 0; p < placements; ++p) {
    Expected<PlacedCode> copy = out.replay->place(page_offset(p, placements));
    if (!copy)
      return copy.takeError();
    out.copies.push_back(std::move(*copy));
  }
  const PlacedCode &code = out.copies.front();
  Expected<Trace> trace = execute_native(
      x, out.row.name,
      [&](Kernel &kernel) {
        code.install(kernel);
        return Error::success();
      },
      [&](Kernel &kernel, void *) { return code.entry(code.context(kernel.cpu(0), 0), nullptr); });
  if (!trace)
    return trace.takeError();
  const Comparison c = compare(x.pipeline, chain, *trace, 1);
  if (c.total == 0)
    return Error::success();
  std::string first = print_difference(c.differences.front());
  return unsupported("the replay differs from the chain: " + first).error();
}

} // namespace

double BenchRow::median_ns() const {
  std::vector<double> ns = measured.ns;
  if (ns.empty())
    return 0;
  std::nth_element(ns.begin(), ns.begin() + long(ns.size() / 2), ns.end());
  return ns[ns.size() / 2];
}

double BenchRow::best_ns() const {
  return measured.ns.empty() ? 0 : *std::min_element(measured.ns.begin(), measured.ns.end());
}

double BenchResult::speedup(const BenchRow &row) const {
  const double ns = row.median_ns();
  return ns > 0 ? chain().median_ns() / ns : 0;
}

Expected<BenchResult> bench(const Execution &x, const LinkOptions &options, const BenchOptions &o) {
  std::vector<Candidate> all = candidates(options);
  for (size_t i = 0; i < all.size(); ++i) {
    if (Error e = build(x, all[i])) {
      if (i < 2)
        return e;
      all[i].row.left_out = llvm::toString(std::move(e));
      continue;
    }
    if (i == 0)
      continue;
    const Comparison c = compare(x.pipeline, all[0].trace, all[i].trace, 1);
    if (c.total) {
      const Difference &d = c.differences.front();
      const std::string where = d.packet ? formatv("packet {0}: ", *d.packet + 1).str() : "";
      const std::string what = formatv("differs from the chain: {0}{1}", where, d.field);
      if (i == 1)
        return internal_error(formatv("the fused image {0}", what))
            .with_hint("see the differences with `ujit-lto check`")
            .error();
      all[i].row.left_out = what;
    }
  }

  std::vector<std::shared_ptr<NativeImage>> images;
  std::vector<std::vector<PlacedCode>> codes;
  std::vector<size_t> measured;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i].row.left_out.empty())
      continue;
    Expected<std::vector<PlacedCode>> placed = place(x, all[i], std::max(1u, o.placements), images);
    if (!placed)
      return placed.takeError();
    codes.push_back(std::move(*placed));
    measured.push_back(i);
  }
  Replayed replayed;
  if (o.kernel_jit)
    if (Error e = replay_kernel_code(x, all[0].trace, std::max(1u, o.placements), replayed))
      replayed.row.left_out = llvm::toString(std::move(e));
  if (o.kernel_jit && replayed.row.left_out.empty())
    codes.push_back(replayed.copies);
  Expected<Measurements> m = measure(x, codes, o.measure);
  if (!m)
    return m.takeError();
  for (size_t i = 0; i < measured.size(); ++i)
    all[measured[i]].row.measured = std::move(m->codes[i]);

  BenchResult result;
  result.name = options.name;
  result.entry = x.pipeline[x.entry].name;
  result.packets = x.packets.size();
  result.placements = std::max(1u, o.placements);
  result.rounds = o.measure.rounds;
  result.harness_ns = m->harness_ns;
  for (Candidate &c : all)
    result.rows.push_back(std::move(c.row));
  if (o.kernel_jit) {
    if (replayed.row.left_out.empty())
      replayed.row.measured = std::move(m->codes.back());
    result.jit_had_thunks = replayed.replay && replayed.replay->had_thunks();
    result.rows.push_back(std::move(replayed.row));
  }
  return result;
}

} // namespace ujit
