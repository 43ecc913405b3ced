#include "lto/explain.h"

#include "translator/hash_layout.h"
#include "translator/helper.h"
#include "translator/kernel.h"
#include "translator/provenance.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <map>

namespace ujit {

using llvm::formatv;
using Kind = Provenance::Kind;

namespace {

class Explainer {
public:
  Explainer(const Pipeline &pipeline, const LinkResult &result, const LinkOptions &options)
      : pipeline_(pipeline), graph_(result.planned_graph()), plan_(result.plan), options_(options),
        callers_(plan_.programs.size()), on_cycle_(plan_.programs.size()) {
    for (const PlannedSite &site : plan_.sites)
      for (ProgId target : called(site))
        ++callers_[index(target)];
    for (const Cycle &cycle : graph_.cycles)
      for (ProgId p : cycle.programs)
        on_cycle_[index(p)] = true;
  }

  std::vector<Explanation> run() {
    for (uint32_t p = 0; p < pipeline_.programs.size(); ++p) {
      if (!graph_.reachable[p])
        continue;
      tail_calls(ProgId(p));
      instructions(ProgId(p));
    }
    std::stable_sort(out_.begin(), out_.end(), [](const Explanation &a, const Explanation &b) {
      return std::tie(a.program, a.insn) < std::tie(b.program, b.insn);
    });
    return std::move(out_);
  }

private:
  bool disabled(std::string_view name) const {
    return std::find(options_.disabled.begin(), options_.disabled.end(), name) != options_.disabled.end();
  }

  Explanation at(const Program &program, uint32_t insn, Explanation::Kind kind) const {
    Explanation e;
    e.program = program.name;
    e.insn = insn;
    e.kind = kind;
    e.source = source_of(program, insn);
    return e;
  }

  /// Of libbpf's inline functions, the line of the program's own source in front of them.
  static std::string source_of(const Program &program, uint32_t insn) {
    auto name = [](const LineInfo &line) { return llvm::sys::path::filename(line.file); };
    const LineInfo *line = line_at(program, insn);
    const LineInfo *first = program.lines.data();
    while (line && line > first && name(*line) == "bpf_helpers.h" && !starts_subprogram(program, line->insn))
      --line;
    return line ? formatv("{0}:{1}", name(*line), line->line).str() : std::string();
  }

  static bool starts_subprogram(const Program &program, uint32_t insn) {
    return std::any_of(program.subprograms.begin(), program.subprograms.end(),
                       [&](const Subprogram &s) { return s.start == insn; });
  }

  // --- tail calls ---

  void tail_calls(ProgId p) {
    const Program &program = pipeline_[p];
    const Summary &summary = graph_.summaries[index(p)];
    const std::span<const PlannedSite> planned = plan_.sites_of(p);
    const std::span<const Site> solved = graph_.sites_of(p);
    for (size_t s = 0; s < summary.sites.size(); ++s) {
      const TailCallSite &site = summary.sites[s];
      Explanation base = at(program, site.insn, Explanation::tail_call);
      if (s >= planned.size() || plan_[p].role == PlannedProgram::unfused) {
        base.what = "tail call: left to the kernel";
        base.why = plan_[p].reason.empty() ? "its program is not fused" : plan_[p].reason;
        out_.push_back(std::move(base));
        continue;
      }
      if (planned[s].alternatives.empty()) {
        base.fired = planned[s].otherwise != PlannedSite::leave;
        base.what = base.fired ? "tail call: known to fail, gone" : "tail call: left to the prog array";
        if (!base.fired)
          base.why = plan_.mode == PlanOptions::chain ? "linked unfused" : why_unknown(p, site);
        out_.push_back(base);
      }
      for (const PlannedEdge &a : planned[s].alternatives)
        out_.push_back(edge(base, planned[s], a));
      if (s < solved.size() && solved[s].index_class != IndexClass::constant &&
          !planned[s].alternatives.empty()) {
        Explanation e = base;
        e.what = formatv("index of the tail call: {0}", name_of(solved[s].index_class));
        e.why = why_unknown(p, site);
        out_.push_back(std::move(e));
      }
    }
  }

  Explanation edge(const Explanation &base, const PlannedSite &site, const PlannedEdge &a) const {
    Explanation e = base;
    std::string target = a.edge.to ? planned_name(pipeline_, plan_, *a.edge.to) : "empty";
    e.what = formatv("{0}[{1}] -> {2}: {3}{4}{5}", pipeline_[a.edge.map].name, a.edge.slot, target,
                     name_of(a.treatment), a.guard ? ", slot compared" : "", measured(a.edge));
    e.fired = a.treatment == Treatment::inlined || a.treatment == Treatment::cloned ||
              a.treatment == Treatment::fall_through;
    std::vector<std::string> reasons;
    if (a.treatment == Treatment::direct)
      reasons.push_back(why_direct(site, a.edge));
    if (a.treatment == Treatment::leave && a.edge.to)
      reasons.push_back(plan_[*a.edge.to].reason.empty() ? "the target is not fused"
                                                         : plan_[*a.edge.to].reason);
    if (a.guard)
      reasons.push_back("the prog array is not sealed: its slots may change");
    e.why = llvm::join(reasons, "; ");
    return e;
  }

  /// How often a run took the edge.
  std::string measured(const Edge &edge) const {
    if (!graph_.runs_of(edge.from))
      return "";
    return edge.calls ? formatv(", {0:F3} a packet", double(edge.calls) / double(graph_.packets)).str()
                      : ", never taken when it was measured";
  }

  std::string why_direct(const PlannedSite &site, const Edge &edge) const {
    const ProgId to = *edge.to;
    if (site.in_subprogram)
      return "not inlined: the call is in a subprogram";
    if (disabled("inline") || disabled("clone"))
      return "not inlined: switched off";
    if (plan_[to].entry)
      return "not inlined: the target is an entry too";
    if (plan_.is_copy(to) && !plan_.is_copy(site.from))
      return "not inlined: the call closes a cycle, whose first pass is code of its own";
    if (on_cycle_[index(to)])
      return "not inlined: the target is on a cycle";
    if (graph_.runs_of(edge.from) && edge.calls == 0)
      return "not inlined: what does not run stays out of line";
    const uint32_t cost = graph_.summaries[index(to)].ir_insns;
    if (callers_[index(to)] > 1)
      return formatv(
          "not inlined: {0} calls lead there, and its {1} IR instructions are more than {2}, or copies would "
          "add more than {3}",
          callers_[index(to)], cost, options_.plan.clone_limit_ir, options_.plan.clone_growth_ir);
    return formatv("not inlined: the caller would grow beyond {0} IR instructions or {1} bytes of stack",
                   options_.plan.max_function_ir, options_.plan.stack_budget);
  }

  /// What stands in the way of a constant index.
  std::string why_unknown(ProgId p, const TailCallSite &site) {
    for (const TailCallSite::Target &t : site.targets) {
      if (!t.map)
        return "which prog array it is, is only known at run time";
      if (t.index.kind == AbstractValue::entry)
        return t.index.slot.region == StateSlot::context
                   ? formatv(
                         "index loaded from byte {0} of the context, which callers leave different values in",
                         t.index.slot.offset)
                         .str()
                   : formatv("index loaded from map {0}, byte {1}, which callers leave different values in",
                             pipeline_[t.index.slot.map].name, t.index.slot.offset)
                         .str();
    }
    return index_source(p, site.insn);
  }

  /// The load that the index comes from, within the call's block.
  std::string index_source(ProgId p, uint32_t insn) {
    const Program &program = pipeline_[p];
    const ProgramFacts *facts = facts_of(p);
    if (!facts)
      return "index computed at run time";
    unsigned reg = 3;
    std::string answer = "index computed at run time";
    for_block(p, *facts, insn, [&](const std::vector<std::pair<uint32_t, State>> &before) {
      for (size_t i = before.size(); i-- > 0;) {
        const auto &[slot, state] = before[i];
        const Insn &at = program.insns[slot];
        const InsnRow *row = find_row(at);
        if (!row || !writes_dst(row->op) || at.dst != reg)
          continue;
        if (row->op == Op::mov && row->source == Operand::reg) {
          reg = at.src;
          continue;
        }
        if (row->op != Op::load && row->op != Op::load_sx)
          return;
        const Provenance &base = state.regs[at.src];
        if (base.kind == Kind::map_value && base.id != Provenance::any_map) {
          const Map &m = pipeline_.maps[base.id];
          answer = formatv("index loaded from map {0}{1}, {2}", m.name,
                           base.exact ? formatv("[{0}]", base.offset + at.offset).str() : std::string(),
                           m.frozen ? "at an offset that is not constant" : "which is not frozen");
        } else if (base.kind == Kind::packet) {
          answer = "index loaded from the packet";
        } else if (base.kind == Kind::context) {
          answer = formatv("index loaded from byte {0} of the context", base.offset + at.offset);
        }
        return;
      }
    });
    return answer;
  }

  // --- lookups and configuration ---

  void instructions(ProgId p) {
    const ProgramFacts *facts = facts_of(p);
    if (!facts)
      return;
    const Program &program = pipeline_[p];
    for (uint32_t s = 0; s < facts->subprograms.size(); ++s) {
      if (!facts->reached[s])
        continue;
      const SubprogramFacts &sub = facts->subprograms[s];
      for (uint32_t b : sub.cfg.order) {
        State state = sub.entry[b];
        const Block &block = sub.cfg.blocks[b];
        for (uint32_t i = block.first; i < block.end; i += is_wide(program.insns[i]) ? 2 : 1) {
          const Insn &insn = program.insns[i];
          const InsnRow *row = find_row(insn);
          if (row->op == Op::call_helper && insn.imm == int32_t(helper_map_lookup_elem))
            lookup(program, i, state);
          else if (row->op == Op::load)
            load(program, i, insn, *row, state);
          step(pipeline_, program, i, state, callee_result(program, *facts, i, insn, *row));
        }
      }
    }
  }

  static Provenance callee_result(const Program &program, const ProgramFacts &facts, uint32_t slot,
                                  const Insn &insn, const InsnRow &row) {
    if (row.op != Op::call_local)
      return Provenance::number();
    return facts.subprograms[subprogram_at(program, uint32_t(call_target(slot, insn)))].result;
  }

  void lookup(const Program &program, uint32_t insn, const State &state) {
    const Provenance &map = state.regs[1];
    Explanation e = at(program, insn, Explanation::lookup);
    if (map.kind != Kind::map_object || map.id == Provenance::any_map) {
      e.what = "lookup: a call";
      e.why = "which map it is, is only known at run time";
    } else {
      const Map &m = pipeline_.maps[map.id];
      const bool array = m.type == MapType::array || m.type == MapType::percpu_array;
      const bool searched =
          pipeline_.kernel ? pipeline_.kernel->layout.search_htab : options_.target == LinkTarget::embedded;
      const bool table = is_hash_table(m) && !m.is_template && m.key_size <= longest_inline_key && searched;
      e.fired = (array && !disabled("inline-lookups")) || (table && !disabled("inline-hash-lookups"));
      e.what = formatv("lookup in {0} ({1}): {2}", m.name, name_of(m.type),
                       !e.fired ? "a call"
                       : array  ? "address arithmetic"
                                : "hash and bucket walk in place");
      if (!e.fired)
        e.why = array || table     ? "switched off"
                : is_hash_table(m) ? searched ? "the key is too long" : "this kernel's tables are not known"
                                   : "maps of this type are searched by a call";
    }
    out_.push_back(std::move(e));
  }

  void load(const Program &program, uint32_t insn, const Insn &at_insn, const InsnRow &row,
            const State &state) {
    const Provenance &base = state.regs[at_insn.src];
    if (base.kind != Kind::map_value || base.id == Provenance::any_map)
      return;
    const Map &m = pipeline_.maps[base.id];
    if (!m.is_data() || !(m.frozen || base.exact))
      return;
    Explanation e = at(program, insn, Explanation::configuration);
    const int64_t start = base.offset + at_insn.offset, end = start + row.bits / 8;
    const bool bound = base.exact && std::any_of(m.bound.begin(), m.bound.end(), [&](const BoundConstant &c) {
                         return start < int64_t(c.offset + c.size) && end > int64_t(c.offset);
                       });
    e.fired = m.frozen && base.exact && !bound && !disabled("fold-config");
    e.what =
        formatv("load from {0}{1}: {2}", m.name, base.exact ? formatv("[{0}]", start).str() : std::string(),
                e.fired ? "a constant" : "a load");
    if (!e.fired)
      e.why = !m.frozen    ? "the map is not frozen"
              : bound      ? "bound: it differs between instances"
              : base.exact ? "switched off"
                           : "at an offset that is not constant";
    out_.push_back(std::move(e));
  }

  // --- facts ---

  const ProgramFacts *facts_of(ProgId p) {
    auto [it, fresh] = facts_.try_emplace(p);
    if (fresh) {
      if (Expected<ProgramFacts> f = analyse_provenance(pipeline_, pipeline_[p]))
        it->second = std::move(*f);
      else
        llvm::consumeError(f.takeError()); // it was translated: cannot be
    }
    return it->second ? &*it->second : nullptr;
  }

  /// Calls `f` with the states before each instruction of the block that holds `insn`, up to it.
  template <class F>
  void for_block(ProgId p, const ProgramFacts &facts, uint32_t insn, F f) const {
    const Program &program = pipeline_[p];
    const SubprogramFacts &sub = facts.subprograms[subprogram_at(program, insn)];
    for (uint32_t b : sub.cfg.order) {
      const Block &block = sub.cfg.blocks[b];
      if (insn < block.first || insn >= block.end)
        continue;
      std::vector<std::pair<uint32_t, State>> before;
      State state = sub.entry[b];
      for (uint32_t i = block.first; i < insn; i += is_wide(program.insns[i]) ? 2 : 1) {
        before.push_back({i, state});
        step(pipeline_, program, i, state,
             callee_result(program, facts, i, program.insns[i], *find_row(program.insns[i])));
      }
      f(before);
    }
  }

  const Pipeline &pipeline_;
  const CallGraph &graph_;
  const LinkPlan &plan_;
  const LinkOptions &options_;
  std::vector<uint32_t> callers_;
  std::vector<bool> on_cycle_;
  std::map<ProgId, std::optional<ProgramFacts>> facts_;
  std::vector<Explanation> out_;
};

std::string_view name_of(Explanation::Kind kind) {
  switch (kind) {
  case Explanation::tail_call: return "tail-call";
  case Explanation::lookup: return "lookup";
  case Explanation::configuration: return "configuration";
  }
  return "";
}

} // namespace

std::vector<Explanation> explain(const Pipeline &pipeline, const LinkResult &result,
                                 const LinkOptions &options) {
  return Explainer(pipeline, result, options).run();
}

void print_explanations(const std::vector<Explanation> &explanations, llvm::raw_ostream &os) {
  for (const Explanation &e : explanations) {
    os << (e.source.empty() ? "" : e.source + ": ") << e.program << ": insn " << e.insn << ": " << e.what;
    if (!e.why.empty())
      os << ": " << e.why;
    os << '\n';
  }
}

llvm::json::Value to_json(const std::vector<Explanation> &explanations) {
  llvm::json::Array all;
  for (const Explanation &e : explanations)
    all.push_back(llvm::json::Object{{"program", e.program},
                                     {"insn", e.insn},
                                     {"source", e.source},
                                     {"kind", llvm::StringRef(name_of(e.kind))},
                                     {"fired", e.fired},
                                     {"what", e.what},
                                     {"why", e.why}});
  return all;
}

} // namespace ujit
