// A pipeline as the running kernel has it: captured, canonical, ready to be linked for the kernel, with all
// that it takes to install the result. It comes from a manifest's objects, which are loaded here, or from
// what is attached already. Programs and maps get the manifest's names where they were loaded from its
// objects.
#pragma once

#include "kernel-iface/linux/canonical.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/module.h"
#include "lto/image.h"
#include "lto/link.h"
#include "lto/manifest.h"

namespace ujit {

/// One entry: what it is called in the pipeline, and where it is or will be attached.
struct KernelEntry {
  ProgId program{};  ///< in `canonical.pipeline`
  AttachPoint point; ///< interface empty: nowhere (a replica for checks)
  bool fresh = true; ///< nothing is attached there yet
};

/// All programs of one type: what becomes one image and one module.
struct KernelPipeline {
  ProgType type{};
  Capture capture;
  CanonicalPipeline canonical;
  LinkOptions options; ///< for the kernel target, with the manifest's policies
  std::vector<KernelEntry> entries;

  const CapturedProgram &captured(ProgId id) const { return capture.programs[canonical.programs[index(id)]]; }
  const CapturedMap &captured(MapId id) const { return capture.maps[canonical.maps[index(id)]]; }
};

struct KernelSource {
  std::optional<LoadedPipeline> loaded;  ///< objects that we loaded; keeps them
  std::vector<KernelPipeline> pipelines; ///< by type of their entries
};

/// Loads a manifest's objects into the kernel and captures them. Sealed prog arrays are frozen. Errors: those
/// of loading and capture; entries of types that have no kernel images.
Expected<KernelSource> load_and_capture(const Manifest &manifest, const Pipeline &objects,
                                        std::span<const MapSeed> seeds = {});

/// Captures what runs at the manifest's attach points. Errors: nothing is attached at one of them.
Expected<KernelSource> capture_running(const Manifest &manifest);

/// One or the other, as the manifest says.
Expected<KernelSource> read_kernel_source(const Manifest &manifest);

/// A linked image with what its module and stubs are made of. It refers to the KernelPipeline that it was
/// made from.
struct KernelImage {
  LinkResult link;
  ImageInfo info;
  ModuleSpec spec;
  std::vector<MapId> prog_arrays; ///< by the number that leaves name
};

/// Links for this kernel and fills in the instance. The module's name begins with "ujit_" and is new each
/// time. Errors: those of link(); a symbol that the kernel does not have. That the kernel takes no modules is
/// none (ModuleKernel::refusal tells).
Expected<KernelImage> link_for_kernel(const KernelPipeline &pipeline, const ModuleKernel &kernel,
                                      const LinkOptions &options);

/// An image that can be called: module loaded and sealed, one stub for each entry. Attached nowhere.
struct LiveImage {
  InsertedModule module;
  Fd left; ///< per-CPU array: times left by prog array; none where nothing leaves
  struct Entry {
    Fd stub;
    Fd originals; ///< prog array whose one slot holds the original
  };
  std::vector<Entry> entries; ///< as KernelPipeline::entries
  double insert_ms = 0, stubs_ms = 0;
  uint64_t module_bytes = 0; ///< of kernel memory
};

/// The kill switch of an installation: an array whose element 0 is a u32, 0 for fused. Errors: missing
/// privileges.
Expected<Fd> make_kill_switch();

/// Errors: everything that the kernel, the module's own checks or the verifier refuse. Nothing stays loaded
/// then.
Expected<LiveImage> bring_up(const KernelPipeline &pipeline, const KernelImage &image,
                             const ModuleKernel &kernel, const Fd &kill_switch);

} // namespace ujit
