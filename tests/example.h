#pragma once

#include "lto/load.h"

#include <optional>
#include <string>

namespace ujit {

/// A pipeline of the example datapath, as a manifest of this build folder gives it.
struct Example {
  Manifest manifest;
  Pipeline pipeline;
  LinkOptions options;
};

/// `name`: edge-lb or edge-lb-tc. Nothing: it is not built, without a compiler for BPF.
std::optional<Example> read_example(const std::string &name);

} // namespace ujit
