// Real objects of real compilers: each way to fill a slot, subprograms, callbacks, maps, data, refusals; and
// what gathering makes of them.
#include "kernel-iface/object/gather.h"
#include "tests/object_compile.h"
#include "translator/program.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>

namespace ujit {
namespace {

std::string text(Error e) { return llvm::toString(std::move(e)); }

/// Compiler and its extra flag.
struct Dialect {
  std::string compiler, flag;
};

std::string name_of_dialect(const testing::TestParamInfo<Dialect> &info) {
  std::string s = info.param.compiler + info.param.flag;
  std::string out;
  for (char c : s)
    if (std::isalnum(c))
      out += c;
  return out;
}

class ObjectTest : public testing::TestWithParam<Dialect> {
protected:
  /// Reads tests/bpf/NAME.bpf.c as "out/NAME.bpf.o"; skips without a compiler.
  void read(const std::string &name, const ObjectOptions &options = {}) {
    std::vector<std::string> flags;
    if (!GetParam().flag.empty())
      flags.push_back(GetParam().flag);
    auto bytes = test::compile_bpf(name, GetParam().compiler, flags);
    if (!bytes)
      GTEST_SKIP() << GetParam().compiler << " cannot compile for eBPF here";
    auto o = read_object("out/" + name + ".bpf.o", *bytes, options);
    ASSERT_TRUE(bool(o)) << text(o.takeError());
    object = std::move(*o);
  }

  const Program &program(std::string_view name) const {
    for (const Program &p : object.programs)
      if (p.name == name)
        return p;
    ADD_FAILURE() << "no program " << name;
    static const Program none{};
    return none;
  }

  MapId map_id(std::string_view name) const {
    for (uint32_t i = 0; i < object.maps.size(); ++i)
      if (object.maps[i].name == name)
        return MapId{i};
    ADD_FAILURE() << "no map " << name;
    return MapId{0};
  }
  const Map &map(std::string_view name) const { return object.maps[index(map_id(name))]; }

  /// "jmp[7]=tail_seven jmp[10]=tail_ten"
  std::string slots() const {
    std::string s;
    for (const ObjectSlot &slot : object.slots)
      s += (s.empty() ? "" : " ") + object.maps[index(slot.map)].name + "[" + std::to_string(slot.slot) +
           "]=" + slot.program;
    return s;
  }

  Object object;
};

#define READ(...)                                                                                            \
  read(__VA_ARGS__);                                                                                         \
  if (IsSkipped() || HasFatalFailure())                                                                      \
  return

INSTANTIATE_TEST_SUITE_P(Compilers, ObjectTest,
                         testing::Values(Dialect{"clang-14", ""}, Dialect{"clang-19", ""},
                                         Dialect{"clang-19", "-mcpu=v2"}, Dialect{"clang-19", "-mcpu=v4"},
                                         Dialect{"clang-19", "-mlittle-endian"}),
                         name_of_dialect);

/// Names of the subprograms that a program's calls and function addresses go to, in the order of the
/// instructions.
std::vector<std::string> targets(const Program &p, uint8_t opcode, uint8_t src) {
  std::vector<std::string> out;
  for (uint32_t i = 0; i < p.insns.size(); ++i) {
    const Insn &insn = p.insns[i];
    if (insn.opcode == opcode && insn.src == src) {
      int64_t to = int64_t(i) + 1 + insn.imm;
      std::string name = "?";
      for (const Subprogram &s : p.subprograms)
        if (s.start == to)
          name = s.name;
      out.push_back(name);
    }
    if (is_wide(insn))
      ++i;
  }
  return out;
}

std::vector<std::string> subprograms(const Program &p) {
  std::vector<std::string> out;
  for (const Subprogram &s : p.subprograms)
    out.push_back(s.name);
  return out;
}

using Names = std::vector<std::string>;

TEST_P(ObjectTest, SlotsFromTagsAndStaticPrograms) {
  READ("tags");
  EXPECT_EQ(object.license, "Dual BSD/GPL");
  EXPECT_EQ(slots(), "calls[1]=tail_global calls[3]=tail_static");
  ASSERT_EQ(object.programs.size(), 3u); // section_static is called only: a subprogram
  for (const Program &p : object.programs) {
    EXPECT_EQ(p.type, ProgType::xdp);
    EXPECT_EQ(p.object, "out/tags.bpf.o");
  }
  EXPECT_EQ(program("tail_static").section, "xdp/tail");
  EXPECT_TRUE(map("calls").pinned);
  EXPECT_EQ(object.replaced, std::set<MapId>{map_id("calls")});
  EXPECT_TRUE(map("scratch").pinned);
}

TEST_P(ObjectTest, SubprogramsAreAppendedAsReached) {
  READ("tags");
  EXPECT_EQ(subprograms(program("tail_static")), (Names{"tail_static", "section_static"}));
  EXPECT_EQ(subprograms(program("entry")), (Names{"entry", "text_global", "text_static"}));
  const Program &p = program("tail_global");
  EXPECT_EQ(p.subprograms[0].name, "tail_global");
  Names sorted = subprograms(p);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, (Names{"section_static", "tail_global", "text_global", "text_static"}));
  for (const Program &p : object.programs) {
    EXPECT_EQ(p.subprograms.front().start, 0u);
    EXPECT_EQ(p.subprograms.back().end, p.insns.size());
    for (size_t i = 1; i < p.subprograms.size(); ++i)
      EXPECT_EQ(p.subprograms[i - 1].end, p.subprograms[i].start);
    for (const std::string &t : targets(p, 0x85, 1))
      EXPECT_NE(t, "?") << p.name;
  }
  EXPECT_EQ(targets(program("entry"), 0x85, 1), (Names{"text_global", "text_static", "text_static"}));
  EXPECT_NE(program("entry").subprograms[0].btf_func, 0u);
}

TEST_P(ObjectTest, LinesFollowTheirInstructions) {
  READ("tags");
  const Program &p = program("entry");
  ASSERT_FALSE(p.lines.empty());
  EXPECT_TRUE(
      std::is_sorted(p.lines.begin(), p.lines.end(), [](auto &a, auto &b) { return a.insn < b.insn; }));
  for (const LineInfo &l : p.lines)
    EXPECT_NE(l.file.find("tags.bpf.c"), std::string::npos);
  // The multiplication is in text_static, the last subprogram.
  const LineInfo *l = line_at(p, p.insns.size() - 1);
  ASSERT_NE(l, nullptr);
  EXPECT_NE(l->text.find("return x * 3"), std::string::npos) << l->text;
  l = line_at(p, 0);
  ASSERT_NE(l, nullptr);
  EXPECT_EQ(l->insn, 0u);
}

TEST_P(ObjectTest, ValuesFillProgArraysAndMapsOfMaps) {
  READ("values");
  EXPECT_EQ(slots(), "jmp_table[2]=tail_two jmp_table[5]=tail_five");
  const Map &outer = map("outer");
  EXPECT_EQ(outer.type, MapType::array_of_maps);
  EXPECT_EQ(outer.value_size, 4u);
  EXPECT_EQ(outer.inner_slots,
            (std::vector<std::pair<uint32_t, MapId>>{{0, map_id("inner_a")}, {3, map_id("inner_b")}}));
  ASSERT_TRUE(outer.inner);
  const Map &shape = object.maps[index(*outer.inner)];
  EXPECT_EQ(shape.name, "outer.inner");
  EXPECT_TRUE(shape.is_template);
  EXPECT_EQ(shape.type, MapType::hash);
  EXPECT_EQ(shape.key_size, 4u);
  EXPECT_EQ(shape.value_size, 8u);
  EXPECT_EQ(shape.max_entries, 16u);
  EXPECT_EQ(shape.flags, 1u);
  const Map &routes = map("routes");
  EXPECT_EQ(routes.type, MapType::lpm_trie);
  EXPECT_EQ(routes.key_size, 8u);
  EXPECT_EQ(routes.value_size, 12u);
  EXPECT_EQ(routes.max_entries, 1000u);
  EXPECT_EQ(object.license, "GPL");
  EXPECT_EQ(object.version, 0x60100u);
}

TEST_P(ObjectTest, CallbacksAreAddressesOfSubprograms) {
  READ("values");
  EXPECT_EQ(subprograms(program("tail_two")), (Names{"tail_two", "count"}));
  EXPECT_EQ(targets(program("tail_two"), 0x18, 4), (Names{"count"}));
}

TEST_P(ObjectTest, MapReferencesAreCanonical) {
  READ("values");
  std::vector<MapId> used;
  const Program &p = program("entry");
  for (size_t i = 0; i < p.insns.size(); ++i)
    if (is_wide(p.insns[i])) {
      EXPECT_EQ(find_row(p.insns[i])->op, Op::ld_map);
      used.push_back(MapId{uint32_t(p.insns[i].imm)});
      EXPECT_EQ(p.insns[++i].imm, 0);
    }
  EXPECT_EQ(used, (std::vector<MapId>{map_id("routes"), map_id("jmp_table"), map_id("jmp_table")}));
}

TEST_P(ObjectTest, Iproute2) {
  READ("iproute2");
  EXPECT_EQ(slots(), "jmp[7]=tail_seven jmp[10]=tail_ten");
  for (const Program &p : object.programs)
    EXPECT_EQ(p.type, ProgType::sched_cls) << p.name;
  EXPECT_FALSE(map("jmp").pinned);
  EXPECT_TRUE(map("stats").pinned);
  EXPECT_EQ(map("stats").type, MapType::percpu_array);
  EXPECT_EQ(map("stats").value_size, 8u);
  EXPECT_EQ(map("outer").inner, map_id("shape"));
  EXPECT_EQ(map("outer").inner_slots, (std::vector<std::pair<uint32_t, MapId>>{{1, map_id("member")}}));
}

TEST_P(ObjectTest, Iproute2TypesFollowTheOption) {
  ObjectOptions options;
  options.types["from-container"] = ProgType::xdp;
  READ("iproute2", options);
  for (const Program &p : object.programs)
    EXPECT_EQ(p.type, ProgType::xdp) << p.name;
}

/// The number that the first 64-bit immediate of form 0 loads.
std::optional<uint64_t> number_in(const Program &p) {
  for (size_t i = 0; i + 1 < p.insns.size(); ++i)
    if (is_wide(p.insns[i])) {
      if (p.insns[i].src == 0)
        return uint32_t(p.insns[i].imm) | uint64_t(uint32_t(p.insns[i + 1].imm)) << 32;
      ++i;
    }
  return std::nullopt;
}

TEST_P(ObjectTest, DataRelocationsThatMeanAValue) {
  READ("iproute2");
  EXPECT_EQ(number_in(program("from_container")), 0xbeefu);
  EXPECT_EQ(number_in(program("tail_seven")), 0x80000001u);
  EXPECT_EQ(object.inlined.size(), 2u);

  GatherRequest request;
  request.objects = {object};
  request.constants["out/iproute2.bpf.o"] = {{"LXC_ID", ConstantSetting::fold, 0x1234, {}}};
  auto pipeline = gather(request);
  ASSERT_TRUE(bool(pipeline)) << text(pipeline.takeError());
  EXPECT_EQ(number_in((*pipeline)[*pipeline->find_program("from_container")]), 0x1234u);

  request.constants["out/iproute2.bpf.o"][0].mode = ConstantSetting::bind;
  auto refused = gather(request);
  ASSERT_FALSE(bool(refused));
  EXPECT_NE(text(refused.takeError()).find("constant LXC_ID cannot differ by instance"), std::string::npos);
}

TEST_P(ObjectTest, ValueSectionsByOption) {
  ObjectOptions options;
  options.value_sections = {".data"};
  READ("data", options);
  ASSERT_FALSE(object.inlined.empty());
  for (const InlinedValue &v : object.inlined) {
    EXPECT_EQ(v.map, map_id(".data"));
    EXPECT_TRUE(v.size == 8 || v.size == 4); // counter, hidden
  }
}

TEST_P(ObjectTest, LegacyMapsAndNamedSlotSections) {
  READ("mapdef");
  EXPECT_EQ(slots(), "jmp_table[2]=last");
  EXPECT_EQ(map("flows").type, MapType::lru_hash);
  EXPECT_EQ(map("flows").key_size, 12u);
  EXPECT_EQ(map("flows").value_size, 20u);
  EXPECT_EQ(program("last").type, ProgType::sched_cls); // as the other programs
}

/// Locks, timers and kernel pointers are left alone by copies.
TEST_P(ObjectTest, SpecialFields) {
  READ("fields");
  EXPECT_FALSE(map("plain").special_fields);
  for (const char *name : {"locked", "nested", "pointing"})
    EXPECT_TRUE(map(name).special_fields) << name;
}

TEST_P(ObjectTest, DataMaps) {
  READ("data");
  EXPECT_TRUE(map(".rodata").frozen);
  EXPECT_TRUE(map(".rodata.config").frozen);
  EXPECT_FALSE(map(".data").frozen);
  EXPECT_EQ(map(".bss").contents, std::vector<uint8_t>(16));
  EXPECT_EQ(map(".rodata.config").contents, (std::vector<uint8_t>{7, 0}));
  auto wide = std::find_if(object.variables.begin(), object.variables.end(),
                           [](auto &v) { return v.name == "wide"; });
  ASSERT_NE(wide, object.variables.end());
  EXPECT_EQ(wide->size, 8u);
  uint64_t value = 0;
  std::memcpy(&value, map(".rodata").contents.data() + wide->offset, 8);
  EXPECT_EQ(value, 0x1122334455667788u);

  // Each address is that of a variable, or lies in one.
  const Program &p = program("entry");
  size_t addresses = 0;
  for (size_t i = 0; i < p.insns.size(); ++i)
    if (is_wide(p.insns[i])) {
      ASSERT_EQ(find_row(p.insns[i])->op, Op::ld_map_value);
      MapId m{uint32_t(p.insns[i].imm)};
      uint32_t offset = p.insns[++i].imm;
      EXPECT_TRUE(std::any_of(
          object.variables.begin(), object.variables.end(),
          [&](const Variable &v) { return v.map == m && offset >= v.offset && offset < v.offset + v.size; }))
          << object.maps[index(m)].name << "+" << offset;
      ++addresses;
    }
  EXPECT_GE(addresses, 6u);
}

TEST_P(ObjectTest, Constants) {
  READ("data");
  GatherRequest request;
  request.objects = {object};
  auto &settings = request.constants[object.path];
  settings = {{"enable_ipv6", ConstantSetting::fold, 0, {}},
              {"endpoint_id", ConstantSetting::bind, 0x1234, {}},
              {"mac", ConstantSetting::fold, 0, {9, 8, 7, 6, 5, 4}},
              {"hidden", ConstantSetting::fold, uint64_t(-2), {}}};
  auto pipeline = gather(request);
  ASSERT_TRUE(bool(pipeline)) << text(pipeline.takeError());
  const Map &config = (*pipeline)[*pipeline->find_map("data.rodata.config")];
  EXPECT_EQ(config.contents, (std::vector<uint8_t>{0x34, 0x12}));
  EXPECT_EQ(config.bound, (std::vector<BoundConstant>{{"__config_endpoint_id", 0, 2, 0x1234}}));
  const Map &rodata = (*pipeline)[*pipeline->find_map("data.rodata")];
  for (const Variable &v : object.variables) {
    if (v.name == "enable_ipv6") {
      EXPECT_EQ(rodata.contents[v.offset], 0);
    } else if (v.name == "mac") {
      EXPECT_EQ(rodata.contents[v.offset + 5], 4);
    }
  }
  const Map &data = (*pipeline)[*pipeline->find_map("data.data")];
  EXPECT_NE(std::search_n(data.contents.begin(), data.contents.end(), 3, 0xff), data.contents.end());

  auto error_of = [&](ConstantSetting s) {
    settings = {std::move(s)};
    auto r = gather(request);
    return r ? std::string("no error") : text(r.takeError());
  };
  std::string e = error_of({"enable_ipv5", ConstantSetting::fold, 0, {}});
  EXPECT_NE(e.find("out/data.bpf.o: constant enable_ipv5 does not exist"), std::string::npos) << e;
  EXPECT_NE(e.find("did you mean enable_ipv6?"), std::string::npos) << e;
  e = error_of({"endpoint_id", ConstantSetting::fold, 0x12345, {}});
  EXPECT_NE(e.find("does not fit"), std::string::npos) << e;
  e = error_of({"mac", ConstantSetting::fold, 1, {}});
  EXPECT_NE(e.find("takes no number"), std::string::npos) << e;
  settings = {{"wide", ConstantSetting::fold, 1, {}}, {"wide", ConstantSetting::fold, 2, {}}};
  auto twice = gather(request);
  ASSERT_FALSE(bool(twice));
  EXPECT_NE(text(twice.takeError()).find("set twice"), std::string::npos);
}

TEST_P(ObjectTest, RefusalsNameProgramAndPlace) {
  READ("refused");
  ASSERT_EQ(object.refused.size(), 3u);
  auto error_of = [&](std::string_view name) {
    for (const RefusedProgram &r : object.refused)
      if (r.name == name)
        return r.error;
    return LinkError();
  };
  LinkError core = error_of("core_in_subprogram");
  EXPECT_EQ(core.kind, ErrorKind::unsupported);
  EXPECT_EQ(core.file, "out/refused.bpf.o");
  EXPECT_EQ(core.program, "core_in_subprogram");
  EXPECT_TRUE(core.insn.has_value());
  EXPECT_EQ(core.message, "needs a CO-RE relocation: offset of field struct sock.__sk_common.skc_family");
  EXPECT_EQ(core.notes, (Names{"in subprogram family_of: insn 0"}));
  EXPECT_FALSE(core.hint.empty());
  EXPECT_EQ(error_of("kfunc").message, "calls kernel function kernel_function");
  EXPECT_EQ(error_of("kconfig").message,
            "extern CONFIG_HZ of section .kconfig is only known in a running kernel");
}

TEST_P(ObjectTest, RefusedProgramsAreErrorsOnlyWhereTheyAreUsed) {
  READ("refused");
  GatherRequest request;
  request.objects = {object};
  request.entries = {"whole"};
  auto ok = gather(request);
  ASSERT_TRUE(bool(ok)) << text(ok.takeError());
  EXPECT_EQ(ok->programs.size(), 2u);

  request.entries = {"caller"};
  auto reached = gather(request);
  ASSERT_FALSE(bool(reached));
  std::string e = text(reached.takeError());
  EXPECT_NE(e.find("core_in_subprogram: insn"), std::string::npos) << e;
  EXPECT_NE(e.find("reached from caller through calls[1]"), std::string::npos) << e;
  EXPECT_EQ(e.find("kernel_function"), std::string::npos) << e;

  request.entries = {"kconfig"};
  auto named = gather(request);
  ASSERT_FALSE(bool(named));
  EXPECT_NE(text(named.takeError()).find("CONFIG_HZ"), std::string::npos);

  // The manifest can put another program into the slot.
  request.entries = {"caller"};
  request.slots = {{"calls", 1, "whole"}};
  auto replaced = gather(request);
  ASSERT_TRUE(bool(replaced)) << text(replaced.takeError());
}

/// What reading tests/bpf/mistakes.bpf.c says, or the first refusal in it.
std::optional<std::string> mistake(int n) {
  auto bytes = test::compile_bpf("mistakes", "clang-19", {"-DMISTAKE=" + std::to_string(n)});
  if (!bytes)
    return std::nullopt;
  auto o = read_object("m.o", *bytes);
  if (!o)
    return text(o.takeError());
  return o->refused.empty() ? "no error" : text(o->refused[0].error.error());
}

TEST(ObjectMistakes, AreNamed) {
  if (!mistake(0))
    GTEST_SKIP() << "clang-19 cannot compile for eBPF here";
  auto expect = [](int n, const char *what) {
    EXPECT_EQ(mistake(n).value_or("").find(what), 0u) << *mistake(n);
  };
  expect(0, "no error");
  expect(1, "m.o: map calls: attribute `colour` is not known\n>>> hint: ");
  expect(2, "m.o: map calls: pinning 7 is not known\n>>> hint: ");
  expect(3, "m.o: map calls: attribute `value` contradicts the size that is given as well");
  expect(4, "m.o: map calls: attribute `max_flags` is not known");
  expect(5, "m.o: slot 1 of prog array calls is named twice\n>>> by other\n>>> by leaf");
  expect(6, "m.o: leaf: declaration tag `tail:call/1` names no prog array of this object");
  expect(7, "m.o: leaf: slot 4 of prog array calls is out of range (max_entries is 4)");
  expect(8, "m.o: entry: insn 8: refers to section .data, which holds addresses");
}

class GatherTest : public ObjectTest {
protected:
  std::string error_of(const GatherRequest &request) {
    auto r = gather(request);
    return r ? std::string("no error") : text(r.takeError());
  }
};

INSTANTIATE_TEST_SUITE_P(Compiler, GatherTest, testing::Values(Dialect{"clang-19", ""}), name_of_dialect);

TEST_P(GatherTest, SlotsAndDefaultEntries) {
  READ("tags");
  GatherRequest request;
  request.objects = {object};
  auto p = gather(request);
  ASSERT_TRUE(bool(p)) << text(p.takeError());
  ASSERT_EQ(p->entries.size(), 1u);
  EXPECT_EQ((*p)[p->entries[0]].name, "entry");
  const Map &calls = (*p)[*p->find_map("calls")];
  EXPECT_EQ(calls.prog_slots,
            (std::vector<std::pair<uint32_t, ProgId>>{{1, *p->find_program("tail_global")},
                                                      {3, *p->find_program("tail_static")}}));
}

TEST_P(GatherTest, NamesOfTwoObjects) {
  READ("tags");
  Object other = object;
  other.path = "out/second.bpf.o";
  GatherRequest request;
  request.objects = {object, other};
  auto p = gather(request);
  ASSERT_TRUE(bool(p)) << text(p.takeError());
  EXPECT_EQ(p->programs.size(), 6u);
  EXPECT_EQ(p->entries.size(), 2u);
  // Pinned by name: one map. Replacing pins are each object's own.
  EXPECT_EQ(p->maps.size(), 3u);
  ASSERT_TRUE(p->find_map("scratch"));
  ASSERT_TRUE(p->find_map("tags:calls"));
  ASSERT_TRUE(p->find_map("second:calls"));
  EXPECT_EQ((*p)[*p->find_map("second:calls")].prog_slots[0].second, *p->find_program("second:tail_global"));
  // The second object's programs refer to their own maps.
  std::set<uint32_t> used;
  const Program &entry = (*p)[*p->find_program("second:tail_global")];
  for (size_t i = 0; i < entry.insns.size(); ++i)
    if (is_wide(entry.insns[i]))
      used.insert(entry.insns[i++].imm);
  EXPECT_EQ(used, (std::set<uint32_t>{index(*p->find_map("scratch")), index(*p->find_map("second:calls"))}));

  request.entries = {"entry"};
  std::string e = error_of(request);
  EXPECT_NE(e.find("entry entry exists in several objects"), std::string::npos) << e;
  EXPECT_NE(e.find("as second:entry"), std::string::npos) << e;
  request.entries = {"second:entry"};
  EXPECT_EQ(error_of(request), "no error");
}

TEST_P(GatherTest, SharedMapsMustHaveOneShape) {
  READ("tags");
  Object other = object;
  other.path = "out/second.bpf.o";
  other.maps[index(map_id("scratch"))].value_size = 16;
  GatherRequest request;
  request.objects = {object, other};
  auto p = gather(request);
  ASSERT_TRUE(bool(p)) << text(p.takeError());
  EXPECT_TRUE(p->find_map("tags:scratch"));
  EXPECT_TRUE(p->find_map("second:scratch"));
}

TEST_P(GatherTest, ManifestSlotsWin) {
  READ("tags");
  GatherRequest request;
  request.objects = {object};
  request.slots = {{"calls", 3, "tail_global"}, {"calls", 0, "tail_static"}};
  auto p = gather(request);
  ASSERT_TRUE(bool(p)) << text(p.takeError());
  ProgId global = *p->find_program("tail_global"), local = *p->find_program("tail_static");
  EXPECT_EQ((*p)[*p->find_map("calls")].prog_slots,
            (std::vector<std::pair<uint32_t, ProgId>>{{0, local}, {1, global}, {3, global}}));
}

TEST_P(GatherTest, Errors) {
  READ("tags");
  GatherRequest request;
  request.objects = {object};
  auto expect = [&](std::vector<SlotAssignment> slots, std::vector<std::string> entries, const char *what) {
    request.slots = std::move(slots);
    request.entries = std::move(entries);
    std::string e = error_of(request);
    EXPECT_NE(e.find(what), std::string::npos) << e;
  };
  expect({{"calls", 2, "tail_static"}, {"calls", 2, "tail_global"}}, {},
         "slot 2 of prog array calls is named twice");
  expect({{"calls", 8, "tail_static"}}, {}, "slot 8 of prog array calls is out of range (max_entries is 8)");
  expect({{"scratch", 0, "tail_static"}}, {}, "map scratch is no prog array");
  expect({{"cals", 0, "tail_static"}}, {}, "map cals does not exist\n>>> hint: did you mean calls?");
  expect({{"calls", 0, "tail_sttic"}}, {}, "program tail_sttic does not exist");
  expect({{"calls", 0, "tail_sttic"}}, {}, "did you mean tail_static?");
  expect({}, {"entri"}, "entry entri does not exist\n>>> hint: did you mean entry?");

  request = {};
  request.objects = {object};
  request.objects[0].programs[0].type = ProgType::sched_cls;
  EXPECT_NE(error_of(request).find("prog array calls holds programs of different types"), std::string::npos);
  request.objects[0].programs[0].type = ProgType::unspec; // takes the type of the other one
  EXPECT_EQ(error_of(request), "no error");
  request.objects.clear();
  EXPECT_NE(error_of(request).find("no program that could be an entry"), std::string::npos);
  request.constants["x.o"] = {};
  EXPECT_NE(error_of(request).find("x.o, which is not an object here"), std::string::npos);
}

TEST(SectionType, AsLibbpf) {
  EXPECT_EQ(type_of_section("xdp"), ProgType::xdp);
  EXPECT_EQ(type_of_section("xdp.frags/devmap"), ProgType::xdp);
  EXPECT_EQ(type_of_section("?tc"), ProgType::sched_cls);
  EXPECT_EQ(type_of_section("tc/tail"), ProgType::sched_cls);
  EXPECT_EQ(type_of_section("tcx/ingress"), ProgType::sched_cls);
  EXPECT_EQ(type_of_section("tcp"), ProgType::unspec);
  EXPECT_EQ(type_of_section("action"), ProgType::sched_act);
  EXPECT_EQ(type_of_section("socket/4"), ProgType::socket_filter);
  EXPECT_EQ(type_of_section("kprobe/tcp_close"), ProgType::kprobe);
  EXPECT_EQ(type_of_section("tracepoint/sched/sched_switch"), ProgType::tracepoint);
  EXPECT_EQ(type_of_section("2/7"), ProgType::unspec);
}

} // namespace
} // namespace ujit
