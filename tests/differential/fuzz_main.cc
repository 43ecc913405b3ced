// ujit-fuzz: random pipelines through the interpreter, unfused and fused code, and the running kernel. All
// must agree on return values, packets, contexts and maps. What differs is made small and written as a case
// file, to be put into tests/cases.
//
// All that happens in a child. What cannot be reported from inside, a link that never ends or that takes the
// process with it, is found by the parent: it makes the samples of that batch once more and links each alone.
#include "lto/test_hooks.h"
#include "tests/differential/compare.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace ujit;

namespace {

struct Options {
  uint64_t seed = 1, count = 0, programs = 0;
  double seconds = 10;
  uint32_t batch = 64, kernel = 4, mutants = 16, cpu_seconds = 60;
  bool verbose = false;
  std::string out = ".";
};

/// What the names of a sample's programs begin with.
std::string name_of(uint64_t seed) { return llvm::formatv("s{0}_", seed); }
Sample sample_of(uint64_t seed) { return generate(seed, name_of(seed)); }

std::string fatal_name; ///< of the sample whose link is to end the process

void end_process(llvm::Module &module) {
  if (module.getName().starts_with(fatal_name))
    __builtin_trap();
}

bool may_be_mutant(const Options &options, uint64_t seed) {
  return options.mutants && seed % options.mutants == 0;
}

/// Returns the path.
std::string write_case(const Options &options, uint64_t seed, const Sample &sample, const std::string &text) {
  const std::string path = llvm::formatv("{0}/fuzz-{1}.case", options.out, seed);
  std::ofstream(path) << case_text(sample,
                                   llvm::formatv("Seed {0}: {1}", seed, text.substr(0, text.find('\n'))));
  return path;
}

class Fuzzer {
public:
  /// `at`: the first seed of the batch that it is at.
  Fuzzer(const Options &options, uint64_t &at) : options_(options), at_(at) {}

  int run() {
    uint64_t next_line = lines_every;
    for (uint64_t seed = options_.seed; !done(seed) && failed_ < 10; seed += options_.batch) {
      at_ = seed;
      allow_more_time();
      batch(seed);
      if (programs_ >= next_line) {
        next_line += lines_every;
        llvm::outs() << llvm::formatv("up to seed {0}: ", seed + options_.batch - 1);
        print_sum();
      }
    }
    print_sum();
    for (auto &[reason, count] : reasons_)
      if (options_.verbose)
        llvm::outs() << llvm::formatv("  {0} refused: {1}\n", count, reason);
    return failed_ ? 1 : 0;
  }

private:
  static constexpr uint64_t lines_every = 10'000; ///< programs

  /// From here on: more than any batch needs. Then SIGPROF ends this process.
  void allow_more_time() const {
    const itimerval timer = {{}, {time_t(options_.cpu_seconds), 0}};
    setitimer(ITIMER_PROF, &timer, nullptr);
  }

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  bool done(uint64_t seed) const {
    if (options_.count)
      return seed >= options_.seed + options_.count;
    return options_.programs ? programs_ >= options_.programs : seconds() >= options_.seconds;
  }

  void print_sum() const {
    llvm::outs() << llvm::formatv("{0} pipelines ({1} programs, {2} instructions, {3} packets) in {4:F0} s; "
                                  "{5}; {6} mutants; {7} refused by "
                                  "the verifier; {8} failed\n",
                                  samples_, programs_, insns_, packets_, seconds(),
                                  kernel_left_out_.empty()
                                      ? llvm::formatv("{0} in the running kernel", in_kernel_).str()
                                      : "running kernel left out: " + kernel_left_out_,
                                  mutants_, refused_, failed_);
    llvm::outs().flush();
  }

  void batch(uint64_t first) {
    std::vector<Sample> samples;
    std::vector<uint64_t> seeds;
    for (uint64_t seed = first; seed < first + options_.batch; seed++) {
      samples.push_back(sample_of(seed));
      seeds.push_back(seed);
      if (may_be_mutant(options_, seed) && in_kernel_ > 0)
        replace_by_mutant(samples.back(), seed);
    }
    Batch batch = make_batch(samples);
    auto interpreted = interpret(batch);
    if (!interpreted) {
      whole_batch("interpreter: " + llvm::toString(interpreted.takeError()), seeds, samples);
      return;
    }
    for (size_t i = 0; i < samples.size(); i++) {
      samples_++;
      programs_ += samples[i].pipeline.programs.size();
      packets_ += samples[i].packets.size();
      for (const Program &p : samples[i].pipeline.programs)
        insns_ += p.insns.size();
      if (options_.kernel && seeds[i] % options_.kernel == 0)
        in_kernel(seeds[i], samples[i], (*interpreted)[i]);
    }
    for (const Finding &finding : compare_images(batch, *interpreted, first))
      if (finding.whole_batch)
        whole_batch(finding.text, seeds, samples);
      else
        report(seeds[finding.sample], samples[finding.sample], first, finding.text);
  }

  /// One sample's fault ended the batch: finds it.
  void whole_batch(const std::string &text, std::span<const uint64_t> seeds,
                   std::span<const Sample> samples) {
    for (size_t i = 0; i < samples.size(); i++)
      if (auto found = compare_images({&samples[i], 1}, seeds[0]); !found.empty())
        return report(seeds[i], samples[i], seeds[0], found[0].text);
    failed_++;
    llvm::outs() << llvm::formatv("batch {0}: {1}\n", seeds[0], text);
  }

  void replace_by_mutant(Sample &sample, uint64_t seed) {
    Sample mutant = mutate(sample, seed);
    KernelVerdict verdict = compare_with_kernel(mutant); // a difference: it gives away an address
    if (verdict.refused.empty() && verdict.finding.empty() && is_determined(mutant)) {
      mutants_++;
      sample = std::move(mutant);
    }
  }

  void in_kernel(uint64_t seed, const Sample &sample, const JobRun &interpreted) {
    if (!kernel_left_out_.empty())
      return;
    KernelVerdict verdict = compare_with_kernel(sample, interpreted);
    if (!verdict.refused.empty()) {
      llvm::StringRef text = verdict.refused;
      if (!text.contains("verifier") && in_kernel_ == 0) {
        kernel_left_out_ = text.str();
        return;
      }
      refused_++;
      reasons_[text.split("refuses the program: ").second.split('\n').first.str()]++;
      if (options_.verbose)
        llvm::outs() << "seed " << seed << ": " << text << "\n";
      return;
    }
    in_kernel_++;
    if (!verdict.finding.empty()) {
      failed_++;
      llvm::outs() << llvm::formatv("seed {0}: {1}\n", seed, verdict.finding);
      Sample small = minimise(sample, [&](const Sample &s) {
        allow_more_time();
        return is_determined(s) && !compare_with_kernel(s).finding.empty();
      });
      write(seed, small, verdict.finding);
    }
  }

  void report(uint64_t seed, const Sample &sample, uint64_t variation, const std::string &text) {
    failed_++;
    llvm::outs() << llvm::formatv("seed {0} (variation {1}): {2}\n", seed, variation, text);
    llvm::outs().flush();
    const bool kernel = in_kernel_ > 0;
    Sample small = minimise(sample, [&](const Sample &s) {
      allow_more_time();
      if (!is_determined(s))
        return false;
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
    llvm::outs() << llvm::formatv("seed {0}: written to {1}\n", seed,
                                  write_case(options_, seed, sample, text));
    llvm::outs().flush();
  }

  const Options &options_;
  uint64_t &at_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  uint64_t samples_ = 0, programs_ = 0, insns_ = 0, packets_ = 0;
  uint64_t refused_ = 0, failed_ = 0, in_kernel_ = 0, mutants_ = 0;
  std::string kernel_left_out_;
  std::map<std::string, uint64_t> reasons_;
};

/// What ended the child in the batch that begins at `first`. Mutants may have been in it.
void report_fatal(const Options &options, uint64_t first, int signal) {
  const std::string what = signal == SIGPROF
                               ? llvm::formatv("not done after {0} s of CPU time", options.cpu_seconds).str()
                               : std::string(strsignal(signal));
  llvm::outs() << llvm::formatv("batch {0}: {1}\n", first, what);
  llvm::outs().flush();
  std::vector<Sample> samples;
  std::vector<uint64_t> seeds;
  for (uint64_t seed = first; seed < first + options.batch; seed++) {
    samples.push_back(sample_of(seed));
    seeds.push_back(seed);
    if (may_be_mutant(options, seed)) {
      samples.push_back(mutate(samples.back(), seed));
      seeds.push_back(seed);
    }
  }
  if (auto found = find_fatal(samples, first, std::chrono::seconds(options.cpu_seconds))) {
    const uint64_t seed = seeds[found->sample];
    llvm::outs() << llvm::formatv("seed {0} (variation {1}): {2}\nseed {0}: written to {3}\n", seed, first,
                                  found->text,
                                  write_case(options, seed, samples[found->sample], found->text));
  } else {
    llvm::outs() << llvm::formatv("none of it does so alone; all together: --seed {0} --count {1}\n", first,
                                  options.batch);
  }
}

} // namespace

int main(int argc, char **argv) {
  Options options;
  CLI::App app("Random pipelines through every executor");
  app.add_option("--seed", options.seed, "First seed");
  app.add_option("--count", options.count, "Pipelines; 0: as many as fit the time");
  app.add_option("--seconds", options.seconds, "Time");
  app.add_option("--programs", options.programs, "Programs; 0: as many as fit the time");
  app.add_option("--batch", options.batch, "Pipelines in one link");
  app.add_option("--out", options.out, "Folder for case files");
  app.add_option("--kernel", options.kernel, "Every which pipeline also runs in the kernel; 0: none");
  app.add_option("--mutants", options.mutants, "Every which pipeline has instructions taken out; 0: none");
  app.add_flag("-v", options.verbose, "Say what the verifier refuses");
  app.add_option("--cpu-seconds", options.cpu_seconds, "CPU time after which a batch counts as endless");
  std::optional<uint64_t> fatal;
  app.add_option("--plant-fatal", fatal,
                 "End the process in the link of this seed: a trial of what then happens");
  CLI11_PARSE(app, argc, argv);
  if (fatal) {
    fatal_name = name_of(*fatal);
    test_hooks.lowered = end_process;
  }

  void *shared = mmap(nullptr, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED)
    return 2;
  auto *at = static_cast<uint64_t *>(shared);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return Fuzzer(options, *at).run();
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child)
    return 2;
  if (WIFEXITED(status))
    return WEXITSTATUS(status);
  report_fatal(options, *at, WTERMSIG(status));
  return 1;
}
