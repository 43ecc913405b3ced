// ujit-fuzz: random pipelines through the interpreter, unfused and fused code, and the running kernel. All
// must agree on return values, packets, contexts and maps. What differs is made small and written as a case
// file, to be put into tests/cases.
#include "tests/differential/compare.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <CLI/CLI.hpp>

#include <chrono>
#include <fstream>
#include <map>

using namespace ujit;

namespace {

struct Options {
  uint64_t seed = 1, count = 0;
  double seconds = 10;
  uint32_t batch = 8;
  bool no_kernel = false, mutants = false, verbose = false;
  std::string out = ".";
};

/// The verifier knows some code to be dead by the values of registers; we look at all of it, and refuse
/// programs whose dead code makes no sense.
bool is_followed(const Sample &sample) {
  auto graph = analyse(sample.pipeline, {});
  if (!graph) {
    llvm::consumeError(graph.takeError());
    return false;
  }
  return true;
}

class Fuzzer {
public:
  explicit Fuzzer(const Options &options) : options_(options) {}

  int run() {
    const auto start = std::chrono::steady_clock::now();
    auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    for (uint64_t seed = options_.seed;; seed += options_.batch) {
      if (options_.count ? seed >= options_.seed + options_.count : seconds() >= options_.seconds)
        break;
      batch(seed);
      if (failed_ >= 10)
        break;
    }
    llvm::outs() << llvm::formatv(
        "{0} pipelines ({1} programs, {2} packets) in {3:F0} s; {4}; {5} mutants; {6} refused by "
        "the verifier; {7} failed\n",
        samples_, programs_, packets_, seconds(),
        kernel_left_out_.empty() ? llvm::formatv("{0} in the running kernel", in_kernel_).str()
                                 : "running kernel left out: " + kernel_left_out_,
        mutants_, refused_, failed_);
    for (auto &[reason, count] : reasons_)
      if (options_.verbose)
        llvm::outs() << llvm::formatv("  {0} refused: {1}\n", count, reason);
    return failed_ ? 1 : 0;
  }

private:
  void batch(uint64_t first) {
    std::vector<Sample> samples;
    for (uint64_t seed = first; seed < first + options_.batch; seed++) {
      Sample sample = generate(seed, llvm::formatv("s{0}_", seed));
      if (!kernel_takes(seed, sample))
        continue;
      if (options_.mutants && in_kernel_ > 0 && seed % 2) {
        Sample mutant = mutate(sample, seed);
        KernelVerdict verdict = compare_with_kernel(mutant); // a difference: it gives away an address
        if (verdict.refused.empty() && verdict.finding.empty() && is_followed(mutant)) {
          mutants_++;
          sample = std::move(mutant);
        }
      }
      samples_++;
      programs_ += sample.pipeline.programs.size();
      packets_ += sample.packets.size();
      samples.push_back(std::move(sample));
      seeds_of_batch_.push_back(seed);
    }
    for (const Finding &finding : compare_images(samples, first)) {
      if (!finding.whole_batch) {
        report(seeds_of_batch_[finding.sample], samples[finding.sample], first, finding.text);
        continue;
      }
      bool alone = false; // one sample's fault ends the batch: find it
      for (size_t i = 0; i < samples.size() && !alone; i++)
        if (auto found = compare_images({&samples[i], 1}, first); !found.empty()) {
          report(seeds_of_batch_[i], samples[i], first, found[0].text);
          alone = true;
        }
      if (!alone) {
        failed_++;
        llvm::outs() << llvm::formatv("batch {0}: {1}\n", first, finding.text);
      }
    }
    seeds_of_batch_.clear();
  }

  bool kernel_takes(uint64_t seed, const Sample &sample) {
    if (options_.no_kernel || !kernel_left_out_.empty())
      return true;
    KernelVerdict verdict = compare_with_kernel(sample);
    if (!verdict.refused.empty()) {
      llvm::StringRef text = verdict.refused;
      if (!text.contains("verifier") && in_kernel_ == 0) {
        kernel_left_out_ = text.str();
        return true;
      }
      refused_++;
      reasons_[text.split("refuses the program: ").second.split('\n').first.str()]++;
      if (options_.verbose)
        llvm::outs() << "seed " << seed << ": " << text << "\n";
      return false;
    }
    in_kernel_++;
    if (!verdict.finding.empty()) {
      failed_++;
      Sample small =
          minimise(sample, [](const Sample &s) { return !compare_with_kernel(s).finding.empty(); });
      write(seed, small, verdict.finding);
      return false;
    }
    return true;
  }

  void report(uint64_t seed, const Sample &sample, uint64_t variation, const std::string &text) {
    failed_++;
    llvm::outs() << llvm::formatv("seed {0} (variation {1}): {2}\n", seed, variation, text);
    llvm::outs().flush();
    const bool kernel = in_kernel_ > 0;
    Sample small = minimise(sample, [&](const Sample &s) {
      if (kernel) { // programs that the verifier takes, and that do not give away addresses
        KernelVerdict verdict = compare_with_kernel(s);
        if (!verdict.refused.empty() || !verdict.finding.empty())
          return false;
      }
      auto found = compare_images({&s, 1}, variation);
      return !found.empty() && !llvm::StringRef(found[0].text).starts_with("interpreter:");
    });
    write(seed, small, text);
  }

  void write(uint64_t seed, const Sample &sample, const std::string &text) {
    const std::string path = llvm::formatv("{0}/fuzz-{1}.case", options_.out, seed);
    std::string line = text.substr(0, text.find('\n'));
    std::ofstream(path) << case_text(sample, llvm::formatv("Seed {0}: {1}", seed, line));
    llvm::outs() << llvm::formatv("seed {0}: written to {1}\n", seed, path);
    llvm::outs().flush();
  }

  const Options &options_;
  uint64_t samples_ = 0, programs_ = 0, packets_ = 0, refused_ = 0, failed_ = 0, in_kernel_ = 0, mutants_ = 0;
  std::string kernel_left_out_;
  std::map<std::string, uint64_t> reasons_;
  std::vector<uint64_t> seeds_of_batch_;
};

} // namespace

int main(int argc, char **argv) {
  Options options;
  CLI::App app("Random pipelines through every executor");
  app.add_option("--seed", options.seed, "First seed");
  app.add_option("--count", options.count, "Pipelines; 0: as many as fit the time");
  app.add_option("--seconds", options.seconds, "Time");
  app.add_option("--batch", options.batch, "Pipelines in one link");
  app.add_option("--out", options.out, "Folder for case files");
  app.add_flag("--no-kernel", options.no_kernel, "Leave the running kernel out");
  app.add_flag("--mutants", options.mutants, "Take instructions out of every second pipeline");
  app.add_flag("-v", options.verbose, "Say what the verifier refuses");
  CLI11_PARSE(app, argc, argv);
  return Fuzzer(options).run();
}
