#include "lto/manifest.h"

#include "gtest/gtest.h"

#include <string>

namespace ujit {
namespace {

constexpr std::string_view full = R"(# an edge load balancer
ujit-lto: 1
name: edge-lb
objects:
  - path: edge_lb.bpf.o
    constants:
      - { name: enable_ipv6, fold: true }
      - { name: offset, fold: -2 }
      - { name: node_ip, bind: 0x0a000001 }
      - { name: prefix, fold: [ 0x20, 1, 255 ] }
    types: [ { section: foo, type: xdp } ]
    value-sections: [ .data ]
  - path: /abs/other.o
entries: [ xdp_entry ]
prog-arrays:
  - { map: jmp_table, edges: sealed }
  - map: policy_calls
    slots: [ { slot: 3, program: policy_allow_all } ]
scratch-maps: [ scratch ]
maps: [ { map: flows, max-entries: 4096 } ]
fuse: always
target: { cpu: x86-64-v3, kernel: running }
gates: { stack: 512, code-bytes: 65536, unfused-edges: 0 }
fib:
  - { prefix: 10.1.0.0/16, ifindex: 3, dmac: "02:00:00:00:00:0A", smac: "02:00:00:00:00:02" }
  - { prefix: "2001:db8::/32", ifindex: 4, dmac: "02:00:00:00:00:01", smac: "02:00:00:00:00:02" }
seed: maps.json
)";

std::string error_of(std::string_view text) {
  auto m = parse_manifest(text, "m.ujit.yaml");
  return m ? "no error" : llvm::toString(m.takeError());
}

/// The error of a manifest that is right but for `lines` behind its required keys.
std::string error_with(const std::string &lines) {
  return error_of("ujit-lto: 1\nobjects: [ { path: a.o } ]\n" + lines);
}

TEST(Manifest, ReadsEveryField) {
  auto m = parse_manifest(full, "dir/m.ujit.yaml");
  ASSERT_TRUE(bool(m)) << llvm::toString(m.takeError());
  EXPECT_EQ(m->name, "edge-lb");
  ASSERT_EQ(m->objects.size(), 2u);
  EXPECT_EQ(m->objects[0].file, "dir/edge_lb.bpf.o");
  EXPECT_EQ(m->objects[1].file, "/abs/other.o");
  ASSERT_EQ(m->objects[0].constants.size(), 4u);
  EXPECT_EQ(m->objects[0].constants[3].bytes, (std::vector<uint8_t>{0x20, 1, 255}));
  EXPECT_EQ(m->objects[0].value_sections[0].name, ".data");
  EXPECT_EQ(m->objects[0].constants[0].fold, 1u);
  EXPECT_EQ(m->objects[0].constants[1].fold, ~uint64_t(1));
  EXPECT_EQ(m->objects[0].constants[2].bind, 0x0a000001u);
  EXPECT_FALSE(m->objects[0].constants[2].fold);
  EXPECT_EQ(m->objects[0].constants[2].place, (Place{9, 11}));
  ASSERT_EQ(m->objects[0].types.size(), 1u);
  EXPECT_EQ(m->objects[0].types[0].type, ProgType::xdp);
  ASSERT_EQ(m->entries.size(), 1u);
  EXPECT_EQ(m->entries[0].name, "xdp_entry");
  EXPECT_EQ(m->entries[0].place, (Place{14, 12}));
  ASSERT_EQ(m->prog_arrays.size(), 2u);
  EXPECT_EQ(m->prog_arrays[0].edges, EdgeKind::sealed);
  EXPECT_EQ(m->prog_arrays[1].edges, EdgeKind::guarded);
  EXPECT_EQ(m->prog_arrays[1].slots[0].slot, 3u);
  EXPECT_EQ(m->prog_arrays[1].slots[0].program, "policy_allow_all");
  EXPECT_EQ(m->scratch_maps[0].name, "scratch");
  ASSERT_EQ(m->maps.size(), 1u);
  EXPECT_EQ(m->maps[0].map, "flows");
  EXPECT_EQ(m->maps[0].max_entries, 4096u);
  EXPECT_EQ(m->fuse, Fuse::always);
  EXPECT_EQ(m->cpu, "x86-64-v3");
  EXPECT_EQ(m->gates.stack, 512u);
  EXPECT_EQ(m->gates.code_bytes, 65536u);
  EXPECT_EQ(m->gates.unfused_edges, 0u);
  ASSERT_EQ(m->fib.size(), 2u);
  EXPECT_EQ(m->fib[0].route.prefix_bits, 16u);
  EXPECT_EQ(m->fib[0].route.prefix[0], 10);
  EXPECT_EQ(m->fib[0].route.dmac[5], 0x0a);
  EXPECT_TRUE(m->fib[1].route.ipv6);
  EXPECT_EQ(m->seed, "dir/maps.json");
}

TEST(Manifest, PrintedTextReadsBack) {
  auto first = parse_manifest(full, "m.ujit.yaml");
  ASSERT_TRUE(bool(first)) << llvm::toString(first.takeError());
  first->objects[1].path = "a b \"c\".o";
  const std::string text = print_manifest(*first);
  auto second = parse_manifest(text, "m.ujit.yaml");
  ASSERT_TRUE(bool(second)) << text << llvm::toString(second.takeError());
  EXPECT_EQ(print_manifest(*second), text);
  EXPECT_EQ(second->objects[1].path, "a b \"c\".o");
  EXPECT_EQ(second->objects[0].constants[1].fold, ~uint64_t(1));
  EXPECT_EQ(second->fib[1].route, first->fib[1].route);
  EXPECT_EQ(second->maps[0].max_entries, 4096u);
  EXPECT_EQ(second->gates.unfused_edges, 0u);
  EXPECT_EQ(second->fuse, Fuse::always);
}

TEST(Manifest, AttachPoints) {
  const std::string running = "ujit-lto: 1\nname: n\nattach:\n  - { interface: eth0, hook: xdp }\n"
                              "  - { interface: eth0, hook: tc-ingress, priority: 7, handle: 2 }\n"
                              "  - { map: jmp, slot: 3 }\n"
                              "target: { cpu: native, kernel: running }\n";
  Expected<Manifest> m = parse_manifest(running, "m.ujit.yaml");
  ASSERT_TRUE(bool(m)) << llvm::toString(m.takeError());
  EXPECT_TRUE(m->objects.empty());
  ASSERT_EQ(m->attach.size(), 3u);
  EXPECT_EQ(describe(m->attach[0].point), "eth0 xdp");
  EXPECT_EQ(describe(m->attach[1].point), "eth0 tc-ingress prio 7 handle 2");
  EXPECT_EQ(describe(m->attach[2].point), "jmp[3]");
  EXPECT_EQ(print_manifest(*m), running);
  Expected<Manifest> with_objects = parse_manifest("ujit-lto: 1\nobjects: [ { path: a.o } ]\nattach: [ { "
                                                   "program: p, interface: eth0, hook: tcx-egress } ]\n",
                                                   "m");
  ASSERT_TRUE(bool(with_objects)) << llvm::toString(with_objects.takeError());
  EXPECT_EQ(with_objects->attach[0].program, "p");
  EXPECT_NE(error_of("ujit-lto: 1\nattach: [ { program: p, interface: eth0, hook: xdp } ]\n")
                .find("without objects, an attach point names no program"),
            std::string::npos);
}

TEST(Manifest, NamesUnknownKeyAndNearest) {
  EXPECT_EQ(error_with("entrys: [ a ]\n"), "m.ujit.yaml: line 3, column 1: unknown key 'entrys' in the "
                                           "manifest\n>>> hint: did you mean 'entries'?");
  EXPECT_EQ(error_with("gates: { stak: 5 }\n"),
            "m.ujit.yaml: line 3, column 10: unknown key 'stak' in gates\n>>> hint: did you mean 'stack'?");
  EXPECT_EQ(error_with("gates: { zzzzz: 5 }\n"),
            "m.ujit.yaml: line 3, column 10: unknown key 'zzzzz' in gates\n"
            ">>> hint: the keys of gates are stack, code-bytes, unfused-edges");
}

TEST(Manifest, ReportsAllComplaintsInOrder) {
  const std::string text = error_with("entries: 7\ngates: { stack: many }\nfoo: 1\n");
  const size_t a = text.find("line 3"), b = text.find("line 4"), c = text.find("line 5");
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_NE(c, std::string::npos);
}

struct Wrong {
  const char *lines, *message;
};

TEST(Manifest, RefusesWrongValues) {
  const Wrong cases[] = {
      {"name: [ a ]\n", "line 3, column 9: name must be a value, not a list"},
      {"name: ''\n", "line 3, column 7: name is empty"},
      {"entries: [ a, b, a ]\n", "line 3, column 18: entry 'a' is there twice, first at line 3, column 12"},
      {"entries: { a: b }\n", "line 3, column 12: entries must be a list, not a mapping"},
      {"prog-arrays: [ { edges: sealed } ]\n", "line 3, column 18: key 'map' is missing in a prog array"},
      {"prog-arrays: [ { map: j, edges: open } ]\n",
       "line 3, column 33: edges must be guarded or sealed, not 'open'"},
      {"prog-arrays: [ { map: j, slots: [ { slot: -1, program: p } ] } ]\n",
       "slot must be a number, not '-1'"},
      {"prog-arrays: [ { map: j, slots: [ { slot: 1, program: p }, { slot: 1, program: q } ] } ]\n",
       "line 3, column 62: slot '1' is there twice"},
      {"prog-arrays: [ { map: j }, { map: j } ]\n", "prog array 'j' is there twice"},
      {"maps: [ { map: m, max-entries: 0 } ]\n", "max-entries must be from 1 to 4294967295, not 0"},
      {"maps: [ { map: m } ]\n", "key 'max-entries' is missing in a map"},
      {"target: { kernel: 5.4 }\n", "kernel must be running, not '5.4'"},
      {"gates: { stack: 99999999999999 }\n", "stack must be from 0 to 1099511627776"},
      {"fib: [ { prefix: 10.0.0.0/33, ifindex: 1, dmac: \"02:00:00:00:00:01\", smac: \"02:00:00:00:00:01\" } "
       "]\n",
       "10.0.0.0/33"},
      {"fib: [ { prefix: 10.0.0.0/8, ifindex: 1, dmac: \"02:00\", smac: \"02:00:00:00:00:01\" } ]\n",
       "02:00"},
      {"attach: [ { interface: eth0, hook: xdp } ]\n",
       "line 3, column 13: key 'program' is missing in an attach point"},
      {"attach: [ { program: p, interface: eth0, hook: xpd } ]\n", "line 3, column 48: 'xpd' is not a hook"},
      {"attach: [ { program: p, interface: eth0 } ]\n",
       "an attach point is an interface and a hook, or a map and a slot"},
      {"attach: [ { program: p, interface: eth0, hook: xdp, slot: 1 } ]\n",
       "an attach point is an interface and"},
      {"attach: [ { program: p, interface: eth0, hook: xdp }, { program: q, interface: eth0, hook: xdp } ]\n",
       "attach point 'eth0 xdp' is there twice"},
      {"ujit-lto: 2\n", "key 'ujit-lto' is there twice"},
      {"&a name: b\n", "anchors and aliases are not used"},
      {"name: !!str b\n", "tags are not used"},
      {"name: \"\x01\"\n", "control character"},
      {"name: \xff\n", "not UTF-8 text"},
      {"\tname: a\n", "a tab indents the line"},
      {"---\nname: a\n", "a second document"},
  };
  for (const Wrong &w : cases)
    EXPECT_NE(error_with(w.lines).find(w.message), std::string::npos) << w.lines << error_with(w.lines);
}

TEST(Manifest, RefusesWrongObjects) {
  const Wrong cases[] = {
      {"", "the manifest must be a mapping, not nothing"},
      {"ujit-lto: 1\n", "key 'objects' is missing or empty"},
      {"objects: [ { path: a } ]\n", "key 'ujit-lto' is missing in the manifest"},
      {"ujit-lto: 3\nobjects: [ { path: a } ]\n", "version 3 of the manifest format is not known, only 1"},
      {"ujit-lto: 1\nobjects: []\n", "key 'objects' is missing or empty"},
      {"ujit-lto: 1\nobjects: [ { path: a }, { path: a } ]\n", "object 'a' is there twice"},
      {"ujit-lto: 1\nobjects: [ { path: a, constants: [ { name: x } ] } ]\n",
       "constant 'x' needs either fold or bind"},
      {"ujit-lto: 1\nobjects: [ { path: a, constants: [ { name: x, fold: 1, bind: 1 } ] } ]\n",
       "either fold or bind"},
      {"ujit-lto: 1\nobjects: [ { path: a, constants: [ { name: x, fold: 0x1ffffffffffffffff } ] } ]\n",
       "64-bit number"},
      {"ujit-lto: 1\nobjects: [ { path: a, types: [ { section: s, type: xpd } ] } ]\n",
       "'xpd' is not a program type"},
      {"ujit-lto: 1\nobjects: [ { path: a ]\n", "line 2"},
  };
  for (const Wrong &w : cases)
    EXPECT_NE(error_of(w.lines).find(w.message), std::string::npos) << w.lines << error_of(w.lines);
}

TEST(Manifest, HostileTextIsRefused) {
  EXPECT_NE(error_of(std::string(2 << 20, 'a')).find("more than the 1048576"), std::string::npos);
  EXPECT_NE(error_of("ujit-lto: " + std::string(100000, '[')).find("nested more than"), std::string::npos);
  std::string indented;
  for (int i = 0; i < 300; ++i)
    indented += std::string(size_t(i), ' ') + "a:\n";
  EXPECT_NE(error_of(indented).find("nested more than"), std::string::npos);
  // LLVM's parser recurses for each comma without anything before it.
  std::string commented;
  for (int i = 0; i < 30'000; ++i)
    commented += i % 2 ? ", # more\n" : ", # more\r";
  for (const std::string &commas : {std::string(300'000, ','), commented})
    EXPECT_NE(error_of("ujit-lto: [" + commas).find("commas in a row"), std::string::npos);
  EXPECT_EQ(error_of("ujit-lto: 1\nentries: [ a, # one,,\n b, ]\n").find("commas"), std::string::npos);
  EXPECT_NE(error_of("a: &x [1]\nb: *x\n").find("anchors and aliases"), std::string::npos);
}

/// Every prefix of a good manifest, and the manifest with each byte replaced, is read or refused.
TEST(Manifest, DamagedTextNeverCrashes) {
  for (size_t i = 0; i <= full.size(); ++i)
    llvm::consumeError(parse_manifest(full.substr(0, i), "m").takeError());
  for (size_t i = 0; i < full.size(); i += 3)
    for (char c : std::string_view("{}[]:,-?&*!|>'\"%@` \n#")) {
      std::string text(full);
      text[i] = c;
      llvm::consumeError(parse_manifest(text, "m").takeError());
    }
}

TEST(Manifest, UnreadableFile) {
  auto m = read_manifest("/nonexistent/m.ujit.yaml");
  ASSERT_FALSE(bool(m));
  EXPECT_EQ(llvm::toString(m.takeError()),
            "/nonexistent/m.ujit.yaml: cannot read the manifest: No such file or directory");
}

} // namespace
} // namespace ujit
