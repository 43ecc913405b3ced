// What the benchmark writes: JSON, tables, figures.
#pragma once

#include "tests/bench/row.h"
#include "tests/bench/scaling.h"

#include <vector>

namespace ujit {

struct Results {
  std::vector<Row> rows;
  std::vector<LinkPoint> by_programs, by_threads, large;
};

/// One JSON object: summary, pipelines, scaling.
std::string print_results(const Results &results);
/// Markdown. A row a pipeline: times, speeds, instructions.
std::string print_table(const Results &results);
/// The same with fewer columns.
std::string print_short_table(const Results &results);
/// What each optimisation saves, in instructions of own code.
std::string print_optimisations(const Results &results);
/// Link time and memory.
std::string print_scaling(const Results &results);

std::string plot_speedups(const Results &results);
std::string plot_scaling(const Results &results);
std::string plot_threads(const Results &results);

} // namespace ujit
