#include "tests/differential/compare.h"

#include "kernel-iface/embedded/worker.h"
#include "tests/differential/program_generator.h"
#include "tests/support/modes.h"
#include "translator/frame.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <linux/bpf.h>
#include <map>

namespace ujit {
namespace {

using llvm::formatv;

Insn moved(Insn insn, uint32_t maps) {
  const InsnRow *row = find_row(insn);
  if (row && (row->op == Op::ld_map || row->op == Op::ld_map_value))
    insn.imm += int32_t(maps);
  return insn;
}

Pipeline changed_pipeline(const Sample &sample) {
  Pipeline out = sample.pipeline;
  for (const Sample::Change &change : sample.changes) {
    auto &slots = out.maps[index(change.map)].prog_slots;
    std::erase_if(slots, [&](auto &slot) { return slot.first == change.slot; });
    if (change.program)
      slots.push_back({change.slot, *change.program});
    std::ranges::sort(slots);
  }
  return out;
}

void append(Pipeline &to, const Pipeline &from) {
  const uint32_t programs = uint32_t(to.programs.size()), maps = uint32_t(to.maps.size());
  for (Program p : from.programs) {
    for (size_t i = 0; i < p.insns.size(); i += is_wide(p.insns[i]) ? 2 : 1)
      p.insns[i] = moved(p.insns[i], maps);
    to.programs.push_back(std::move(p));
  }
  for (Map m : from.maps) {
    for (auto &[slot, program] : m.prog_slots)
      program = ProgId(index(program) + programs);
    to.maps.push_back(std::move(m));
  }
  for (ProgId entry : from.entries)
    to.entries.push_back(ProgId(index(entry) + programs));
}

std::string first_line(const std::vector<std::string> &lines) { return lines.empty() ? "" : lines.front(); }

/// Each run has the maps of its own sample only: the others' are nothing to it.
Expected<std::vector<JobRun>> run_batch(const Batch &batch, const LinkedImage *image) {
  std::vector<Job> jobs;
  for (size_t i = 0; i < batch.samples.size(); i++)
    jobs.push_back({batch.entries[i], batch.samples[i]->packets});
  Expected<TogetherRun> run = run_jobs_together(batch.changed, batch.seeds, jobs, image);
  if (!run)
    return run.takeError();
  std::map<std::string_view, size_t> owner;
  for (size_t i = 0; i < batch.samples.size(); i++)
    for (const Map &map : batch.samples[i]->pipeline.maps)
      owner[map.name] = i;
  for (MapSeed &contents : run->maps)
    run->runs[owner.at(contents.map)].trace.maps.push_back(std::move(contents));
  return std::move(run->runs);
}

} // namespace

Batch make_batch(std::span<const Sample> samples) {
  Batch batch;
  batch.options.name = "fuzz";
  batch.options.plan.target_left_is_supported = false;
  for (const Sample &sample : samples) {
    append(batch.pipeline, sample.pipeline);
    append(batch.changed, changed_pipeline(sample));
    batch.entries.push_back(batch.pipeline.entries.back());
    batch.samples.push_back(&sample);
    batch.seeds.insert(batch.seeds.end(), sample.seeds.begin(), sample.seeds.end());
    for (size_t m = 0; m < sample.pipeline.maps.size(); m++) {
      batch.options.policies.push_back({EdgeKind(sample.edges[m])});
      batch.options.scratch.push_back(sample.scratch[m]);
    }
  }
  return batch;
}

std::string Variation::name(size_t plan) const {
  std::string out = plans[plan].mode == PlanOptions::chain ? "unfused" : "fused";
  for (const std::string &d : disabled)
    out += " without " + d;
  return out;
}

Variation variation(uint64_t seed) {
  Random random(seed);
  Variation out;
  out.debug_info = random.one_in(8);
  out.other_threads = random.one_in(16);
  PlanOptions standard;
  standard.target_left_is_supported = false;
  PlanOptions chain = standard;
  chain.mode = PlanOptions::chain;
  if (random.one_in(2)) { // as users have it
    out.plans = {chain, standard};
    return out;
  }
  for (const OptimisationName &name : optimisation_names())
    if (random.one_in(3))
      out.disabled.emplace_back(name.name);
  PlanOptions other = standard;
  other.partition_cost = random.of({50u, 500u, 6000u});
  other.clone_limit_ir = random.of({0u, 60u, 300u});
  other.max_function_ir = random.of({100u, 20000u});
  other.inline_single_caller = !random.one_in(4);
  out.plans = {chain, other};
  return out;
}

Expected<std::vector<JobRun>> interpret(const Batch &batch) { return run_batch(batch, nullptr); }

namespace {

Expected<JobRun> run_in_kernel(const Sample &sample, const Pipeline &changed) {
  const Job job{sample.pipeline.entries[0], sample.packets};
  auto runs = run_jobs_in_kernel(changed, sample.seeds, {&job, 1});
  if (!runs)
    return runs.takeError();
  return std::move((*runs)[0]);
}

KernelVerdict judge(const Pipeline &pipeline, const JobRun &interpreted, const JobRun &kernel) {
  std::string text = first_line(differences(pipeline, interpreted, kernel, 0xffffffff));
  return {{}, text.empty() ? "" : "kernel: " + text};
}

} // namespace

KernelVerdict compare_with_kernel(const Sample &sample, const JobRun &interpreted) {
  const Pipeline changed = changed_pipeline(sample);
  auto kernel = run_in_kernel(sample, changed);
  if (!kernel)
    return {llvm::toString(kernel.takeError()), {}};
  return judge(changed, interpreted, *kernel);
}

KernelVerdict compare_with_kernel(const Sample &sample) {
  const Pipeline changed = changed_pipeline(sample);
  auto kernel = run_in_kernel(sample, changed); // first: what it takes comes to an end
  if (!kernel)
    return {llvm::toString(kernel.takeError()), {}};
  const Job job{sample.pipeline.entries[0], sample.packets};
  auto interpreted = run_jobs(changed, sample.seeds, {&job, 1}, nullptr);
  if (!interpreted)
    return {{}, "interpreter: " + llvm::toString(interpreted.takeError())};
  return judge(changed, (*interpreted)[0], *kernel);
}

std::vector<Finding> compare_images(std::span<const Sample> samples, uint64_t seed) {
  const Batch batch = make_batch(samples);
  auto interpreted = interpret(batch);
  if (!interpreted)
    return {{0, true, "interpreter: " + llvm::toString(interpreted.takeError())}};
  return compare_images(batch, *interpreted, seed);
}

std::vector<Finding> compare_images(const Batch &batch, std::span<const JobRun> interpreted, uint64_t seed) {
  std::vector<Finding> out;
  auto whole = [&](std::string text) { return std::vector<Finding>{{0, true, std::move(text)}}; };
  const Variation v = variation(seed);
  LinkOptions options = batch.options;
  options.disabled = v.disabled;
  options.debug_info = v.debug_info;
  options.threads = 1;
  auto images = link_each(batch.pipeline, options, v.plans);
  if (!images)
    return whole(v.name(0) + ": " + llvm::toString(images.takeError()));
  if (v.other_threads) {
    options.threads = 2;
    auto again = link_each(batch.pipeline, options, v.plans);
    if (!again)
      return whole(llvm::toString(again.takeError()));
    for (size_t i = 0; i < images->size(); i++)
      if ((*again)[i].image.object != (*images)[i].image.object)
        return whole(v.name(i) + ": two threads make another image than one");
  }
  std::vector<bool> found(batch.samples.size());
  for (size_t i = 0; i < images->size(); i++) {
    auto image = load_linked(std::move((*images)[i]));
    if (!image)
      return whole(v.name(i) + ": " + llvm::toString(image.takeError()));
    auto got = run_batch(batch, &*image);
    if (!got)
      return whole(v.name(i) + ": " + llvm::toString(got.takeError()));
    for (size_t s = 0; s < batch.samples.size(); s++) {
      std::string text = first_line(differences(batch.changed, interpreted[s], (*got)[s]));
      if (!text.empty() && !found[s]) {
        found[s] = true;
        out.push_back({s, false, v.name(i) + ": " + text});
      }
    }
  }
  return out;
}

std::optional<Finding> find_fatal(std::span<const Sample> samples, uint64_t seed, std::chrono::seconds time) {
  for (size_t i = 0; i < samples.size(); i++) {
    auto alone = [&] {
      compare_images(samples.subspan(i, 1), seed);
      return std::vector<uint8_t>();
    };
    Expected<WorkerResult> result = run_in_worker(alone, {.time = time});
    if (!result)
      return Finding{i, false, llvm::toString(result.takeError())};
    if (auto *fault = std::get_if<WorkerFault>(&*result))
      return Finding{i, false, "linked and run alone: " + describe(*fault)};
  }
  return std::nullopt;
}

// --- Making it small ---------------------------------------------------------------------------------

namespace {

constexpr uint8_t nop = 0x05; ///< goto +0

/// Takes out every `goto +0`.
Program compacted(const Program &program) {
  const auto &insns = program.insns;
  std::vector<uint32_t> place(insns.size() + 1);
  std::vector<bool> starts(insns.size());
  for (const Subprogram &sub : program.subprograms)
    starts[sub.start] = true;
  Program out = program;
  out.insns.clear();
  std::vector<bool> kept(insns.size());
  for (size_t i = 0; i < insns.size();) {
    const size_t slots = is_wide(insns[i]) ? 2 : 1;
    kept[i] = !(insns[i].opcode == nop && insns[i].offset == 0);
    for (size_t k = 0; k < slots; k++)
      place[i + k] = uint32_t(out.insns.size() + k);
    if (kept[i])
      out.insns.insert(out.insns.end(), insns.begin() + long(i), insns.begin() + long(i + slots));
    i += slots;
  }
  place[insns.size()] = uint32_t(out.insns.size());
  for (size_t i = 0; i < insns.size(); i += is_wide(insns[i]) ? 2 : 1) {
    const InsnRow *row = find_row(insns[i]);
    if (!kept[i] || !row)
      continue;
    Insn &to = out.insns[place[i]];
    if (row->op == Op::call_local || row->op == Op::ld_func)
      to.imm = int32_t(place[size_t(call_target(uint32_t(i), insns[i]))]) - int32_t(place[i]) - 1;
    else if (row->op == Op::ja || is_conditional(row->op))
      to.offset =
          int16_t(int32_t(place[size_t(jump_target(uint32_t(i), insns[i], *row))]) - int32_t(place[i]) - 1);
  }
  for (Subprogram &sub : out.subprograms) {
    sub.start = place[sub.start];
    sub.end = place[sub.end];
  }
  std::erase_if(out.subprograms, [](const Subprogram &sub) { return sub.start == sub.end; });
  return out;
}

bool blank(Program &program, size_t from, size_t count) {
  bool any = false;
  for (size_t i = 0; i < program.insns.size();) {
    const size_t slots = is_wide(program.insns[i]) ? 2 : 1;
    if (i >= from && i < from + count && program.insns[i].opcode != nop) {
      for (size_t k = 0; k < slots; k++) {
        program.insns[i + k] = Insn{};
        program.insns[i + k].opcode = nop;
      }
      any = true;
    }
    i += slots;
  }
  return any;
}

} // namespace

Sample mutate(Sample sample, uint64_t seed) {
  Random random(seed);
  for (uint32_t n = random.between(1, 5); n > 0; n--) {
    Program &program = sample.pipeline.programs[random.below(uint32_t(sample.pipeline.programs.size()))];
    blank(program, random.below(uint32_t(program.insns.size())), random.of({1u, 1u, 2u, 4u, 12u}));
  }
  return sample;
}

bool is_determined(const Sample &sample) {
  if (Expected<CallGraph> graph = analyse(sample.pipeline, {}); !graph) {
    llvm::consumeError(graph.takeError());
    return false;
  }
  auto reads_unset = [&](const Program &program) -> Expected<bool> {
    Expected<ProgramFacts> facts = analyse_provenance(sample.pipeline, program);
    if (!facts)
      return facts.takeError();
    for (uint32_t sub = 0; sub < program.subprograms.size(); sub++) {
      Expected<FrameLayout> frame = layout_frame(sample.pipeline, program, *facts, sub);
      if (!frame)
        return frame.takeError();
      if (std::ranges::any_of(frame->objects, [](const StackObject &o) { return o.zeroed || o.unset; }))
        return true;
    }
    return false;
  };
  for (const Program &program : sample.pipeline.programs)
    if (Expected<bool> unset = reads_unset(program); !unset || *unset) {
      llvm::consumeError(unset.takeError());
      return false;
    }
  return true;
}

Sample minimise(Sample sample, const std::function<bool(const Sample &)> &fails) {
  auto attempt = [&](Sample candidate) {
    if (!fails(candidate))
      return false;
    sample = std::move(candidate);
    return true;
  };
  for (size_t i = 0; i < sample.packets.size() && sample.packets.size() > 1;) {
    Sample candidate = sample;
    candidate.packets.erase(candidate.packets.begin() + long(i));
    i += attempt(candidate) ? 0 : 1;
  }
  for (auto member : {&Sample::seeds})
    for (size_t i = (sample.*member).size(); i-- > 0;) {
      Sample candidate = sample;
      (candidate.*member).erase((candidate.*member).begin() + long(i));
      attempt(candidate);
    }
  for (size_t i = sample.changes.size(); i-- > 0;) {
    Sample candidate = sample;
    candidate.changes.erase(candidate.changes.begin() + long(i));
    attempt(candidate);
  }
  for (size_t m = 0; m < sample.pipeline.maps.size(); m++)
    for (size_t i = sample.pipeline.maps[m].prog_slots.size(); i-- > 0;) {
      Sample candidate = sample;
      auto &slots = candidate.pipeline.maps[m].prog_slots;
      slots.erase(slots.begin() + long(i));
      attempt(candidate);
    }
  for (size_t p = 0; p < sample.pipeline.programs.size(); p++) {
    Sample candidate = sample;
    Program &program = candidate.pipeline.programs[p];
    program.insns.resize(2);
    program.insns[0] = {.opcode = BPF_ALU64 | BPF_MOV | BPF_K};
    program.insns[1] = {.opcode = BPF_JMP | BPF_EXIT};
    program.subprograms.resize(1);
    program.subprograms[0].end = 2;
    attempt(candidate);
  }
  for (bool again = true; again;) {
    again = false;
    for (size_t p = 0; p < sample.pipeline.programs.size(); p++)
      for (size_t chunk = 32; chunk > 0; chunk /= 2)
        for (size_t at = sample.pipeline.programs[p].insns.size() / chunk * chunk + chunk; at >= chunk;) {
          at -= chunk;
          Sample candidate = sample;
          if (blank(candidate.pipeline.programs[p], at, chunk) && attempt(candidate))
            again |= chunk == 1;
        }
    bool shorter = false;
    for (size_t p = 0; p < sample.pipeline.programs.size(); p++) {
      Sample candidate = sample;
      candidate.pipeline.programs[p] = compacted(sample.pipeline.programs[p]);
      shorter |= candidate.pipeline.programs != sample.pipeline.programs && attempt(candidate);
    }
    again &= shorter;
  }
  return sample;
}

// --- Case files --------------------------------------------------------------------------------------

namespace {

std::string insn_text(const Pipeline &pipeline, const Program &program, uint32_t at) {
  const Insn &insn = program.insns[at];
  const InsnRow *row = find_row(insn);
  auto sub_at = [&](int64_t slot) {
    return program.subprograms[subprogram_at(program, uint32_t(slot))].name;
  };
  if (row && row->op == Op::call_local)
    return "call " + sub_at(call_target(at, insn));
  if (row && row->op == Op::ld_func)
    return formatv("r{0} = func {1} ll", unsigned(insn.dst), sub_at(call_target(at, insn)));
  if (row && row->op == Op::ld_map)
    return formatv("r{0} = map {1} ll", unsigned(insn.dst), pipeline.maps[size_t(insn.imm)].name);
  if (row && row->op == Op::ld_map_value)
    return formatv("r{0} = map {1} + {2} ll", unsigned(insn.dst), pipeline.maps[size_t(insn.imm)].name,
                   program.insns[at + 1].imm);
  return print_insn(program.insns, at);
}

void print_map(const Sample &sample, const Map &map, size_t id, std::string &out) {
  const EdgeKind kind = EdgeKind(sample.edges[id]);
  out += formatv("-- map {0} {1} key={2} value={3} entries={4}{5}{6}{7}{8}\n", map.name, name_of(map.type),
                 map.key_size, map.value_size, map.max_entries,
                 map.flags ? formatv(" flags={0}", map.flags).str() : "", map.frozen ? " frozen" : "",
                 sample.scratch[id] ? " scratch" : "",
                 map.type != MapType::prog_array ? ""
                 : kind == EdgeKind::sealed      ? " edges=sealed"
                 : kind == EdgeKind::left        ? " edges=left"
                                                 : "");
  if (map.is_data())
    out += "data: " + to_hex(map.contents) + "\n";
  for (const BoundConstant &b : map.bound)
    out += formatv("bound: {0} {1} {2} {3}\n", b.name, b.offset, b.size, b.value);
  for (auto &[slot, program] : map.prog_slots)
    out += formatv("{0}: {1}\n", slot, sample.pipeline[program].name);
  for (const MapSeed &seed : sample.seeds)
    if (seed.map == map.name)
      for (const MapEntry &e : seed.entries)
        out += to_hex(e.key) + ": " + to_hex(e.values[0]) + "\n";
}

} // namespace

std::string case_text(const Sample &sample, const std::string &comment) {
  std::string out = "# " + comment + "\n";
  for (const Program &program : sample.pipeline.programs)
    for (const Subprogram &sub : program.subprograms) {
      out += sub.start == 0 ? formatv("-- prog {0} {1}\n", program.name, name_of(program.type)).str()
                            : "-- sub " + sub.name + "\n";
      for (uint32_t i = sub.start; i < sub.end; i += is_wide(program.insns[i]) ? 2 : 1)
        out += insn_text(sample.pipeline, program, i) + "\n";
    }
  for (size_t m = 0; m < sample.pipeline.maps.size(); m++)
    print_map(sample, sample.pipeline.maps[m], m, out);
  for (const Sample::Change &change : sample.changes)
    out += formatv("-- change {0}\n{1}: {2}\n", sample.pipeline[change.map].name, change.slot,
                   change.program ? sample.pipeline[*change.program].name : "");
  for (auto &packet : sample.packets)
    out += "-- packet\n" + to_hex(packet) + "\n";
  const Job job{sample.pipeline.entries[0], sample.packets};
  auto run = run_jobs(changed_pipeline(sample), sample.seeds, {&job, 1}, nullptr);
  if (!run) {
    llvm::consumeError(run.takeError());
    return out;
  }
  out += "-- result\n";
  for (uint64_t r : (*run)[0].results)
    out += formatv("{0:x}\n", r);
  return out;
}

} // namespace ujit
