// The command line's frame: each command adds itself to the parser and leaves an action, which main() runs
// and whose result becomes the exit code.
#pragma once

#include "translator/error.h"

#include "CLI/CLI.hpp"

#include <functional>
#include <string>

namespace ujit {

/// Exit codes; what a command returns beside an Error.
enum ExitCode : int {
  exit_done = 0,
  exit_input = 1, ///< the input is wrong or unsupported, a gate was passed, a difference was found
  exit_bug = 2,   ///< an invariant of ours did not hold
  exit_usage = 64,
};

/// What the chosen command does; set by its parser callback.
using Action = std::function<Expected<int>()>;

void add_init(CLI::App &app, Action &action);
void add_link(CLI::App &app, Action &action);
void add_graph(CLI::App &app, Action &action);
void add_run(CLI::App &app, Action &action);
void add_check(CLI::App &app, Action &action);
void add_check_install(CLI::App &app, Action &action);
void add_bench(CLI::App &app, Action &action);
void add_install(CLI::App &app, Action &action); ///< and enable, disable, uninstall
void add_status(CLI::App &app, Action &action);  ///< and list, watch
void add_estimate(CLI::App &app, Action &action);
void add_symbolize(CLI::App &app, Action &action);
void add_doctor(CLI::App &app, Action &action);

/// Prints every error as `ujit-lto: error: ...` to stderr. Returns exit_bug if one is internal, else
/// exit_input.
int report_errors(Error errors);

/// The progress line of `link()` on a terminal; an empty function where stderr is not one.
std::function<void(std::string_view phase, size_t done, size_t total)> progress_line();

/// What `status` says of an installation. Errors: nothing of this name; missing privileges.
Expected<std::string> status_text(const std::string &name, bool json);

/// Text to stdout, or to `path` as a whole file where one is given.
Error put_text(const std::string &path, std::string_view text);

} // namespace ujit
