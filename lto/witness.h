// The originals of a pipeline in the running kernel, with a record of the programs that each run enters.
#pragma once

#include "kernel-iface/linux/load.h"

#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ujit {

/// Programs and tail calls, by name; of tail calls one for each pair of caller and target.
struct Reach {
  std::set<std::string> programs;
  std::set<std::pair<std::string, std::string>> edges;

  void add(const Pipeline &pipeline, std::span<const ProgId> path);
};

class Witness {
public:
  /// `pipeline` in object form. Errors: those of load_into_kernel().
  static Expected<Witness> load(const Pipeline &pipeline, const LoadOptions &options);

  LoadedPipeline &loaded() { return loaded_; }
  /// Before a run.
  Error forget();
  /// Behind it: the programs entered since, in order.
  Expected<std::vector<ProgId>> path() const;

private:
  Witness(LoadedPipeline loaded, MapId record) : loaded_(std::move(loaded)), record_(record) {}
  LoadedPipeline loaded_;
  MapId record_;
};

} // namespace ujit
