// The ways in which a pipeline can run, and whether they agree. What a linked image does must be what the
// reference interpreter says, whatever was fused, on however many threads, with whichever optimisations.
#pragma once

#include "kernel-iface/embedded/loader.h"
#include "lto/image.h"
#include "lto/link.h"
#include "lto/trace.h"
#include "tests/support/case_file.h"

#include <span>
#include <string>
#include <vector>

namespace ujit {

/// Inputs for one entry of a pipeline, run one after the other on maps of their own.
struct Job {
  ProgId entry{};
  std::vector<std::vector<uint8_t>> inputs; ///< packets; memory for programs without a type
};

struct JobRun {
  std::vector<uint64_t> results; ///< all of r0
  Trace trace;                   ///< `packet` is the memory for programs without a type
};

/// An image in memory, with everything that it was made of.
struct LinkedImage {
  LinkResult result;
  ImageInfo info;
  LoadedImage code;
};

/// Options under which an image is complete in itself: calls that leave it find copies in it.
LinkOptions standalone_options(const Case &c);

Expected<LinkedImage> link_and_load(const Pipeline &pipeline, const LinkOptions &options);
Expected<LinkedImage> load_linked(LinkResult linked);

/// Runs jobs in a worker process on the embedded kernel, each on fresh maps: by `image`, or by the
/// interpreter if there is none. Errors: what the interpreter refuses; a fault of native code, with its
/// place. One error is the error of all.
Expected<std::vector<JobRun>> run_jobs(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                       std::span<const Job> jobs, const LinkedImage *image);

/// The same for jobs whose programs share no maps: all on one kernel, and the maps of all are in `maps`.
struct TogetherRun {
  std::vector<JobRun> runs; ///< without maps
  std::vector<MapSeed> maps;
};
Expected<TogetherRun> run_jobs_together(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                        std::span<const Job> jobs, const LinkedImage *image);

/// The running kernel; results have 32 bits. Programs of type unspec are loaded as sched_cls. Errors: bpf()
/// is not allowed, or what the verifier says.
Expected<std::vector<JobRun>> run_jobs_in_kernel(const Pipeline &pipeline, std::span<const MapSeed> seeds,
                                                 std::span<const Job> jobs);

/// What differs, one line each; `result_mask` selects the bits of results that both know.
std::vector<std::string> differences(const Pipeline &pipeline, const JobRun &wanted, const JobRun &got,
                                     uint64_t result_mask = ~uint64_t(0));

struct ModeOutcome {
  std::string mode;
  std::string left_out;              ///< why it did not run; empty: it did
  std::vector<std::string> problems; ///< empty: as it should be
};

/// A case in every mode: two interpreters, unfused, fused on one and two threads, fused without
/// optimisations, the running kernel. `-- error`, `-- plan`, `-- ir` are judged as well.
std::vector<ModeOutcome> run_all_modes(const Case &c);

} // namespace ujit
