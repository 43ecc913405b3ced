// A kernel's stack is small, so there is a ladder down: everything inlined; the entry's program out of line,
// whose frame would otherwise stay below all others; nothing inlined, since inlined programs share a frame
// which holds what any of them needs; and without the programs that need too much on their own.
#include "lto/link.h"

#include "lto/fuse.h"
#include "lto/image.h"
#include "lto/kernel_code.h"
#include "translator/lower.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <map>

namespace ujit {

using namespace llvm;

static Expected<LinkResult> link_once(const Pipeline &pipeline, const LinkOptions &options) {
  Expected<std::vector<LinkResult>> results = link_each(pipeline, options, {&options.plan, 1});
  if (!results)
    return results.takeError();
  return std::move(results->front());
}

/// What image and stub may need together.
static bool fits_kernel_stack(const LinkResult &r) {
  return r.stats.max_stack_bytes + stub_stack(r.leave.frame_bytes) <= kernel_stack_limit;
}

/// Programs which are no entries and whose own functions need more stack than an image may have.
static Expected<std::vector<std::pair<ProgId, std::string>>> too_deep(const Pipeline &pipeline,
                                                                      const LinkResult &result) {
  std::vector<std::string> roots;
  uint32_t entry_frame = 0;
  for (ProgId e : result.plan.entries)
    roots.push_back(entry_symbol(pipeline[e]));
  Expected<std::vector<FunctionStack>> stacks = stack_by_function(result.image.object, roots);
  if (!stacks)
    return stacks.takeError();
  std::map<std::string, uint32_t> bytes;
  for (const FunctionStack &f : *stacks) {
    bytes[f.name] = f.bytes;
    if (std::find(roots.begin(), roots.end(), f.name) != roots.end())
      entry_frame = std::max(entry_frame, f.frame);
  }
  constexpr uint32_t return_addresses = 16;
  const uint32_t taken = stub_stack(result.leave.frame_bytes) + entry_frame + return_addresses;
  std::vector<std::pair<ProgId, std::string>> out;
  for (uint32_t p = 0; p < pipeline.programs.size(); ++p) {
    if (result.plan[ProgId(p)].entry || result.plan[ProgId(p)].role != PlannedProgram::function)
      continue;
    const std::string name = program_symbol(pipeline.programs[p]);
    const uint32_t needed = std::max(bytes[name], bytes[name + ".resume"]);
    if (taken + needed > kernel_stack_limit)
      out.push_back({ProgId(p), formatv("{0} bytes of stack, with {1} for stub and entry: the limit is {2}",
                                        needed, taken, kernel_stack_limit)});
  }
  return out;
}

Expected<LinkResult> link(const Pipeline &pipeline, const LinkOptions &options) {
  Expected<LinkResult> result = link_once(pipeline, options);
  if (!result || options.target != LinkTarget::kernel || fits_kernel_stack(*result))
    return result;
  const uint32_t wanted = result->stats.max_stack_bytes;
  auto fits = [&](const char *how) {
    if (!fits_kernel_stack(*result))
      return false;
    result->stats.notes.push_back(formatv("{0}: {1} bytes of stack would be too many", how, wanted));
    return true;
  };
  LinkOptions less = options;
  less.plan.inline_entries = false;
  result = link_once(pipeline, less);
  if (!result || fits("entries not inlined"))
    return result;
  less.plan.inline_single_caller = false;
  less.plan.clone_limit_ir = 0;
  less.plan.peel_growth_ir = 0;
  result = link_once(pipeline, less);
  if (!result || fits("not inlined"))
    return result;
  Expected<std::vector<std::pair<ProgId, std::string>>> deep = too_deep(pipeline, *result);
  if (!deep)
    return deep.takeError();
  less.plan.unfused.insert(less.plan.unfused.end(), deep->begin(), deep->end());
  if (!deep->empty()) {
    result = link_once(pipeline, less);
    if (!result || fits("not inlined, programs left out"))
      return result;
  }
  return unsupported(formatv("{0} bytes of stack at most, and {1} for the stub: the limit is {2}",
                             result->stats.max_stack_bytes, stub_stack(result->leave.frame_bytes),
                             kernel_stack_limit))
      .with_hint("leave out entries with deep subprograms")
      .error();
}

} // namespace ujit
