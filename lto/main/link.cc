// link: fuse, write the image or the bundle, print the report, hold the gates.
#include "lto/main/command.h"

#include "lto/bundle.h"
#include "lto/explain.h"
#include "lto/kernel_pipeline.h"
#include "lto/load.h"
#include "lto/output_file.h"
#include "lto/report.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

struct LinkCommand {
  std::string manifest, output, save_temps;
  std::vector<std::string> disabled;
  unsigned threads = 0;
  bool bundle = false, json = false, stats = false, no_debug = false, from_kernel = false, explain = false;

  Expected<int> run() const;
  Expected<int> run_from_kernel(const Manifest &m) const;
  void set(LinkOptions &options) const;
  Error print(const LinkReport &report, const Pipeline &pipeline, const LinkResult &result,
              const LinkOptions &options) const;
};

void LinkCommand::set(LinkOptions &options) const {
  options.threads = threads;
  options.save_temps = save_temps;
  options.disabled = disabled;
  options.debug_info = !no_debug;
  options.progress = progress_line();
}

Error LinkCommand::print(const LinkReport &report, const Pipeline &pipeline, const LinkResult &result,
                         const LinkOptions &options) const {
  std::string text;
  llvm::raw_string_ostream os(text);
  std::vector<Explanation> explanations;
  std::vector<OptimisationEffect> effects;
  if (explain) {
    explanations = ujit::explain(pipeline, result, options);
    Expected<std::vector<OptimisationEffect>> found = explain_optimisations(pipeline, result, options);
    if (!found)
      return found.takeError();
    effects = std::move(*found);
  }
  if (!json) {
    print_report(report, stats, os);
    print_explanations(explanations, os);
    print_explanations(effects, os);
    return put_text({}, text);
  }
  print_report_json(report, stats, os);
  if (!explain)
    return put_text({}, text);
  llvm::json::Object all;
  all["report"] = llvm::cantFail(llvm::json::parse(text));
  all["explanations"] = to_json(explanations);
  all["optimisations"] = to_json(effects);
  return put_text({}, llvm::formatv("{0:2}\n", llvm::json::Value(std::move(all))).str());
}

/// The verified programs of the running kernel, for that kernel. What is written holds no address of it.
Expected<int> LinkCommand::run_from_kernel(const Manifest &m) const {
  Expected<ModuleKernel> kernel = read_module_kernel();
  if (!kernel)
    return kernel.takeError();
  Expected<KernelSource> source = read_kernel_source(m);
  if (!source)
    return source.takeError();
  for (const KernelPipeline &k : source->pipelines) {
    LinkOptions options = k.options;
    set(options);
    Expected<KernelImage> image = link_for_kernel(k, *kernel, options);
    if (!image)
      return image.takeError();
    const LinkReport report = make_report(k.canonical.pipeline, image->link, m.name);
    if (Error e = print(report, k.canonical.pipeline, image->link, options))
      return e;
    if (Error e = check_gates(report, m.gates, m.file))
      return e;
    const std::string type = source->pipelines.size() > 1 ? "." + std::string(name_of(k.type)) : "";
    const std::string path = !output.empty() ? output + type : m.name + ".kernel" + type + ".ujit.o";
    if (Error e = write_file(path, image->link.image.object))
      return e;
    if (!json)
      if (Error e = put_text({}, "  written     " + path + "\n"))
        return e;
  }
  return exit_done;
}

Expected<int> LinkCommand::run() const {
  Expected<Manifest> m = read_manifest(manifest);
  if (!m)
    return m.takeError();
  if (from_kernel || m->objects.empty())
    return bundle ? input_error("a bundle is made from objects, not from the running kernel").error()
                  : run_from_kernel(*m);
  Expected<Pipeline> pipeline = load_pipeline(*m);
  if (!pipeline)
    return pipeline.takeError();
  Expected<LinkOptions> options = link_options(*m, *pipeline);
  if (!options)
    return options.takeError();
  set(*options);

  Expected<LinkResult> result = link(*pipeline, *options);
  if (!result)
    return result.takeError();
  const LinkReport report = make_report(*pipeline, *result, m->name);

  // The report comes first: it is what tells how far beyond a gate the build is.
  if (Error e = print(report, *pipeline, *result, *options))
    return e;
  if (Error e = check_gates(report, m->gates, m->file))
    return e;

  const std::string path = !output.empty() ? output : m->name + (bundle ? ".ujit" : ".ujit.o");
  if (Error e = bundle ? write_bundle(path, *m, *pipeline, *result, report)
                       : write_file(path, result->image.object))
    return e;
  if (!json)
    if (Error e = put_text({}, "  written     " + path + "\n"))
      return e;
  return exit_done;
}

} // namespace

void add_link(CLI::App &app, Action &action) {
  auto c = std::make_shared<LinkCommand>();
  CLI::App *command = app.add_subcommand("link", "Fuse the programs of a manifest into one native image");
  command->add_option("MANIFEST", c->manifest, "The manifest, *.ujit.yaml")->required();
  command->add_option("-o,--output", c->output,
                      "Image (default NAME.ujit.o), or folder of the bundle (default NAME.ujit)");
  command->add_flag(
      "--from-kernel", c->from_kernel,
      "Link what the running kernel has verified, for it: loads the objects, or takes what is attached");
  command->add_flag("--bundle", c->bundle,
                    "Write a folder with objects, manifest, image, plan, graph and report");
  command
      ->add_option("--threads", c->threads, "Threads; 0: as many as there are CPUs. Never changes the output")
      ->check(CLI::Range(0, 1024));
  command->add_option("--no-opt", c->disabled, "Leave an optimisation out (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--no-debug", c->no_debug, "Without debug information; the code is the same");
  command->add_option("--save-temps", c->save_temps, "Folder for the IR of each stage");
  command->add_flag(
      "--explain", c->explain,
      "Of each tail call, lookup and load of configuration: what became of it, and why not more; of each "
      "optimisation what it gives here (links once more for each, up to 10,000 instructions)");
  command->add_flag("--stats", c->stats, "Report the time of each phase as well");
  command->add_flag("--json", c->json, "Print the report as JSON");
  command->callback([=, &action] { action = [=] { return c->run(); }; });
}

} // namespace ujit
