#include "lto/main/command.h"

#include "lto/output_file.h"

#include "llvm/Support/raw_ostream.h"

#include <unistd.h>

#include <csignal>

namespace ujit {

int report_errors(Error errors) {
  int code = exit_input;
  llvm::handleAllErrors(
      std::move(errors),
      [&](const LinkError &e) {
        llvm::errs() << "ujit-lto: error: ";
        e.log(llvm::errs());
        llvm::errs() << '\n';
        if (e.kind == ErrorKind::internal)
          code = exit_bug;
      },
      [&](const llvm::ErrorInfoBase &e) {
        llvm::errs() << "ujit-lto: error: " << e.message() << '\n';
        code = exit_bug;
      });
  if (code == exit_bug)
    llvm::errs() << ">>> this is a bug of ujit-lto: please report it with the input that shows it\n";
  return code;
}

std::function<void(std::string_view, size_t, size_t)> progress_line() {
  if (!isatty(STDERR_FILENO))
    return {};
  return [](std::string_view phase, size_t done, size_t total) {
    llvm::errs() << "\r\x1b[K";
    if (done < total)
      llvm::errs() << phase << ' ' << done << '/' << total;
  };
}

Error put_text(const std::string &path, std::string_view text) {
  if (!path.empty() && path != "-")
    return write_file(path, text);
  llvm::outs() << text;
  llvm::outs().flush();
  if (const std::error_code ec = llvm::outs().error()) {
    llvm::outs().clear_error();
    if (ec != std::errc::broken_pipe)
      return input_error("cannot write to standard output: " + ec.message()).error();
  }
  return Error::success();
}

} // namespace ujit

int main(int argc, char **argv) {
  using namespace ujit;
  std::signal(SIGPIPE, SIG_IGN);

  CLI::App app("Cross-linker for tail-called eBPF programs: fuses a datapath into one native image.",
               "ujit-lto");
  app.set_version_flag("--version", "ujit-lto " UJIT_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  app.get_formatter()->column_width(34);
  app.footer("Exit codes: 0 done, 1 the input is wrong or unsupported, 2 a bug of ujit-lto, 64 wrong usage.");

  Action action;
  add_init(app, action);
  add_link(app, action);
  add_graph(app, action);
  add_run(app, action);
  add_check(app, action);
  add_check_install(app, action);
  add_bench(app, action);
  add_install(app, action);
  add_status(app, action);
  add_estimate(app, action);
  add_symbolize(app, action);
  add_doctor(app, action);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &help) {
    return app.exit(help);
  } catch (const CLI::ParseError &wrong) {
    llvm::errs() << "ujit-lto: error: " << wrong.what() << "\n>>> hint: see `ujit-lto --help`\n";
    return exit_usage;
  }

  Expected<int> code = action();
  return code ? *code : report_errors(code.takeError());
}
