// From a text offset back to programs and instructions.
//
// The code generator gave each instruction a debug location: the function is the program, the line is the
// eBPF instruction plus one (line 0 means "none" in DWARF), inlined-at is the edge. LLVM's DWARF reader finds
// the chain of inlined functions again. It is given plain buffers rather than the object, with the
// relocations to code already applied: an image has its text at 0 and no others are left (image_merge.cc).
#include "lto/image.h"
#include "lto/image_elf.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/DebugInfo/DWARF/DWARFContext.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>

namespace ujit {

using llvm::DILineInfo;
using llvm::formatv;
using llvm::StringRef;

namespace {

using Buffers = llvm::StringMap<std::unique_ptr<llvm::MemoryBuffer>>;

/// The debug sections by name without the dot, relocated.
Expected<Buffers> debug_sections(const ElfObject &object, uint32_t text) {
  Buffers out;
  for (const ElfSection &s : object.sections) {
    if (!is_debug_section(s.name))
      continue;
    auto buffer = llvm::WritableMemoryBuffer::getNewUninitMemBuffer(s.contents.size(), s.name);
    std::copy(s.contents.begin(), s.contents.end(), buffer->getBufferStart());
    for (const Elf::Rela &r : s.relocations) {
      const ElfSymbol &symbol = object.symbols[r.getSymbol(false)];
      if (r.getType(false) != llvm::ELF::R_X86_64_64 || symbol.section != text)
        return input_error(
                   formatv("{0}+{1:x}: a relocation that images do not have", s.name, uint64_t(r.r_offset)))
            .error();
      llvm::support::endian::write64le(buffer->getBufferStart() + r.r_offset,
                                       symbol.value + uint64_t(r.r_addend));
    }
    out[s.name.drop_front()] = std::move(buffer);
  }
  return out;
}

/// The program that a function belongs to: itself, or the longest one whose name and a dot it begins with.
const ImageProgram *program_of(const ImageInfo &info, StringRef function) {
  const ImageProgram *best = nullptr;
  for (const ImageProgram &p : info.programs) {
    if (function == p.name)
      return &p;
    if (function.starts_with(p.name) && function[p.name.size()] == '.' &&
        (!best || best->name.size() < p.name.size()))
      best = &p;
  }
  return best;
}

std::string source_of(const ImageProgram *program, uint32_t insn) {
  if (!program)
    return {};
  auto behind = std::ranges::upper_bound(program->lines, insn, {}, &LineInfo::insn);
  if (behind == program->lines.begin())
    return {};
  const LineInfo &line = behind[-1];
  return formatv("{0}:{1}", line.file, line.line);
}

class Symbolizer {
public:
  Symbolizer(const ImageInfo &info, const Buffers &sections)
      : info_(info), dwarf_(llvm::DWARFContext::create(sections, 8, true, ignore, ignore)) {}

  std::vector<Frame> frames(uint64_t offset) {
    std::vector<DILineInfo> chain = find(offset);
    // Code that the compiler made up has line 0: then what is right in front of it tells the instruction.
    constexpr uint64_t reach = 64;
    for (uint64_t back = 1; back <= std::min(offset, reach) && !chain.empty() && chain[0].Line == 0; ++back)
      if (auto before = find(offset - back); before.size() == chain.size() && names_match(before, chain))
        chain[0].Line = before[0].Line;
    std::vector<Frame> out;
    for (const DILineInfo &level : chain) {
      Frame frame{level.FunctionName, level.Line == 0 ? 0 : level.Line - 1, {}};
      frame.source = source_of(program_of(info_, frame.program), frame.insn);
      out.push_back(std::move(frame));
    }
    return out;
  }

private:
  static void ignore(Error e) { llvm::consumeError(std::move(e)); }

  static bool names_match(const std::vector<DILineInfo> &a, const std::vector<DILineInfo> &b) {
    return std::ranges::equal(a, b, {}, &DILineInfo::FunctionName, &DILineInfo::FunctionName);
  }

  /// Innermost first. Of a function's two names in DWARF it takes the one that is a program's.
  std::vector<DILineInfo> find(uint64_t offset) {
    using Kind = llvm::DILineInfoSpecifier;
    llvm::object::SectionedAddress address{offset, llvm::object::SectionedAddress::UndefSection};
    auto names = dwarf_->getInliningInfoForAddress(
        address, Kind(Kind::FileLineInfoKind::RawValue, llvm::DINameKind::ShortName));
    auto linkage = dwarf_->getInliningInfoForAddress(
        address, Kind(Kind::FileLineInfoKind::RawValue, llvm::DINameKind::LinkageName));
    std::vector<DILineInfo> out;
    for (uint32_t i = 0; i < names.getNumberOfFrames(); ++i) {
      DILineInfo level = names.getFrame(i);
      const std::string &other = linkage.getFrame(i).FunctionName;
      if (!program_of(info_, level.FunctionName) && program_of(info_, other))
        level.FunctionName = other;
      if (level.FunctionName != DILineInfo::BadString)
        out.push_back(std::move(level));
    }
    return out;
  }

  const ImageInfo &info_;
  std::unique_ptr<llvm::DWARFContext> dwarf_;
};

} // namespace

Expected<std::vector<Frame>> symbolize(std::span<const uint8_t> image, uint64_t offset) {
  auto info = read_image_info(image, "");
  if (!info)
    return info.takeError();
  auto object = read_elf(image);
  if (!object)
    return object.takeError();
  uint32_t text = object->find_section(".text");
  if (text == 0 || offset >= object->sections[text].size)
    return input_error(formatv("text offset {0:x} is outside of the image, whose text has {1:x} bytes",
                               offset, text ? object->sections[text].size : 0))
        .error();
  if (object->find_section(".debug_info") == 0)
    return input_error("the image has no debug information")
        .with_hint("link it with debug information, or take the image before it was stripped")
        .error();
  // LLVM's reader does not survive every damage.
  if (Error e = check_checksum(*object, debug_checksum_section))
    return e;
  auto sections = debug_sections(*object, text);
  if (!sections)
    return sections.takeError();
  std::vector<Frame> frames = Symbolizer(*info, *sections).frames(offset);
  if (frames.empty())
    return input_error(formatv("no program has code at text offset {0:x}", offset)).error();
  return frames;
}

} // namespace ujit
