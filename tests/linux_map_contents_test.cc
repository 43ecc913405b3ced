#include "translator/map_contents.h"

#include <gtest/gtest.h>

namespace ujit {
namespace {

TEST(MapSeeds, what_is_printed_reads_back) {
  std::vector<MapSeed> seeds{{"services", {{{0, 1}, {{0xff}}}, {{0, 2}, {{1}, {2}}}}}, {"empty", {}}};
  std::string text = print_map_seeds(seeds);
  EXPECT_EQ(text, R"({
  "maps": [
    {
      "name": "services",
      "entries": [
        {
          "key": "0001",
          "value": "ff"
        },
        {
          "key": "0002",
          "values": [
            "01",
            "02"
          ]
        }
      ]
    },
    {
      "name": "empty",
      "entries": []
    }
  ]
}
)");
  EXPECT_EQ(llvm::cantFail(parse_map_seeds(text, "f")), seeds);
}

TEST(MapSeeds, entries_are_sorted) {
  std::vector<MapSeed> seeds = llvm::cantFail(parse_map_seeds(
      R"({"maps":[{"name":"m","entries":[{"key":"02","value":"00"},{"key":"01","value":"0A"}]}]})", "f"));
  EXPECT_EQ(seeds[0].entries, (MapContents{{{1}, {{10}}}, {{2}, {{0}}}}));
}

TEST(MapSeeds, wrong_documents_are_refused) {
  struct {
    const char *text, *error;
  } cases[] = {
      {"[]", "s.json: the document must be an object with a member 'maps'"},
      {"{}", "s.json: member 'maps' must be an array"},
      {R"({"maps":[],"map":1})", "s.json: unknown member 'map'"},
      {R"({"maps":[3]})", "s.json: an item of 'maps' must be an object"},
      {R"({"maps":[{"entries":[]}]})", "s.json: a map without a 'name'"},
      {R"({"maps":[{"name":"m"}]})", "s.json: map 'm': member 'entries' must be an array"},
      {R"({"maps":[{"name":"m","entries":[]},{"name":"m","entries":[]}]})",
       "s.json: map 'm': map appears twice"},
      {R"({"maps":[{"name":"m","entries":[{"key":"00"}]}]})",
       "s.json: map 'm': an entry has either 'value' or an array 'values'"},
      {R"({"maps":[{"name":"m","entries":[{"key":"0","value":"00"}]}]})",
       "s.json: map 'm': member 'key': '0' is not an even number of hex digits"},
      {R"({"maps":[{"name":"m","entries":[{"key":"00","value":7}]}]})",
       "s.json: map 'm': member 'value' must be a string of hex digits"},
      {R"({"maps":[{"name":"m","entries":[{"key":"00","values":[]}]}]})",
       "s.json: map 'm': 'values' must not be empty"},
      {R"({"maps":[{"name":"m","entries":[{"key":"aA","value":"00"},{"key":"Aa","value":"01"}]}]})",
       "s.json: map 'm': key aa appears twice"},
  };
  for (auto [text, error] : cases)
    EXPECT_EQ(llvm::toString(parse_map_seeds(text, "s.json").takeError()), error) << text;
  EXPECT_NE(llvm::toString(parse_map_seeds("{", "s.json").takeError()).find("s.json: "), std::string::npos);
  EXPECT_EQ(llvm::toString(parse_map_seeds(std::string(1 << 20, '['), "s.json").takeError()),
            "s.json: nested too deeply");
}

} // namespace
} // namespace ujit
