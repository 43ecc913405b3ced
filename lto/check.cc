#include "lto/check.h"

#include "translator/helper.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <set>

namespace ujit {

namespace {

/// Names of the helpers that any program of the pipeline calls.
std::set<std::string_view> helpers_of(const Pipeline &pipeline) {
  std::set<std::string_view> out;
  for (const Program &p : pipeline.programs)
    for (size_t i = 0; i < p.insns.size(); i += is_wide(p.insns[i]) ? 2 : 1) {
      const InsnRow *row = find_row(p.insns[i]);
      if (row && row->op == Op::call_helper)
        if (const Helper *h = find_helper(uint32_t(p.insns[i].imm)))
          out.insert(h->name);
    }
  return out;
}

class Check {
public:
  Check(const Execution &x, const LinkOptions &options, size_t limit)
      : x_(x), options_(options), limit_(limit) {}

  Expected<CheckResult> run(bool with_kernel) {
    refuse_packets();
    std::optional<Trace> kernel;
    if (with_kernel)
      kernel = run_kernel();
    else
      out_.executors.push_back({"kernel", "not asked for"});
    // Beyond this point `taken_` are the packets that every executor gets.
    Execution x = x_;
    x.packets = taken_;
    out_.packets = taken_.size();

    Expected<Trace> reference = execute_interpreter(x);
    if (!reference)
      return reference.takeError();
    out_.executors.push_back({reference->executor, {}});
    for (const PlanOptions::Mode mode : {PlanOptions::chain, PlanOptions::fused})
      if (Error e = run_image(x, mode, *reference))
        return e;
    if (kernel)
      add(compare(x.pipeline, *reference, *kernel, limit_));
    return std::move(out_);
  }

private:
  void add(Comparison c) {
    out_.total_differences += c.total;
    std::move(c.differences.begin(), c.differences.end(), std::back_inserter(out_.differences));
  }

  void refuse_packets() {
    for (size_t i = 0; i < x_.packets.size(); ++i) {
      std::string reason = refuse_packet(x_.pipeline[x_.entry].type, x_.packets[i].bytes);
      if (reason.empty())
        taken_.push_back(x_.packets[i]);
      else
        out_.not_checked.emplace_back(i, std::move(reason));
    }
  }

  /// The running kernel goes first: what it does not take, nobody gets, so that maps stay comparable.
  std::optional<Trace> run_kernel() {
    Execution x = x_;
    x.packets = taken_;
    Expected<Trace> trace = execute_kernel(x);
    if (!trace) {
      out_.executors.push_back({"kernel", llvm::toString(trace.takeError())});
      return std::nullopt;
    }
    out_.executors.push_back({"kernel", {}});
    size_t kept = 0;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (trace->packets[i].not_run.empty()) {
        if (kept != i) {
          taken_[kept] = std::move(taken_[i]);
          trace->packets[kept] = std::move(trace->packets[i]);
        }
        ++kept;
      } else {
        out_.not_checked.emplace_back(i, "the kernel does not take it: " + trace->packets[i].not_run);
      }
    }
    taken_.resize(kept);
    trace->packets.resize(kept);
    add_notes();
    return std::move(*trace);
  }

  void add_notes() {
    for (std::string_view name : helpers_of(x_.pipeline)) {
      const llvm::StringRef h(name);
      if (h.starts_with("bpf_ktime_") || h == "bpf_jiffies64" || h == "bpf_get_prandom_u32")
        out_.notes.push_back(llvm::formatv(
            "{0} gives the running kernel's programs other values than the embedded kernel's", h));
    }
    for (const Map &m : x_.pipeline.maps)
      if (m.type == MapType::lru_hash || m.type == MapType::lru_percpu_hash)
        out_.notes.push_back(llvm::formatv(
            "map {0}: once it is full, which element goes depends on the kernel's free lists", m.name));
  }

  Error run_image(const Execution &x, PlanOptions::Mode mode, const Trace &reference) {
    LinkOptions options = options_;
    options.plan.mode = mode;
    options.plan.target_left_is_supported = false; // no originals are loaded beside the image
    Expected<LinkResult> linked = link(x.pipeline, options);
    if (!linked)
      return linked.takeError();
    Expected<Trace> trace =
        execute_image(x, linked->image.object, mode == PlanOptions::chain ? "unfused" : "fused");
    if (!trace)
      return trace.takeError();
    out_.executors.push_back({trace->executor, {}});
    add(compare(x.pipeline, reference, *trace, limit_));
    return Error::success();
  }

  const Execution &x_;
  const LinkOptions &options_;
  const size_t limit_;
  std::vector<CapturedPacket> taken_;
  CheckResult out_;
};

} // namespace

Expected<CheckResult> check(const Execution &execution, const LinkOptions &options, bool with_kernel,
                            size_t limit) {
  return Check(execution, options, limit).run(with_kernel);
}

} // namespace ujit
