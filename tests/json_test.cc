// JSON from outside: what LLVM's parser takes, but no deeper than its stack holds.
#include "translator/json.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

std::string error_of(const std::string &text) {
  auto value = parse_json(text);
  return value ? "" : llvm::toString(value.takeError());
}

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(Json, NestingIsBounded) {
  EXPECT_EQ(error_of(nested(32)), "");
  EXPECT_EQ(error_of(nested(33)), "nested too deeply");
  EXPECT_EQ(error_of(std::string(1 << 20, '{')), "nested too deeply");
  std::string wide = "[";
  for (int i = 0; i < 100; i++)
    wide += "[[]],";
  EXPECT_EQ(error_of(wide + "{}]"), "") << "only what is open counts";
}

TEST(Json, BracketsInStringsAreText) {
  EXPECT_EQ(error_of(R"([")" + std::string(100, '[') + R"("])"), "");
  EXPECT_EQ(error_of(R"(["\")" + std::string(100, '{') + R"("])"), "");
  EXPECT_EQ(error_of(R"(["\\",)" + nested(31) + "]"), "");
  EXPECT_EQ(error_of(R"(["\\",)" + nested(32) + "]"), "nested too deeply");
}

TEST(Json, WhatIsNoneSaysWhere) {
  EXPECT_NE(error_of("[1,").find("[1:3"), std::string::npos) << error_of("[1,");
}

} // namespace
} // namespace ujit
