// Digests: what makes two programs the same to us. An image names its programs by them, so that it is only
// ever installed over programs that are the ones which were fused.
#pragma once

#include "translator/program.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Lower-case hex SHA-256 over the program's type, instructions and subprogram borders, with every map that
/// it names replaced by the map's shape, name and, if frozen, contents without the bound bytes. Names of
/// programs, source positions, the order of the pipeline and its MapIds do not matter.
std::string program_digest(const Pipeline &pipeline, ProgId id);

/// One program in its object's form, and as the running kernel's verifier left it. A bundle that was built
/// elsewhere knows the first, an image for a kernel is installed by the second.
struct DigestLink {
  std::string program; ///< its name in the object's form
  std::string object_form, verified_form;
  friend bool operator==(const DigestLink &, const DigestLink &) = default;
};

/// `verified_of`: by ProgId of `object_form`, what became of the programs that were loaded from it; none for
/// those that are not in `verified`.
std::vector<DigestLink> digest_chain(const Pipeline &object_form, const Pipeline &verified,
                                     std::span<const std::optional<ProgId>> verified_of);

/// Over everything that generated code depends on: program names and digests, entries, maps, and the contents
/// of prog arrays and map-in-maps. The order of the pipeline does not matter.
std::string pipeline_digest(const Pipeline &pipeline);

} // namespace ujit
