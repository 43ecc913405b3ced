// Runs samples everywhere and says where they differ; makes a failing sample small; writes it as a case file.
#pragma once

#include "lto/link.h"
#include "tests/differential/generator.h"
#include "tests/support/modes.h"

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace ujit {

/// Samples in one pipeline: what is linked at once. Sample i's entry is `entries[i]`.
struct Batch {
  Pipeline pipeline, changed; ///< as it is linked, and as it is when it runs
  std::vector<MapSeed> seeds;
  std::vector<ProgId> entries;
  std::vector<const Sample *> samples;
  LinkOptions options;
};
Batch make_batch(std::span<const Sample> samples);

/// How a batch is linked: what may vary without a change in meaning. Each has an image of its own, but they
/// share a translation.
struct Variation {
  std::vector<std::string> disabled;
  bool debug_info = false;
  bool other_threads = false;     ///< and two threads must make the same image as one
  std::vector<PlanOptions> plans; ///< a chain, and one or two that fuse
  std::string name(size_t plan) const;
};
Variation variation(uint64_t seed);

/// What the interpreter says of each sample, by which all others are judged.
Expected<std::vector<JobRun>> interpret(const Batch &batch);

struct Finding {
  size_t sample = 0; ///< which of the batch; if the whole batch failed, the first
  bool whole_batch = false;
  std::string text;
};

/// Why the running kernel's verifier refuses a sample; empty: it takes it. `finding`: where it and the
/// interpreter differ.
struct KernelVerdict {
  std::string refused, finding;
};
KernelVerdict compare_with_kernel(const Sample &sample);
KernelVerdict compare_with_kernel(const Sample &sample, const JobRun &interpreted);

/// Interpreter against the images of variation `seed`. The first finding of each sample.
std::vector<Finding> compare_images(std::span<const Sample> samples, uint64_t seed);
std::vector<Finding> compare_images(const Batch &batch, std::span<const JobRun> interpreted, uint64_t seed);

/// The first sample that by itself ends the process that links and runs it, or keeps it busy for longer than
/// `time` of CPU: linked as variation `seed`, in processes of their own. The text says what happened.
std::optional<Finding> find_fatal(std::span<const Sample> samples, uint64_t seed, std::chrono::seconds time);

/// The sample with some instructions taken out: code that no generator writes, if a verifier takes it.
Sample mutate(Sample sample, uint64_t seed);

/// Whether it means the same everywhere: all of its code can be followed (some of it the verifier knows to be
/// dead by the values of registers), and no stack byte is read that was never written.
bool is_determined(const Sample &sample);

/// The smallest sample found for which `fails` is still true.
Sample minimise(Sample sample, const std::function<bool(const Sample &)> &fails);

/// The text of a case file; results are the interpreter's.
std::string case_text(const Sample &sample, const std::string &comment);

} // namespace ujit
