// LLVM's DWARF reader finds the chain of inlined functions again. It is given plain buffers rather than the
// object, with the relocations to code already applied: an image has its text at 0 and no others are left
// (image_merge.cc).
#include "lto/debug_lines.h"

#include "llvm/BinaryFormat/ELF.h"
#include "llvm/DebugInfo/DWARF/DWARFContext.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {

using llvm::DILineInfo;
using llvm::formatv;
using llvm::StringRef;

Expected<DebugLines::Buffers> DebugLines::relocated_sections(const ElfObject &object, uint32_t text) {
  Buffers out;
  for (const ImageElfSection &s : object.sections) {
    if (!is_debug_section(s.name))
      continue;
    auto buffer = llvm::WritableMemoryBuffer::getNewUninitMemBuffer(s.contents.size(), s.name);
    std::copy(s.contents.begin(), s.contents.end(), buffer->getBufferStart());
    for (const Elf::Rela &r : s.relocations) {
      const ImageElfSymbol &symbol = object.symbols[r.getSymbol(false)];
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

static void ignore(Error e) { llvm::consumeError(std::move(e)); }

DebugLines::DebugLines(Buffers sections)
    : sections_(std::move(sections)), dwarf_(llvm::DWARFContext::create(sections_, 8, true, ignore, ignore)) {
}
DebugLines::DebugLines(DebugLines &&) noexcept = default;
DebugLines::~DebugLines() = default;

Expected<DebugLines> DebugLines::read(const ElfObject &object) {
  if (object.find_section(".debug_info") == 0)
    return input_error("the image has no debug information")
        .with_hint("link it with debug information, or take the image before it was stripped")
        .error();
  // LLVM's reader does not survive every damage.
  if (Error e = check_checksum(object, debug_checksum_section))
    return e;
  auto sections = relocated_sections(object, object.find_section(".text"));
  if (!sections)
    return sections.takeError();
  return DebugLines(std::move(*sections));
}

std::vector<DILineInfo> DebugLines::find(uint64_t offset,
                                         llvm::function_ref<bool(StringRef)> is_known) const {
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
    if (!is_known(level.FunctionName) && is_known(other))
      level.FunctionName = other;
    if (level.FunctionName != DILineInfo::BadString)
      out.push_back(std::move(level));
  }
  return out;
}

} // namespace ujit
