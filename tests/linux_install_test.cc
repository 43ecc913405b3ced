// Installations on a live network: what comes out with stubs attached is what comes out with the originals,
// whatever happens to slots, to the kill switch and to what user space writes in between.
#include "tests/install_bed.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

namespace ujit {
namespace {

INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstall,
                         testing::Values(Hook{"xdp", HookKind::xdp, false},
                                         Hook{"xdp_link", HookKind::xdp, true, true},
                                         Hook{"tc", HookKind::tc_ingress, false, true},
                                         Hook{"tcx", HookKind::tcx_ingress, true}),
                         name_of_hook);
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallBoth,
                         testing::Values(Hook{"xdp", HookKind::xdp, true},
                                         Hook{"tc", HookKind::tc_ingress, false}),
                         name_of_hook);
INSTANTIATE_TEST_SUITE_P(Hooks, LinuxInstallOnce, testing::Values(Hook{"tc", HookKind::tc_ingress, false}),
                         name_of_hook);

TEST_P(LinuxInstall, EverythingIsAsWithTheOriginals) {
  if (GetParam().capture)
    llvm::cantFail(traffic_->start_capture(0));
  const Outcome originals = all_traffic();
  ASSERT_GT(originals.counts[entered], 300u);
  ASSERT_EQ(install(), "");
  EXPECT_NE(attached(), id_of_program(entry()));
  expect_same(all_traffic(), originals, "stubs");
  EXPECT_GE(times_left(), originals.counts[in_outsider]);
  if (GetParam().capture) {
    EXPECT_GT(traffic_->captured(), 600u);
  }
  llvm::cantFail(uninstall(name));
  expect_originals();
  expect_same(all_traffic(way_far), all_traffic(way_far), "originals again");
}

TEST_P(LinuxInstallBoth, SlotsThatChange) {
  steer(way_loop);
  reset();
  run(entry());
  const std::vector<uint64_t> loops = counts();
  EXPECT_GT(loops[looped], 25u);
  EXPECT_EQ(loops[loop_ended], 1u);
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  reset();
  run(stub.get());
  EXPECT_EQ(counts(), loops) << "tail calls up to the kernel's limit";
  steer(way_pass);
  const uint32_t passes = uint32_t(pass()), drops = uint32_t(drop());
  auto expect_run = [&](uint32_t verdict, std::vector<uint32_t> counted) {
    reset();
    const uint64_t before = times_left();
    EXPECT_EQ(run(stub.get()), verdict);
    const std::vector<uint64_t> now = counts();
    for (uint32_t c : counted)
      EXPECT_EQ(now[c], 1u) << "counter " << c;
    return times_left() - before;
  };
  // Guarded: a new program is called, an empty slot falls through, the old program is fused again.
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  set_slot(slot_mid, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_newcomer}), 1u);
  set_slot(slot_mid, -1);
  EXPECT_EQ(expect_run(passes, {entered, missed_mid}), 0u);
  set_slot(slot_mid, original_of("mid"));
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  // Dispatched.
  set_slot(slot_leaves + way_pass, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_mid, in_newcomer}), 1u);
  set_slot(slot_leaves + way_pass, -1);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_last}), 0u);
  set_slot(slot_leaves + way_pass, original_of("leaf_drop"));
  expect_run(drops, {entered, in_mid, 9});
  set_slot(slot_leaves + way_pass, original_of("leaf_pass"));
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_pass}), 0u);
  // Left: to a program that is not fused, which calls one that is.
  steer(way_far);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_far, in_outsider, in_last}), 1u);
  set_slot(slot_far, -1);
  EXPECT_EQ(expect_run(passes, {entered, in_mid, in_far}), 0u);
  set_slot(slot_far, newcomer_.get());
  EXPECT_EQ(expect_run(drops, {entered, in_mid, in_far, in_newcomer}), 1u);
}

/// A program that has made nearly all tail calls that the kernel allows before it calls the stub. The image
/// has a count of its own; what leaves it then does not find the way out, and comes back.
TEST_P(LinuxInstallBoth, ComesBackBehindCallsThatFail) {
  LIBBPF_OPTS(bpf_map_create_opts, plain);
  Fd jumps(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "jumps", 4, 4, 2, &plain));
  Fd steps(bpf_map_create(BPF_MAP_TYPE_ARRAY, "steps", 4, 8, 1, &plain));
  ASSERT_TRUE(jumps && steps);
  const uint32_t zero = 0, one = 1;
  // if (steps[0]) { --steps[0]; call jumps[0], which is this program } else call jumps[1]
  Fd looper = load("looper", "GPL",
                   {{BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0},
                    {BPF_LD | BPF_DW | BPF_IMM, 7, BPF_PSEUDO_MAP_VALUE, 0, steps.get()},
                    {0, 0, 0, 0, 0},
                    {BPF_LDX | BPF_MEM | BPF_DW, 8, 7, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 1},
                    {BPF_JMP | BPF_JEQ | BPF_K, 8, 0, 3, 0},
                    {BPF_ALU64 | BPF_ADD | BPF_K, 8, 0, 0, -1},
                    {BPF_STX | BPF_MEM | BPF_DW, 7, 8, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0},
                    {BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0},
                    {BPF_LD | BPF_DW | BPF_IMM, 2, BPF_PSEUDO_MAP_FD, 0, jumps.get()},
                    {0, 0, 0, 0, 0},
                    {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call},
                    {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 77},
                    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}});
  ASSERT_TRUE(looper) << std::strerror(errno);
  const int looper_fd = looper.get();
  ASSERT_EQ(bpf_map_update_elem(jumps.get(), &zero, &looper_fd, BPF_ANY), 0);
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  const int stub_fd = stub.get();
  ASSERT_EQ(bpf_map_update_elem(jumps.get(), &one, &stub_fd, BPF_ANY), 0) << std::strerror(errno);
  auto run_after = [&](uint64_t calls) { // of which the last is that of the stub
    reset();
    const uint64_t n = calls - 1;
    EXPECT_EQ(bpf_map_update_elem(steps.get(), &zero, &n, BPF_ANY), 0);
    return run(looper.get());
  };
  ASSERT_EQ(run_after(33), uint32_t(pass()));
  ASSERT_EQ(counts()[in_pass], 1u) << "the image counts apart";
  // What a miss in the image counts, with all that is alive behind it.
  steer(way_empty);
  run_after(1);
  const std::vector<uint64_t> missed = counts();
  EXPECT_EQ(missed[in_last], 1u);

  steer(way_pass);
  set_slot(slot_leaves + way_pass, newcomer_.get());
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  std::vector<uint64_t> back = counts();
  // Behind the call that failed, `mid` goes on; its next call may leave, too, and then fails as well.
  EXPECT_EQ(back[in_last] + back[missed_last], 1u) << "dispatched";
  back[in_last] = 1, back[missed_last] = 0;
  EXPECT_EQ(back, missed) << "dispatched";
  EXPECT_EQ(run_after(32), uint32_t(drop()));
  EXPECT_EQ(counts()[in_newcomer], 1u) << "one call is left";

  set_slot(slot_mid, newcomer_.get());
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  EXPECT_EQ(counts()[missed_mid], 1u) << "guarded";
  EXPECT_EQ(counts()[in_newcomer], 0u);
  set_slot(slot_mid, original_of("mid"));

  steer(way_far);
  EXPECT_EQ(run_after(33), uint32_t(pass()));
  const std::vector<uint64_t> now = counts();
  EXPECT_EQ(now[in_outsider], 0u);
  uint64_t resumed = 0;
  for (uint32_t i = 0; i < 8; ++i)
    resumed += now[missed_far + i];
  EXPECT_EQ(resumed, 1u) << "left";
  set_slot(slot_leaves + way_pass, original_of("leaf_pass"));

  // Switched off, the originals go on with the kernel's count.
  steer(way_pass);
  llvm::cantFail(set_enabled(name, false));
  EXPECT_EQ(run_after(32), uint32_t(pass()));
  EXPECT_EQ(counts()[missed_mid], 1u);
  EXPECT_EQ(run_after(31), uint32_t(pass()));
  EXPECT_EQ(counts()[in_mid], 1u);
  EXPECT_EQ(run_after(33), uint32_t(GetParam().type() == ProgType::xdp ? XDP_ABORTED : TC_ACT_SHOT))
      << "no call is left for the original";
  for (uint32_t slot : {zero, one})
    bpf_map_delete_elem(jumps.get(), &slot);
}

/// Slots change and the kill switch is thrown while packets run: each packet goes one way or the other.
TEST_P(LinuxInstallBoth, NoPacketIsLostWhileSlotsAndSwitchChange) {
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  steer(way_far);
  reset();
  std::atomic<bool> done = false;
  std::thread changes([&] {
    std::mt19937 random(1);
    while (!done) {
      const uint32_t slots[] = {slot_mid, slot_leaves + way_far, slot_far};
      const char *programs[] = {"mid", "leaf_far", nullptr};
      const unsigned which = random() % 3;
      const int old = programs[which] ? original_of(programs[which]) : outsider_.get();
      const int choice[] = {old, newcomer_.get(), -1};
      const int program = choice[random() % 3];
      if (program < 0)
        bpf_map_delete_elem(map("calls"), &slots[which]);
      else
        bpf_map_update_elem(map("calls"), &slots[which], &program, BPF_ANY);
      if (random() % 4 == 0)
        llvm::cantFail(set_enabled(name, random() % 2));
    }
  });
  constexpr uint64_t rounds = 60, each = 2000;
  for (uint64_t i = 0; i < rounds; ++i)
    run(stub.get(), each);
  done = true;
  changes.join();
  const std::vector<uint64_t> n = counts();
  EXPECT_EQ(n[entered], rounds * each);
  uint64_t missed_fars = 0;
  for (uint32_t i = 0; i < 8; ++i)
    missed_fars += n[missed_far + i];
  // Each packet ends once: in a program that calls no other, or behind the last call that misses.
  EXPECT_EQ(n[entered],
            n[missed_mid] + n[in_newcomer] + n[in_last] + n[missed_last] + missed_fars + n[outsider_missed]);
}

/// Somebody writes the map that steers while packets run. A value that is checked is the value that is used.
TEST_P(LinuxInstallOnce, HostileWriter) {
  ASSERT_EQ(install(), "");
  Fd stub = this->stub();
  reset();
  const pid_t child = fork();
  if (child == 0) {
    auto *words = static_cast<volatile uint32_t *>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map("steer"), 0));
    for (uint32_t i = 0;; ++i)
      words[0] = i & 8 ? i * 2654435761u : i;
  }
  constexpr uint64_t rounds = 60, each = 2000;
  for (uint64_t i = 0; i < rounds; ++i)
    run(stub.get(), each);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const std::vector<uint64_t> n = counts();
  EXPECT_EQ(n[entered], rounds * each);
  EXPECT_EQ(n[in_mid], rounds * each);
  uint64_t ended = n[8] + n[9] + n[10] + n[11] + n[loop_ended] + n[in_far], missed = 0;
  for (uint32_t i = 0; i < 8; ++i)
    missed += n[missed_leaf + i];
  EXPECT_EQ(ended + missed, rounds * each);
}

/// One of the chain's programs is an entry itself: its slot gets the stub.
TEST_P(LinuxInstallOnce, SlotsCanBeEntries) {
  const Outcome originals = all_traffic(way_far);
  const uint32_t slot = slot_mid;
  const std::string text =
      "ujit-lto: 1\nname: " + std::string(name) + "\nattach:\n  - { map: calls, slot: 1 }\n";
  ASSERT_EQ(install(llvm::cantFail(parse_manifest(text, "test.ujit.yaml"))), "");
  uint32_t in_slot = 0;
  ASSERT_EQ(bpf_map_lookup_elem(map("calls"), &slot, &in_slot), 0);
  EXPECT_NE(in_slot, id_of_program(original_of("mid")));
  expect_same(all_traffic(way_far), originals, "stub in a slot");
  llvm::cantFail(uninstall(name));
  ASSERT_EQ(bpf_map_lookup_elem(map("calls"), &slot, &in_slot), 0);
  EXPECT_EQ(in_slot, id_of_program(original_of("mid")));
  expect_originals();
}

} // namespace
} // namespace ujit
