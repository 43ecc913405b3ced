// A kernel's side of a kernel-target image, in this process: the image's code lies in the low 2 GiB, where
// its relocations reach, a loop does what a stub does (kernel-iface/linux/stub.h), and the embedded kernel
// has the maps and packets. Slots of prog arrays show fused code whatever makes it leave, and change under
// it.
#pragma once

#include "lto/image.h"
#include "lto/link.h"
#include "tests/support/modes.h"

#include <random>
#include <string>
#include <vector>

namespace ujit {

/// Code of an image, with what it refers to, at addresses below 2 GiB.
class LowImage {
public:
  /// Errors: the image is malformed or has a relocation that a kernel image may not have; no such helper.
  static Expected<LowImage> load(std::span<const uint8_t> image);
  LowImage(LowImage &&) noexcept;
  ~LowImage();
  const void *find(const std::string &symbol) const;

private:
  LowImage() = default;
  uint8_t *memory_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, const void *> symbols_;
};

/// How slots look to fused code, and where calls that leave lead to.
struct LeaveMode {
  /// Chance in 100 that a filled slot looks like a stranger, so that the call leaves and is made by the stub.
  unsigned stranger = 0;
  /// The same for an empty slot: the call leaves and fails, and the image goes on behind it.
  unsigned vanished = 0;
  /// Programs may reach the limit of tail calls, so no call may succeed through the stub: there, fused code
  /// starts to count again. Results of runs that do are not compared.
  bool cyclic = false;
  uint64_t seed = 1;
  std::vector<uint64_t> results = {}; ///< of every job, where they are not the interpreter's
};

struct LeaveCounts {
  uint64_t left = 0, failed = 0; ///< calls made by the stub; of these, those that came back
  uint64_t not_compared = 0;     ///< jobs
};

struct LeaveImage {
  LinkResult result;
  ImageInfo info;
};

/// Links for the kernel target and reads the description back.
Expected<LeaveImage> link_for_kernel(const Pipeline &pipeline, LinkOptions options);

/// What differs between the image and the interpreter, one line each, for jobs on `running`: the pipeline
/// that was linked, with other programs in slots. Entries that are not in the image are left out. The work is
/// done in a worker process. `counts` gets how often the image was left.
std::vector<std::string> compare_leaving(const Pipeline &running, std::span<const MapSeed> seeds,
                                         std::span<const Job> jobs, const LeaveImage &image,
                                         const LeaveMode &mode, LeaveCounts &counts);

} // namespace ujit
