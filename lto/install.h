// Installing: from a manifest to fused code on live traffic, in steps each of which leaves either the old or
// the new state behind, whatever happens to the tool in between.
#pragma once

#include "kernel-iface/linux/lifecycle.h"
#include "lto/kernel_pipeline.h"
#include "lto/report.h"

namespace ujit {

struct InstallOptions {
  std::string name;                  ///< of the installation; empty: the manifest's
  std::string tool;                  ///< version to remember
  unsigned threads = 0;              ///< as LinkOptions::threads
  std::vector<std::string> disabled; ///< as LinkOptions::disabled
  std::function<void(std::string_view phase, size_t done, size_t total)> progress;
  /// Called behind each step that changes something outside of this process, for tests of crashes.
  std::function<void(std::string_view step)> between;
};

struct Installed {
  Installation state;
  std::vector<LinkReport> reports; ///< one for each type of entries
};

/// Loads or captures, fuses, loads modules and stubs, remembers all that in bpffs, then swaps the attach
/// points in the manifest's order. Errors: at every step; what had been done is undone.
Expected<Installed> install(const Manifest &manifest, const InstallOptions &options);

/// The same up to the module's bytes, which are thrown away: nothing is loaded beside the manifest's own
/// objects.
struct DryRun {
  std::vector<LinkReport> reports;
  std::vector<size_t> module_bytes;  ///< one for each report; empty where the kernel takes no modules
  std::vector<std::string> refusals; ///< why this kernel would not take the module; empty: it would
};
Expected<DryRun> install_dry_run(const Manifest &manifest, const InstallOptions &options);

} // namespace ujit
