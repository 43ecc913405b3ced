// ujit-vectors: runs the kernel's own test vectors, as extract.sh prints them, in all modes that have no need
// of a kernel. Each vector runs in a worker: whatever happens to it, the others run.
//
//     ujit-vectors FILE [--shard I/N] [--captured]
//
// With --captured, each vector is instead loaded into the running kernel, captured and translated from what
// the verifier made of it; one that the kernel does not load is not counted. Vectors for socket filters go in
// as tc programs.
//
// A line for each vector that is wrong or refused, then a sum. Exit code 1 if one was wrong, crashed or hung.
#include "kernel-iface/embedded/worker.h"
#include "kernel-iface/linux/canonical.h"
#include "kernel-iface/linux/load.h"
#include "tests/support/modes.h"
#include "translator/helper.h"
#include "translator/lower.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

using namespace ujit;
using llvm::formatv;
using llvm::StringRef;

namespace {

struct Run {
  std::vector<uint8_t> input;
  uint32_t result = 0;
};

struct Vector {
  std::string name;
  ProgType type = ProgType::unspec;
  bool tail = false;  ///< one of the tail-call tests, which call each other
  bool state = false; ///< the result is the first word of memory
  bool fails = false; ///< the kernel refuses it as well
  std::vector<Run> runs;
  std::vector<Insn> insns;
};

std::vector<Vector> read_vectors(const std::string &path) {
  std::vector<Vector> out;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    auto [word, rest] = StringRef(line).split(' ');
    if (word == "vector" || word == "tail") {
      out.emplace_back();
      out.back().name = rest;
      out.back().tail = word == "tail";
    } else if (word == "type") {
      out.back().type = ProgType(std::stoul(rest.str()));
    } else if (word == "state") {
      out.back().state = true;
    } else if (word == "fails") {
      out.back().fails = true;
    } else if (word == "run") {
      auto [size, result] = rest.split(' ');
      out.back().runs.push_back(
          {std::vector<uint8_t>(std::stoul(size.str())), uint32_t(std::stoul(result.str()))});
    } else if (word == "packet") {
      auto [bytes, result] = rest.split(' ');
      out.back().runs.push_back({*from_hex(bytes), uint32_t(std::stoul(result.str()))});
    } else if (word == "code") {
      if (auto insns = decode_bytes(*from_hex(rest)))
        out.back().insns = std::move(*insns);
      else
        llvm::consumeError(insns.takeError());
    }
  }
  return out;
}

std::vector<Subprogram> find_subprograms(std::span<const Insn> insns) {
  std::set<uint32_t> starts{0};
  for (uint32_t i = 0; i < insns.size(); i += is_wide(insns[i]) ? 2 : 1)
    if (const InsnRow *row = find_row(insns[i]); row && (row->op == Op::call_local || row->op == Op::ld_func))
      if (int64_t target = call_target(i, insns[i]); target > 0 && target < int64_t(insns.size()))
        starts.insert(uint32_t(target));
  std::vector<Subprogram> out;
  for (uint32_t start : starts) {
    if (!out.empty())
      out.back().end = start;
    out.push_back({out.empty() ? "main" : "f" + std::to_string(start), start, uint32_t(insns.size()), 0});
  }
  return out;
}

/// The markers of the tail-call tests become what a loader would put there.
void relocate(Vector &v, uint32_t self, uint32_t count) {
  constexpr int32_t marker = 0x7a11ca11;
  constexpr int16_t null_target = 0x7fff, out_of_range = 0x7ffe;
  for (size_t i = 0; i < v.insns.size(); i += is_wide(v.insns[i]) ? 2 : 1) {
    Insn &insn = v.insns[i];
    if (insn.opcode == 0x18 && insn.imm == marker) {
      insn.src = 1;
      insn.imm = 0;
      v.insns[i + 1].imm = 0;
    } else if (insn.opcode == 0xb4 && insn.imm == marker) {
      insn.imm = insn.offset == null_target    ? int32_t(count)
                 : insn.offset == out_of_range ? int32_t(count + 1)
                                               : int32_t(self) + insn.offset;
      insn.offset = 0;
    } else if (insn.opcode == 0xf5) {
      insn = Insn{};
      insn.opcode = 0x85;
      insn.imm = 12;
    } else if (insn.opcode == 0x85 && insn.src == 1) {
      insn.src = 0;
      if (!find_helper(uint32_t(insn.imm))) { // the module's own function
        insn = Insn{};
        insn.opcode = 0x05;
      }
    }
  }
}

Case make_case(const std::vector<Vector> &vectors, size_t which) {
  Case c;
  c.name = "vector";
  c.rules = ImmediateRules::standard;
  size_t first = which, last = which;
  if (vectors[which].tail) { // all of them
    for (first = 0; !vectors[first].tail;)
      first++;
    last = vectors.size() - 1;
    Map map;
    map.name = "progs";
    map.type = MapType::prog_array;
    map.key_size = map.value_size = 4;
    map.max_entries = uint32_t(last - first + 2);
    for (size_t i = first; i <= last; i++)
      map.prog_slots.push_back({uint32_t(i - first), ProgId(i - first)});
    c.pipeline.maps.push_back(std::move(map));
  }
  for (size_t i = first; i <= last; i++) {
    Program &p = c.pipeline.programs.emplace_back();
    p.name = vectors[which].tail ? formatv("test{0}", i - first).str() : "main";
    p.object = "vectors";
    p.type = vectors[i].type;
    p.insns = vectors[i].insns;
    p.subprograms = find_subprograms(p.insns);
  }
  c.pipeline.entries = {ProgId(which - first)};
  c.scratch.resize(c.pipeline.maps.size());
  return c;
}

/// The verifier's tests write this where the result is an address, or whatever the stack held.
constexpr uint32_t any_result = 0xcafe4a;

/// What these vectors say of the hook that the kernel's own runner uses, and not of the instructions.
std::string left_out(const Vector &v) {
  if (v.name == "check wire_len is readable by tc classifier")
    return "a test run without a context has no wire length, packets here have one";
  return {};
}

/// Empty: as it should be; "refused: ..." or what is wrong.
std::string judge(const std::vector<Vector> &vectors, size_t which) {
  const Vector &v = vectors[which];
  if (std::string reason = left_out(v); !reason.empty())
    return "refused: " + reason;
  Case c = make_case(vectors, which);
  if (Error e = check_case(c))
    return "refused: " + llvm::toString(std::move(e));
  Job job{c.pipeline.entries[0], {}};
  for (const Run &run : v.runs)
    job.inputs.push_back(v.state ? std::vector<uint8_t>(4) : run.input);
  for (const char *mode : {"interpreter", "unfused", "fused"}) {
    std::optional<LinkedImage> image;
    if (StringRef(mode) != "interpreter") {
      LinkOptions options = standalone_options(c);
      options.threads = 1;
      options.plan.mode = StringRef(mode) == "unfused" ? PlanOptions::chain : PlanOptions::fused;
      auto linked = link_and_load(c.pipeline, options);
      if (!linked)
        return "refused: " + llvm::toString(linked.takeError());
      image = std::move(*linked);
    }
    auto runs = run_jobs(c.pipeline, {}, {&job, 1}, image ? &*image : nullptr);
    if (!runs) {
      std::string text = llvm::toString(runs.takeError());
      return formatv(image ? "{0}: {1}" : "refused: {0}: {1}", mode, text);
    }
    const JobRun &got = runs->at(0);
    for (size_t i = 0; i < v.runs.size(); i++) {
      uint32_t result = uint32_t(got.results[i]);
      if (v.state)
        memcpy(&result, got.trace.packets[i].result.packet.data(), 4);
      if (result != v.runs[i].result && v.runs[i].result != any_result)
        return formatv("{0}: result is {1:x}, should be {2:x}", mode, result, v.runs[i].result);
    }
  }
  return {};
}

/// Empty: captured and translated; "refused: ..."; "not loaded".
std::string judge_captured(const std::vector<Vector> &vectors, size_t which) {
  Case c = make_case(vectors, which);
  for (Program &p : c.pipeline.programs)
    if (p.type == ProgType::socket_filter)
      p.type = ProgType::sched_cls;
  Expected<LoadedPipeline> loaded = load_into_kernel(c.pipeline);
  if (!loaded) {
    llvm::consumeError(loaded.takeError());
    return "not loaded";
  }
  const int fd = loaded->fd(c.pipeline.entries[0]);
  CaptureOptions options;
  for (const auto &symbol : translation_symbols())
    options.symbols.push_back(std::string(symbol));
  Expected<Capture> captured = capture({&fd, 1}, options);
  if (!captured)
    return llvm::toString(captured.takeError());
  Expected<CanonicalPipeline> canonical = canonicalise(*captured);
  if (!canonical)
    return "refused: " + llvm::toString(canonical.takeError());
  for (uint32_t p = 0; p < canonical->pipeline.programs.size(); p++) {
    llvm::LLVMContext context;
    auto module = translate(canonical->pipeline, ProgId(p), context, {});
    if (!module)
      return "refused: " + llvm::toString(module.takeError());
  }
  return {};
}

} // namespace

int main(int argc, char **argv) {
  unsigned shard = 0, shards = 1;
  std::string path;
  bool captured = false;
  for (int i = 1; i < argc; i++)
    if (StringRef(argv[i]) == "--captured")
      captured = true;
    else if (StringRef(argv[i]) == "--shard" && i + 1 < argc)
      sscanf(argv[++i], "%u/%u", &shard, &shards);
    else
      path = argv[i];
  if (path.empty() || shards == 0) {
    llvm::errs() << "usage: ujit-vectors FILE [--shard I/N] [--captured]\n";
    return 64;
  }
  std::vector<Vector> vectors = read_vectors(path);
  size_t first_tail = 0;
  while (first_tail < vectors.size() && !vectors[first_tail].tail)
    first_tail++;
  for (size_t i = first_tail; i < vectors.size(); i++)
    relocate(vectors[i], uint32_t(i - first_tail), uint32_t(vectors.size() - first_tail));
  size_t passed = 0, wrong = 0, refused = 0;
  for (size_t i = shard; i < vectors.size(); i += shards) {
    const Vector &v = vectors[i];
    auto work = [&] {
      std::string text = captured ? judge_captured(vectors, i) : judge(vectors, i);
      return std::vector<uint8_t>(text.begin(), text.end());
    };
    std::string text;
    auto done = run_in_worker(work, {.time = std::chrono::seconds(120)});
    if (!done)
      text = llvm::toString(done.takeError());
    else if (auto *fault = std::get_if<WorkerFault>(&*done))
      text = "the linker: " + describe(*fault);
    else
      text.assign(std::get<0>(*done).begin(), std::get<0>(*done).end());
    if (text == "not loaded")
      continue;
    (text.empty() ? passed : StringRef(text).starts_with("refused") ? refused : wrong)++;
    if (!text.empty())
      llvm::outs() << formatv("{0} ({1} instructions): {2}\n", v.name, v.insns.size(), text);
    llvm::outs().flush();
  }
  llvm::outs() << formatv("{0} passed, {1} wrong, {2} refused\n", passed, wrong, refused);
  return wrong ? 1 : 0;
}
