#include "tests/paths.h"

namespace ujit {

std::string source_dir() { return UJIT_SOURCE_DIR; }
std::string binary_dir() { return UJIT_BINARY_DIR; }

} // namespace ujit
