// Planted errors: the IR of one instruction with a mistake written into its text. The prover must refute
// each.
#pragma once

#include "tests/prove/proof.h"

#include <span>
#include <string>
#include <string_view>

namespace ujit::prove {

struct Plant {
  std::string_view name;
  std::string_view code;     ///< body of the subprogram, in assembler syntax
  std::string_view from, to; ///< first occurrence in the IR's text is replaced
};

std::span<const Plant> plants();

/// True if the untouched IR is proved and the planted one refuted. `line`: what was found, ending its line.
bool notices(const Plant &plant, z3::context &solver, std::string &line);

} // namespace ujit::prove
