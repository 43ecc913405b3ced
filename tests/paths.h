#pragma once

#include <string>

namespace ujit {

// Where the tests find their inputs. Variables, not macros: the compiler's command line is then the same in
// every checkout, and ccache serves them all.
extern const std::string source_dir; // of the repository
extern const std::string binary_dir; // of this build

} // namespace ujit
