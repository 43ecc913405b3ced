// ujit-conformance-plugin: the plugin that bpf_conformance calls for each of its vectors. The program comes
// as hex bytes on standard input, memory as the first argument; r0 goes to standard output in hex.
//
//     bpf_conformance_runner --test_file_directory tests --plugin_path build/ujit-conformance-plugin
//                            --cpu_version v4 [--plugin_options --mode=interpreter|unfused|fused]
#include "tests/support/modes.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <set>

using namespace ujit;

namespace {

/// Functions begin where calls go to.
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

std::optional<std::vector<uint8_t>> read_hex(llvm::StringRef text) {
  std::string digits;
  std::copy_if(text.begin(), text.end(), std::back_inserter(digits),
               [](unsigned char c) { return !std::isspace(c); });
  return from_hex(digits);
}

Expected<uint64_t> run(llvm::StringRef program, llvm::StringRef memory, llvm::StringRef mode) {
  auto code = read_hex(program), bytes = read_hex(memory);
  if (!code || !bytes)
    return input_error("hex bytes expected").error();
  auto insns = decode_bytes(*code);
  if (!insns)
    return insns.takeError();
  Case c;
  c.name = "conformance";
  c.rules = ImmediateRules::standard;
  Program &p = c.pipeline.programs.emplace_back();
  p.name = "main";
  p.object = "stdin";
  p.subprograms = find_subprograms(*insns);
  p.insns = std::move(*insns);
  c.pipeline.entries.push_back(ProgId(0));
  if (Error e = check_case(c))
    return e;

  std::optional<LinkedImage> image;
  if (mode != "interpreter") {
    LinkOptions options = standalone_options(c);
    options.plan.mode = mode == "unfused" ? PlanOptions::chain : PlanOptions::fused;
    auto linked = link_and_load(c.pipeline, options);
    if (!linked)
      return linked.takeError();
    image = std::move(*linked);
  }
  const Job job{ProgId(0), {*bytes}};
  auto runs = run_jobs(c.pipeline, {}, {&job, 1}, image ? &*image : nullptr);
  if (!runs)
    return runs.takeError();
  return runs->at(0).results.at(0);
}

} // namespace

int main(int argc, char **argv) {
  std::string memory, mode = "fused";
  for (int i = 1; i < argc; i++) {
    llvm::StringRef argument = argv[i];
    if (argument == "--elf") {
      llvm::errs() << "ujit-conformance-plugin: error: programs are taken as bytes, not as ELF\n";
      return 64;
    }
    if (argument.consume_front("--mode="))
      mode = argument;
    else if (!argument.starts_with("--"))
      memory = argument;
  }
  std::string program{std::istreambuf_iterator<char>(std::cin), {}};
  Expected<uint64_t> result = run(program, memory, mode);
  if (!result) {
    llvm::errs() << "ujit-conformance-plugin: error: " << llvm::toString(result.takeError()) << "\n";
    return 1;
  }
  llvm::outs() << llvm::utohexstr(*result, /*LowerCase=*/true) << "\n";
  return 0;
}
