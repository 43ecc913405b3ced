#include "tests/bench/row.h"

#include "lto/output_file.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace json = llvm::json;

std::string Workload::label() const {
  const size_t dash = packets.rfind('-');
  return forms && !single && dash != std::string::npos
             ? name + ", " + packets.substr(dash + 1, packets.size() - dash - 6) + " flows"
             : name;
}

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

std::string key_of(const std::vector<std::string> &files, const std::string &settings) {
  llvm::SHA256 sha;
  sha.update(settings);
  for (const std::string &file : files)
    if (auto bytes = llvm::MemoryBuffer::getFile(file))
      sha.update((*bytes)->getBuffer());
  return llvm::toHex(sha.final(), /*LowerCase=*/true);
}

Error keep_result(const std::string &path, const std::string &key, const BenchResult &result) {
  std::string text;
  llvm::raw_string_ostream os(text);
  json::OStream j(os);
  j.object([&] {
    j.attribute("key", key);
    j.attributeBegin("result");
    print_bench_json(result, j);
    j.attributeEnd();
  });
  return write_file(path, text);
}

namespace {

double number(const json::Object &o, llvm::StringRef name) { return o.getNumber(name).value_or(0); }
std::string text(const json::Object &o, llvm::StringRef name) { return o.getString(name).value_or("").str(); }

template <typename F>
void each(const json::Object &o, llvm::StringRef name, F f) {
  if (const json::Array *array = o.getArray(name))
    for (const json::Value &v : *array)
      f(v);
}

Measured measured(const json::Object &o) {
  Measured m;
  m.own_insns = number(o, "own_insns");
  m.other_insns = number(o, "helper_insns");
  m.thunk_insns = number(o, "thunk_insns");
  each(o, "placement_ns", [&](const json::Value &v) { m.ns.push_back(v.getAsNumber().value_or(0)); });
  return m;
}

BenchRow row(const json::Object &o) {
  BenchRow r;
  r.name = text(o, "name");
  r.what = text(o, "what");
  r.left_out = text(o, "left_out");
  for (size_t f = 0; f <= size_t(BenchForm::plain); ++f)
    if (text(o, "form") == name_of(BenchForm(f)))
      r.form = BenchForm(f);
  r.code_bytes = uint64_t(number(o, "code_bytes"));
  r.link_seconds = number(o, "link_seconds");
  r.measured = measured(o);
  if (const json::Object *mitigated = o.getObject("mitigated"))
    r.mitigated = measured(*mitigated);
  each(o, "own_insns_at", [&](const json::Value &v) {
    if (const json::Array *pair = v.getAsArray(); pair && pair->size() == 2)
      r.measured.at.emplace_back((*pair)[0].getAsUINT64().value_or(0), (*pair)[1].getAsNumber().value_or(0));
  });
  each(o, "helpers", [&](const json::Value &v) {
    if (const json::Object *h = v.getAsObject())
      r.measured.helpers.push_back({text(*h, "name"), number(*h, "calls"), number(*h, "insns")});
  });
  return r;
}

} // namespace

std::optional<BenchResult> kept_result(const std::string &path, const std::string &key) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return std::nullopt;
  llvm::Expected<json::Value> value = json::parse((*buffer)->getBuffer());
  if (!value) {
    llvm::consumeError(value.takeError());
    return std::nullopt;
  }
  const json::Object *top = value->getAsObject(), *o = top ? top->getObject("result") : nullptr;
  if (!o || text(*top, "key") != key)
    return std::nullopt;
  BenchResult r;
  r.name = text(*o, "name");
  r.entry = text(*o, "entry");
  r.packets = size_t(number(*o, "packets"));
  r.placements = uint32_t(number(*o, "placements"));
  r.ablation_placements = uint32_t(number(*o, "ablation_placements"));
  r.rounds = uint32_t(number(*o, "rounds"));
  r.mitigations = true;
  r.harness_ns = number(*o, "harness_ns");
  r.jit_source = text(*o, "kernel_code");
  r.fidelity = text(*o, "fidelity");
  each(*o, "rows", [&](const json::Value &v) {
    if (const json::Object *row_object = v.getAsObject())
      r.rows.push_back(row(*row_object));
  });
  r.verdict = verdict_of(r, r.mitigations);
  return r;
}

} // namespace ujit
