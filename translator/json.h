// JSON that somebody else wrote.
#pragma once

#include "translator/error.h"

#include "llvm/Support/JSON.h"

namespace ujit {

/// LLVM's parser recurses into every bracket and would run out of stack: deeper than 32 is refused before it
/// begins. Nothing that is read here has more than six levels. Errors (input): not JSON; no place.
Expected<llvm::json::Value> parse_json(llvm::StringRef text);

} // namespace ujit
