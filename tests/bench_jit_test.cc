// A kernel's code as a file: what is written is read back, and what is no such file is refused.
#include "lto/bench_jit.h"

#include <gtest/gtest.h>

using namespace ujit;

namespace {

JitCode small_code() {
  JitCode code;
  code.kernel = "6.18.0";
  code.digest = "00ff";
  code.type = ProgType::xdp;
  code.layout = {{"xdp_buff.data", 0}};
  code.functions = {{16, std::vector<uint8_t>(32, 0x90)}, {64, {0xc3}}};
  code.entries = {{"main", 16}};
  code.maps = {{18, "counters", true, 8}, {30, "programs", false, 0}};
  code.calls = {{40, "bpf_xdp_redirect"}};
  code.returns = {17};
  code.percpu_adds = {20};
  return code;
}

std::string message(Expected<JitCode> code) { return code ? "" : llvm::toString(code.takeError()); }

} // namespace

TEST(JitCodeFile, ReadsBackWhatItWrote) {
  const JitCode code = small_code();
  Expected<JitCode> again = parse_jit_code(print_jit_code(code), "x.json");
  ASSERT_TRUE(bool(again)) << message(std::move(again));
  EXPECT_EQ(code, *again);
}

TEST(JitCodeFile, RefusesWhatIsNone) {
  EXPECT_NE(message(parse_jit_code("", "x.json")), "");
  EXPECT_NE(message(parse_jit_code("[]", "x.json")), "");
  EXPECT_NE(message(parse_jit_code("{}", "x.json")).find("x.json"), std::string::npos);
  EXPECT_NE(message(parse_jit_code(std::string(1 << 20, '['), "x.json")).find("nested too deeply"),
            std::string::npos);
}

TEST(JitCodeFile, RefusesPlacesOutsideOfTheCode) {
  for (uint64_t at : {uint64_t(0), uint64_t(45), uint64_t(65), ~uint64_t(0) >> 1}) {
    JitCode code = small_code();
    code.maps[0].offset = at;
    EXPECT_NE(message(parse_jit_code(print_jit_code(code), "x.json")).find("outside"), std::string::npos)
        << at;
  }
  JitCode code = small_code();
  code.returns = {45};
  EXPECT_NE(message(parse_jit_code(print_jit_code(code), "x.json")).find("outside"), std::string::npos);
  code.returns = {~uint64_t(0)}; // with its size it would be inside again
  EXPECT_NE(message(parse_jit_code(print_jit_code(code), "x.json")), "");
  std::string text = print_jit_code(small_code());
  text.replace(text.find("\"returns\": ["), 12, "\"returns\": [-1,");
  EXPECT_NE(message(parse_jit_code(text, "x.json")).find("no returns"), std::string::npos) << text;
}
