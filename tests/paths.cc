#include "tests/paths.h"

namespace ujit {

const std::string source_dir = UJIT_SOURCE_DIR;
const std::string binary_dir = UJIT_BINARY_DIR;

} // namespace ujit
