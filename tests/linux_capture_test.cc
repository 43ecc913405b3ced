#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/dump.h"
#include "kernel-iface/linux/load.h"
#include "kernel-iface/linux/private_network.h"
#include "kernel-iface/object/gather.h"
#include "tests/attacher.h"
#include "tests/linux_pipeline.h"
#include "tests/paths.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>

namespace ujit {
namespace {

using namespace asm_;

class LinuxCapture : public testing::Test {
protected:
  void SetUp() override {
    static const Capabilities capabilities = probe_capabilities();
    for (const Capability *needed :
         {&capabilities.bpf, &capabilities.test_run, &capabilities.btf, &capabilities.jit_dump})
      if (!needed->ok)
        GTEST_SKIP() << needed->name << ": " << needed->reason;
  }
  static LoadedPipeline load(const Pipeline &pipeline, const LoadOptions &options = {}) {
    return llvm::cantFail(load_into_kernel(pipeline, options));
  }
  static Capture capture_of(std::vector<int> fds, const CaptureOptions &options = {}) {
    return llvm::cantFail(capture(fds, options));
  }
  static std::string error_of(std::vector<int> fds, const CaptureOptions &options = {}) {
    Expected<Capture> out = capture(fds, options);
    return out ? "captured" : llvm::toString(out.takeError());
  }
};

/// An instruction as the kernel's dump shows the raw one.
void expect_like_dump(const CapturedProgram &program, const Capture &all) {
  ProgramDump dump = llvm::cantFail(dump_program(program.fd.get()));
  ASSERT_EQ(program.insns.size(), dump.xlated.size()) << program.name;
  for (uint32_t i = 0; i < program.insns.size(); i++) {
    Insn raw = program.insns[i];
    const Insn shown = dump.xlated[i];
    SCOPED_TRACE(program.name + ": insn " + std::to_string(i));
    if (raw.opcode == 0xf5) { // tail call; imm numbers the place that is patched for constant indices
      EXPECT_EQ(shown.opcode, 0x85);
      EXPECT_EQ(shown.imm, BPF_FUNC_tail_call);
      continue;
    }
    if ((raw.opcode & 0xe7) == 0x21) // a load that may fault, shown as a plain one
      raw.opcode = uint8_t((raw.opcode & ~0xe0) | 0x60);
    if (is_wide(shown) && (shown.src == BPF_PSEUDO_MAP_FD || shown.src == BPF_PSEUDO_MAP_VALUE)) {
      const CapturedMap *map = all.map_by_id(uint32_t(shown.imm));
      ASSERT_NE(map, nullptr);
      const uint64_t value = imm64(program.insns, i);
      if (shown.src == BPF_PSEUDO_MAP_FD) {
        EXPECT_EQ(value, map->address);
        EXPECT_EQ(all.map_by_address(value), map);
      } else {
        EXPECT_EQ(value, map->address + all.kernel->layout.array_value + uint32_t(dump.xlated[i + 1].imm));
      }
      i++;
      continue;
    }
    EXPECT_EQ(raw, shown);
  }
  ASSERT_EQ(program.functions.size(), dump.functions.size());
  uint32_t end = 0;
  for (size_t i = 0; i < program.functions.size(); i++) {
    EXPECT_EQ(program.functions[i].address, dump.functions[i].address);
    EXPECT_EQ(program.functions[i].start, end);
    end += program.functions[i].length;
  }
  EXPECT_EQ(end, program.insns.size());
  EXPECT_EQ(program.tag, dump.tag);
  EXPECT_EQ(program.load_time_ns, dump.load_time_ns);
}

/// entry -> slot 1 -> leaf; the leaf looks into a hash and a frozen map.
Pipeline chain() {
  Pipeline p;
  p.maps = {map("jmp", MapType::prog_array, 4, 4, 4), map("flows", MapType::hash, 4, 8, 16),
            data_map("rodata", {1, 2, 3, 4, 5, 6, 7, 8}, true)};
  p.maps[0].prog_slots = {{1, ProgId{1}}};
  Code leaf = code({value_ref(7, MapId{2}, 4), load32(7, 7, 0), store32_reg(10, 7, -4), mov_reg(2, 10),
                    add(2, -4), map_ref(1, MapId{1}), helper(1), mov(0, 7), exit()});
  p.programs = {
      program("entry", code({mov_reg(6, 1), tail_call(MapId{0}, 1), mov(0, 1), exit()})),
      program("leaf", leaf),
      program("other", code({mov(0, 9), exit()})),
  };
  p.entries = {ProgId{0}};
  return p;
}

uint32_t id_of(int program_fd) {
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  EXPECT_EQ(bpf_obj_get_info_by_fd(program_fd, &info, &length), 0);
  return info.id;
}

TEST_F(LinuxCapture, FollowsSlotsAndNamesWhatItFinds) {
  LoadedPipeline loaded = load(chain());
  Capture c = capture_of({loaded.fd(ProgId{0})}, {.symbols = {"bpf_prog_put", "no_such_symbol_here"}});
  ASSERT_EQ(c.entries, 1u);
  ASSERT_EQ(c.programs.size(), 2u);
  EXPECT_EQ(c.programs[0].name, "entry");
  EXPECT_EQ(c.programs[0].type, ProgType::xdp);
  EXPECT_TRUE(c.programs[0].gpl_compatible);
  EXPECT_EQ(c.programs[0].refused, "");
  EXPECT_EQ(c.programs[1].name, "leaf");
  ASSERT_EQ(c.maps.size(), 3u);
  for (const CapturedProgram &program : c.programs)
    expect_like_dump(program, c);

  const CapturedMap *jmp = c.map_by_id(c.programs[0].map_ids.at(0));
  ASSERT_NE(jmp, nullptr);
  EXPECT_EQ(jmp->type, MapType::prog_array);
  EXPECT_EQ(jmp->prog_slots, (std::vector<std::pair<uint32_t, uint32_t>>{{1, c.programs[1].id}}));
  EXPECT_FALSE(jmp->frozen);
  for (const CapturedMap &map : c.maps) {
    EXPECT_TRUE(map.bypass_spec_v1) << map.name;
    EXPECT_EQ(map.frozen, map.name == "rodata");
    EXPECT_EQ(map.contents,
              map.name == "rodata" ? std::vector<uint8_t>({1, 2, 3, 4, 5, 6, 7, 8}) : std::vector<uint8_t>());
  }

  // The leaf's lookup went to the function for hash maps.
  std::vector<std::string> called;
  for (const Insn &insn : c.programs[1].insns)
    if (insn.opcode == 0x85)
      called.push_back(c.symbols.at(c.call_base + uint64_t(int64_t(insn.imm))));
  EXPECT_EQ(called, std::vector<std::string>{"__htab_map_lookup_elem"});
  EXPECT_EQ(c.addresses.at("__bpf_call_base"), c.call_base);
  EXPECT_TRUE(c.addresses.count("bpf_prog_put"));
  EXPECT_FALSE(c.addresses.count("no_such_symbol_here"));
  if (Expected<KernelSymbols> symbols = KernelSymbols::read())
    EXPECT_EQ(c.addresses.at("bpf_prog_put"), symbols->address_of("bpf_prog_put"));
  else
    llvm::consumeError(symbols.takeError());
}

TEST_F(LinuxCapture, Subprograms) {
  Pipeline p;
  Program main =
      program("with_function", code({mov(1, 5), call(1), exit(), mov_reg(0, 1), add(0, 3), exit()}));
  main.subprograms = {{"with_function", 0, 3, 0}, {"plus_three", 3, 6, 0}};
  p.programs = {main};
  LoadedPipeline loaded = load(p);
  Capture c = capture_of({loaded.fd(ProgId{0})});
  ASSERT_EQ(c.programs.size(), 1u);
  ASSERT_EQ(c.programs[0].functions.size(), 2u);
  EXPECT_EQ(c.programs[0].functions[0].name, "with_function");
  EXPECT_EQ(c.programs[0].functions[1].name, "plus_three");
  EXPECT_EQ(c.programs[0].functions[1].start, 3u);
  EXPECT_EQ(c.programs[0].functions[1].length, 3u);
  expect_like_dump(c.programs[0], c);
}

TEST_F(LinuxCapture, ExampleDatapath) {
  for (const char *name : {"edge_lb_xdp", "edge_lb_tc"}) {
    Expected<Object> object = read_object_file(binary_dir() + "/edge-lb/" + name + ".bpf.o");
    if (!object) {
      llvm::consumeError(object.takeError());
      GTEST_SKIP() << "the example is not built";
    }
    GatherRequest request;
    request.objects.push_back(std::move(*object));
    Pipeline p = llvm::cantFail(gather(std::move(request)));
    LoadedPipeline loaded = load(p);
    std::vector<int> entries;
    for (ProgId id : p.entries)
      entries.push_back(loaded.fd(id));
    const auto start = std::chrono::steady_clock::now();
    Capture c = capture_of(entries);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    std::printf("%s: %zu programs captured in %.0f ms\n", name, c.programs.size(), time.count());
    EXPECT_GT(c.programs.size(), 1u);
    for (const CapturedProgram &program : c.programs) {
      EXPECT_EQ(program.refused, "") << program.name;
      expect_like_dump(program, c);
      for (const Insn &insn : program.insns)
        if (insn.opcode == 0x85 && insn.src == 0) {
          EXPECT_TRUE(c.symbols.count(c.call_base + uint64_t(int64_t(insn.imm))));
        }
    }
  }
}

TEST_F(LinuxCapture, LargeProgram) {
  Pipeline p;
  Code body = mov(0, 1);
  for (int i = 0; i < 200000; i++)
    body.push_back(insn(0x07, 0, 0, 0, i));
  body.push_back(insn(0x95, 0, 0, 0, 0));
  p.programs = {program("large", body)};
  LoadedPipeline loaded = load(p);
  const auto start = std::chrono::steady_clock::now();
  Capture c = capture_of({loaded.fd(ProgId{0})});
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  std::printf("%zu instructions captured in %.0f ms\n", body.size(), time.count());
  EXPECT_EQ(c.programs[0].insns, body);
}

TEST_F(LinuxCapture, MillionInstructions) {
  Pipeline p;
  Code body = mov(0, 1);
  body.resize(999999, insn(0x07, 0, 0, 0, 1));
  body.push_back(insn(0x95, 0, 0, 0, 0));
  p.programs = {program("million", body)};
  Expected<LoadedPipeline> loaded = load_into_kernel(p);
  if (!loaded)
    GTEST_SKIP() << llvm::toString(loaded.takeError());
  Capture c = capture_of({loaded->fd(ProgId{0})});
  EXPECT_EQ(c.programs[0].insns, body);
}

// --- what may not be fused

TEST_F(LinuxCapture, ProgramsThatAreNotGplAreRefused) {
  const bpf_insn insns[] = {{.code = 0xb7, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 2},
                            {.code = 0x95, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  Fd fd(bpf_prog_load(BPF_PROG_TYPE_XDP, "closed", "Proprietary", insns, 2, nullptr));
  ASSERT_TRUE(fd);
  Capture c = capture_of({fd.get()});
  EXPECT_NE(c.programs[0].refused.find("not GPL-compatible"), std::string::npos) << c.programs[0].refused;
}

/// The target of tests/bpf/attach.bpf.c, and what is attached to it.
struct AttachObject {
  std::unique_ptr<bpf_object, decltype(&bpf_object__close)> target{nullptr, bpf_object__close};
  Attacher attacher;
  int target_fd = -1;

  /// Loads `target`, and `name` for a function of it. Returns why not.
  std::string load(const char *name, const char *function) {
    target.reset(bpf_object__open((binary_dir() + "/tests/attach.bpf.o").c_str()));
    for (bpf_program *p = nullptr; target && (p = bpf_object__next_program(target.get(), p));)
      bpf_program__set_autoload(p, strcmp(bpf_program__name(p), "target") == 0);
    if (!target || bpf_object__load(target.get()) != 0)
      return "the target does not load";
    target_fd = bpf_program__fd(bpf_object__find_program_by_name(target.get(), "target"));
    return attacher.load(name, target_fd, function);
  }
};

TEST_F(LinuxCapture, ProgramsWithTracersOrExtensionsAreRefused) {
  const struct {
    const char *program, *function, *kind;
  } rows[] = {{"on_entry", "target", "fentry program 'on_entry'"},
              {"on_exit", "replaceable", "fexit program 'on_exit'"},
              {"extension", "replaceable", "extension (freplace) 'extension'"}};
  for (const auto &row : rows) {
    AttachObject object;
    const std::string problem = object.load(row.program, row.function);
    if (!problem.empty())
      GTEST_SKIP() << row.program << ": " << problem;
    ASSERT_TRUE(object.attacher.attach()) << row.program;
    {
      Capture c = capture_of({object.target_fd});
      EXPECT_NE(c.programs[0].refused.find(row.kind), std::string::npos) << c.programs[0].refused;
    }
    object.attacher.detach(); // the trampoline goes with it
    Capture c = capture_of({object.target_fd});
    EXPECT_EQ(c.programs[0].refused, "") << row.program;
    EXPECT_EQ(c.programs[0].name, "target");
    EXPECT_EQ(c.programs[0].functions.at(1).name, "replaceable");
    EXPECT_FALSE(c.programs[0].lines.empty());
  }
}

TEST_F(LinuxCapture, AttachedWhileCapturing) {
  AttachObject object;
  const std::string problem = object.load("on_entry", "target");
  if (!problem.empty())
    GTEST_SKIP() << problem;
  CaptureOptions options;
  options.between = [&](std::string_view step) {
    if (step == "again") {
      ASSERT_TRUE(object.attacher.attach());
    }
  };
  Capture c = capture_of({object.target_fd}, options);
  EXPECT_NE(c.programs[0].refused.find("fentry"), std::string::npos) << c.programs[0].refused;
}

// --- races

TEST_F(LinuxCapture, ASlotThatChangesOnceIsFollowedAgain) {
  for (const char *when : {"programs", "maps", "slots", "again"}) {
    LoadedPipeline loaded = load(chain());
    CaptureOptions options;
    bool done = false;
    options.between = [&](std::string_view step) {
      if (step != when || std::exchange(done, true))
        return;
      const uint32_t slot = 1;
      const int other = loaded.fd(ProgId{2});
      ASSERT_EQ(bpf_map_update_elem(loaded.fd(MapId{0}), &slot, &other, BPF_ANY), 0);
    };
    Capture c = capture_of({loaded.fd(ProgId{0})}, options);
    ASSERT_EQ(c.programs.size(), 2u) << when;
    EXPECT_EQ(c.programs[1].name, "other") << when;
    EXPECT_EQ(c.map_by_id(c.programs[0].map_ids.at(0))->prog_slots.at(0).second, id_of(loaded.fd(ProgId{2})));
  }
}

TEST_F(LinuxCapture, ASlotThatKeepsChangingIsAnError) {
  LoadedPipeline loaded = load(chain());
  CaptureOptions options;
  int times = 0;
  options.between = [&](std::string_view step) {
    if (step != "again")
      return;
    const uint32_t slot = 1;
    const int program = loaded.fd(ProgId{times++ % 2 ? 1u : 2u});
    bpf_map_update_elem(loaded.fd(MapId{0}), &slot, &program, BPF_ANY);
  };
  const std::string error = error_of({loaded.fd(ProgId{0})}, options);
  EXPECT_NE(error.find("change faster than they can be captured"), std::string::npos) << error;
  EXPECT_NE(error.find("prog array 'jmp'"), std::string::npos) << error;
  EXPECT_EQ(times, 5);
}

TEST_F(LinuxCapture, AnInnerMapThatGoesAway) {
  Pipeline p;
  p.maps = {map("inner", MapType::array, 4, 8, 1), map("outer", MapType::array_of_maps, 4, 4, 2)};
  p.maps[1].inner = MapId{0};
  p.maps[1].inner_slots = {{1, MapId{0}}};
  p.programs = {program("lookup", code({store32(10, -4, 1), mov_reg(2, 10), add(2, -4), map_ref(1, MapId{1}),
                                        helper(1), mov(0, 2), exit()}))};
  LoadedPipeline loaded = load(p);
  Capture before = capture_of({loaded.fd(ProgId{0})});
  ASSERT_EQ(before.maps.size(), 2u);
  EXPECT_EQ(before.maps[0].inner_id, before.maps[1].id);
  EXPECT_EQ(before.maps[1].value_size, 8u);

  CaptureOptions options;
  options.between = [&](std::string_view step) {
    const uint32_t slot = 1;
    if (step == "maps")
      bpf_map_delete_elem(loaded.fd(MapId{1}), &slot);
  };
  Capture after = capture_of({loaded.fd(ProgId{0})}, options);
  EXPECT_EQ(after.maps.size(), 1u);
  EXPECT_FALSE(after.maps[0].inner_id);
}

TEST_F(LinuxCapture, ProgramsStayWhenTheLoaderIsGone) {
  std::optional<LoadedPipeline> loaded(load(chain()));
  Fd entry(dup(loaded->fd(ProgId{0})));
  CaptureOptions options;
  options.between = [&](std::string_view step) {
    if (step == "slots") // the last user reference of the prog array, which clears it
      loaded.reset();
  };
  Capture c = capture_of({entry.get()}, options);
  EXPECT_EQ(c.programs.size(), 2u); // the capture holds the array
  EXPECT_EQ(id_of(c.programs[1].fd.get()), c.programs[1].id);
}

// --- privileges

TEST_F(LinuxCapture, WithoutPrivilegesTheMissingOneIsNamed) {
  if (geteuid() != 0)
    GTEST_SKIP() << "needs to be root, to stop being it";
  LoadedPipeline loaded = load(chain());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0)
      _exit(3);
    const std::string error = error_of({loaded.fd(ProgId{0})});
    _exit(error.find("CAP_BPF") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// --- layouts

TEST_F(LinuxCapture, KernelFacts) {
  std::shared_ptr<KernelFacts> facts = llvm::cantFail(read_kernel_facts());
  EXPECT_FALSE(facts->release.empty());
  EXPECT_GT(facts->layout.array_value, 64u);
  EXPECT_GE(facts->layout.htab.key, 40u);
  EXPECT_GT(facts->layout.htab.referenced, 16u);
  for (ProgType type : {ProgType::xdp, ProgType::sched_cls}) {
    const KernelContext *context = facts->layout.context(type);
    ASSERT_NE(context, nullptr);
    int packets = 0, ends = 0, metas = 0, others = 0;
    uint32_t before = 0;
    for (const KernelContextMember &member : context->members) {
      EXPECT_TRUE(&member == &context->members.front() || member.offset > before);
      EXPECT_LE(member.offset + member.size, context->size);
      before = member.offset;
      packets += member.kind == KernelContextMember::packet;
      ends += member.kind == KernelContextMember::packet_end;
      metas += member.kind == KernelContextMember::packet_meta;
      others += member.kind == KernelContextMember::pointer;
    }
    EXPECT_EQ(packets, 1);
    EXPECT_EQ(ends, 1);
    EXPECT_EQ(metas, 1);
    EXPECT_GE(others, 3);
  }
  EXPECT_GT(facts->layout.context(ProgType::sched_cls)->cb_offset, 0u);
}

// --- network interfaces

TEST_F(LinuxCapture, AttachedPrograms) {
  Pipeline p;
  p.programs = {program("on_xdp", code({mov(0, 2), exit()})),
                program("on_tc", code({mov(0, -1), exit()}), ProgType::sched_cls)};
  LoadedPipeline loaded = load(p);
  Expected<PrivateNetwork> network = PrivateNetwork::enter();
  if (!network)
    GTEST_SKIP() << llvm::toString(network.takeError());
  const int lo = int(if_nametoindex("lo"));
  EXPECT_TRUE(llvm::cantFail(attached_programs("lo")).empty());
  ASSERT_EQ(bpf_xdp_attach(lo, loaded.fd(ProgId{0}), 2 /* generic */, nullptr), 0);
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = lo, .attach_point = BPF_TC_INGRESS);
  LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = loaded.fd(ProgId{1}), .handle = 7, .priority = 3);
  const bool filters = bpf_tc_hook_create(&hook) == 0 && bpf_tc_attach(&hook, &opts) == 0;

  std::vector<AttachedProgram> found = llvm::cantFail(attached_programs("lo"));
  ASSERT_EQ(found.size(), filters ? 2u : 1u);
  EXPECT_EQ(found[0].hook, AttachedProgram::xdp);
  EXPECT_EQ(found[0].id, id_of(loaded.fd(ProgId{0})));
  EXPECT_FALSE(found[0].by_link);
  if (!filters)
    GTEST_SKIP() << "this kernel has no clsact qdisc";
  EXPECT_EQ(found[1].hook, AttachedProgram::tc_ingress);
  EXPECT_EQ(found[1].id, id_of(loaded.fd(ProgId{1})));
  EXPECT_EQ(found[1].handle, 7u);
  EXPECT_EQ(found[1].priority, 3u);

  Expected<std::vector<AttachedProgram>> none = attached_programs("no-such-if");
  ASSERT_FALSE(none);
  EXPECT_NE(llvm::toString(none.takeError()).find("no network interface 'no-such-if'"), std::string::npos);
}

// --- pins

TEST_F(LinuxCapture, PinnedMapsAreShared) {
  const std::string directory = "/sys/fs/bpf/ujit-test-" + std::to_string(getpid());
  if (mkdir(directory.c_str(), 0700) != 0)
    GTEST_SKIP() << directory << ": " << std::strerror(errno);
  auto pipeline = [](uint32_t entries, int32_t result) {
    Pipeline p;
    p.maps = {map("shared_map", MapType::hash, 4, 8, entries), map("own_map", MapType::hash, 4, 8, 4)};
    p.maps[0].pinned = true;
    p.programs = {
        program("first", code({map_ref(1, MapId{0}), map_ref(1, MapId{1}), mov(0, result), exit()}))};
    return p;
  };
  auto map_id = [](int fd) {
    bpf_map_info info{};
    uint32_t length = sizeof info;
    EXPECT_EQ(bpf_obj_get_info_by_fd(fd, &info, &length), 0);
    return info.id;
  };
  const LoadOptions options{.pin_directory = directory};
  Pipeline bad = pipeline(16, 0);
  bad.programs.push_back(program("refused", code({exit()})));
  Expected<LoadedPipeline> failed = load_into_kernel(bad, options);
  EXPECT_FALSE(failed);
  llvm::consumeError(failed.takeError());
  EXPECT_TRUE(std::filesystem::is_empty(directory)); // a failed load leaves nothing
  {
    LoadedPipeline one = load(pipeline(16, 1), options), two = load(pipeline(16, 2), options);
    LoadedPipeline three = load(pipeline(16, 3));
    EXPECT_EQ(map_id(one.fd(MapId{0})), map_id(two.fd(MapId{0})));
    EXPECT_NE(map_id(one.fd(MapId{0})), map_id(three.fd(MapId{0})));
    EXPECT_NE(map_id(one.fd(MapId{1})), map_id(two.fd(MapId{1})));
  }
  Expected<LoadedPipeline> other = load_into_kernel(pipeline(32, 1), options);
  EXPECT_FALSE(other);
  const std::string error = other ? "" : llvm::toString(other.takeError());
  EXPECT_NE(error.find("has another shape"), std::string::npos) << error;
  std::filesystem::remove_all(directory);
}

} // namespace
} // namespace ujit
