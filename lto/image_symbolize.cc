// From a text offset back to programs and instructions.
//
// The code generator gave each instruction a debug location: the function is the program, the line is the
// eBPF instruction plus one (line 0 means "none" in DWARF), inlined-at is the edge.
#include "kernel-iface/image/elf.h"
#include "lto/debug_lines.h"
#include "lto/image.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>

namespace ujit {

using llvm::DILineInfo;
using llvm::formatv;
using llvm::StringRef;

namespace {

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
  Symbolizer(const ImageInfo &info, const DebugLines &lines) : info_(info), lines_(lines) {}

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
  static bool names_match(const std::vector<DILineInfo> &a, const std::vector<DILineInfo> &b) {
    return std::ranges::equal(a, b, {}, &DILineInfo::FunctionName, &DILineInfo::FunctionName);
  }

  std::vector<DILineInfo> find(uint64_t offset) const {
    return lines_.find(offset, [&](StringRef function) { return program_of(info_, function) != nullptr; });
  }

  const ImageInfo &info_;
  const DebugLines &lines_;
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
  auto lines = DebugLines::read(*object);
  if (!lines)
    return lines.takeError();
  std::vector<Frame> frames = Symbolizer(*info, *lines).frames(offset);
  if (frames.empty())
    return input_error(formatv("no program has code at text offset {0:x}", offset)).error();
  return frames;
}

} // namespace ujit
