// The profile of a pipeline: what a run over packets counted, and which way of linking was the fastest there.
// `bench --profile` writes it beside the manifest, every later link reads it.
//
// Counts belong to programs and are found again by digest and instruction number, so they stay valid when
// other programs, names, prog arrays or optimisations change. A program that did change has no counts. The
// verdict is about the whole and holds only for the pipeline that was measured.
#pragma once

#include "graph/plan.h"
#include "lto/execute.h"
#include "translator/profile.h"

#include <string>
#include <string_view>
#include <vector>

namespace ujit {

/// Ways to link a pipeline, the most fused one first.
enum class LinkForm : uint8_t {
  fused,
  not_inlined, ///< tail calls are direct calls, every program is a function of its own
  chain,       ///< unfused: each program by itself, through the prog arrays
};
std::string_view name_of(LinkForm form);
/// Makes a plan come out in that form.
void set_form(LinkForm form, PlanOptions &plan);

struct Verdict {
  struct Measured {
    LinkForm form{};
    double insns = 0; ///< a packet, helpers included
    double ns = 0;    ///< a packet; 0: measured at too few placements to say anything
    friend bool operator==(const Measured &, const Measured &) = default;
  };
  LinkForm best = LinkForm::fused;
  std::vector<Measured> measured; ///< by form
  friend bool operator==(const Verdict &, const Verdict &) = default;
};

/// The most fused form that does not lose to the chain: that takes no more time, or, where times are within 3
/// % of each other or too few, executes no more instructions. `measured` has the chain.
Verdict judge(std::vector<Verdict::Measured> measured);

/// Runs the packets through the interpreter, on fresh maps with the execution's seeds, and counts. Errors:
/// those of execute_interpreter().
Expected<Profile> count_profile(const Execution &execution);

/// As text: JSON, a program a line. `verdict` may be null.
std::string print_profile(const Pipeline &pipeline, const Profile &profile, const Verdict *verdict);

struct StoredProfile {
  Profile profile;
  std::optional<Verdict> verdict; ///< none: not measured, or of another pipeline
  std::string note;               ///< what of it can be used, in one line
};

/// What of a profile's text holds for this pipeline. Errors (input): not a profile.
Expected<StoredProfile> parse_profile(std::string_view text, const std::string &file,
                                      const Pipeline &pipeline);

/// "x.ujit.profile" for "x.ujit.yaml".
std::string profile_path(const std::string &manifest_file);

} // namespace ujit
