// What has changed around an installation since it was made: tracers and extensions that were attached to
// programs inside of its images, which fused packets do not meet, and slots of prog arrays that hold other
// programs now, which the images see where their calls are guarded.
#pragma once

#include "kernel-iface/linux/installation.h"
#include "kernel-iface/linux/kernel_reader.h"

namespace ujit {

/// What an installation remembers of a program inside of an image.
struct FusedProgram {
  std::string name;
  std::string digest;
  uint32_t id = 0;
  std::vector<std::string> functions; ///< its own first, then its subprograms
};

/// What it remembers of a prog array.
struct FusedArray {
  std::string name;
  std::string pin; ///< in the installation's folder
  uint32_t map_id = 0;
  bool sealed = false;                              ///< calls through it do not look at the slot
  std::vector<std::pair<uint32_t, uint32_t>> slots; ///< slot, id of the fused program in it
};

llvm::json::Value to_json(const FusedProgram &program);
llvm::json::Value to_json(const FusedArray &array);

struct ArrayNow {
  FusedArray array;
  size_t changed = 0; ///< slots that do not hold the program that was fused
  bool frozen = false, pinned = false;
};

struct Drift {
  std::vector<std::string> attached; ///< "PROGRAM: what is attached to it, and how to detach it"
  std::vector<ArrayNow> arrays;
  /// What makes fused packets differ from those of the originals: the kill switch helps.
  std::vector<std::string> differences() const;
};

/// Looks at the kernel now. Errors: objects of the installation that cannot be read.
Expected<Drift> look_for_drift(const InstallationFolder &folder, KernelReader &reader);

} // namespace ujit
