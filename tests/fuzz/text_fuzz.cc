// Any text is what a reader of text takes, or an error: contexts of packets, map contents, profiles, kernels'
// code, test cases with their assembly. Each gets every text; the others' are wrong for it in the first line.
// What can be printed comes back as it was.
#include "lto/bench_jit.h"
#include "lto/contexts.h"
#include "lto/profile.h"
#include "tests/support/case_file.h"
#include "translator/map_contents.h"

#include <cstdlib>

namespace ujit {
namespace {

/// What profiles are about.
const Pipeline &pipeline() {
  static const Pipeline out = llvm::cantFail(parse_case("-- prog entry xdp\n"
                                                        "r2 = map jmp ll\n"
                                                        "r3 = 1\n"
                                                        "call tail_call\n"
                                                        "r0 = 1\n"
                                                        "exit\n"
                                                        "-- prog leaf xdp\n"
                                                        "r0 = 7\n"
                                                        "exit\n"
                                                        "-- map jmp prog_array\n"
                                                        "1: leaf\n"
                                                        "-- packet\n"
                                                        "00\n",
                                                        "fuzz.case"))
                                  .pipeline;
  return out;
}

/// The value, or none: its error is dropped.
template <class T>
std::optional<T> value_of(Expected<T> expected) {
  if (expected)
    return std::move(*expected);
  llvm::consumeError(expected.takeError());
  return std::nullopt;
}

void expect(bool same) {
  if (!same)
    std::abort();
}

void read_all(std::string_view text) {
  const std::string file = "fuzz";
  if (auto contexts = value_of(parse_contexts(text, file)))
    for (const RunContext &c : *contexts)
      for (ProgType type : {ProgType::xdp, ProgType::sched_cls})
        llvm::consumeError(context_bytes(c, type).takeError());
  if (auto seeds = value_of(parse_map_seeds(text, file)))
    expect(value_of(parse_map_seeds(print_map_seeds(*seeds), file)) == seeds);
  if (auto code = value_of(parse_jit_code(text, file)))
    expect(value_of(parse_jit_code(print_jit_code(*code), file)) == code);
  if (auto stored = value_of(parse_profile(text, file, pipeline()))) {
    const Verdict *verdict = stored->verdict ? &*stored->verdict : nullptr;
    const std::string printed = print_profile(pipeline(), stored->profile, verdict);
    auto again = value_of(parse_profile(printed, file, pipeline()));
    expect(again && print_profile(pipeline(), again->profile, verdict) == printed);
  }
  if (auto c = value_of(parse_case(text, "fuzz.case")))
    llvm::consumeError(check_case(*c));
}

} // namespace
} // namespace ujit

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ujit::read_all({reinterpret_cast<const char *>(data), size});
  return 0;
}
