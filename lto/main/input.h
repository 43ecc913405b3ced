// What run, check and bench share: a manifest, its pipeline, packets, and the entry that they go to.
#pragma once

#include "lto/execute.h"
#include "lto/link.h"
#include "lto/manifest.h"

#include "CLI/CLI.hpp"

#include <string>
#include <vector>

namespace ujit {

/// As the command line names them.
struct PacketArguments {
  std::string manifest, packets, entry;
  void add_to(CLI::App &command);
};

struct PacketInput {
  Manifest manifest;
  Pipeline pipeline;
  LinkOptions options;
  std::vector<MapSeed> seeds;
  std::vector<CapturedPacket> packets;

  Execution execution(ProgId entry) const;
};

/// Reads all that a manifest names, and the packets. Errors: those of the parts.
Expected<PacketInput> read_packet_input(const std::string &manifest, const std::string &packets);

/// The entry called `name`, or the only one where `name` is empty. Errors: no such entry, or several to
/// choose from.
Expected<ProgId> choose_entry(const Pipeline &pipeline, const std::string &name);

/// "XDP_PASS", "TC_ACT_OK", or the number.
std::string verdict_name(ProgType type, uint32_t value);

} // namespace ujit
