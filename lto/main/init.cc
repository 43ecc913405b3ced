// init: a first manifest for bare objects.
#include "lto/main/command.h"

#include "lto/init.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <filesystem>
#include <memory>

namespace ujit {

namespace {

/// "edge_lb.bpf.o" -> "edge_lb".
std::string pipeline_name(llvm::StringRef path) {
  llvm::StringRef name = llvm::sys::path::filename(path);
  name.consume_back(".o");
  name.consume_back(".bpf");
  return name.empty() ? "pipeline" : name.str();
}

Error check_output(const std::string &output, bool force) {
  if (!output.empty() && output != "-" && !force && llvm::sys::fs::exists(output))
    return input_error("exists already").in_file(output).with_hint("--force replaces it").error();
  return Error::success();
}

Expected<int> write_first_manifest(const std::vector<std::string> &paths, const std::string &output,
                                   bool force) {
  std::vector<Object> objects;
  std::vector<Error> errors;
  for (const std::string &path : paths) {
    Expected<Object> o = read_object_file(path);
    if (o)
      objects.push_back(std::move(*o));
    else
      errors.push_back(o.takeError());
  }
  if (Error e = join_sorted(std::move(errors)))
    return e;
  // A manifest names its objects from its own folder.
  for (Object &o : objects)
    if (!output.empty() && output != "-" && std::filesystem::path(o.path).is_relative()) {
      std::error_code ec;
      const auto from = std::filesystem::absolute(output, ec).parent_path();
      if (const auto relative = std::filesystem::relative(o.path, from, ec); !ec && !relative.empty())
        o.path = relative;
    }
  if (Error e = check_output(output, force))
    return e;
  if (Error e = put_text(output, first_manifest(objects, pipeline_name(paths.front()))))
    return e;
  return exit_done;
}

Expected<int> write_running_manifest(const std::string &interface, const std::string &output, bool force) {
  Expected<std::string> text = running_manifest(interface);
  if (!text)
    return text.takeError();
  if (Error e = check_output(output, force))
    return e;
  if (Error e = put_text(output, *text))
    return e;
  return exit_done;
}

} // namespace

void add_init(CLI::App &app, Action &action) {
  auto objects = std::make_shared<std::vector<std::string>>();
  auto output = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  auto interface = std::make_shared<std::string>();
  CLI::App *command =
      app.add_subcommand("init", "Write a first manifest for eBPF objects, or for what runs on an interface");
  CLI::Option_group *source = command->add_option_group("source", "what the manifest is for");
  source->add_option("OBJECTS", *objects, "eBPF ELF objects");
  source->add_option("--interface", *interface,
                     "The XDP and tc programs that are attached to this interface now");
  source->require_option(1);
  command->add_option("-o,--output", *output, "The manifest (default: standard output)");
  command->add_flag("--force", *force, "Replace an existing manifest");
  command->callback([=, &action] {
    action = [=] {
      return interface->empty() ? write_first_manifest(*objects, *output, *force)
                                : write_running_manifest(*interface, *output, *force);
    };
  });
}

} // namespace ujit
