#include "lto/profile.h"

#include "lto/digest.h"
#include "translator/json.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <map>

namespace ujit {

namespace json = llvm::json;
using llvm::formatv;

static constexpr LinkForm forms[] = {LinkForm::fused, LinkForm::not_inlined, LinkForm::chain};

std::string_view name_of(LinkForm form) {
  switch (form) {
  case LinkForm::fused: return "fused";
  case LinkForm::not_inlined: return "not inlined";
  case LinkForm::chain: return "chain";
  }
  return "";
}

void set_form(LinkForm form, PlanOptions &plan) {
  plan.mode = form == LinkForm::chain ? PlanOptions::chain : PlanOptions::fused;
  if (form == LinkForm::not_inlined) {
    plan.inline_single_caller = false;
    plan.clone_limit_ir = 0;
  }
}

Verdict judge(std::vector<Verdict::Measured> measured) {
  constexpr double noise = 0.03;
  Verdict out{LinkForm::chain, std::move(measured)};
  std::ranges::sort(out.measured, {}, &Verdict::Measured::form);
  const Verdict::Measured &chain = out.measured.back();
  for (const Verdict::Measured &m : out.measured) {
    const double time = m.ns > 0 && chain.ns > 0 ? m.ns / chain.ns : 1;
    const bool loses = time > 1 + noise || (time > 1 - noise && m.insns > chain.insns);
    if (!loses) {
      out.best = m.form;
      break;
    }
  }
  return out;
}

std::string profile_path(const std::string &manifest_file) {
  llvm::StringRef stem = manifest_file;
  if (!stem.consume_back(".yaml"))
    stem.consume_back(".yml");
  return (stem + ".profile").str();
}

// ---- Text.

std::string print_profile(const Pipeline &pipeline, const Profile &profile, const Verdict *verdict) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << formatv("{{\"ujit-lto-profile\": 1,\n \"pipeline\": \"{0}\",\n \"packets\": {1},\n",
                pipeline_digest(pipeline), profile.packets);
  if (verdict) {
    json::Array measured;
    for (const Verdict::Measured &m : verdict->measured)
      measured.push_back(
          json::Object{{"form", llvm::StringRef(name_of(m.form))}, {"insns", m.insns}, {"ns", m.ns}});
    os << formatv(" \"verdict\": {0},\n",
                  json::Value(json::Object{{"best", llvm::StringRef(name_of(verdict->best))},
                                           {"measured", std::move(measured)}}));
  }
  os << " \"programs\": [";
  const char *separator = "\n  ";
  for (uint32_t p = 0; p < pipeline.programs.size(); ++p) {
    const ProgramProfile *counts = profile.find(ProgId(p));
    if (!counts)
      continue;
    json::Array branches, calls;
    for (const ProgramProfile::Branch &b : counts->branches)
      branches.push_back(json::Array{b.insn, b.taken, b.passed});
    for (const ProgramProfile::Call &c : counts->calls)
      calls.push_back(json::Array{c.insn, pipeline[c.map].name, c.slot, c.count});
    os << separator
       << json::Value(json::Object{{"name", pipeline.programs[p].name},
                                   {"digest", program_digest(pipeline, ProgId(p))},
                                   {"runs", counts->runs},
                                   {"branches", std::move(branches)},
                                   {"calls", std::move(calls)}});
    separator = ",\n  ";
  }
  os << "\n ]\n}\n";
  return text;
}

namespace {

/// Takes the text apart. What is missing or of another type is remembered, and makes the whole no profile.
class Parser {
public:
  Parser(const Pipeline &pipeline) : pipeline_(pipeline) {
    out_.profile.programs.resize(pipeline.programs.size());
    for (uint32_t p = 0; p < pipeline.programs.size(); ++p)
      programs_.emplace(program_digest(pipeline, ProgId(p)), p);
  }

  std::optional<StoredProfile> parse(const json::Object &top) {
    if (top.getInteger("ujit-lto-profile") != 1)
      return std::nullopt;
    out_.profile.packets = number(top.get("packets"));
    const bool same = top.getString("pipeline") == llvm::StringRef(pipeline_digest(pipeline_));
    if (const json::Object *verdict = top.getObject("verdict"))
      take_verdict(*verdict, same);
    size_t known = 0, all = 0;
    if (const json::Array *programs = array(top.get("programs")))
      for (const json::Value &v : *programs) {
        const json::Object *o = v.getAsObject();
        if (!(good_ &= o != nullptr))
          break;
        ++all;
        known += take_program(*o);
      }
    if (!good_)
      return std::nullopt;
    out_.note = formatv("counts of {0} packets in {1} program{2}", out_.profile.packets, known,
                        known == 1 ? "" : "s");
    if (const size_t others = all - known)
      out_.note += others == 1
                       ? "; 1 program is not as it was when it was counted"
                       : formatv("; {0} programs are not as they were when they were counted", others).str();
    if (top.getObject("verdict") && !out_.verdict)
      out_.note += "; the pipeline is not the one that was measured";
    return std::move(out_);
  }

private:
  uint64_t number(const json::Value *v) {
    const std::optional<uint64_t> n = v ? v->getAsUINT64() : std::nullopt;
    good_ &= n.has_value();
    return n.value_or(0);
  }
  const json::Array *array(const json::Value *v) {
    const json::Array *a = v ? v->getAsArray() : nullptr;
    good_ &= a != nullptr;
    return a;
  }
  /// An array of `n` things, or null.
  const json::Array *tuple(const json::Value &v, size_t n) {
    const json::Array *a = array(&v);
    if (a && a->size() == n)
      return a;
    good_ = false;
    return nullptr;
  }

  void take_verdict(const json::Object &o, bool same) {
    Verdict verdict;
    auto form = [&](const json::Object &from, llvm::StringRef key) {
      for (LinkForm f : forms)
        if (from.getString(key) == llvm::StringRef(name_of(f)))
          return f;
      good_ = false;
      return LinkForm::fused;
    };
    verdict.best = form(o, "best");
    if (const json::Array *measured = array(o.get("measured")))
      for (const json::Value &v : *measured) {
        const json::Object *m = v.getAsObject();
        if (!(good_ &= m != nullptr))
          return;
        verdict.measured.push_back(
            {form(*m, "form"), m->getNumber("insns").value_or(0), m->getNumber("ns").value_or(0)});
      }
    if (same)
      out_.verdict = std::move(verdict);
  }

  /// Whether the program is one of the pipeline's. Several with one digest differ in name alone.
  bool take_program(const json::Object &o) {
    const std::string name = o.getString("name").value_or("").str();
    const auto [first, last] = programs_.equal_range(o.getString("digest").value_or("").str());
    auto it = std::find_if(first, last, [&](auto &p) { return pipeline_.programs[p.second].name == name; });
    if (it == last)
      it = first;
    const bool known = first != last;
    ProgramProfile counts;
    counts.runs = number(o.get("runs"));
    if (const json::Array *branches = array(o.get("branches")))
      for (const json::Value &v : *branches)
        if (const json::Array *b = tuple(v, 3))
          counts.branches.push_back({uint32_t(number(&(*b)[0])), number(&(*b)[1]), number(&(*b)[2])});
    if (const json::Array *calls = array(o.get("calls")))
      for (const json::Value &v : *calls)
        if (const json::Array *c = tuple(v, 4)) {
          const std::optional<MapId> map = pipeline_.find_map((*c)[1].getAsString().value_or("").str());
          const ProgramProfile::Call call{uint32_t(number(&(*c)[0])), map.value_or(MapId{}),
                                          uint32_t(number(&(*c)[2])), number(&(*c)[3])};
          if (map)
            counts.calls.push_back(call);
        }
    std::ranges::sort(counts.branches, {}, &ProgramProfile::Branch::insn);
    if (known)
      out_.profile.programs[it->second] = std::move(counts);
    return known;
  }

  const Pipeline &pipeline_;
  std::multimap<std::string, uint32_t> programs_; ///< by digest
  StoredProfile out_;
  bool good_ = true;
};

} // namespace

Expected<StoredProfile> parse_profile(std::string_view text, const std::string &file,
                                      const Pipeline &pipeline) {
  Expected<json::Value> value = parse_json(text);
  std::optional<StoredProfile> out;
  if (!value)
    return input_error("not a profile: " + llvm::toString(value.takeError())).in_file(file).error();
  if (const json::Object *top = value->getAsObject())
    out = Parser(pipeline).parse(*top);
  if (!out)
    return input_error("not a profile").in_file(file).with_hint("`bench --profile` makes one").error();
  return std::move(*out);
}

} // namespace ujit
