// From a manifest to what the linker takes: the pipeline, and the options that the manifest sets.
#pragma once

#include "lto/link.h"
#include "lto/manifest.h"
#include "translator/map_contents.h"

namespace ujit {

/// Reads the objects of a manifest and puts them together: names made unique, shared maps merged, constants
/// folded and bound, slots filled, entries chosen. Errors: those of the objects, and every name of the
/// manifest that they do not have.
Expected<Pipeline> load_pipeline(const Manifest &manifest);

/// The same for bare objects, without a manifest.
Expected<Pipeline> load_objects(const std::vector<std::string> &paths);

/// Name, CPU and prog-array policies as link options, with what the profile beside the manifest holds. Errors:
/// a prog array or scratch map that does not exist; a file in the profile's place that is none.
Expected<LinkOptions> link_options(const Manifest &manifest, const Pipeline &pipeline);

/// The initial map contents that the manifest names; empty if it names none. Errors: an unreadable or wrong
/// file.
Expected<std::vector<MapSeed>> load_seed(const Manifest &manifest);

} // namespace ujit
