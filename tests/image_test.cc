#include "kernel-iface/image/elf.h"
#include "lto/cpu_check.h"
#include "lto/image.h"
#include "lto/image_info.h"
#include "lto/optimise.h"
#include "tests/image_bed.h"

#include "llvm/BinaryFormat/ELF.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/Object/ELFObjectFile.h"
#include "llvm/Support/TargetSelect.h"

#include <gtest/gtest.h>

#include <random>

namespace ujit {
namespace {

using namespace image_bed;
using Objects = std::vector<Bytes>;
using llvm::StringRef;

Bytes section(const Bytes &image, StringRef name) {
  auto file = llvm::object::ObjectFile::createELFObjectFile(
      llvm::MemoryBufferRef({reinterpret_cast<const char *>(image.data()), image.size()}, "image"));
  EXPECT_TRUE(bool(file));
  for (const llvm::object::SectionRef &s : (*file)->sections())
    if (llvm::cantFail(s.getName()) == name) {
      StringRef contents = llvm::cantFail(s.getContents());
      return {contents.begin(), contents.end()};
    }
  return {};
}

std::vector<std::string> section_names(const Bytes &image) {
  auto file = llvm::cantFail(llvm::object::ObjectFile::createELFObjectFile(
      llvm::MemoryBufferRef({reinterpret_cast<const char *>(image.data()), image.size()}, "image")));
  std::vector<std::string> names;
  for (const llvm::object::SectionRef &s : file->sections())
    names.push_back(llvm::cantFail(s.getName()).str());
  return names;
}

/// Name and binding of each named symbol.
std::map<std::string, uint8_t> symbols(const Bytes &image) {
  auto file = llvm::cantFail(llvm::object::ObjectFile::createELFObjectFile(
      llvm::MemoryBufferRef({reinterpret_cast<const char *>(image.data()), image.size()}, "image")));
  std::map<std::string, uint8_t> out;
  for (const llvm::object::ELFSymbolRef s : file->symbols())
    out[llvm::cantFail(s.getName()).str()] = s.getBinding();
  return out;
}

uint64_t symbol_offset(const Bytes &image, StringRef name) {
  auto file = llvm::cantFail(llvm::object::ObjectFile::createELFObjectFile(
      llvm::MemoryBufferRef({reinterpret_cast<const char *>(image.data()), image.size()}, "image")));
  for (const llvm::object::SymbolRef &s : file->symbols())
    if (llvm::cantFail(s.getName()) == name)
      return llvm::cantFail(s.getValue());
  ADD_FAILURE() << "no symbol " << name.str();
  return 0;
}

uint64_t helper(uint64_t x) { return x + 5; }

/// Loads an image as the embedded kernel does.
class Loaded {
public:
  explicit Loaded(const Bytes &image) {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    jit_ = llvm::cantFail(
        llvm::orc::LLJITBuilder()
            .setObjectLinkingLayerCreator([](llvm::orc::ExecutionSession &session, const llvm::Triple &) {
              return std::make_unique<llvm::orc::ObjectLinkingLayer>(session);
            })
            .create());
    llvm::cantFail(jit_->getMainJITDylib().define(llvm::orc::absoluteSymbols(
        {{jit_->mangleAndIntern("bpf_helper"),
          {llvm::orc::ExecutorAddr::fromPtr(&helper), llvm::JITSymbolFlags::Exported}}})));
    llvm::cantFail(jit_->addObjectFile(llvm::MemoryBuffer::getMemBufferCopy(
        {reinterpret_cast<const char *>(image.data()), image.size()}, "image")));
  }
  uint64_t call(const char *name, uint64_t x, uint64_t y) {
    auto address = jit_->lookup(name);
    if (!address) {
      ADD_FAILURE() << llvm::toString(address.takeError());
      return 0;
    }
    return address->toPtr<uint64_t (*)(uint64_t, uint64_t)>()(x, y);
  }

private:
  std::unique_ptr<llvm::orc::LLJIT> jit_;
};

TEST(Image, MergedObjectsRun) {
  Loaded loaded(merged(three_objects(), info_of({"entry"}, {"bpf_helper"})));
  EXPECT_EQ(loaded.call("entry", 0, 2), 3000u);
  EXPECT_EQ(loaded.call("entry", 1, 3), 1004u); // second object's own @table, then the third object
  EXPECT_EQ(loaded.call("entry", 2, 7), 12u);
  EXPECT_EQ(loaded.call("entry", 3, 1), uint64_t('b'));
  EXPECT_EQ(loaded.call("entry", 4, 5), 15u);
  EXPECT_EQ(loaded.call("entry", 9, 5), ~uint64_t(0));
}

TEST(Image, OrderOfObjectsChangesPlacesOnly) {
  Loaded loaded(
      merged({compile(third_ir), compile(second_ir), compile(first_ir)}, info_of({"entry"}, {"bpf_helper"})));
  EXPECT_EQ(loaded.call("entry", 0, 1), 200u);
  EXPECT_EQ(loaded.call("entry", 1, 0), 1001u);
  EXPECT_EQ(loaded.call("entry", 3, 2), uint64_t('c'));
}

TEST(Image, SameInputSameBytes) {
  ImageInfo info = info_of({"entry"}, {"bpf_helper"});
  EXPECT_EQ(merged(three_objects(), info), merged(three_objects(), info));
}

TEST(Image, SymbolsGetTheBindingOfTheirUse) {
  ImageInfo info = info_of({"entry"}, {"bpf_helper", "bpf_other"});
  info.programs[0].symbol = "next";
  auto found = symbols(merged(three_objects(), info));
  EXPECT_EQ(found["entry"], llvm::ELF::STB_GLOBAL);
  EXPECT_EQ(found["next"], llvm::ELF::STB_GLOBAL);
  EXPECT_EQ(found["leaf"], llvm::ELF::STB_LOCAL);
  EXPECT_EQ(found["own"], llvm::ELF::STB_LOCAL);
  EXPECT_EQ(found["bpf_helper"], llvm::ELF::STB_GLOBAL);
  EXPECT_FALSE(found.contains("bpf_other"));
}

TEST(Image, SectionsAreMergedByStem) {
  std::vector<std::string> names = section_names(merged(three_objects(), info_of({"entry"}, {"bpf_helper"})));
  for (const char *once : {".text", ".rodata", ".stack_sizes", ".ujit", ".note.GNU-stack"})
    EXPECT_EQ(std::ranges::count(names, once), 1) << once;
  for (const std::string &n : names)
    EXPECT_FALSE(StringRef(n).starts_with(".rodata.") || n == ".llvm_addrsig" || n == ".comment") << n;
}

TEST(Image, RefusesWhatAnImageMayNotHave) {
  EXPECT_EQ(message(write_image(Objects{compile(first_ir), compile(second_ir)}, info_of({"entry"}, {}))),
            "undefined symbol bpf_helper, next: not among the helpers of the image");
  EXPECT_EQ(message(write_image(Objects{compile(third_ir), compile(third_ir)}, info_of({}, {}))),
            "symbol next is defined in object 0 and in object 1");
  EXPECT_EQ(message(write_image(Objects{compile(third_ir)}, info_of({"entry"}, {}))),
            "symbol entry of an entry or program is not defined");
  EXPECT_EQ(
      message(write_image(Objects{compile("@v = internal global i32 1\n"
                                          "define void @f() { store volatile i32 2, ptr @v ret void }")},
                          info_of({}, {}))),
      "object 0: section .data: an image has no writable data: state is reached through the instance");
  EXPECT_EQ(message(write_image(
                Objects{compile("$f = comdat any\ndefine linkonce_odr void @f() comdat { ret void }\n"
                                "define void @g() { call void @f() ret void }")},
                info_of({}, {}))),
            "object 0: section .group: COMDAT groups cannot be merged");
  EXPECT_EQ(message(write_image(Objects{compile("@t = thread_local global i32 1")}, info_of({}, {}))),
            "object 0: section .tdata: an image has no thread-local storage");
  EXPECT_EQ(message(write_image(Objects{Bytes{1, 2, 3}}, info_of({}, {}))),
            "object 0: malformed object: 3 bytes are too few for an ELF header");
  Bytes image = merged({compile(third_ir)}, info_of({}, {}));
  EXPECT_EQ(message(write_image(Objects{image}, info_of({}, {}))),
            "object 0: section .ujit: an image cannot be merged again");
}

TEST(Image, AddressesOfHelpers) {
  Loaded loaded(merged({compile("declare i64 @bpf_helper(i64)\n"
                                "define ptr @address() #0 { ret ptr @bpf_helper }" +
                                attributes)},
                       info_of({"address"}, {"bpf_helper"})));
  EXPECT_EQ(loaded.call("address", 0, 0), reinterpret_cast<uint64_t>(&helper));
}

ImageInfo full_info() {
  ImageInfo info = info_of({"entry"}, {"bpf_helper", "bpf_other"});
  info.programs[0].lines = {
      {0, "lb.c", 12, "int x = 1;"}, {4, "lb \"q\".h", 7, ""}, {9, "lb.c", 20, "\treturn x;"}};
  info.programs.push_back({"other", std::string(64, '0'), "next", "b.bpf.o", 3, {}});
  info.instance = {{{InstanceSlot::map, 3, 0}, "conntrack"},
                   {{InstanceSlot::constant, 2, 1}, ".rodata:endpoint_id"},
                   {{InstanceSlot::cpu, 0, 0}, "cpu"}};
  info.edges = {{"prog_entry", "other", "jmp", "guarded", "inlined", 5, 3},
                {"other", "", "jmp", "left", "left", 1, -1}};
  info.code_bytes = 1234;
  info.stack_bytes = 4000000000;
  return info;
}

TEST(ImageInfo, SurvivesTheFile) {
  ImageInfo info = full_info();
  auto read = read_image_info(merged(three_objects(), info), "x.ujit");
  ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
  EXPECT_TRUE(*read == info);
}

TEST(ImageInfo, StrictReader) {
  std::string good = print_image_info(full_info());
  ASSERT_EQ(message(parse_image_info(good)), "no error");
  auto changed = [&](const std::string &from, const std::string &to) {
    std::string text = good;
    size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return message(parse_image_info(text.replace(at, from.size(), to)));
  };
  EXPECT_EQ(changed("\"format\":1", "\"format\":2"),
            "image format 2 is newer than 1, the newest that this version knows");
  EXPECT_EQ(changed("\"format\":1", "\"format\":\"1\""),
            "image description: format: expected a number from 0 to 4294967295");
  EXPECT_EQ(changed("\"insns\":10", "\"insns\":-1"),
            "image description: programs[0].insns: expected a number from 0 to 4294967295");
  EXPECT_EQ(changed("\"insns\":10", "\"insns\":8"),
            "image description: programs[0].lines: instructions out of order or range, or no such file");
  EXPECT_EQ(changed("\"map\":\"jmp\",", ""), "image description: edges[0].map: missing");
  EXPECT_EQ(changed("\"map\":", "\"mop\":1,\"map\":"), "image description: edges[0].mop: unknown field");
  EXPECT_EQ(changed("\"kind\":\"constant\"", "\"kind\":\"konst\""),
            "image description: instance[1].kind: no such kind of instance slot");
  EXPECT_EQ(changed("aaaa", "AAAA"), "image description: programs[0].digest: expected 64 hexadecimal digits");
  EXPECT_EQ(changed("\"program\":\"prog_entry\"", "\"program\":\"nobody\""),
            "image description: entries: program nobody is not in the image");
  EXPECT_EQ(changed("\"bpf_other\"", "\"aaa\""),
            "image description: helpers[1]: expected symbol names in ascending order");
  EXPECT_EQ(message(parse_image_info("[]")), "image description: expected an object");
  EXPECT_EQ(message(parse_image_info(std::string(1 << 20, '['))), "image description: nested too deeply");
  for (size_t length = 0; length < good.size(); length += 3)
    EXPECT_NE(message(parse_image_info(StringRef(good).take_front(length))), "no error");
}

TEST(ImageInfo, OfAnotherCpu) {
  ImageInfo info = full_info();
  auto check = [&](const std::string &cpu) {
    info.target = "x86_64-unknown-linux-gnu " + cpu;
    return llvm::toString(check_cpu(info));
  };
  EXPECT_EQ(check("x86-64 "), "");
  auto native = resolve_cpu("native", false);
  ASSERT_TRUE(bool(native)) << llvm::toString(native.takeError());
  EXPECT_EQ(check(native->name + " " + native->features), "");
  const std::string impossible = check("x86-64 +xop,+avx512vp2intersect"); // no CPU has both
  EXPECT_TRUE(StringRef(impossible).contains("the image was linked for CPU 'x86-64' with ")) << impossible;
  EXPECT_TRUE(StringRef(impossible).contains(", which this machine lacks")) << impossible;
  EXPECT_EQ(check("skylake -xsave,-sgx"), check("skylake ")) << "what code generation does not use";
}

TEST(ImageInfo, SymbolsMustMatchTheDescription) {
  Bytes image =
      merged({compile(first_ir), compile(second_ir), compile(third_ir)}, info_of({"entry"}, {"bpf_helper"}));
  std::string text(image.begin(), image.end());
  auto patched = [&](const std::string &from, const std::string &to) {
    std::string copy = text;
    copy.replace(copy.find(from), from.size(), to);
    Bytes changed(copy.begin(), copy.end());
    EXPECT_EQ(message(read_image_info(changed, "x.ujit")),
              "x.ujit: the image is damaged: its contents do not match its .ujit.checksum");
    write_checksums(changed);
    return message(read_image_info(changed, "x.ujit"));
  };
  EXPECT_EQ(patched("\"bpf_helper\"", "\"bpf_nobody\""),
            "x.ujit: image: undefined symbol bpf_helper is not among its helpers");
  EXPECT_EQ(patched("\"symbol\":\"entry\"", "\"symbol\":\"leafy\""),
            "x.ujit: image: entry symbol leafy is not defined in its text");
  EXPECT_EQ(
      message(read_image_info(compile(third_ir), "x.o")),
      "x.o: not an image: there is no .ujit section\n>>> hint: an image is what `ujit-lto link` writes");
}

/// Three levels: instruction 6 of `deep` inlined into instruction 4 of `middle`, inlined into instruction 2
/// of `outer`.
const std::string inlined_ir = R"(
define i64 @outer_fn(i64 %x) #0 !dbg !4 {
  %a = mul i64 %x, 77, !dbg !11
  %b = udiv i64 1000003, %a, !dbg !8
  %c = udiv i64 %b, 11, !dbg !12
  ret i64 %c, !dbg !13
}
!llvm.dbg.cu = !{!0}
!llvm.module.flags = !{!14, !15}
!0 = distinct !DICompileUnit(language: DW_LANG_C11, file: !1, producer: "ujit-lto", isOptimized: true, runtimeVersion: 0, emissionKind: FullDebug)
!1 = !DIFile(filename: "pipeline", directory: "/")
!2 = !DISubroutineType(types: !3)
!3 = !{}
!4 = distinct !DISubprogram(name: "outer", linkageName: "outer_fn", scope: !1, file: !1, line: 1, type: !2, unit: !0, spFlags: DISPFlagDefinition)
!5 = distinct !DISubprogram(name: "middle", scope: !1, file: !1, line: 1, type: !2, unit: !0, spFlags: DISPFlagDefinition)
!6 = distinct !DISubprogram(name: "dp.deep", linkageName: "deep", scope: !1, file: !1, line: 1, type: !2, unit: !0, spFlags: DISPFlagDefinition)
!8 = !DILocation(line: 7, scope: !6, inlinedAt: !9)
!9 = distinct !DILocation(line: 5, scope: !5, inlinedAt: !10)
!10 = distinct !DILocation(line: 3, scope: !4)
!11 = !DILocation(line: 2, scope: !4)
!12 = !DILocation(line: 4, scope: !4)
!13 = !DILocation(line: 5, scope: !4)
!14 = !{i32 2, !"Debug Info Version", i32 3}
!15 = !{i32 7, !"Dwarf Version", i32 5}
)" + attributes;

ImageInfo debug_info() {
  ImageInfo info = info_of({"entry"}, {"bpf_helper"});
  info.programs.push_back({"outer",
                           std::string(64, '1'),
                           "outer_fn",
                           "a.bpf.o",
                           20,
                           {{0, "outer.c", 30, ""}, {2, "outer.c", 31, ""}}});
  info.programs.push_back(
      {"middle", std::string(64, '2'), "", "a.bpf.o", 20, {{0, "middle.c", 5, ""}, {5, "middle.c", 6, ""}}});
  info.programs.push_back({"dp", std::string(64, '3'), "", "b.bpf.o", 20, {{7, "dp.c", 1, ""}}});
  return info;
}

std::vector<Bytes> debug_objects() {
  std::string other = inlined_ir;
  for (const char *name :
       {"outer", "middle", "deep"}) // a second unit, so that offsets into debug sections move
    for (size_t at; (at = other.find(name)) != std::string::npos;)
      other.replace(at, 2, "zz");
  std::vector<Bytes> objects = three_objects();
  objects.insert(objects.begin(), compile(other));
  objects.push_back(compile(inlined_ir));
  return objects;
}

TEST(Symbolize, InliningInnermostFirst) {
  Bytes image = merged(debug_objects(), debug_info());
  uint64_t start = symbol_offset(image, "outer_fn");
  std::vector<Frame> deepest;
  for (uint64_t at = start; at < section(image, ".text").size(); ++at) {
    auto frames = symbolize(image, at);
    ASSERT_TRUE(bool(frames)) << llvm::toString(frames.takeError());
    EXPECT_EQ(frames->back().program, "outer");
    if (frames->size() > deepest.size())
      deepest = *frames;
  }
  ASSERT_EQ(deepest.size(), 3u);
  EXPECT_EQ(deepest[0].program, "dp.deep");
  EXPECT_EQ(deepest[0].insn, 6u);
  EXPECT_EQ(deepest[0].source, ""); // its line table begins behind
  EXPECT_EQ(deepest[1].program, "middle");
  EXPECT_EQ(deepest[1].insn, 4u);
  EXPECT_EQ(deepest[1].source, "middle.c:5");
  EXPECT_EQ(deepest[2].program, "outer");
  EXPECT_EQ(deepest[2].insn, 2u);
  EXPECT_EQ(deepest[2].source, "outer.c:31");
}

TEST(Symbolize, SaysWhatIsMissing) {
  Bytes image = merged(debug_objects(), debug_info());
  EXPECT_EQ(message(symbolize(image, symbol_offset(image, "entry"))),
            llvm::formatv("no program has code at text offset {0:x}", symbol_offset(image, "entry")).str());
  size_t size = section(image, ".text").size();
  EXPECT_EQ(
      message(symbolize(image, size)),
      llvm::formatv("text offset {0:x} is outside of the image, whose text has {0:x} bytes", size).str());
  auto stripped = strip_debug(image);
  ASSERT_TRUE(bool(stripped));
  EXPECT_EQ(message(symbolize(*stripped, 0)), "the image has no debug information\n>>> hint: link it with "
                                              "debug information, or take the image before it was stripped");
}

TEST(Image, WithDebugInformationItStillRuns) {
  Loaded loaded(merged(debug_objects(), debug_info()));
  EXPECT_EQ(loaded.call("entry", 1, 3), 1004u);
  EXPECT_EQ(loaded.call("outer_fn", 5, 0), 1000003u / (5 * 77) / 11);
}

TEST(Strip, KeepsEveryOtherByte) {
  Bytes image = merged(debug_objects(), debug_info());
  auto stripped = strip_debug(image);
  ASSERT_TRUE(bool(stripped)) << llvm::toString(stripped.takeError());
  EXPECT_LT(stripped->size(), image.size());
  std::vector<std::string> names = section_names(*stripped);
  for (const std::string &name : section_names(image)) {
    bool debug = name.find(".debug_") != std::string::npos;
    EXPECT_EQ(std::ranges::count(names, name), debug ? 0 : 1) << name;
    if (debug)
      continue;
    EXPECT_EQ(section(*stripped, name), section(image, name)) << name;
  }
  Loaded loaded(*stripped);
  EXPECT_EQ(loaded.call("entry", 1, 3), 1004u);
  auto info = read_image_info(*stripped, "x");
  ASSERT_TRUE(bool(info)) << llvm::toString(info.takeError());
  EXPECT_TRUE(*info == debug_info());
  auto again = strip_debug(*stripped);
  ASSERT_TRUE(bool(again));
  EXPECT_EQ(*again, *stripped);
}

/// Runs everything that reads images; only that it returns matters.
void read_all(const Bytes &image) {
  llvm::consumeError(read_image_info(image, "x").takeError());
  llvm::consumeError(strip_debug(image).takeError());
  llvm::consumeError(worst_stack(image, std::vector<std::string>{"entry", "outer_fn"}).takeError());
  for (uint64_t at : {uint64_t(0), uint64_t(20), uint64_t(200)})
    llvm::consumeError(symbolize(image, at).takeError());
  llvm::consumeError(write_image(Objects{image}, info_of({}, {})).takeError());
}

TEST(Image, TruncatedFilesAreErrors) {
  Bytes image = merged(debug_objects(), debug_info());
  for (size_t length = 0; length < image.size(); length += 1 + length / 50) {
    Bytes cut(image.begin(), image.begin() + length);
    EXPECT_NE(message(read_image_info(cut, "x")), "no error");
    read_all(cut);
  }
}

TEST(Image, DamageIsFound) {
  const Bytes image = merged(debug_objects(), debug_info());
  ElfObject object = llvm::cantFail(read_elf(image));
  std::mt19937 random(1);
  size_t found = 0;
  for (const ImageElfSection &s : object.sections)
    for (size_t at = s.offset; at < s.offset + s.contents.size(); at += 1 + random() % 9) {
      Bytes copy = image;
      copy[at] ^= 1 << random() % 8;
      std::string problem =
          is_debug_part(object, s) ? message(symbolize(copy, 0)) : message(read_image_info(copy, "x"));
      EXPECT_NE(problem, "no error") << s.name.str() << " " << at - s.offset;
      ++found;
    }
  EXPECT_GT(found, 500u);
}

/// Also behind the checksum of what is loaded; that of the debug information is what keeps LLVM's reader
/// safe.
TEST(Image, CorruptedFilesDoNotCrash) {
  const Bytes image = merged(debug_objects(), debug_info());
  std::mt19937 random(1);
  for (size_t at = 0; at < image.size(); at += 1 + random() % 13) {
    Bytes copy = image;
    copy[at] ^= 1 << random() % 8;
    if (random() % 4 == 0)
      copy[random() % copy.size()] = random();
    read_all(copy);
    auto object = read_elf(copy);
    if (!object) {
      llvm::consumeError(object.takeError());
      continue;
    }
    bool debug_is_sound = !llvm::errorToBool(check_checksum(*object, debug_checksum_section));
    if (debug_is_sound) {
      write_checksums(copy);
      read_all(copy);
    }
  }
}

TEST(Image, CorruptedObjectsDoNotCrashTheMerge) {
  const Bytes object = compile(inlined_ir);
  std::mt19937 random(2);
  for (size_t at = 0; at < object.size(); ++at) {
    std::vector<Bytes> objects{object};
    objects[0][at] = random();
    llvm::consumeError(write_image(objects, info_of({}, {})).takeError());
  }
}

} // namespace
} // namespace ujit
