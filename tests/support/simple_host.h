// The smallest kernel that the interpreter can run on: plain maps, prog arrays, a packet, and the few helpers
// that the instruction tests need. It is the reference for the embedded kernel, and shares no code with it.
#pragma once

#include "tests/support/case_file.h"
#include "translator/interpreter.h"

#include <map>
#include <memory>

namespace ujit {

class SimpleHost : public InterpreterHost {
public:
  /// `pipeline` must outlive the host. Seeds that do not fit their map are ignored bytes.
  SimpleHost(const Pipeline &pipeline, std::span<const MapSeed> seeds);
  ~SimpleHost() override;

  Expected<uint64_t> map_address(MapId map) override;
  Expected<uint64_t> map_value_address(MapId map, uint64_t offset) override;
  Expected<uint64_t> call_helper(Interpreter &interpreter, uint32_t id,
                                 const std::array<uint64_t, 5> &args) override;
  const Program *tail_call_target(uint64_t map, uint32_t index) override;
  std::optional<uint64_t> load_packet(uint64_t context, int32_t offset, unsigned bits) override;
  bool may_access(uint64_t address, uint32_t size, bool write) override;

  /// The bytes that programs may touch beside maps; a packet for ld_abs.
  void set_memory(std::span<uint8_t> bytes) { memory_ = bytes; }

  MapSeed contents(MapId map) const;

private:
  using Bytes = std::vector<uint8_t>;
  struct HostMap {
    const Map *shape;
    std::map<Bytes, std::unique_ptr<uint8_t[]>> values; ///< arrays have all keys
    std::vector<std::unique_ptr<uint8_t[]>> deleted;    ///< programs may still hold pointers
  };

  const Pipeline &pipeline_;
  std::vector<std::unique_ptr<HostMap>> maps_;
  std::span<uint8_t> memory_;
  Bytes visited_key_; ///< what a callback of for_each_map_elem sees

  HostMap *find(uint64_t address);
  static bool is_array(const Map &shape);
  static Bytes key_at(const HostMap &map, uint64_t address);
  int64_t update(HostMap &map, const Bytes &key, const void *value, uint64_t flags);
};

/// Runs a case in the reference interpreter: each input through the first entry, maps kept in between.
/// Errors: those of check_case() and of the run.
Expected<CaseRun> run_interpreted(const Case &c, InterpreterOptions options = {});

} // namespace ujit
