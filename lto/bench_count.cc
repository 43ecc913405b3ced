#include "lto/bench_count.h"

#include <algorithm>
#include <csignal>
#include <ucontext.h>

namespace ujit {

namespace {

struct Address {
  uint64_t address;
  uint32_t helper; ///< index into helper_symbols()
};

// What the signal handler works on: it must not allocate.
struct State {
  std::vector<std::pair<uint64_t, uint64_t>> ranges, thunks;
  std::vector<Address> helpers; ///< by address
  InsnCounts counts;
  bool inside = false;  ///< own code has been entered
  uint64_t outside = 0; ///< instructions since own code was left
  uint64_t in_thunks = 0;
  const Address *called = nullptr;
} state;

bool is_in(const std::vector<std::pair<uint64_t, uint64_t>> &ranges, uint64_t pc) {
  for (const auto &[address, size] : ranges)
    if (pc - address < size)
      return true;
  return false;
}

/// Own code is back, or has ended: what ran outside of it was the helper that was entered first. Instructions
/// behind the last return are the harness's.
void on_own(uint64_t pc) {
  if (uint64_t offset = pc - state.ranges.front().first; offset < state.counts.at.size())
    ++state.counts.at[offset];
  state.counts.other += state.outside;
  state.counts.thunks += state.in_thunks;
  if (state.called) {
    state.counts.helpers[state.called->helper].first += 1;
    state.counts.helpers[state.called->helper].second += state.outside;
  }
  state.called = nullptr;
  state.outside = state.in_thunks = 0;
  state.counts.own += 1;
}

void on_trap(int, siginfo_t *, void *context) {
  const auto pc = uint64_t(static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP]);
  if (is_in(state.thunks, pc)) {
    ++state.in_thunks;
    return;
  }
  if (is_in(state.ranges, pc)) {
    state.inside = true;
    return on_own(pc);
  }
  if (!state.inside)
    return;
  ++state.outside;
  if (!state.called) {
    auto it = std::lower_bound(state.helpers.begin(), state.helpers.end(), pc,
                               [](const Address &a, uint64_t wanted) { return a.address < wanted; });
    if (it != state.helpers.end() && it->address == pc)
      state.called = &*it;
  }
}

} // namespace

InsnCounter::InsnCounter(Ranges ranges, Ranges thunks) {
  state = {};
  state.ranges.assign(ranges.begin(), ranges.end());
  state.thunks.assign(thunks.begin(), thunks.end());
  const std::span<const HelperSymbol> helpers = helper_symbols();
  state.counts.helpers.resize(helpers.size());
  state.counts.at.resize(ranges.front().second);
  for (uint32_t i = 0; i < helpers.size(); ++i)
    state.helpers.push_back({reinterpret_cast<uint64_t>(helpers[i].address), i});
  std::sort(state.helpers.begin(), state.helpers.end(),
            [](const Address &a, const Address &b) { return a.address < b.address; });
  struct sigaction action = {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGTRAP, &action, nullptr);
}

__attribute__((noinline)) uint64_t InsnCounter::run(NativeEntry entry, void *context,
                                                    const uint64_t *instance) {
  state.inside = false;
  state.outside = state.in_thunks = 0;
  state.called = nullptr;
  // The flag takes effect behind the instruction after popf. This function makes a call, so nothing of it
  // lies in the red zone that pushf writes to.
  asm volatile("pushfq\n orq $0x100, (%%rsp)\n popfq" ::: "cc", "memory");
  const uint64_t r0 = entry(context, instance);
  asm volatile("pushfq\n andq $~0x100, (%%rsp)\n popfq" ::: "cc", "memory");
  state.counts.thunks += state.in_thunks; // of the last return
  state.in_thunks = 0;
  return r0;
}

const InsnCounts &InsnCounter::counts() const { return state.counts; }

} // namespace ujit
