#include "lto/check_bisect.h"

#include "translator/helper.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

namespace ujit {

namespace {

using llvm::formatv;

/// The smallest n in (0, total] with bad(n), where bad(0) is false and bad(total) true. If the answers are
/// not monotonic, one with bad(n) and not bad(n - 1).
size_t first_bad(size_t total, llvm::function_ref<bool(size_t)> bad) {
  size_t good = 0;
  while (total - good > 1) {
    const size_t middle = good + (total - good) / 2;
    (bad(middle) ? total : good) = middle;
  }
  return total;
}

bool is_fused(const PlannedSite &site) {
  return std::ranges::any_of(site.alternatives,
                             [](const PlannedEdge &a) { return a.treatment != Treatment::leave; });
}

class Bisect {
public:
  Bisect(const Execution &x, const LinkOptions &options) : x_(x), options_(options) {
    options_.plan.target_left_is_supported = false; // as in check()
    options_.threads = 1;                           // passes are counted
    options_.progress = nullptr;
    options_.save_temps.clear();
    for (const CapturedPacket &p : x.packets)
      if (refuse_packet(x.pipeline[x.entry].type, p.bytes).empty())
        packets_.push_back(p);
    x_.packets = packets_;
  }

  Expected<std::optional<Bisection>> run() {
    Expected<Trace> reference = execute_interpreter(x_);
    if (!reference)
      return reference.takeError();
    reference_ = std::move(*reference);
    for (const PlanOptions::Mode mode : {PlanOptions::chain, PlanOptions::fused}) {
      options_.plan.mode = mode;
      out_.executor = mode == PlanOptions::chain ? "unfused" : "fused";
      Expected<LinkResult> linked = link(x_.pipeline, options_);
      if (!linked)
        return linked.takeError();
      ++out_.links;
      out_.symptom = symptom(*linked);
      if (out_.symptom.empty())
        continue;
      // Beyond this point the image of `options_` differs, and every question is one link away.
      if (mode == PlanOptions::fused)
        find_edge(*linked);
      find_optimisations();
      find_pass();
      return std::move(out_);
    }
    return std::nullopt;
  }

private:
  /// Empty: the image does what the interpreter did.
  std::string symptom(const LinkResult &linked) {
    Expected<Trace> trace = execute_image(x_, linked.image.object, out_.executor);
    if (!trace)
      return llvm::toString(trace.takeError());
    const Comparison c = compare(x_.pipeline, reference_, *trace, 1);
    if (!c.total)
      return {};
    const Difference &d = c.differences[0];
    return formatv("{0}{1} is {2}, should be {3}",
                   d.packet ? formatv("packet {0}: ", *d.packet + 1).str() : std::string(), d.field,
                   d.right_value, d.left_value);
  }

  /// What does not link without a pass or an edge tells nothing, and counts as no difference.
  bool differs(const LinkOptions &options) {
    ++out_.links;
    Expected<LinkResult> linked = link(x_.pipeline, options);
    if (!linked) {
      llvm::consumeError(linked.takeError());
      return false;
    }
    return !symptom(*linked).empty();
  }

  // --- edges ---

  std::string describe(const LinkPlan &plan, const PlannedEdge &a) const {
    const std::string place = formatv("{0}[{1}]", x_.pipeline[a.edge.map].name, a.edge.slot);
    return formatv("{0} -> {1}, {2}", place,
                   a.edge.to ? planned_name(x_.pipeline, plan, *a.edge.to) : "nothing", name_of(a.treatment));
  }

  void find_edge(const LinkResult &linked) {
    std::vector<const PlannedSite *> sites;
    for (const PlannedSite &site : linked.plan.sites)
      if (is_fused(site))
        sites.push_back(&site);
    auto leaving = [&](auto &&keep) {
      LinkOptions options = options_;
      for (size_t i = 0; i < sites.size(); ++i)
        if (!keep(i))
          options.plan.overrides.push_back({sites[i]->from, sites[i]->site, Treatment::leave});
      return options;
    };
    if (sites.empty() || differs(leaving([](size_t) { return false; })))
      return;
    const size_t guilty =
        first_bad(sites.size(), [&](size_t n) { return differs(leaving([&](size_t i) { return i < n; })); }) -
        1;
    const PlannedSite &site = *sites[guilty];
    GuiltyEdge edge{planned_name(x_.pipeline, linked.plan, site.from),
                    linked.planned_graph().summaries[index(site.from)].sites[site.site].insn,
                    {},
                    false,
                    differs(leaving([&](size_t i) { return i == guilty; }))};
    for (const PlannedEdge &a : site.alternatives)
      edge.calls.push_back(describe(linked.plan, a));
    const bool may_inline = std::ranges::any_of(site.alternatives, [](const PlannedEdge &a) {
      return a.treatment == Treatment::inlined || a.treatment == Treatment::cloned;
    });
    if (may_inline) {
      LinkOptions options = leaving([&](size_t i) { return i <= guilty; });
      options.plan.overrides.push_back({site.from, site.site, Treatment::direct});
      edge.inlined = !differs(options);
    }
    out_.edge = std::move(edge);
  }

  // --- optimisations ---

  void find_optimisations() {
    const std::span<const OptimisationName> names = optimisation_names();
    auto without = [&](auto &&left_out) {
      LinkOptions options = options_;
      for (size_t i = 0; i < names.size(); ++i)
        if (left_out(i))
          options.disabled.emplace_back(names[i].name);
      return options;
    };
    auto is_disabled = [&](std::string_view name) {
      return std::ranges::find(options_.disabled, name) != options_.disabled.end();
    };
    for (size_t k = 0; k < names.size(); ++k)
      if (!is_disabled(names[k].name) && !differs(without([&](size_t i) { return i == k; })))
        out_.optimisations.emplace_back(names[k].name);
    if (out_.optimisations.empty() && !differs(without([](size_t) { return true; }))) {
      const size_t n = first_bad(
          names.size(), [&](size_t on) { return differs(without([&](size_t i) { return i >= on; })); });
      out_.optimisations.emplace_back(names[n - 1].name);
    }
    if (std::ranges::find(out_.optimisations, "helper-effects") != out_.optimisations.end())
      find_helpers();
  }

  void find_helpers() {
    std::vector<std::string> names;
    for (const Program &p : x_.pipeline.programs)
      for (size_t i = 0; i < p.insns.size(); i += is_wide(p.insns[i]) ? 2 : 1) {
        const InsnRow *row = find_row(p.insns[i]);
        if (row && row->op == Op::call_helper)
          if (const Helper *h = find_helper(uint32_t(p.insns[i].imm)))
            names.emplace_back(h->name);
      }
    std::ranges::sort(names);
    names.erase(std::unique(names.begin(), names.end()), names.end());
    for (const std::string &name : names) {
      LinkOptions options = options_;
      options.opaque_helpers.push_back(name);
      if (!differs(options))
        out_.helpers.push_back(name);
    }
  }

  // --- passes ---

  void find_pass() {
    size_t count = 0;
    GuiltyPass last;
    auto limited = [&](size_t limit) {
      LinkOptions options = options_;
      count = 0;
      options.may_run = [&, limit](std::string_view pass, std::string_view function) {
        if (++count == limit)
          last = {std::string(pass), std::string(function), limit, 0};
        return count <= limit;
      };
      return differs(options);
    };
    if (!limited(SIZE_MAX)) // all ran: as before, only counted
      return;
    const size_t total = count;
    if (total == 0 || limited(0))
      return;
    const size_t guilty = first_bad(total, limited);
    limited(guilty); // once more: `last` is of whatever was tried last
    last.of = total;
    out_.pass = std::move(last);
  }

  Execution x_;
  LinkOptions options_;
  std::vector<CapturedPacket> packets_;
  Trace reference_;
  Bisection out_;
};

} // namespace

Expected<std::optional<Bisection>> bisect(const Execution &execution, const LinkOptions &options) {
  return Bisect(execution, options).run();
}

void print_bisection(const Bisection &b, llvm::raw_ostream &os) {
  os << llvm::formatv("{0} code against the interpreter: {1}\n", b.executor, b.symptom);
  if (b.edge)
    os << llvm::formatv("  edge: {0}: insn {1}: {2}{3}{4}\n", b.edge->program, b.edge->insn,
                        llvm::join(b.edge->calls, "; "),
                        b.edge->inlined ? "; no difference if it is called instead of inlined" : "",
                        b.edge->alone ? "; also if every other tail call leaves" : "");
  for (const std::string &name : b.optimisations)
    os << llvm::formatv("  optimisation: {0}\n", name);
  for (const std::string &name : b.helpers)
    os << llvm::formatv("  helper: no difference without what is known of {0}\n", name);
  if (b.pass)
    os << llvm::formatv("  pass: {0} on {1} ({2} of {3})\n", b.pass->pass, b.pass->function, b.pass->number,
                        b.pass->of);
  if (!b.edge && b.optimisations.empty() && !b.pass)
    os << "  no edge, optimisation or pass makes it: translation, expansion or instruction selection does\n";
}

llvm::json::Value json_of(const Bisection &b) {
  llvm::json::Object out{{"executor", b.executor},
                         {"symptom", b.symptom},
                         {"optimisations", llvm::json::Array(b.optimisations)},
                         {"helpers", llvm::json::Array(b.helpers)},
                         {"links", int64_t(b.links)}};
  if (b.edge)
    out["edge"] = llvm::json::Object{{"program", b.edge->program},
                                     {"insn", int64_t(b.edge->insn)},
                                     {"calls", llvm::json::Array(b.edge->calls)},
                                     {"inlined", b.edge->inlined},
                                     {"alone", b.edge->alone}};
  if (b.pass)
    out["pass"] = llvm::json::Object{{"name", b.pass->pass},
                                     {"function", b.pass->function},
                                     {"number", int64_t(b.pass->number)},
                                     {"of", int64_t(b.pass->of)}};
  return out;
}

} // namespace ujit
