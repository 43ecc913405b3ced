// ujit-prove: proves the lowering of every row of the instruction table against the specification, as it is
// translated and as it is simplified; `ujit-prove TEXT` only rows whose pattern contains TEXT. One line a
// row, and as the last line `N passed, N failed`.
#include "tests/prove/plants.h"
#include "tests/prove/snippet.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <atomic>
#include <mutex>
#include <thread>

namespace ujit::prove {
namespace {

using llvm::formatv;

struct RowResult {
  std::string line; ///< may have several lines, each with its end
  bool passed = false;
};

RowResult prove_row(const InsnRow &row, z3::context &solver, llvm::TargetMachine &tm) {
  std::string name = formatv("{0:x2}  {1}", row.opcode, row.mnemonic);
  std::vector<Snippet> snippets = snippets_of(row);
  std::string failures;
  size_t failed = 0;
  auto fail = [&](const Snippet &s, std::string_view form, const std::string &why) {
    if (++failed <= 3)
      failures += formatv("    {0} ({1}): {2}\n", s.text(), form, why);
  };
  for (const Snippet &s : snippets)
    for (bool simplified : {false, true}) {
      llvm::LLVMContext context;
      std::string_view form = simplified ? "simplified" : "translated";
      Expected<Translated> t = translate_snippet(s, context, simplified ? &tm : nullptr);
      if (!t) {
        fail(s, form, llvm::toString(t.takeError()));
        continue;
      }
      std::vector<Encoded> code = encode(s.code);
      if (Verdict v = prove(solver, *t->function, code); v.kind != Verdict::proved)
        fail(s, form, (v.kind == Verdict::refuted ? "counterexample: " : "undecided: ") + v.text);
    }
  if (failed)
    return {formatv("FAILED   {0}: {1} of {2} forms\n{3}", name, failed, 2 * snippets.size(), failures),
            false};
  return {formatv("proved   {0}: {1} forms\n", name, 2 * snippets.size()), true};
}

/// `work(index, solver, target)` for all indices below `count`, on all cores; prints lines in the order of
/// indices.
template <typename Work>
std::vector<RowResult> in_parallel(size_t count, Work work) {
  std::vector<RowResult> results(count);
  std::vector<bool> done(count);
  size_t printed = 0;
  std::mutex mutex;
  std::atomic<size_t> next = 0;
  auto worker = [&] {
    Expected<std::unique_ptr<llvm::TargetMachine>> tm = make_target_machine("x86-64", Effort::full);
    if (!tm)
      return llvm::report_fatal_error(tm.takeError());
    for (size_t i; (i = next++) < count;) {
      z3::context solver;
      try {
        results[i] = work(i, solver, **tm);
      } catch (const z3::exception &e) {
        results[i] = {formatv("FAILED   solver: {0}\n", e.msg()), false};
      }
      std::lock_guard lock(mutex);
      for (done[i] = true; printed < count && done[printed]; ++printed)
        llvm::outs() << results[printed].line;
      llvm::outs().flush();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); ++t)
    threads.emplace_back(worker);
  for (std::thread &t : threads)
    t.join();
  return results;
}

/// Table and specification know the same instructions: every opcode with the selecting values of the other
/// fields.
RowResult compare_coverage() {
  z3::context context;
  Terms terms(context, true);
  size_t both = 0;
  for (unsigned opcode = 0; opcode < 256; ++opcode)
    for (unsigned src : {0, 1, 2, 3, 4, 5, 6})
      for (int offset : {0, 1, 2, 8, 16, 32, 64})
        for (int imm : {0, 1, 8, 16, 32, 64}) {
          Insn i;
          i.opcode = uint8_t(opcode), i.src = uint8_t(src) & 15, i.offset = int16_t(offset), i.imm = imm;
          const InsnRow *row = find_row(i);
          bool reserved_is_zero = row && (row->src.kind != FieldRule::zero || src == 0) &&
                                  (row->offset.kind != FieldRule::zero || offset == 0) &&
                                  (row->imm.kind != FieldRule::zero || imm == 0);
          bool in_table = reserved_is_zero && out_of_scope(*row).empty();
          bool in_specification = describes(encode(std::vector<Insn>{i, Insn{}}), 0, terms);
          if (in_table != in_specification)
            return {formatv("FAILED   opcode {0:x2}, src {1}, offset {2}, imm {3} is known only to the {4}\n",
                            opcode, src, offset, imm, in_table ? "table" : "specification"),
                    false};
          both += in_table;
        }
  return {formatv("proved   table and specification know the same instructions ({0} encodings)\n", both),
          true};
}

int run(std::string_view filter) {
  std::vector<const InsnRow *> rows;
  for (const InsnRow &row : isa_table()) {
    if (row.mnemonic.find(filter) == std::string_view::npos)
      continue;
    if (std::string_view why = out_of_scope(row); why.empty())
      rows.push_back(&row);
    else
      llvm::outs() << formatv("outside  {0:x2}  {1}: {2}\n", row.opcode, row.mnemonic, why);
  }
  std::vector<RowResult> results = in_parallel(
      rows.size(), [&](size_t i, z3::context &solver, auto &tm) { return prove_row(*rows[i], solver, tm); });
  if (filter.empty()) {
    results.push_back(compare_coverage());
    llvm::outs() << results.back().line;
    std::vector<RowResult> noticed = in_parallel(plants().size(), [&](size_t i, z3::context &solver, auto &) {
      std::string line;
      bool passed = notices(plants()[i], solver, line);
      return RowResult{line, passed};
    });
    results.insert(results.end(), noticed.begin(), noticed.end());
  }
  size_t passed = 0;
  for (const RowResult &r : results)
    passed += r.passed;
  llvm::outs() << formatv("{0} passed, {1} failed\n", passed, results.size() - passed);
  return passed == results.size() && passed != 0 ? 0 : 1;
}

} // namespace
} // namespace ujit::prove

int main(int argc, char **argv) {
  ujit::initialise_llvm();
  return ujit::prove::run(argc > 1 ? argv[1] : "");
}
