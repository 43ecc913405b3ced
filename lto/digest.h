// Digests: what makes two programs the same to us. An image names its programs by them, so that it is only
// ever installed over programs that are the ones which were fused.
#pragma once

#include "translator/program.h"

#include <string>

namespace ujit {

/// Lower-case hex SHA-256 over the program's type, instructions and subprogram borders, with every map that
/// it names replaced by the map's shape, name and, if frozen, contents without the bound bytes. Names of
/// programs, source positions, the order of the pipeline and its MapIds do not matter.
std::string program_digest(const Pipeline &pipeline, ProgId id);

/// Over everything that generated code depends on: program names and digests, entries, maps, and the contents
/// of prog arrays and map-in-maps. The order of the pipeline does not matter.
std::string pipeline_digest(const Pipeline &pipeline);

} // namespace ujit
