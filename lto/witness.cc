#include "lto/witness.h"

#include "lto/footprints.h"

namespace ujit {

void Reach::add(const Pipeline &pipeline, std::span<const ProgId> path) {
  for (size_t i = 0; i < path.size(); ++i) {
    programs.insert(pipeline[path[i]].name);
    if (i)
      edges.emplace(pipeline[path[i - 1]].name, pipeline[path[i]].name);
  }
}

Expected<Witness> Witness::load(const Pipeline &pipeline, const LoadOptions &options) {
  Pipeline recorded = with_footprints(pipeline);
  const MapId record{uint32_t(recorded.maps.size() - 1)};
  Expected<LoadedPipeline> loaded = load_into_kernel(recorded, options);
  if (!loaded)
    return loaded.takeError();
  return Witness(std::move(*loaded), record);
}

Error Witness::forget() { return loaded_.write(record_, {{std::vector<uint8_t>(4), {no_footprints()}}}); }

Expected<std::vector<ProgId>> Witness::path() const {
  Expected<MapContents> contents = loaded_.read(record_);
  if (!contents)
    return contents.takeError();
  return contents->empty() ? std::vector<ProgId>() : read_footprints(contents->front().values.front());
}

} // namespace ujit
