#include "lto/bench.h"

#include "lto/bench_plain.h"
#include "lto/bench_replay.h"
#include "lto/digest.h"
#include "lto/image.h"
#include "lto/native_image.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <chrono>

namespace ujit {

namespace {

using llvm::formatv;

/// One row on its way: what it needs to be placed again and again.
struct Candidate {
  BenchRow row;
  LinkOptions options;
  std::vector<uint8_t> image; ///< linked, without debug sections
  std::unique_ptr<JitReplay> replay;
  const PlainObject *plain = nullptr;
  std::function<Expected<PlacedCode>(uint32_t page_offset, ReturnThunks *thunks)> place;
};

class Benchmark {
public:
  Benchmark(const Execution &x, const LinkOptions &options, const BenchOptions &o)
      : x_(x), base_(options), o_(o) {
    base_.progress = {};
    base_.plan = {}; // not as a verdict has it
  }
  Expected<BenchResult> run();

private:
  Candidate &add(BenchForm form, std::string name, std::string what);
  void add_all();
  void add_linked(BenchForm form, std::string name, std::string what, LinkOptions options);
  Error build(Candidate &c);
  Error build_linked(Candidate &c);
  Error build_replay(Candidate &c);
  Expected<PlacedCode> place_image(const Candidate &c, uint32_t page_offset, ReturnThunks *thunks);
  Expected<Trace> trace(const Candidate &c);
  uint32_t placements_of(const BenchRow &row) const {
    return row.form == BenchForm::without ? result_.ablation_placements : result_.placements;
  }
  Error build_and_compare();
  void check_fidelity();
  Expected<std::vector<std::vector<PlacedCode>>> place_all();

  const Execution &x_;
  LinkOptions base_;
  const BenchOptions &o_;
  std::unique_ptr<ReturnThunks> thunks_;
  std::vector<ImageSymbol> thunked_helpers_;
  std::vector<std::unique_ptr<Candidate>> all_;
  std::optional<Trace> chain_trace_;
  BenchResult result_;
};

/// Evenly over a page, in an order that keeps the first few apart too.
uint32_t page_offset(uint32_t placement) {
  const uint32_t spread = (placement * 2654435761u) >> 24; // Fibonacci hashing: 256 places of 16 bytes
  return spread * 16;
}

Candidate &Benchmark::add(BenchForm form, std::string name, std::string what) {
  auto c = std::make_unique<Candidate>();
  c->row.form = form;
  c->row.name = std::move(name);
  c->row.what = std::move(what);
  all_.push_back(std::move(c));
  return *all_.back();
}

void Benchmark::add_linked(BenchForm form, std::string name, std::string what, LinkOptions options) {
  Candidate &c = add(form, std::move(name), std::move(what));
  c.options = std::move(options);
  c.place = [this, &c](uint32_t offset, ReturnThunks *thunks) { return place_image(c, offset, thunks); };
}

void Benchmark::add_all() {
  if (o_.kernel_jit || o_.chain_code) {
    Candidate &c =
        add(BenchForm::jit_chain, "kernel JIT, chain", "the kernel's own code of the same programs");
    c.place = [&c](uint32_t offset, ReturnThunks *thunks) { return c.replay->place(offset, thunks); };
  }
  if (o_.one_program && (o_.kernel_jit || o_.one_code)) {
    Candidate &c = add(BenchForm::jit_one, "kernel JIT, one program",
                       "the kernel's own code of the same source as one program");
    c.place = [&c](uint32_t offset, ReturnThunks *thunks) { return c.replay->place(offset, thunks); };
  }
  LinkOptions chain = base_;
  chain.plan.mode = PlanOptions::chain;
  add_linked(BenchForm::chain, "chain",
             "each program compiled by itself, chained through the prog arrays as the kernel does it", chain);
  base_.plan.target_left_is_supported = false; // no originals are loaded beside the image
  add_linked(BenchForm::fused, "fused", "the whole pipeline", base_);
  if (o_.profile) {
    LinkOptions with = base_;
    with.profile = *o_.profile;
    add_linked(BenchForm::profiled, "fused, with profile", "by the counts of a run over these packets", with);
    set_form(LinkForm::not_inlined, with.plan);
    add_linked(BenchForm::not_inlined, "fused, nothing inlined", "the same, each program a function", with);
  }
  if (o_.ablations)
    for (const OptimisationName &opt : optimisation_names()) {
      if (opt.name == "profile" && base_.profile.programs.empty())
        continue; // there is none to leave out
      LinkOptions without = base_;
      without.disabled.emplace_back(opt.name);
      add_linked(BenchForm::without, formatv("fused, no {0}", opt.name), std::string(opt.what), without);
    }
  for (const PlainObject &p : o_.plain) {
    Candidate &c = add(BenchForm::plain, p.name, "C of the same source");
    c.plain = &p;
    c.place = [this, &c](uint32_t offset, ReturnThunks *thunks) {
      return PlainCode::place(x_, c.plain->object, c.plain->name, offset, thunks,
                              thunks ? std::span<const ImageSymbol>(thunked_helpers_)
                                     : std::span<const ImageSymbol>());
    };
  }
}

Expected<PlacedCode> Benchmark::place_image(const Candidate &c, uint32_t offset, ReturnThunks *thunks) {
  std::span<const ImageSymbol> helpers;
  if (thunks)
    helpers = thunked_helpers_;
  Expected<NativeImage> native = load_native(x_.pipeline, x_.entry, c.image, c.row.name, offset, helpers);
  if (!native)
    return native.takeError();
  auto image = std::make_shared<NativeImage>(std::move(*native));
  PlacedCode out;
  out.entry = image->entry;
  if (thunks) {
    out.entry = thunks->entry(out.entry);
    out.thunks = {thunks->range()};
  }
  out.install = [image](Kernel &k) { image->install(k); };
  out.ranges = image->code.code_ranges();
  return out;
}

Error Benchmark::build_linked(Candidate &c) {
  const auto start = std::chrono::steady_clock::now();
  Expected<LinkResult> linked = link(x_.pipeline, c.options);
  if (!linked)
    return linked.takeError();
  c.row.link_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  c.row.code_bytes = linked->stats.code_bytes;
  Expected<std::vector<uint8_t>> stripped = strip_debug(linked->image.object);
  if (!stripped)
    return stripped.takeError();
  c.image = std::move(*stripped);
  return Error::success();
}

Error Benchmark::build_replay(Candidate &c) {
  const bool chain = c.row.form == BenchForm::jit_chain;
  const Pipeline &source = chain ? x_.pipeline : *o_.one_program;
  const std::optional<JitCode> &given = chain ? o_.chain_code : o_.one_code;
  if (given && given->digest != pipeline_digest(source))
    return unsupported("the kept code of the kernel is of other programs").error();
  Expected<JitCode> code = given ? Expected<JitCode>(*given) : capture_jit_code(source);
  if (!code)
    return code.takeError();
  if (chain)
    result_.jit_source = formatv("Linux {0}, {1}", code->kernel, given ? "kept" : "running");
  const ProgId entry = chain ? x_.entry : source.entries.front();
  Expected<std::unique_ptr<JitReplay>> replay = JitReplay::create(x_, std::move(*code), source[entry].name);
  if (!replay)
    return replay.takeError();
  c.replay = std::move(*replay);
  c.row.code_bytes = c.replay->code_bytes();
  return Error::success();
}

Error Benchmark::build(Candidate &c) {
  switch (c.row.form) {
  case BenchForm::jit_chain:
  case BenchForm::jit_one: return build_replay(c);
  case BenchForm::plain: return Error::success();
  default: return build_linked(c);
  }
}

/// What a candidate does with all packets, in a worker of its own.
Expected<Trace> Benchmark::trace(const Candidate &c) {
  if (!c.image.empty())
    return execute_image(x_, c.image, c.row.name);
  Expected<PlacedCode> code = c.place(0, nullptr);
  if (!code)
    return code.takeError();
  return execute_native(
      x_, c.row.name,
      [&](Kernel &kernel) {
        code->install(kernel);
        return Error::success();
      },
      [&](Kernel &kernel, void *own) {
        void *context = code->context ? code->context(kernel.cpu(0), 0) : own;
        const uint64_t r0 = code->entry(context, nullptr);
        if (code->finish)
          code->finish(kernel.cpu(0), context);
        return r0;
      });
}

Error Benchmark::build_and_compare() {
  auto chain =
      std::find_if(all_.begin(), all_.end(), [](const auto &c) { return c->row.form == BenchForm::chain; });
  if (Error e = build(**chain))
    return e;
  Expected<Trace> reference = trace(**chain);
  if (!reference)
    return reference.takeError();
  chain_trace_ = std::move(*reference);
  for (const std::unique_ptr<Candidate> &c : all_) {
    if (c->row.form == BenchForm::chain)
      continue;
    const bool must = c->row.form == BenchForm::fused;
    Error failed = build(*c);
    Expected<Trace> t = failed ? Expected<Trace>(std::move(failed)) : trace(*c);
    if (!t) {
      if (must)
        return t.takeError();
      c->row.left_out = llvm::toString(t.takeError());
      continue;
    }
    const Comparison compared = compare(x_.pipeline, *chain_trace_, *t, 1);
    if (compared.total == 0)
      continue;
    const Difference &d = compared.differences.front();
    const std::string where = d.packet ? formatv("packet {0}: ", *d.packet + 1).str() : "";
    const std::string what = formatv("differs from the chain: {0}{1}", where, d.field);
    if (must)
      return internal_error(formatv("the fused image {0}", what))
          .with_hint("see the differences with `ujit-lto check`")
          .error();
    c->row.left_out = what;
  }
  return Error::success();
}

void Benchmark::check_fidelity() {
  Expected<Trace> kernel = execute_kernel(x_);
  if (!kernel) {
    result_.fidelity = "not compared: " + llvm::toString(kernel.takeError());
    return;
  }
  const Comparison c = compare(x_.pipeline, *chain_trace_, *kernel, 1);
  result_.fidelity = c.total == 0
                         ? formatv("equal to BPF_PROG_TEST_RUN on {0} packets", x_.packets.size()).str()
                         : "differs from BPF_PROG_TEST_RUN: " + c.differences.front().field;
}

/// All copies of all rows that are measured: first without, then with thunks.
Expected<std::vector<std::vector<PlacedCode>>> Benchmark::place_all() {
  std::vector<std::vector<PlacedCode>> codes;
  for (int mitigated = 0; mitigated <= int(o_.mitigations); ++mitigated)
    for (const std::unique_ptr<Candidate> &c : all_) {
      if (!c->row.left_out.empty())
        continue;
      std::vector<PlacedCode> copies;
      for (uint32_t p = 0; p < placements_of(c->row); ++p) {
        Expected<PlacedCode> placed = c->place(page_offset(p), mitigated ? thunks_.get() : nullptr);
        if (!placed)
          return placed.takeError();
        copies.push_back(std::move(*placed));
      }
      // The others execute the same, and thunks.
      copies.front().counted =
          !mitigated || c->row.form == BenchForm::jit_chain || c->row.form == BenchForm::fused;
      if (c->row.form == BenchForm::plain && !mitigated)
        for (const auto &[address, size] : copies.front().ranges)
          c->row.code_bytes += size;
      codes.push_back(std::move(copies));
    }
  return codes;
}

Expected<BenchResult> Benchmark::run() {
  Expected<std::unique_ptr<ReturnThunks>> thunks = ReturnThunks::create();
  if (!thunks)
    return thunks.takeError();
  thunks_ = std::move(*thunks);
  for (const HelperSymbol &h : helper_symbols())
    thunked_helpers_.push_back({h.name, reinterpret_cast<const void *>(thunks_->helper(h.name, h.address))});
  result_.name = base_.name;
  result_.entry = x_.pipeline[x_.entry].name;
  result_.packets = x_.packets.size();
  result_.placements = std::max(1u, o_.placements);
  result_.ablation_placements = std::clamp(o_.ablation_placements, 1u, result_.placements);
  result_.mitigations = o_.mitigations;

  add_all();
  if (Error e = build_and_compare())
    return e;
  if (o_.fidelity)
    check_fidelity();
  Expected<std::vector<std::vector<PlacedCode>>> codes = place_all();
  if (!codes)
    return codes.takeError();
  Expected<Measurements> m = measure(x_, *codes, o_.measure);
  if (!m)
    return m.takeError();
  size_t next = 0;
  for (int mitigated = 0; mitigated <= int(o_.mitigations); ++mitigated)
    for (const std::unique_ptr<Candidate> &c : all_)
      if (c->row.left_out.empty())
        (mitigated ? c->row.mitigated : c->row.measured) = std::move(m->codes[next++]);
  result_.harness_ns = m->harness_ns;
  result_.rounds = m->rounds;
  for (const std::unique_ptr<Candidate> &c : all_)
    result_.rows.push_back(std::move(c->row));
  result_.verdict = verdict_of(result_, o_.mitigations);
  return std::move(result_);
}

} // namespace

double BenchRow::median_ns(bool mitigations) const {
  std::vector<double> ns = under(mitigations).ns;
  if (ns.empty())
    return 0;
  std::nth_element(ns.begin(), ns.begin() + long(ns.size() / 2), ns.end());
  return ns[ns.size() / 2];
}

double BenchRow::best_ns(bool mitigations) const {
  const std::vector<double> &ns = under(mitigations).ns;
  return ns.empty() ? 0 : *std::min_element(ns.begin(), ns.end());
}

const BenchRow *BenchResult::find(BenchForm form) const {
  for (const BenchRow &row : rows)
    if (row.form == form && row.left_out.empty())
      return &row;
  return nullptr;
}

const BenchRow &BenchResult::baseline() const {
  const BenchRow *jit = find(BenchForm::jit_chain);
  return jit ? *jit : *find(BenchForm::chain);
}

double BenchResult::speedup(const BenchRow &row, bool mitigated) const {
  const double ns = row.median_ns(mitigated);
  return ns > 0 ? baseline().median_ns(mitigated) / ns : 0;
}

double BenchResult::speedup_of_best(const BenchRow &row, bool mitigated) const {
  const double ns = row.median_ns(mitigated);
  return ns > 0 ? baseline().best_ns(mitigated) / ns : 0;
}

/// Of enough values, else 0.
static double lower_quartile(std::vector<double> values) {
  constexpr size_t enough = 8;
  if (values.size() < enough)
    return 0;
  std::ranges::sort(values);
  return values[values.size() / 4];
}

std::optional<Verdict> verdict_of(const BenchResult &result, bool mitigations) {
  if (!result.find(BenchForm::profiled) || !result.find(BenchForm::chain))
    return std::nullopt;
  std::vector<Verdict::Measured> measured;
  for (auto [form, row] : {std::pair(LinkForm::fused, BenchForm::profiled),
                           std::pair(LinkForm::not_inlined, BenchForm::not_inlined),
                           std::pair(LinkForm::chain, BenchForm::chain)})
    if (const BenchRow *found = result.find(row)) {
      measured.push_back({form, found->measured.own_insns + found->measured.other_insns,
                          lower_quartile(found->under(mitigations).ns)});
    }
  return judge(std::move(measured));
}

Expected<BenchResult> bench(const Execution &x, const LinkOptions &options, const BenchOptions &o) {
  return Benchmark(x, options, o).run();
}

} // namespace ujit
