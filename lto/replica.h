// The fused image of a pipeline in the running kernel: loaded on maps of its own, captured, linked, installed
// as a module with its stubs, attached nowhere. All of it is gone with the object.
#pragma once

#include "lto/execute.h"
#include "lto/kernel_pipeline.h"
#include "lto/report.h"
#include "lto/witness.h"

#include <memory>

namespace ujit {

/// Times in milliseconds; the module's memory as the kernel accounts it.
struct InstalledFacts {
  double capture_ms = 0, link_ms = 0, insert_ms = 0, stubs_ms = 0;
  uint64_t module_bytes = 0;
  LinkReport report;
  Reach possible; ///< by the verified programs and their prog arrays
};

class Replica {
public:
  /// `pipeline` in object form. Errors: the kernel takes no modules, with the reason; everything that loading
  /// and installing may refuse; entries of two program types.
  static Expected<Replica> make(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                const Manifest &manifest, const LinkOptions &link);
  Replica(Replica &&) = default;
  ~Replica();

  /// What can be reached, of a pipeline that is loaded and captured for this only. Errors: those of loading.
  static Expected<Reach> possible(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                  const Manifest &manifest);

  LoadedPipeline &loaded() { return *source_->loaded; }
  /// The stub in an entry's place; `entry` as in the pipeline given.
  int stub(ProgId entry) const;
  const InstalledFacts &facts() const { return facts_; }

  /// Takes the module out. Errors: the kernel keeps it.
  Error remove();

private:
  Replica() = default;
  std::unique_ptr<KernelSource> source_; ///< the image refers to it
  std::vector<ProgId> entries_;          ///< as live_.entries
  LiveImage live_;
  InstalledFacts facts_;
};

} // namespace ujit
