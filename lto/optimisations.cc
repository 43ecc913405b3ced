// What can be left out of a link by name: `--no-opt`, the rows of the benchmark, and what `check --bisect`
// tries. The order is that in which the pipeline does them.
#include "lto/link.h"

namespace ujit {

static constexpr OptimisationName names[] = {
    {"alias-domains", "loads and stores carry the kind of memory they access"},
    {"helper-effects", "calls of helpers carry what they may read and write"},
    {"inline-lookups", "array and per-CPU array lookups become address arithmetic"},
    {"inline-updates", "updates of array and per-CPU array elements become stores"},
    {"inline-hash-lookups", "hash tables are searched inline"},
    {"inline-helpers",
     "checksum differences and packet bytes of a constant size are code, in the embedded kernel"},
    {"fold-config", "read-only data becomes constants before the graph is built"},
    {"inline-skb-helpers", "helpers on packets that are linear and not shared become code"},
    {"forward-state",
     "stores are forwarded to loads behind a tail call, constants also through joins; overwritten stores go"},
    {"merge-bytes", "loads and stores of bytes that are a word become one"},
    {"conditions", "checks that earlier checks imply go"},
    {"split-paths", "what is asked again later, such as for a VLAN tag, has code of its own for each answer"},
    {"loops", "loops are rotated and unrolled, what does not change in them is computed before"},
    {"rotates", "shifts of a word and of what it was mixed from are rotates"},
    {"switches", "dense searches by comparisons are jump tables, in the embedded kernel"},
    {"schedule", "instructions are ordered so that fewer values are alive at once"},
    {"vectors", "loops use vector registers, in the embedded kernel"},
    {"hot-paths",
     "failed bounds checks, error sinks, drops and calls that leave the image are taken to be rare"},
    {"inline", "programs with one caller are inlined"},
    {"clone", "small shared programs are copied into their callers"},
    {"peel", "the first pass through a cycle is code of its own, without a count"},
    {"profile", "a run's counts, where there is a profile, say which way is straight and what is copied"},
};
std::span<const OptimisationName> optimisation_names() { return names; }

} // namespace ujit
