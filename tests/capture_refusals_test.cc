// Programs that may not be fused, by what the kernel's eyes tell of them: also of those that only special
// hardware, settings or kernels can make.
#include "kernel-iface/linux/capture_refusals.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>

namespace ujit {
namespace {

class Refusals : public testing::Test {
protected:
  Refusals() {
    program_.id = 7;
    program_.name = "main";
    program_.insns = {{.opcode = 0xb7, .dst = 0, .imm = 2}, {.opcode = 0x95}};
    program_.functions = {{.length = 1, .name = "main"}, {.start = 1, .length = 1, .name = "helper"}};
    program_.map_ids = {3};
    facts_.record.id = 7;
    facts_.record.flags = program_gpl;
    facts_.functions.resize(2);
    for (function_record &f : facts_.functions)
      enter(f, {0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00});
    maps_.resize(1);
    maps_[0].id = 3;
    maps_[0].name = "state";
  }

  static void enter(function_record &f, std::initializer_list<uint8_t> code) {
    std::fill(std::begin(f.entry), std::end(f.entry), 0x90);
    std::copy(code.begin(), code.end(), f.entry);
  }

  std::string refusal() const { return refusal_of(program_, facts_, links_, maps_); }
  void expect(const char *text) const {
    EXPECT_NE(refusal().find(text), std::string::npos) << "not '" << text << "': " << refusal();
  }

  CapturedProgram program_;
  ProgramInKernel facts_;
  std::vector<link_record> links_;
  std::vector<CapturedMap> maps_;
};

TEST_F(Refusals, NothingAgainstAPlainProgram) { EXPECT_EQ(refusal(), ""); }

TEST_F(Refusals, EachFlagHasItsOwnText) {
  const struct {
    uint32_t flag;
    const char *text;
  } rows[] = {{program_not_jited, "it is interpreted, not jited: sysctl net.core.bpf_jit_enable=1"},
              {program_classic, "it was made from a classic BPF filter"},
              {program_device_bound, "it is bound to a network device"},
              {program_sleepable, "it is sleepable"},
              {program_cgroup_storage, "it uses cgroup storage"},
              {program_blinded, "its constants are blinded: sysctl net.core.bpf_jit_harden"},
              {program_extended, "replaced by an extension (freplace)"}};
  for (const auto &row : rows) {
    facts_.record.flags = program_gpl | row.flag;
    expect(row.text);
  }
  facts_.record.flags = 0;
  expect("it is not GPL-compatible");
  // Flags that hooks read do not stand against fusing.
  facts_.record.flags = program_gpl | program_cb_access | program_dst_needed | program_frags;
  EXPECT_EQ(refusal(), "");
}

TEST_F(Refusals, ASubprogramWithBlindedConstants) {
  facts_.functions[1].blinded = 1;
  expect("its constants are blinded");
}

TEST_F(Refusals, WhatTheVerifierAddsAgainstSpeculation) {
  program_.insns.insert(program_.insns.begin(), {.opcode = 0xc2}); // nospec
  expect("speculation barriers: load it with CAP_PERFMON");
  // r11 = -r11; r11 s>>= 63
  program_.insns[0] = {.opcode = 0x87, .dst = 11};
  program_.insns.insert(program_.insns.begin() + 1, {.opcode = 0xc7, .dst = 11, .imm = 63});
  expect("its pointer arithmetic is masked against speculation");
  program_.insns[0].dst = program_.insns[1].dst = 3; // the same of a program's own
  EXPECT_EQ(refusal(), "");
}

TEST_F(Refusals, MapsWhoseIndicesAreMasked) {
  maps_[0].bypass_spec_v1 = false;
  expect("indices into its map 'state' (id 3) are masked");
  maps_[0].id = 4; // not one of its own
  EXPECT_EQ(refusal(), "");
}

TEST_F(Refusals, WhatIsAttachedToIt) {
  link_record link{};
  link.link_id = 11;
  link.program_id = 12;
  link.target_id = 7;
  std::strcpy(link.program_name, "intruder");
  const struct {
    uint32_t type, attach_type;
    const char *text;
  } rows[] = {
      {BPF_PROG_TYPE_EXT, 0, "extension (freplace) 'intruder' (id 12) is attached to it"},
      {BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, "fentry program 'intruder'"},
      {BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT, "fexit program 'intruder'"},
      {BPF_PROG_TYPE_TRACING, BPF_MODIFY_RETURN, "fmod_ret program 'intruder'"},
      {BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, "tracing program 'intruder'"},
  };
  for (const auto &row : rows) {
    link.program_type = row.type;
    link.attach_type = row.attach_type;
    links_ = {link};
    expect(row.text);
    expect("bpftool link detach id 11");
    EXPECT_EQ(attached_to(facts_, {}, links_), refusal());
  }
  links_[0].target_id = 8;
  EXPECT_EQ(refusal(), "");
}

TEST_F(Refusals, PatchedEntries) {
  enter(facts_.functions[1], {0xe8, 1, 2, 3, 4}); // a trampoline's call
  expect("of its function 'helper' is patched at its entry");
  EXPECT_NE(attached_to(facts_, {}, {}).find("of its function '#1' is patched"), std::string::npos);
  enter(facts_.functions[1], {0x0f, 0x1f, 0x40, 0xd6, 0xe9, 1, 2, 3, 4}); // an extension's jump
  expect("of its function 'helper' is patched at its entry");
  enter(facts_.functions[1], {0x55, 0x48, 0x89, 0xe5});
  expect("does not begin as this version knows it");
  enter(facts_.functions[1], {0x66, 0x0f, 0x1f, 0x00, 0x0f, 0x1f, 0x44, 0x00, 0x00});
  EXPECT_EQ(refusal(), "");
}

} // namespace
} // namespace ujit
