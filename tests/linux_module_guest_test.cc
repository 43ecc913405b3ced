// Modules and stubs in a running kernel that takes them: what runs, leaves, comes back, stays and goes.
#include "tests/linux_module_bed.h"

#include <signal.h>
#include <sys/wait.h>

namespace ujit {
namespace {

INSTANTIATE_TEST_SUITE_P(Hooks, Modules, testing::Values(ProgType::xdp, ProgType::sched_cls),
                         [](const auto &type) { return std::string(name_of(type.param)); });

TEST_P(Modules, RunsTheImage) {
  ASSERT_EQ(bring_up(), "");
  EXPECT_EQ(run(), 2);
  EXPECT_EQ(control_->calls, 1u);
  EXPECT_GT(control_->time, 0u);
  control_->mode = 2;
  EXPECT_EQ(run(), 0xffffffff);
}

TEST_P(Modules, LeavesAndComesBack) {
  ASSERT_EQ(bring_up(), "");
  control_->mode = 1;
  control_->index = 3;
  EXPECT_EQ(run(), 1); // empty slot: resumed with the frame as it was
  EXPECT_EQ(control_->resumes, 1u);
  control_->index = 0x80000000; // out of range
  EXPECT_EQ(run(), 1);
  EXPECT_EQ(control_->resumes, 2u);
  control_->index = 3;
  set_slot(3, target_fd_.get());
  EXPECT_EQ(run(), 4);
  EXPECT_EQ(control_->target, 1u);
  EXPECT_EQ(control_->resumes, 2u);
}

TEST_P(Modules, CountsWhatItLeaves) {
  Fd left(bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "left", 4, 8, 1, nullptr));
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  spec.left = left.get();
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  stub_ = std::move(*stub);
  ASSERT_EQ(llvm::toString(seal_module(*inserted_, 1)), "");
  EXPECT_EQ(run(), 2);
  control_->mode = 1;
  control_->index = 3;
  EXPECT_EQ(run(), 1);
  set_slot(3, target_fd_.get());
  EXPECT_EQ(run(), 4);
  uint64_t counts[1024] = {}, sum = 0;
  const uint32_t zero = 0;
  ASSERT_EQ(bpf_map_lookup_elem(left.get(), &zero, counts), 0);
  for (uint64_t n : counts)
    sum += n;
  EXPECT_EQ(sum, 2u);
}

TEST_P(Modules, DropsWhenEveryTailCallFails) {
  ASSERT_EQ(bring_up(), "");
  control_->mode = 3;
  EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
  EXPECT_EQ(control_->calls, 34u);
}

TEST_P(Modules, KillSwitch) {
  ASSERT_EQ(bring_up(), "");
  auto *off =
      static_cast<uint32_t *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, switch_fd_.get(), 0));
  ASSERT_NE(off, MAP_FAILED);
  EXPECT_EQ(run(), 2);
  *off = 1;
  EXPECT_EQ(run(), 3);
  EXPECT_EQ(control_->original, 1u);
  EXPECT_EQ(control_->calls, 1u);
  const uint32_t zero = 0;
  bpf_map_delete_elem(originals_fd_.get(), &zero);
  EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
  *off = 0;
  EXPECT_EQ(run(), 2);
  munmap(off, 4096);
}

TEST_P(Modules, StubsTakeTheOriginalsPlace) {
  ASSERT_EQ(bring_up(), "");
  // The array's owner is of the original's kind: type, attach type, frags.
  set_slot(5, original_fd_.get());
  set_slot(6, stub_.get());
  const StubSpec spec = stub_spec();
  const int stub = stub_.get(), original = original_fd_.get();
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&spec, 1), std::span(&stub, 1))), "");
  // The target would do, too; one of another attach type or without a flag would not.
  CapturedProgram other = copy_of(capture_->programs[0]);
  other.attach_type = capture_->programs[0].attach_type + 1;
  other.frags = capture_->programs[0].frags;
  StubSpec differs = stub_spec();
  differs.original = &other;
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&differs, 1), std::span(&stub, 1))),
            "the stub of  cannot stand in for it: attach type differs");
  differs = stub_spec();
  differs.dst_needed = true;
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&differs, 1), std::span(&original, 1))),
            "the stub of original cannot stand in for it: dst_needed differs");
}

TEST_P(Modules, StubsHaveTheFlagsOfAllMembers) {
  if (GetParam() != ProgType::sched_cls)
    GTEST_SKIP() << "only tc looks at it";
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  spec.dst_needed = true;
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  const int fd = stub->get();
  EXPECT_EQ(llvm::toString(check_stubs(std::span(&spec, 1), std::span(&fd, 1))), "");
}

TEST_P(Modules, LargestStub) {
  spec_.frame_bytes = 400;
  ASSERT_EQ(insert(), "");
  StubSpec spec = stub_spec();
  std::vector<Fd> arrays;
  for (int i = 0; i < 15; ++i) {
    arrays.emplace_back(bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "more", 4, 4, 2, nullptr));
    spec.prog_arrays.push_back(arrays.back().get());
  }
  const auto start = std::chrono::steady_clock::now();
  auto stub = ujit::load_stub(spec);
  ASSERT_TRUE(bool(stub)) << llvm::toString(stub.takeError());
  std::printf("stub of 16 arrays: loaded in %.1f ms\n", milliseconds_since(start));
  stub_ = std::move(*stub);
  ASSERT_EQ(llvm::toString(seal_module(*inserted_, 1)), "");
  EXPECT_EQ(run(), 2);
}

TEST_P(Modules, StayWhileAStubIsThere) {
  ASSERT_EQ(bring_up(), "");
  std::string refused = llvm::toString(remove_module(spec_.name, 50));
  EXPECT_NE(refused.find("1 programs use it"), std::string::npos) << refused;
  set_slot(1, stub_.get());
  stub_ = Fd(); // only in the prog array now
  refused = llvm::toString(remove_module(spec_.name, 50));
  EXPECT_NE(refused.find("1 programs use it"), std::string::npos) << refused;
  const uint32_t slot = 1;
  bpf_map_delete_elem(jumps_fd_.get(), &slot);
  EXPECT_EQ(llvm::toString(remove_module(spec_.name)), "");
  refused = llvm::toString(remove_module(spec_.name));
  EXPECT_NE(refused.find("it is not loaded"), std::string::npos) << refused;
}

TEST_P(Modules, HoldMapsAndPrograms) {
  ASSERT_EQ(insert(), "");
  const uint32_t map = map_named("control")->id, program = capture_->programs[0].id;
  const uint32_t zero = 0;
  bpf_map_delete_elem(originals_fd_.get(), &zero);
  munmap(control_, 4096);
  control_ = nullptr;
  capture_.reset();
  for (Fd *fd : {&control_fd_, &original_fd_, &target_fd_})
    *fd = Fd();
  usleep(300000);
  EXPECT_TRUE(bool(Fd(bpf_map_get_fd_by_id(map))));
  EXPECT_TRUE(bool(Fd(bpf_prog_get_fd_by_id(program))));
  inserted_.reset();
  EXPECT_EQ(llvm::toString(remove_module(spec_.name)), "");
  for (int i = 0; i < 500 && Fd(bpf_map_get_fd_by_id(map)); ++i)
    usleep(10000);
  EXPECT_FALSE(bool(Fd(bpf_map_get_fd_by_id(map))));
  EXPECT_FALSE(bool(Fd(bpf_prog_get_fd_by_id(program))));
}

TEST_P(Modules, SealedForEveryone) {
  ASSERT_EQ(bring_up(), "");
  Fd first = std::move(stub_);
  EXPECT_NE(load_stub(), "");
  EXPECT_EQ(run(first.get()), 2);
}

/// Before 6.4 the kernel cannot be told whom to refuse: who binds in time never gets to run the image, and
/// nobody else does either.
TEST_P(Modules, ForeignProgramIsRefused) {
  ASSERT_EQ(insert(), "");
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    inserted_->open = Fd();
    char answer = 'n';
    if (auto foreign = ujit::load_stub(stub_spec())) {
      stub_ = std::move(*foreign);
      answer = run() == (GetParam() == ProgType::xdp ? 0 : 2) ? 'd' : 'r';
    } else
      llvm::consumeError(foreign.takeError());
    (void)!write(go[1], &answer, 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(go[0], &answer, 1), 1);
  EXPECT_EQ(answer, kernel_.layout.set_filter_at ? 'n' : 'd');
  EXPECT_EQ(load_stub(), "");
  const std::string sealed = llvm::toString(seal_module(*inserted_, 1));
  if (kernel_.layout.set_filter_at) {
    EXPECT_EQ(sealed, "");
    EXPECT_EQ(run(), 2);
  } else {
    EXPECT_NE(sealed.find("is used by 2 programs, and 1 of them are ours"), std::string::npos) << sealed;
    EXPECT_EQ(run(), GetParam() == ProgType::xdp ? 0 : 2);
    EXPECT_EQ(control_->calls, 0u);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(go[0]);
  close(go[1]);
}

TEST_P(Modules, KilledLoaderLeavesItSealed) {
  auto module = write_module(spec_, kernel_);
  ASSERT_TRUE(bool(module)) << llvm::toString(module.takeError());
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string error = insert(*module);
    const char answer = error.empty() ? 'y' : 'n';
    (void)!write(go[1], &answer, 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(go[0], &answer, 1), 1);
  ASSERT_EQ(answer, 'y');
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(go[0]);
  close(go[1]);
  inserted_.emplace();
  inserted_->name = spec_.name;
  for (uint32_t id = 0; bpf_btf_get_next_id(id, &id) == 0;)
    inserted_->btf = Fd(bpf_btf_get_fd_by_id(id)); // the newest is the module's
  auto object = read_elf(*module);
  ASSERT_TRUE(bool(object));
  for (const ImageElfSymbol &s : object->symbols)
    if (s.name == "ujit_module_set") {
      uint32_t words[3];
      std::memcpy(words, object->sections[s.section].contents.data() + s.value, sizeof words);
      inserted_->kfunc_ids = {words[2]};
    }
  EXPECT_NE(load_stub(), "");
}

} // namespace
} // namespace ujit
