// estimate: what fusing what runs now would give, what stands in its way, what it costs. Nothing is attached
// or loaded but a manifest's own objects.
#include "lto/main/command.h"

#include "kernel-iface/linux/maps.h"
#include "lto/init.h"
#include "lto/kernel_pipeline.h"
#include "lto/report.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <bpf/bpf.h>
#include <sys/resource.h>

#include <chrono>
#include <memory>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

struct Estimate {
  std::string type;
  LinkReport report;
  uint64_t kernel_code_bytes = 0; ///< the kernel JIT's code of the programs that would be fused
  uint32_t kernel_programs = 0;
  size_t module_bytes = 0; ///< 0: the kernel takes no modules
  double seconds = 0;      ///< to capture, link and write the module
  std::vector<std::string> blockers;
};

Expected<uint64_t> jited_bytes(const CapturedProgram &p) {
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(p.fd.get(), &info, &size))
    return bpf_error(-e, "asking for the code of " + p.name).error();
  return uint64_t(info.jited_prog_len);
}

Expected<Estimate> estimate(const KernelPipeline &k, const ModuleKernel &kernel, const LinkOptions &options) {
  const auto start = std::chrono::steady_clock::now();
  Expected<KernelImage> image = link_for_kernel(k, kernel, options);
  if (!image)
    return image.takeError();
  Estimate e;
  if (kernel.refusal.empty()) {
    Expected<std::vector<uint8_t>> module = write_module(image->spec, kernel);
    if (!module)
      return module.takeError();
    e.module_bytes = module->size();
  }
  e.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  e.type = name_of(k.type);
  e.report = make_report(k.canonical.pipeline, image->link, k.options.name);
  for (size_t p : k.canonical.programs) {
    Expected<uint64_t> bytes = jited_bytes(k.capture.programs[p]);
    if (!bytes)
      return bytes.takeError();
    e.kernel_code_bytes += *bytes;
    ++e.kernel_programs;
  }
  if (!kernel.refusal.empty())
    e.blockers.push_back(kernel.refusal);
  for (const CanonicalPipeline::Unfused &u : k.canonical.unfused)
    e.blockers.push_back(k.capture.programs[u.program].name + " stays unfused: " + u.reason);
  for (const auto &[program, reason] : e.report.unfused_reasons)
    e.blockers.push_back(program + " stays unfused: " + reason);
  for (uint32_t m = 0; m < k.canonical.maps.size(); ++m)
    if (const CapturedMap &map = k.captured(MapId(m)); map.type == MapType::prog_array && !map.frozen)
      e.blockers.push_back(formatv("prog array {0} is not frozen: its {1} slots are compared at each call",
                                   k.canonical.pipeline.maps[m].name, map.prog_slots.size()));
  return e;
}

void print(const Estimate &e, llvm::raw_ostream &os) {
  const LinkReport &r = e.report;
  const uint32_t direct = r.edges_inlined + r.edges_cloned + r.edges_direct;
  os << formatv("{0} ({1}): {2} programs\n", r.name, e.type, e.kernel_programs);
  os << formatv(
      "  gain        {0} of {1} tail calls become jumps or disappear; code {2} -> {3} bytes ({4:P0})\n",
      direct, direct + r.unfused_edges, e.kernel_code_bytes, r.code_bytes,
      e.kernel_code_bytes ? double(r.code_bytes) / double(e.kernel_code_bytes) : 0.0);
  for (const std::string &b : e.blockers)
    os << "  blocker     " << b << '\n';
  os << formatv("  cost        {0:F0} ms to link, {1} bytes of code, {2} bytes of stack", e.seconds * 1e3,
                r.code_bytes, r.stack_bytes);
  if (e.module_bytes)
    os << formatv(", {0} bytes of module", e.module_bytes);
  os << '\n';
}

json::Value to_json(const Estimate &e) {
  json::Object o;
  o["type"] = e.type;
  o["programs"] = e.kernel_programs;
  o["tail-calls-fused"] = e.report.edges_inlined + e.report.edges_cloned + e.report.edges_direct;
  o["tail-calls-left"] = e.report.unfused_edges;
  o["kernel-code-bytes"] = int64_t(e.kernel_code_bytes);
  o["code-bytes"] = int64_t(e.report.code_bytes);
  o["module-bytes"] = int64_t(e.module_bytes);
  o["stack-bytes"] = e.report.stack_bytes;
  o["link-seconds"] = e.seconds;
  o["blockers"] = json::Array(e.blockers);
  return o;
}

Expected<int> run(const std::string &path, const std::string &interface, bool as_json) {
  Expected<Manifest> manifest = Manifest();
  if (interface.empty()) {
    manifest = read_manifest(path);
  } else {
    Expected<std::string> text = running_manifest(interface);
    if (!text)
      return text.takeError();
    manifest = parse_manifest(*text, interface);
  }
  if (!manifest)
    return manifest.takeError();
  Expected<ModuleKernel> kernel = read_module_kernel();
  if (!kernel)
    return kernel.takeError();
  Expected<KernelSource> source = read_kernel_source(*manifest);
  if (!source)
    return source.takeError();
  std::string text;
  llvm::raw_string_ostream os(text);
  json::Array all;
  for (const KernelPipeline &k : source->pipelines) {
    LinkOptions options = k.options;
    options.progress = progress_line();
    Expected<Estimate> e = estimate(k, *kernel, options);
    if (!e)
      return e.takeError();
    print(*e, os);
    all.push_back(to_json(*e));
  }
  if (as_json)
    text = formatv("{0:2}\n", json::Value(std::move(all)));
  if (Error e = put_text({}, text))
    return e;
  return exit_done;
}

} // namespace

void add_estimate(CLI::App &app, Action &action) {
  auto manifest = std::make_shared<std::string>();
  auto interface = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App *command = app.add_subcommand(
      "estimate", "What fusing would give, what stands in its way, what it costs; attaches nothing");
  CLI::Option_group *source = command->add_option_group("source", "what would be fused");
  source->add_option("MANIFEST", *manifest, "A manifest, *.ujit.yaml");
  source->add_option("--interface", *interface, "What is attached to this interface now");
  source->require_option(1);
  command->add_flag("--json", *as_json, "Print JSON");
  command->callback([=, &action] { action = [=] { return run(*manifest, *interface, *as_json); }; });
}

} // namespace ujit
