#include "lto/install.h"

#include "kernel-iface/linux/drift.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>

#include <set>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

LinkOptions link_options_of(const KernelPipeline &k, const InstallOptions &options) {
  LinkOptions out = k.options;
  out.threads = options.threads;
  out.disabled = options.disabled;
  out.progress = options.progress;
  return out;
}

/// Prog arrays in the order of their pins.
std::vector<MapId> prog_arrays_of(const Pipeline &pipeline) {
  std::vector<MapId> out;
  for (uint32_t m = 0; m < pipeline.maps.size(); ++m)
    if (pipeline.maps[m].type == MapType::prog_array)
      out.push_back(MapId(m));
  return out;
}

/// What `status` and `watch` need of an image. Its prog arrays' pins are numbered from `first_array` on.
json::Object describe_image(const KernelPipeline &k, const KernelImage &image, size_t first_array) {
  json::Array programs, arrays, slots;
  std::set<uint32_t> fused;
  for (const ImageProgram &p : image.info.programs) {
    const std::optional<ProgId> id = k.canonical.pipeline.find_program(p.name);
    if (!id || image.link.plan[*id].role == PlannedProgram::unfused)
      continue;
    FusedProgram program{p.name, p.digest, k.captured(*id).id, {}};
    for (const CapturedFunction &f : k.captured(*id).functions)
      program.functions.push_back(f.name);
    fused.insert(program.id);
    programs.push_back(to_json(program));
  }
  for (MapId m : image.prog_arrays)
    arrays.push_back(k.canonical.pipeline[m].name);
  for (MapId m : prog_arrays_of(k.canonical.pipeline)) {
    const CapturedMap &map = k.captured(m);
    FusedArray array{k.canonical.pipeline[m].name,
                     prog_array_pin(first_array++),
                     map.id,
                     k.options.policies[index(m)].edges == EdgeKind::sealed,
                     {}};
    llvm::copy_if(map.prog_slots, std::back_inserter(array.slots),
                  [&](const auto &slot) { return fused.contains(slot.second); });
    slots.push_back(to_json(array));
  }
  const LinkReport r = make_report(k.canonical.pipeline, image.link, k.options.name);
  json::Object o;
  o["module"] = image.spec.name;
  o["programs"] = std::move(programs);
  o["prog-arrays"] = std::move(arrays);
  o["slots"] = std::move(slots);
  o["edges"] = json::Object{
      {"sealed", r.sealed}, {"guarded", r.guarded}, {"dispatched", r.dispatched}, {"left", r.left}};
  o["code-bytes"] = int64_t(r.code_bytes);
  o["stack-bytes"] = r.stack_bytes;
  o["frame-bytes"] = image.spec.frame_bytes;
  return o;
}

class Installer {
public:
  Installer(const Manifest &manifest, const InstallOptions &options)
      : manifest_(manifest), options_(options) {}

  Expected<Installed> run() {
    if (manifest_.attach.empty())
      return input_error("the manifest says nowhere to attach to")
          .in_file(manifest_.file)
          .with_hint("attach: [ { program: NAME, interface: eth0, hook: xdp } ]")
          .error();
    state_.name = options_.name.empty() ? manifest_.name : options_.name;
    if (Error e = InstallationFolder::check_free(state_.name))
      return e;
    if (Error e = prepare(/*to_load=*/true))
      return e;
    step("prepared");
    // Beyond this point everything is linked, and nothing has been changed but that the manifest's objects
    // are loaded.
    if (Error e = remember())
      return e;
    // Beyond this point uninstall finds all that we may leave behind.
    auto undo = llvm::make_scope_exit([&] {
      live_.clear(); // stubs first: they hold the modules
      if (Expected<Uninstalled> u = uninstall(state_.name); !u)
        llvm::consumeError(u.takeError());
    });
    if (Error e = load())
      return e;
    // Beyond this point stubs could be called; no packet goes there yet.
    if (Error e = swap())
      return e;
    undo.release();
    Installed out;
    out.state = state_;
    out.reports = std::move(reports_);
    return out;
  }

  Expected<DryRun> dry_run() {
    if (Error e = prepare(/*to_load=*/false))
      return e;
    DryRun out;
    for (size_t i = 0; i < images_.size() && kernel_->refusal.empty(); ++i) {
      Expected<std::vector<uint8_t>> ko = write_module(images_[i].spec, *kernel_);
      if (!ko)
        return ko.takeError();
      out.module_bytes.push_back(ko->size());
    }
    out.reports = std::move(reports_);
    if (!kernel_->refusal.empty())
      out.refusals.push_back(kernel_->refusal);
    return out;
  }

private:
  void step(std::string_view name) {
    if (options_.between)
      options_.between(name);
  }

  Error prepare(bool to_load) {
    Expected<ModuleKernel> kernel = read_module_kernel();
    if (!kernel)
      return kernel.takeError();
    kernel_ = std::move(*kernel);
    if (to_load && !kernel_->refusal.empty())
      return unsupported("this kernel takes no modules of ours: " + kernel_->refusal).error();
    Expected<KernelSource> source = read_kernel_source(manifest_);
    if (!source)
      return source.takeError();
    source_ = std::move(*source);
    for (const KernelPipeline &k : source_.pipelines) {
      Expected<KernelImage> image = link_for_kernel(k, *kernel_, link_options_of(k, options_));
      if (!image)
        return image.takeError();
      reports_.push_back(make_report(k.canonical.pipeline, image->link, manifest_.name));
      if (Error e = check_gates(reports_.back(), manifest_.gates, manifest_.file))
        return e;
      images_.push_back(std::move(*image));
    }
    return Error::success();
  }

  Error remember() {
    state_.tool = options_.tool;
    state_.phase = "installing";
    json::Array images;
    size_t arrays = 0;
    for (size_t p = 0; p < source_.pipelines.size(); ++p) {
      const KernelPipeline &k = source_.pipelines[p];
      state_.modules.push_back(images_[p].spec.name);
      images.push_back(describe_image(k, images_[p], arrays));
      arrays += prog_arrays_of(k.canonical.pipeline).size();
      for (size_t n = 0; n < k.entries.size(); ++n) {
        const KernelEntry &e = k.entries[n];
        InstalledEntry entry{k.canonical.pipeline[e.program].name, e.point, k.captured(e.program).id, 0,
                             e.fresh};
        if (e.fresh)
          if (Error error = choose_place(entry.point, state_.entries.size()))
            return error;
        state_.entries.push_back(std::move(entry));
        where_.push_back({p, n});
      }
    }
    state_.image["images"] = std::move(images);
    Expected<InstallationFolder> folder = InstallationFolder::create(state_);
    if (!folder)
      return folder.takeError();
    folder_ = std::move(*folder);
    step("remembered");
    return Error::success();
  }

  Error load() {
    Expected<Fd> kill_switch = make_kill_switch();
    if (!kill_switch)
      return kill_switch.takeError();
    if (Error e = pin(*kill_switch, switch_pin))
      return e;
    for (size_t p = 0; p < images_.size(); ++p) {
      Expected<LiveImage> live = bring_up(source_.pipelines[p], images_[p], *kernel_, *kill_switch);
      if (!live)
        return live.takeError();
      live_.push_back(std::move(*live));
      step("loaded");
    }
    // Prog arrays are emptied with their last user reference, which modules do not count as.
    size_t arrays = 0;
    for (size_t p = 0; p < images_.size(); ++p)
      for (MapId m : prog_arrays_of(source_.pipelines[p].canonical.pipeline))
        if (Error e = pin(source_.pipelines[p].captured(m).fd, prog_array_pin(arrays++)))
          return e;
    for (size_t i = 0; i < state_.entries.size(); ++i) {
      const auto [p, n] = where_[i];
      const KernelPipeline &k = source_.pipelines[p];
      LiveImage::Entry &entry = live_[p].entries[n];
      if (Error e = pin(k.captured(k.entries[n].program).fd, original_pin(i)))
        return e;
      if (Error e = pin(entry.originals, originals_pin(i)))
        return e;
      if (Error e = pin(entry.stub, stub_pin(i)))
        return e;
      bpf_prog_info info{};
      uint32_t size = sizeof info;
      if (int error = bpf_obj_get_info_by_fd(entry.stub.get(), &info, &size))
        return bpf_error(-error, "asking for a stub's id").error();
      state_.entries[i].stub_id = info.id;
    }
    for (size_t p = 0; p < live_.size(); ++p)
      if (live_[p].left)
        if (Error e = pin(live_[p].left, left_pin(p)))
          return e;
    for (size_t p = 0; p < images_.size(); ++p) {
      Expected<Fd> image = keep_bytes("ujit_image", images_[p].link.image.object);
      if (!image)
        return image.takeError();
      if (Error e = pin(*image, image_pin(p)))
        return e;
    }
    return write_state();
  }

  Error swap() {
    for (size_t i = 0; i < state_.entries.size(); ++i) {
      InstalledEntry &entry = state_.entries[i];
      const auto [p, n] = where_[i];
      const int stub = live_[p].entries[n].stub.get();
      if (!entry.fresh) {
        if (Error e = exchange(entry.point, entry.original_id, stub))
          return e;
      } else {
        Expected<Attachment> a = attach(entry.point, stub);
        if (!a)
          return a.takeError();
        entry.point = a->point;
        step("attached");
        if (a->link)
          if (Error e = pin(a->link, link_pin(i)))
            return e;
      }
      step("swapped");
      if (Error e = write_state())
        return e;
    }
    state_.phase = "installed";
    return folder_->update(state_); // from here on it is complete, whatever becomes of us
  }

  Error pin(const Fd &fd, const std::string &name) {
    if (Error e = folder_->pin(fd.get(), name))
      return e;
    step("pinned");
    return Error::success();
  }
  Error write_state() {
    if (Error e = folder_->update(state_))
      return e;
    step("written");
    return Error::success();
  }

  const Manifest &manifest_;
  const InstallOptions &options_;
  std::optional<ModuleKernel> kernel_;
  KernelSource source_;
  std::vector<KernelImage> images_;
  std::vector<LinkReport> reports_;
  Installation state_;
  std::vector<std::pair<size_t, size_t>> where_; ///< by entry: pipeline, entry in it
  std::optional<InstallationFolder> folder_;
  std::vector<LiveImage> live_;
};

} // namespace

Expected<Installed> install(const Manifest &manifest, const InstallOptions &options) {
  return Installer(manifest, options).run();
}

Expected<DryRun> install_dry_run(const Manifest &manifest, const InstallOptions &options) {
  return Installer(manifest, options).dry_run();
}

} // namespace ujit
