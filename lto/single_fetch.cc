// Debug locations say which eBPF instruction a machine instruction was made of: function and line of each
// level of inlining. The provenance analysis says which of those load from packet or map memory. A function's
// machine instructions are decoded into basic blocks; two machine loads of one inlined copy in one block, or
// in two blocks of which one leads to the other, are a repeated fetch.
//
// Left out: what is addressed from the stack or frame pointer (spilled registers), and the instance's table,
// whose loads have no line (bind.cc). A block that leads to itself is in a loop of the program, where the
// same instruction runs again by right; there only the block itself is looked at. Where a jump table leads is
// not followed; kernel images have none.
#include "lto/single_fetch.h"

#include "lto/debug_lines.h"
#include "lto/machine_code.h"
#include "translator/provenance.h"

#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <map>
#include <set>

namespace ujit {

using llvm::DILineInfo;
using llvm::formatv;
using llvm::StringRef;

namespace {

/// "function:line" of each load from packet or map memory, over all programs; a subprogram is "program.name".
class SharedLoads {
public:
  static Expected<SharedLoads> of(const Pipeline &pipeline) {
    SharedLoads out;
    for (const Program &p : pipeline.programs) {
      auto facts = analyse_provenance(pipeline, p);
      if (!facts)
        return facts.takeError();
      for (uint32_t s = 0; s < p.subprograms.size(); ++s) {
        std::string name = s == 0 ? p.name : p.name + "." + p.subprograms[s].name;
        out.functions_.insert(name);
        if (facts->reached[s])
          out.scan(pipeline, p, *facts, s, name);
      }
    }
    return out;
  }

  bool is_function(StringRef name) const { return functions_.contains(name.str()); }
  bool contains(const DILineInfo &place) const { return loads_.contains({place.FunctionName, place.Line}); }
  /// Whether the instruction itself has no business with memory.
  bool is_plain(const DILineInfo &place) const { return plain_.contains({place.FunctionName, place.Line}); }

private:
  void scan(const Pipeline &pipeline, const Program &p, const ProgramFacts &facts, uint32_t s,
            const std::string &name) {
    const SubprogramFacts &sub = facts.subprograms[s];
    for (uint32_t b : sub.cfg.order) {
      State state = sub.entry[b];
      const Block &block = sub.cfg.blocks[b];
      for (uint32_t i = block.first; i < block.end; i += is_wide(p.insns[i]) ? 2 : 1) {
        const Insn &insn = p.insns[i];
        const InsnRow &row = *find_row(insn);
        bool load = row.op == Op::load || row.op == Op::load_sx || row.op == Op::load_acquire;
        if (load && is_shared(pipeline, state.regs[insn.src]))
          loads_.insert({name, i + 1});
        else if (RegisterUse use = register_use(insn, row, 0); use.writes && !load && !is_access(row.op))
          plain_.insert({name, i + 1});
        else if (is_conditional(row.op))
          plain_.insert({name, i + 1});
        Provenance result = Provenance::number();
        if (row.op == Op::call_local)
          result = facts.subprograms[subprogram_at(p, uint32_t(int64_t(i) + 1 + insn.imm))].result;
        step(pipeline, p, i, state, result);
      }
    }
  }

  static bool is_access(Op op) {
    switch (op) {
    case Op::call_helper:
    case Op::call_local:
    case Op::call_kfunc:
    case Op::callx:
    case Op::ld_abs:
    case Op::ld_ind:
    case Op::store:
    case Op::store_release:
    case Op::atomic_add:
    case Op::atomic_or:
    case Op::atomic_and:
    case Op::atomic_xor:
    case Op::atomic_xchg:
    case Op::atomic_cmpxchg: return true;
    default: return false;
    }
  }

  static bool is_shared(const Pipeline &pipeline, const Provenance &base) {
    switch (base.kind) {
    case Provenance::packet:
    case Provenance::memory: return true;
    case Provenance::map_value: return base.id == Provenance::any_map || !pipeline.maps[base.id].frozen;
    default: return false;
    }
  }

  std::set<std::string> functions_;
  std::set<std::pair<std::string, uint32_t>> loads_, plain_;
};

struct MachineLoad {
  uint64_t at;
  std::vector<DILineInfo> chain;
};

struct MachineBlock {
  std::vector<uint64_t> successors; ///< block starts
  std::vector<MachineLoad> loads;
};

class Check {
public:
  Check(const ElfObject &object, uint32_t text, const SharedLoads &shared, const DebugLines &lines)
      : object_(object), text_(text), shared_(shared), lines_(lines) {}

  Expected<SingleFetch> run() {
    std::set<std::pair<uint64_t, uint64_t>> done;
    for (const ImageElfSymbol &s : object_.symbols)
      if (s.defined() && s.section == text_ && s.type == llvm::ELF::STT_FUNC &&
          done.insert({s.value, s.size}).second)
        if (Error e = check_function(s))
          return e;
    std::ranges::sort(out_.repeated, {}, [](const RepeatedFetch &r) { return std::pair(r.first, r.second); });
    return std::move(out_);
  }

private:
  Error check_function(const ImageElfSymbol &f) {
    std::map<uint64_t, MachineStep> steps;
    std::set<uint64_t> starts{f.value};
    const uint64_t end = f.value + f.size;
    auto inside = [&](std::optional<uint64_t> target) {
      return target && *target > f.value && *target < end;
    };
    for (uint64_t at = f.value; at < end;) {
      auto step = decoder_.decode(object_.sections[text_].contents.slice(at, end - at), at);
      if (!step || step->size == 0)
        return internal_error(formatv("function {0}+{1:x}: no machine instruction", f.name, at - f.value))
            .error();
      steps[at] = *step;
      if (step->branch && inside(step->target))
        starts.insert(*step->target);
      at += step->size;
      if (step->branch || step->ends)
        starts.insert(at);
    }
    std::map<uint64_t, MachineBlock> blocks;
    MachineBlock *block = nullptr;
    for (const auto &[at, step] : steps) {
      if (starts.contains(at))
        block = &blocks[at];
      if (step.reads && !step.own_memory && !step.call)
        add_load(*block, at);
      const uint64_t next = at + step.size;
      if (step.branch && inside(step.target))
        block->successors.push_back(*step.target);
      if (!step.ends && starts.contains(next) && next < end)
        block->successors.push_back(next);
    }
    compare(blocks);
    return Error::success();
  }

  void add_load(MachineBlock &block, uint64_t at) {
    std::vector<DILineInfo> chain =
        lines_.find(at, [&](StringRef name) { return shared_.is_function(name); });
    if (chain.empty() || !shared_.contains(chain[0])) {
      out_.folded += !chain.empty() && shared_.is_plain(chain[0]);
      return;
    }
    ++out_.loads;
    block.loads.push_back({at, std::move(chain)});
  }

  static bool same_copy(const MachineLoad &a, const MachineLoad &b) {
    return std::ranges::equal(a.chain, b.chain, [](const DILineInfo &x, const DILineInfo &y) {
      return x.FunctionName == y.FunctionName && x.Line == y.Line && x.Discriminator == y.Discriminator;
    });
  }

  void compare(const std::map<uint64_t, MachineBlock> &blocks) {
    std::map<uint64_t, std::set<uint64_t>> reached; // only of blocks with loads
    for (const auto &[start, block] : blocks)
      if (!block.loads.empty())
        reached[start] = reachable(blocks, start);
    for (const auto &[start, block] : blocks) {
      for (size_t i = 0; i < block.loads.size(); ++i)
        for (size_t j = i + 1; j < block.loads.size(); ++j)
          report(block.loads[i], block.loads[j]);
      if (block.loads.empty() || reached[start].contains(start))
        continue;
      for (uint64_t later : reached[start])
        if (auto r = reached.find(later); r != reached.end() && !r->second.contains(later))
          for (const MachineLoad &a : block.loads)
            for (const MachineLoad &b : blocks.at(later).loads)
              report(a, b);
    }
  }

  static std::set<uint64_t> reachable(const std::map<uint64_t, MachineBlock> &blocks, uint64_t from) {
    std::set<uint64_t> seen;
    std::vector<uint64_t> todo = blocks.at(from).successors;
    while (!todo.empty()) {
      uint64_t at = todo.back();
      todo.pop_back();
      auto block = blocks.find(at);
      if (block != blocks.end() && seen.insert(at).second)
        todo.insert(todo.end(), block->second.successors.begin(), block->second.successors.end());
    }
    return seen;
  }

  void report(const MachineLoad &a, const MachineLoad &b) {
    if (!same_copy(a, b))
      return;
    RepeatedFetch r{{}, a.at, b.at};
    for (const DILineInfo &level : a.chain)
      r.chain.push_back({level.FunctionName, level.Line == 0 ? 0 : level.Line - 1, {}});
    out_.repeated.push_back(std::move(r));
  }

  const ElfObject &object_;
  const uint32_t text_;
  const SharedLoads &shared_;
  const DebugLines &lines_;
  MachineDecoder decoder_;
  SingleFetch out_;
};

} // namespace

Expected<SingleFetch> check_single_fetch(std::span<const uint8_t> image, const Pipeline &pipeline) {
  auto object = read_elf(image);
  if (!object)
    return object.takeError();
  auto lines = DebugLines::read(*object);
  if (!lines)
    return lines.takeError();
  auto shared = SharedLoads::of(pipeline);
  if (!shared)
    return shared.takeError();
  return Check(*object, object->find_section(".text"), *shared, *lines).run();
}

} // namespace ujit
