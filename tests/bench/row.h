// One pipeline of the benchmark and what was measured of it; kept in a file from one run to the next, so that
// a run that was interrupted goes on where it was.
#pragma once

#include "lto/bench.h"

#include <optional>
#include <string>
#include <vector>

namespace ujit {

struct Workload {
  std::string name;
  std::string folder; ///< in the build folder
  std::string packets;
  bool single = false; ///< a program without tail calls: compared with C
  bool forms = true;   ///< there are one-program and C forms of it
  std::string label() const;
};

std::vector<Workload> workloads();

struct Row {
  Workload workload;
  std::optional<BenchResult> result;
  std::string failed; ///< why there is none
};

/// Names everything that a measurement depends on: contents of the files, and this program itself. Files that
/// are not there are left out.
std::string key_of(const std::vector<std::string> &files, const std::string &settings);

Error keep_result(const std::string &path, const std::string &key, const BenchResult &result);
/// None: there is no such file, or it was measured under another key.
std::optional<BenchResult> kept_result(const std::string &path, const std::string &key);

} // namespace ujit
