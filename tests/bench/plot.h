// Figures as SVG, written directly.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace ujit {

/// One horizontal bar made of parts, each with the colour of its name.
struct Bar {
  std::string label, text; ///< `text` stands behind the bar
  std::vector<std::pair<std::string, double>> parts;
};

/// `reference`: where a vertical line stands.
std::string plot_bars(const std::string &title, const std::string &unit, const std::vector<Bar> &bars,
                      double reference);

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points; ///< positive
};

/// Both axes logarithmic.
std::string plot_lines(const std::string &title, const std::string &x, const std::string &y,
                       const std::vector<Series> &series);

/// y = factor * x^exponent by least squares on logarithms.
struct PowerFit {
  double factor = 0, exponent = 0;
};
PowerFit fit_power(const std::vector<std::pair<double, double>> &points);

} // namespace ujit
