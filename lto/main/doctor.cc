// doctor: what this machine can do, and why not.
#include "lto/main/command.h"

#include "kernel-iface/linux/capabilities.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

std::string as_text(const Capabilities &capabilities) {
  std::string out;
  llvm::raw_string_ostream os(out);
  for (const Capability *c : capabilities.items()) {
    os << llvm::formatv("{0,-4} {1,-16} {2}", c->ok ? "ok" : "--", c->name, c->value);
    if (!c->reason.empty())
      os << (c->value.empty() ? "" : ": ") << c->reason;
    os << '\n';
  }
  return out;
}

std::string as_json(const Capabilities &capabilities) {
  std::string out;
  llvm::raw_string_ostream os(out);
  llvm::json::OStream json(os, 2);
  json.array([&] {
    for (const Capability *c : capabilities.items())
      json.object([&] {
        json.attribute("name", c->name);
        json.attribute("ok", c->ok);
        json.attribute("value", c->value);
        json.attribute("reason", c->reason);
      });
  });
  os << '\n';
  return out;
}

} // namespace

void add_doctor(CLI::App &app, Action &action) {
  auto json = std::make_shared<bool>(false);
  CLI::App *command = app.add_subcommand("doctor", "Tell what this machine can do, and why not");
  command->add_flag("--json", *json, "Print JSON");
  command->callback([=, &action] {
    action = [=]() -> Expected<int> {
      const Capabilities capabilities = probe_capabilities();
      if (Error e = put_text({}, *json ? as_json(capabilities) : as_text(capabilities)))
        return e;
      return exit_done;
    };
  });
}

} // namespace ujit
