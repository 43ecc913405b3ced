// check: is the fused image what the chain was?
#include "lto/main/command.h"

#include "lto/check.h"
#include "lto/check_bisect.h"
#include "lto/main/input.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <map>
#include <memory>

namespace ujit {

namespace {

struct CheckCommand : PacketArguments {
  bool no_kernel = false, json = false, bisect = false;

  Expected<int> run() const;
};

void print_text(const std::string &name, const CheckResult &r, llvm::raw_ostream &os) {
  for (const Difference &d : r.differences)
    os << print_difference(d);
  std::string ran;
  for (const CheckedExecutor &e : r.executors)
    if (e.left_out.empty())
      ran += (ran.empty() ? "" : ", ") + e.name;
  os << llvm::formatv("{0}: {1} packets through {2}: ", name, r.packets, ran);
  if (r.total_differences)
    os << llvm::formatv("{0} differences\n", r.total_differences);
  else
    os << "no difference\n";
  for (const CheckedExecutor &e : r.executors)
    if (!e.left_out.empty())
      os << llvm::formatv("  {0} left out: {1}\n", e.name, e.left_out);
  std::map<std::string, std::pair<size_t, size_t>> reasons; // first packet, how many
  for (const auto &[packet, reason] : r.not_checked) {
    auto &[first, count] = reasons.try_emplace(reason, packet, 0).first->second;
    ++count;
  }
  for (const auto &[reason, where] : reasons)
    os << llvm::formatv("  {0} packets not checked (first: {1}): {2}\n", where.second, where.first + 1,
                        reason);
  if (r.total_differences)
    for (const std::string &note : r.notes)
      os << "  note: " << note << '\n';
}

void print_json(const std::string &name, const std::string &entry, const CheckResult &r,
                const std::optional<Bisection> &bisection, llvm::raw_ostream &os) {
  llvm::json::OStream j(os, 2);
  j.object([&] {
    j.attribute("name", name);
    j.attribute("entry", entry);
    j.attribute("packets", int64_t(r.packets));
    j.attribute("differences", int64_t(r.total_differences));
    j.attributeArray("executors", [&] {
      for (const CheckedExecutor &e : r.executors)
        j.object([&] {
          j.attribute("name", e.name);
          j.attribute("ran", e.left_out.empty());
          j.attribute("reason", e.left_out);
        });
    });
    j.attributeArray("first_differences", [&] {
      for (const Difference &d : r.differences)
        j.object([&] {
          if (d.packet)
            j.attribute("packet", int64_t(*d.packet + 1));
          j.attribute("field", d.field);
          j.attribute(d.left, d.left_value);
          j.attribute(d.right, d.right_value);
        });
    });
    j.attributeArray("not_checked", [&] {
      for (const auto &[packet, reason] : r.not_checked)
        j.object([&] {
          j.attribute("packet", int64_t(packet + 1));
          j.attribute("reason", reason);
        });
    });
    j.attributeArray("notes", [&] {
      for (const std::string &note : r.notes)
        j.value(note);
    });
    if (bisection)
      j.attribute("bisection", json_of(*bisection));
  });
  os << '\n';
}

Expected<int> CheckCommand::run() const {
  Expected<PacketInput> in = read_packet_input(manifest, packets);
  if (!in)
    return in.takeError();
  Expected<ProgId> chosen = choose_entry(in->pipeline, entry);
  if (!chosen)
    return chosen.takeError();
  in->options.progress = progress_line();
  Expected<CheckResult> result = check(in->execution(*chosen), in->options, !no_kernel);
  std::optional<Bisection> bisection;
  if (bisect && (!result || result->total_differences)) { // code that faults is an error of check()
    auto found = ujit::bisect(in->execution(*chosen), in->options);
    if (found)
      bisection = std::move(*found);
    else
      llvm::consumeError(found.takeError());
  }
  std::string text;
  llvm::raw_string_ostream os(text);
  if (!result) {
    if (bisection && json)
      os << llvm::formatv("{0:2}\n",
                          llvm::json::Value(llvm::json::Object{{"bisection", json_of(*bisection)}}));
    else if (bisection)
      print_bisection(*bisection, os);
    if (Error e = put_text({}, text))
      return llvm::joinErrors(result.takeError(), std::move(e));
    return with_place(result.takeError(), manifest);
  }
  if (json) {
    print_json(in->manifest.name, in->pipeline[*chosen].name, *result, bisection, os);
  } else {
    print_text(in->manifest.name, *result, os);
    if (bisection)
      print_bisection(*bisection, os);
  }
  if (Error e = put_text({}, text))
    return e;
  return result->total_differences ? exit_input : exit_done;
}

} // namespace

void add_check(CLI::App &app, Action &action) {
  auto c = std::make_shared<CheckCommand>();
  CLI::App *command =
      app.add_subcommand("check", "Compare fused code with interpreter, unfused code and the running kernel");
  c->add_to(*command);
  command->add_flag("--no-kernel", c->no_kernel, "Leave the running kernel out");
  command->add_flag("--bisect", c->bisect, "Name the edge, optimisation or pass behind a difference");
  command->add_flag("--json", c->json, "Print JSON");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
