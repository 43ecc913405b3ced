// Random pipelines which the verifier accepts: what the differential fuzzer feeds to every executor.
#pragma once

#include "translator/map_contents.h"
#include "translator/program.h"

#include <cstdint>
#include <random>
#include <vector>

namespace ujit {

/// One small pipeline with its inputs. Names begin with `prefix`, so that several fit into one pipeline.
struct Sample {
  Pipeline pipeline; ///< its only entry is the first program
  std::vector<MapSeed> seeds;
  std::vector<std::vector<uint8_t>> packets;
  std::vector<uint8_t> edges; ///< by MapId: EdgeKind of prog arrays
  std::vector<bool> scratch;  ///< by MapId
  struct Change {
    MapId map{};
    uint32_t slot = 0;
    std::optional<ProgId> program;
  };
  std::vector<Change> changes; ///< of slots, between link and run
};

/// The same seed gives the same sample.
Sample generate(uint64_t seed, const std::string &prefix);

} // namespace ujit
