// graph: the call graph of a manifest or of bare objects, drawn.
#include "lto/main/command.h"

#include "lto/kernel_pipeline.h"
#include "lto/load.h"

#include "graph/draw.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

struct GraphCommand {
  std::vector<std::string> inputs;
  std::string format = "text", output;
  bool from_kernel = false;

  Expected<int> run() const;
  Expected<int> run_from_kernel(const Manifest &manifest) const;
  Expected<std::string> draw(const Pipeline &pipeline, const CallGraph &graph) const;
};

bool is_manifest(llvm::StringRef path) { return path.ends_with(".yaml") || path.ends_with(".yml"); }

Expected<std::string> GraphCommand::draw(const Pipeline &pipeline, const CallGraph &graph) const {
  std::string text;
  llvm::raw_string_ostream os(text);
  if (format == "svg") {
    if (Error e = write_svg(pipeline, graph, os))
      return e;
  } else {
    (format == "dot" ? draw_dot : format == "json" ? draw_json : draw_text)(pipeline, graph, os);
  }
  return text;
}

/// The graph of the verified programs, one behind the other where entries have several types.
Expected<int> GraphCommand::run_from_kernel(const Manifest &manifest) const {
  Expected<KernelSource> source = read_kernel_source(manifest);
  if (!source)
    return source.takeError();
  std::string all;
  for (const KernelPipeline &k : source->pipelines) {
    Expected<CallGraph> graph = analyse(k.canonical.pipeline, k.options);
    if (!graph)
      return graph.takeError();
    Expected<std::string> text = draw(k.canonical.pipeline, *graph);
    if (!text)
      return text.takeError();
    all += *text;
  }
  if (Error e = put_text(output, all))
    return e;
  return exit_done;
}

Expected<int> GraphCommand::run() const {
  Manifest manifest;
  Expected<Pipeline> pipeline = Pipeline();
  if (!is_manifest(inputs.front())) {
    pipeline = load_objects(inputs);
  } else if (inputs.size() > 1) {
    return input_error("a manifest stands alone: its objects are named inside")
        .in_file(inputs.front())
        .error();
  } else {
    Expected<Manifest> m = read_manifest(inputs.front());
    if (!m)
      return m.takeError();
    manifest = std::move(*m);
    if (from_kernel || manifest.objects.empty())
      return run_from_kernel(manifest);
    pipeline = load_pipeline(manifest);
  }
  if (!pipeline)
    return pipeline.takeError();
  Expected<LinkOptions> options = link_options(manifest, *pipeline);
  if (!options)
    return options.takeError();
  Expected<CallGraph> graph = analyse(*pipeline, *options);
  if (!graph)
    return graph.takeError();
  Expected<std::string> text = draw(*pipeline, *graph);
  if (!text)
    return text.takeError();
  if (Error e = put_text(output, *text))
    return e;
  return exit_done;
}

} // namespace

void add_graph(CLI::App &app, Action &action) {
  auto c = std::make_shared<GraphCommand>();
  CLI::App *command = app.add_subcommand("graph", "Draw the tail calls of a manifest or of bare objects");
  command->add_option("INPUT", c->inputs, "A manifest (*.yaml), or eBPF objects")->required();
  command->add_option("--format", c->format, "text, dot, svg or json")
      ->check(CLI::IsMember({"text", "dot", "svg", "json"}));
  command->add_flag("--from-kernel", c->from_kernel,
                    "Of the verified programs: loads the manifest's objects into the running kernel first");
  command->add_option("-o,--output", c->output, "File (default: standard output)");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
