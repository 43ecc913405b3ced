#pragma once

#include <string>

namespace ujit {

// Where the tests find their inputs. Defined in one file, not macros: the compiler's command line is then the
// same in every checkout, and ccache serves them all. Functions, not variables: the tests of case files are
// registered while variables of other files may not have been initialised.
std::string source_dir(); // of the repository
std::string binary_dir(); // of this build

} // namespace ujit
