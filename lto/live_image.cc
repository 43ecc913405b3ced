// From a captured pipeline to code in the kernel: linked, its instance filled in with this boot's addresses,
// made a module, loaded, and given a stub for each entry.
#include "lto/kernel_pipeline.h"

#include "kernel-iface/linux/lifecycle.h"
#include "kernel-iface/linux/maps.h"
#include "kernel-iface/linux/stub.h"
#include "lto/cpu_check.h"
#include "lto/single_fetch.h"
#include "translator/instance.h"
#include "translator/kernel.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <bit>
#include <cerrno>
#include <chrono>

namespace ujit {

using llvm::formatv;

namespace {

/// Unique in the kernel: what is fused, when, and by whom.
uint64_t fresh_identity(const LinkResult &link) {
  uint64_t parts[3] = {llvm::xxh3_64bits(link.image.object),
                       uint64_t(std::chrono::steady_clock::now().time_since_epoch().count()),
                       uint64_t(getpid())};
  return llvm::xxh3_64bits(llvm::ArrayRef(reinterpret_cast<const uint8_t *>(parts), sizeof parts));
}

/// The instance table of this boot.
std::vector<uint64_t> fill_instance(const KernelPipeline &k, const ImageInfo &info) {
  std::vector<uint64_t> table;
  for (const ImageSlot &s : info.instance) {
    const InstanceSlot &slot = s.slot;
    switch (slot.kind) {
    case InstanceSlot::map: table.push_back(k.captured(MapId(slot.id)).address); break;
    case InstanceSlot::values: {
      const CapturedMap &map = k.captured(MapId(slot.id));
      table.push_back(is_hash_table(k.canonical.pipeline[MapId(slot.id)])
                          ? map.buckets
                          : map.address + k.capture.kernel->layout.array_value);
      break;
    }
    case InstanceSlot::constant:
      table.push_back(k.canonical.pipeline[MapId(slot.id)].bound[slot.sub].value);
      break;
    case InstanceSlot::program: table.push_back(k.captured(ProgId(slot.id)).address); break;
    case InstanceSlot::cpu: table.push_back(0); break; // code for kernels asks the kernel
    case InstanceSlot::table: {
      const CapturedMap &map = k.captured(MapId(slot.id));
      table.push_back(uint64_t(map.bucket_count - 1) << 32 | map.hash_seed);
      break;
    }
    }
  }
  return table;
}

/// Addresses of what the image and the module's own code name. A kernel that takes no module (`for_show`) may
/// lack some: the size of the module is known all the same.
Expected<std::map<std::string, uint64_t>> resolve(const KernelPipeline &k, const ImageInfo &info,
                                                  bool for_show) {
  std::map<std::string, uint64_t> known = k.capture.addresses;
  for (const auto &[address, name] : k.capture.symbols)
    known.emplace(name, address);
  std::map<std::string, uint64_t> out;
  auto add = [&](const std::string &name) -> Error {
    auto it = known.find(name);
    if (it != known.end())
      out[name] = it->second;
    else if (for_show)
      out[name] = 0;
    else if (!resolved_by_kernel(name))
      return unsupported(
                 formatv("this kernel's list of symbols does not have {0}, which the image needs", name))
          .with_hint("a kernel with CONFIG_KALLSYMS_ALL has variables, too")
          .error();
    return Error::success();
  };
  for (const std::string &name : info.helpers)
    if (Error e = add(name))
      return e;
  for (const std::string &name : module_functions())
    if (Error e = add(name))
      return e;
  return out;
}

/// The machine code as it will be loaded: a value that is checked is the value that is used.
Error check_fetches(const KernelImage &image, const Pipeline &pipeline) {
  Expected<SingleFetch> fetch = check_single_fetch(image.link.image.object, pipeline);
  if (!fetch)
    return fetch.takeError();
  if (fetch->repeated.empty())
    return Error::success();
  const RepeatedFetch &first = fetch->repeated.front();
  return internal_error(formatv("the compiler made two machine loads, at {0:x} and {1:x}, of a load from "
                                "memory that others can write",
                                first.first, first.second))
      .in_program(first.chain.front().program)
      .at(first.chain.front().insn)
      .with_hint("what the first has checked is not what the second sees: leave an optimisation out "
                 "(--no-opt), or the program unfused")
      .error();
}

Expected<KernelImage> link_and_check(const KernelPipeline &k, const LinkOptions &options) {
  Expected<LinkResult> link = ujit::link(k.canonical.pipeline, options);
  if (!link)
    return link.takeError();
  KernelImage image;
  image.link = std::move(*link);
  Expected<ImageInfo> info = read_image_info(image.link.image.object, options.name);
  if (!info)
    return info.takeError();
  image.info = std::move(*info);
  if (!image.info.leave)
    return internal_error("the image is not for a kernel").error();
  if (options.debug_info) // images without it are only written to files
    if (Error e = check_fetches(image, k.canonical.pipeline))
      return e;
  return image;
}

Expected<Fd> make_map(bpf_map_type type, const char *name, uint32_t value_size, uint32_t entries,
                      uint32_t flags) {
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);
  Fd fd(bpf_map_create(type, name, 4, value_size, entries, &options));
  if (!fd)
    return bpf_error(errno, formatv("creating map {0}", name)).error();
  return fd;
}

/// Takes the module out again unless told that all went well.
class ModuleGuard {
public:
  explicit ModuleGuard(LiveImage &live) : live_(live) {}
  ~ModuleGuard() {
    if (!armed_)
      return;
    live_.entries.clear();
    live_.module.btf = Fd();
    live_.module.open = Fd();
    llvm::consumeError(remove_module(live_.module.name));
  }
  void keep() { armed_ = false; }

private:
  LiveImage &live_;
  bool armed_ = true;
};

} // namespace

Expected<KernelImage> link_for_kernel(const KernelPipeline &k, const ModuleKernel &kernel,
                                      const LinkOptions &given) {
  for (uint32_t i = 0; i < k.canonical.maps.size() && k.capture.kernel->layout.search_htab; ++i)
    if (const Map &map = k.canonical.pipeline.maps[i]; is_hash_table(map) && !map.is_template)
      if (const CapturedMap &m = k.captured(MapId(i)); !m.buckets || !std::has_single_bit(m.bucket_count))
        return internal_error("map " + map.name + ": its table was not found").error();
  LinkOptions options = given;
  options.target = LinkTarget::kernel;
  options.kernel_code = {.return_thunks = kernel.return_thunks,
                         .retpolines = kernel.retpolines,
                         .ibt = kernel.ibt,
                         .sls = kernel.sls};
  options.plan.count_failed = k.capture.kernel->counts_failed_tail_calls;
  Expected<KernelImage> linked = link_and_check(k, options);
  if (!linked)
    return linked.takeError();
  KernelImage image = std::move(*linked);

  const std::string id = formatv("{0:x-16}", fresh_identity(image.link));
  ModuleSpec &spec = image.spec;
  spec.name = "ujit_" + id;
  spec.image = image.link.image.object;
  spec.frame_bytes = image.info.leave->frame_bytes;
  for (const KernelEntry &e : k.entries) {
    const Program &program = k.canonical.pipeline[e.program];
    for (const ImageEntry &i : image.info.entries)
      if (i.program == program.name)
        spec.entries.push_back({i.symbol, formatv("ujit_{0}_{1}", id, spec.entries.size()), k.type});
  }
  if (spec.entries.size() != k.entries.size())
    return internal_error("an entry is missing in the image").error();
  for (const std::string &name : image.info.leave->prog_arrays) {
    std::optional<MapId> map = k.canonical.pipeline.find_map(name);
    if (!map)
      return internal_error("the image leaves through an unknown prog array").error();
    image.prog_arrays.push_back(*map);
  }
  for (uint32_t i = 0; i < k.canonical.maps.size(); ++i)
    spec.maps.push_back(&k.captured(MapId(i)));
  for (uint32_t i = 0; i < k.canonical.programs.size(); ++i)
    spec.programs.push_back(&k.captured(ProgId(i)));
  spec.instance = fill_instance(k, image.info);
  Expected<std::map<std::string, uint64_t>> addresses = resolve(k, image.info, !kernel.refusal.empty());
  if (!addresses)
    return addresses.takeError();
  spec.addresses = std::move(*addresses);
  return image;
}

Expected<Fd> make_kill_switch() { return make_map(BPF_MAP_TYPE_ARRAY, "ujit_switch", 8, 1, BPF_F_MMAPABLE); }

Expected<LiveImage> bring_up(const KernelPipeline &k, const KernelImage &image, const ModuleKernel &kernel,
                             const Fd &kill_switch) {
  if (!kernel.refusal.empty())
    return unsupported(kernel.refusal).error();
  if (Error e = check_cpu(image.info))
    return e;
  Expected<std::vector<uint8_t>> ko = write_module(image.spec, kernel);
  if (!ko)
    return ko.takeError();

  LiveImage live;
  if (!image.prog_arrays.empty()) {
    Expected<Fd> left =
        make_map(BPF_MAP_TYPE_PERCPU_ARRAY, "ujit_left", 8, uint32_t(image.prog_arrays.size()), 0);
    if (!left)
      return left.takeError();
    live.left = std::move(*left);
  }
  std::vector<int> arrays;
  for (MapId m : image.prog_arrays)
    arrays.push_back(k.captured(m).fd.get());
  bool dst_needed = false;
  for (size_t program : k.canonical.programs)
    dst_needed |= k.capture.programs[program].dst_needed;

  using Clock = std::chrono::steady_clock;
  auto since = [](Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  };
  auto start = Clock::now();
  Expected<InsertedModule> module = insert_module(image.spec, *ko);
  if (!module)
    return module.takeError();
  live.module = std::move(*module);
  ModuleGuard guard(live);
  live.insert_ms = since(start);
  live.module_bytes = module_status(live.module.name).bytes;
  start = Clock::now();
  std::vector<StubSpec> specs;
  std::vector<int> stubs;
  for (size_t i = 0; i < k.entries.size(); ++i) {
    const CapturedProgram &original = k.captured(k.entries[i].program);
    LiveImage::Entry entry;
    Expected<Fd> originals = make_map(BPF_MAP_TYPE_PROG_ARRAY, "ujit_original", 4, 1, 0);
    if (!originals)
      return originals.takeError();
    entry.originals = std::move(*originals);
    uint32_t zero = 0;
    int fd = original.fd.get();
    if (int e = bpf_map_update_elem(entry.originals.get(), &zero, &fd, BPF_ANY))
      return bpf_error(-e, "keeping the original of " + original.name).error();
    StubSpec spec{.name = kernel_object_name("ujit_" + k.canonical.pipeline[k.entries[i].program].name),
                  .original = &original,
                  .dst_needed = dst_needed,
                  .module_btf = live.module.btf.get(),
                  .kfunc_id = live.module.kfunc_ids[i],
                  .frame_bytes = image.spec.frame_bytes,
                  .prog_arrays = arrays,
                  .switch_map = kill_switch.get(),
                  .originals = entry.originals.get(),
                  .left = live.left ? live.left.get() : -1};
    Expected<Fd> stub = load_stub(spec);
    if (!stub)
      return stub.takeError();
    entry.stub = std::move(*stub);
    live.entries.push_back(std::move(entry));
    specs.push_back(spec);
    stubs.push_back(live.entries.back().stub.get());
  }
  if (Error e = check_stubs(specs, stubs))
    return e;
  if (Error e = seal_module(live.module, unsigned(live.entries.size())))
    return e;
  live.stubs_ms = since(start);
  guard.keep();
  return live;
}

} // namespace ujit
