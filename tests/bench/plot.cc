#include "tests/bench/plot.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>

namespace ujit {

namespace {

using llvm::formatv;

/// Apart from each other in hue and lightness, so that neighbours in a bar can be told.
constexpr const char *colours[] = {"#b8bfc7", "#1f4e8c", "#e8912d", "#3a9a5b", "#c2384a",
                                   "#7a5bb0", "#f0c808", "#19a7a0", "#8a5a3c", "#e377c2",
                                   "#7fb3e6", "#a3c644", "#5b2333", "#ff8a70", "#0b6e4f",
                                   "#b39ddb", "#6b6b00", "#00324a", "#d4a373", "#444444"};

std::string escaped(const std::string &text) {
  std::string out;
  for (char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

class Svg {
public:
  Svg(int width, int height, const std::string &title) {
    os_ << formatv("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
                   "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" "
                   "fill=\"white\"/>\n",
                   width, height);
    text(width / 2.0, 20, title, "middle", 14);
  }
  void rect(double x, double y, double w, double h, const char *fill) {
    os_ << formatv("<rect x=\"{0:F1}\" y=\"{1:F1}\" width=\"{2:F1}\" height=\"{3:F1}\" fill=\"{4}\"/>\n", x,
                   y, w, h, fill);
  }
  void line(double x1, double y1, double x2, double y2, const char *stroke, double width = 1) {
    os_ << formatv("<line x1=\"{0:F1}\" y1=\"{1:F1}\" x2=\"{2:F1}\" y2=\"{3:F1}\" stroke=\"{4}\" "
                   "stroke-width=\"{5:F1}\"/>\n",
                   x1, y1, x2, y2, stroke, width);
  }
  void circle(double x, double y, const char *fill) {
    os_ << formatv("<circle cx=\"{0:F1}\" cy=\"{1:F1}\" r=\"3\" fill=\"{2}\"/>\n", x, y, fill);
  }
  void text(double x, double y, const std::string &t, const char *anchor = "start", int size = 12) {
    os_ << formatv("<text x=\"{0:F1}\" y=\"{1:F1}\" text-anchor=\"{2}\" font-size=\"{3}\">{4}</text>\n", x, y,
                   anchor, size, escaped(t));
  }
  std::string finish() {
    os_ << "</svg>\n";
    return std::move(text_);
  }

private:
  std::string text_;
  llvm::raw_string_ostream os_{text_};
};

std::string general(double v) {
  char text[32];
  snprintf(text, sizeof text, "%g", v);
  return text;
}

std::string short_number(double v) { return general(std::round(v * 100) / 100); }

} // namespace

std::string plot_bars(const std::string &title, const std::string &unit, const std::vector<Bar> &bars,
                      double reference) {
  constexpr int left = 150, right = 90, row = 24, width = 860;
  std::vector<std::string> names;
  double most = reference;
  for (const Bar &b : bars) {
    double sum = 0;
    for (const auto &[name, value] : b.parts) {
      sum += value;
      if (value > 0 && std::find(names.begin(), names.end(), name) == names.end())
        names.push_back(name);
    }
    most = std::max(most, sum);
  }
  const int legend_rows = int(names.size() + 2) / 3, top = 34;
  const int bottom = top + row * int(bars.size()) + 24, height = bottom + legend_rows * 18 + 12;
  const double scale = (width - left - right) / (most > 0 ? most : 1);
  Svg svg(width, height, title);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double y = top + row * double(i);
    double x = left;
    svg.text(left - 8, y + 15, bars[i].label, "end");
    for (const auto &[name, value] : bars[i].parts) {
      if (value <= 0)
        continue;
      const size_t colour = size_t(std::find(names.begin(), names.end(), name) - names.begin());
      svg.rect(x, y + 3, value * scale, row - 7, colours[colour % std::size(colours)]);
      x += value * scale;
    }
    svg.text(x + 6, y + 15, bars[i].text);
  }
  const double at = left + reference * scale;
  svg.line(at, top, at, bottom - 20, "#222222");
  svg.text(at, bottom - 6, short_number(reference) + " " + unit, "middle", 11);
  for (size_t i = 0; i < names.size(); ++i) {
    const double x = left + double(i % 3) * 230, y = bottom + double(i / 3) * 18;
    svg.rect(x, y, 12, 12, colours[i % std::size(colours)]);
    svg.text(x + 18, y + 10, names[i], "start", 11);
  }
  return svg.finish();
}

std::string plot_lines(const std::string &title, const std::string &x_name, const std::string &y_name,
                       const std::vector<Series> &series) {
  constexpr double width = 760, height = 460, left = 80, right = 200, top = 40, bottom = 50;
  double x0 = 1e300, x1 = 1e-300, y0 = 1e300, y1 = 1e-300;
  for (const Series &s : series)
    for (const auto &[x, y] : s.points) {
      x0 = std::min(x0, x), x1 = std::max(x1, x);
      y0 = std::min(y0, y), y1 = std::max(y1, y);
    }
  if (x0 > x1)
    return Svg(int(width), int(height), title).finish();
  auto decade = [](double v, double step) {
    return std::pow(10, step > 0 ? std::ceil(std::log10(v)) : std::floor(std::log10(v)));
  };
  y0 = decade(y0, -1), y1 = decade(y1 * 1.0001, 1), x1 = decade(x1, 1), x0 = decade(x0, -1);
  auto at_x = [&](double x) { return left + (width - left - right) * std::log(x / x0) / std::log(x1 / x0); };
  auto at_y = [&](double y) {
    return height - bottom - (height - top - bottom) * std::log(y / y0) / std::log(y1 / y0);
  };
  Svg svg(int(width), int(height), title);
  for (double x = x0; x <= x1 * 1.001; x *= 10) {
    svg.line(at_x(x), top, at_x(x), height - bottom, "#dddddd");
    svg.text(at_x(x), height - bottom + 16, general(x), "middle", 11);
  }
  for (double y = y0; y <= y1 * 1.001; y *= 10) {
    svg.line(left, at_y(y), width - right, at_y(y), "#dddddd");
    svg.text(left - 6, at_y(y) + 4, general(y), "end", 11);
  }
  svg.text((left + width - right) / 2, height - 12, x_name, "middle");
  svg.text(left, top - 8, y_name);
  for (size_t i = 0; i < series.size(); ++i) {
    const char *colour = colours[(i + 1) % std::size(colours)];
    const auto &points = series[i].points;
    for (size_t p = 0; p < points.size(); ++p) {
      svg.circle(at_x(points[p].first), at_y(points[p].second), colour);
      if (p)
        svg.line(at_x(points[p - 1].first), at_y(points[p - 1].second), at_x(points[p].first),
                 at_y(points[p].second), colour, 1.5);
    }
    svg.rect(width - right + 14, top + double(i) * 20, 12, 12, colour);
    svg.text(width - right + 32, top + double(i) * 20 + 10, series[i].name, "start", 11);
  }
  return svg.finish();
}

PowerFit fit_power(const std::vector<std::pair<double, double>> &points) {
  double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const auto &[x, y] : points)
    if (x > 0 && y > 0) {
      const double lx = std::log(x), ly = std::log(y);
      n += 1, sx += lx, sy += ly, sxx += lx * lx, sxy += lx * ly;
    }
  if (n < 2 || n * sxx == sx * sx)
    return {};
  const double exponent = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  return {std::exp((sy - exponent * sx) / n), exponent};
}

} // namespace ujit
