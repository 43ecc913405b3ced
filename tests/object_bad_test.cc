// Damaged and hostile objects: every input gives an object or an error with the file's name, and nothing
// crashes. (Run under ASan and UBSan, this is where bounds checks are proven.)
#include "kernel-iface/object/gather.h"
#include "kernel-iface/object/object.h"
#include "tests/object_compile.h"
#include "translator/program.h"

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <gtest/gtest.h>

namespace ujit {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr const char *sources[] = {"tags", "values", "iproute2", "mapdef", "data", "refused"};

/// What must hold of whatever is read.
void expect_sound(const Object &o) {
  for (const Map &m : o.maps) {
    if (m.inner) {
      EXPECT_LT(index(*m.inner), o.maps.size());
    }
    for (auto [slot, inner] : m.inner_slots)
      EXPECT_LT(index(inner), o.maps.size());
  }
  for (const Program &p : o.programs) {
    ASSERT_FALSE(p.subprograms.empty());
    EXPECT_EQ(p.subprograms.back().end, p.insns.size());
    for (size_t i = 0; i < p.insns.size(); ++i) {
      if (!is_wide(p.insns[i]))
        continue;
      ASSERT_LT(i + 1, p.insns.size());
      if (p.insns[i].src == 1 || p.insns[i].src == 2) {
        ASSERT_LT(uint32_t(p.insns[i].imm), o.maps.size());
      }
      if (p.insns[i].src == 2) {
        EXPECT_LT(uint32_t(p.insns[i + 1].imm), o.maps[p.insns[i].imm].value_size);
      }
      ++i;
    }
    for (const LineInfo &l : p.lines)
      EXPECT_LT(l.insn, p.insns.size());
  }
  for (const Variable &v : o.variables)
    EXPECT_LE(uint64_t(v.offset) + v.size, o.maps[index(v.map)].contents.size());
}

/// True if the bytes gave an object.
bool try_read(const Bytes &bytes) {
  auto o = read_object("bad.o", bytes);
  if (!o) {
    llvm::handleAllErrors(o.takeError(), [](const LinkError &e) {
      EXPECT_EQ(e.file, "bad.o");
      EXPECT_NE(e.kind, ErrorKind::internal) << e.message;
      EXPECT_FALSE(e.message.empty());
    });
    return false;
  }
  expect_sound(*o);
  GatherRequest request;
  request.objects.push_back(std::move(*o));
  llvm::consumeError(gather(std::move(request)).takeError());
  return true;
}

std::string error_of(const Bytes &bytes) {
  auto o = read_object("bad.o", bytes);
  return o ? std::string("no error") : llvm::toString(o.takeError());
}

/// Small deterministic generator (xorshift).
struct Random {
  uint64_t state;
  uint64_t operator()() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
};

class BadObject : public testing::TestWithParam<const char *> {
protected:
  void SetUp() override {
    auto compiled = test::compile_bpf(GetParam());
    if (!compiled)
      GTEST_SKIP() << "clang-19 cannot compile for eBPF here";
    bytes = *compiled;
    ASSERT_TRUE(try_read(bytes));
  }

  Elf64_Shdr section_header(size_t i) const {
    Elf64_Ehdr e;
    std::memcpy(&e, bytes.data(), sizeof e);
    Elf64_Shdr s;
    std::memcpy(&s, bytes.data() + e.e_shoff + i * sizeof s, sizeof s);
    return s;
  }
  void set_section_header(size_t i, const Elf64_Shdr &s) {
    Elf64_Ehdr e;
    std::memcpy(&e, bytes.data(), sizeof e);
    std::memcpy(bytes.data() + e.e_shoff + i * sizeof s, &s, sizeof s);
  }
  size_t section_count() const {
    Elf64_Ehdr e;
    std::memcpy(&e, bytes.data(), sizeof e);
    return e.e_shnum;
  }
  /// Index of a section by name, or 0.
  size_t find_section(std::string_view name) const {
    Elf64_Ehdr e;
    std::memcpy(&e, bytes.data(), sizeof e);
    Elf64_Shdr names = section_header(e.e_shstrndx);
    for (size_t i = 1; i < section_count(); ++i)
      if (name == reinterpret_cast<const char *>(bytes.data() + names.sh_offset + section_header(i).sh_name))
        return i;
    return 0;
  }

  Bytes bytes;
};

INSTANTIATE_TEST_SUITE_P(Sources, BadObject, testing::ValuesIn(sources),
                         [](const auto &info) { return std::string(info.param); });

TEST_P(BadObject, Truncated) {
  for (size_t length = 0; length < bytes.size(); length += length < 256 ? 1 : 37)
    EXPECT_FALSE(try_read(Bytes(bytes.begin(), bytes.begin() + length))) << length;
}

TEST_P(BadObject, FlippedBytes) {
  Random random{0x9e3779b97f4a7c15};
  for (int round = 0; round < 600; ++round) {
    Bytes copy = bytes;
    for (uint64_t n = 1 + random() % 4; n; --n)
      copy[random() % copy.size()] ^= 1 << random() % 8;
    try_read(copy);
  }
}

/// Debug sections are most of a file and nobody reads them: aim at what is read.
TEST_P(BadObject, DamagedSections) {
  Random random{42};
  const uint32_t interesting[] = {0,    1,      2,          7,          8,          0x7f,      0x80,
                                  0xff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff};
  for (size_t i = 1; i < section_count(); ++i) {
    Elf64_Shdr s = section_header(i);
    bool read = (s.sh_flags & SHF_ALLOC) || s.sh_type == SHT_SYMTAB || s.sh_type == SHT_REL ||
                i == find_section(".BTF") || i == find_section(".BTF.ext");
    if (!read || s.sh_type == SHT_NOBITS || s.sh_size < 4)
      continue;
    for (int round = 0; round < 120; ++round) {
      Bytes copy = bytes;
      uint32_t value = interesting[random() % std::size(interesting)];
      size_t at = s.sh_offset + (random() % (s.sh_size - 3) & ~uint64_t(round % 2 ? 3 : 0));
      std::memcpy(copy.data() + at, &value, 4);
      try_read(copy);
    }
  }
}

TEST_P(BadObject, DamagedSectionHeaders) {
  const uint64_t interesting[] = {0, 3, 0xffff, ~uint64_t(0)};
  Bytes original = bytes;
  for (size_t i = 1; i < section_count(); ++i)
    for (size_t field = 0; field < sizeof(Elf64_Shdr); field += 4)
      for (uint64_t value : interesting) {
        Elf64_Shdr s = section_header(i);
        std::memcpy(reinterpret_cast<char *>(&s) + field, &value, std::min<size_t>(8, sizeof s - field));
        set_section_header(i, s);
        try_read(bytes);
        bytes = original;
      }
}

TEST_P(BadObject, SectionsCutShort) {
  Bytes original = bytes;
  for (size_t i = 1; i < section_count(); ++i) {
    uint64_t size = section_header(i).sh_size;
    for (uint64_t cut : {uint64_t(1), uint64_t(4), uint64_t(8), uint64_t(13), size / 2, size}) {
      Elf64_Shdr s = section_header(i);
      s.sh_size = cut < size ? size - cut : 0;
      set_section_header(i, s);
      try_read(bytes);
      bytes = original;
    }
  }
}

TEST_P(BadObject, OtherMachines) {
  Bytes copy = bytes;
  copy[EI_DATA] = ELFDATA2MSB;
  EXPECT_NE(error_of(copy).find("bad.o: "), std::string::npos);
  copy = bytes;
  copy[18] = EM_X86_64, copy[19] = 0;
  EXPECT_NE(error_of(copy).find("ELF machine 62 is not eBPF"), std::string::npos);
  copy = bytes;
  copy[16] = ET_EXEC;
  EXPECT_NE(error_of(copy).find("not a relocatable object"), std::string::npos);
  EXPECT_NE(error_of({}).find("not an ELF file"), std::string::npos);
  EXPECT_NE(error_of(Bytes(100, 'x')).find("not an ELF file"), std::string::npos);
}

TEST(BadObjects, BigEndian) {
  auto bytes = test::compile_bpf("mapdef", "clang-19", {"-target", "bpfeb"});
  if (!bytes)
    GTEST_SKIP() << "clang-19 cannot compile for big-endian eBPF here";
  EXPECT_NE(error_of(*bytes).find("big-endian"), std::string::npos);
}

/// A .bss of any size costs a file nothing.
TEST(BadObjects, EnormousBss) {
  auto compiled = test::compile_bpf("data");
  if (!compiled)
    GTEST_SKIP() << "clang-19 cannot compile for eBPF here";
  Bytes bytes = *compiled;
  Elf64_Ehdr e;
  std::memcpy(&e, bytes.data(), sizeof e);
  for (size_t i = 1; i < e.e_shnum; ++i) {
    Elf64_Shdr s;
    uint8_t *at = bytes.data() + e.e_shoff + i * sizeof s;
    std::memcpy(&s, at, sizeof s);
    if (s.sh_type != SHT_NOBITS)
      continue;
    s.sh_size = uint64_t(1) << 60;
    std::memcpy(at, &s, sizeof s);
  }
  EXPECT_NE(error_of(bytes).find("section .bss of 1152921504606846976 bytes"), std::string::npos)
      << error_of(bytes);
}

TEST(BadObjects, MissingFile) {
  auto o = read_object_file("/nonexistent/lb.bpf.o");
  ASSERT_FALSE(bool(o));
  std::string e = llvm::toString(o.takeError());
  EXPECT_EQ(e.find("/nonexistent/lb.bpf.o: cannot be read: "), 0u) << e;
}

} // namespace
} // namespace ujit
