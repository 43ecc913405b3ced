// symbolize: which program and instruction an address in an image belongs to.
#include "lto/main/command.h"

#include "lto/image.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

namespace ujit {

namespace {

Expected<int> symbolize_place(const std::string &place) {
  const auto [path, offset_text] = llvm::StringRef(place).rsplit('+');
  uint64_t offset = 0;
  if (path.empty() || offset_text.empty() || offset_text.getAsInteger(0, offset))
    return input_error("'" + place + "' is not a place in an image")
        .with_hint("write IMAGE+0xOFFSET")
        .error();
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return input_error("cannot read: " + buffer.getError().message()).in_file(path.str()).error();
  const llvm::StringRef bytes = (*buffer)->getBuffer();
  Expected<std::vector<Frame>> frames =
      symbolize(std::span(reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size()), offset);
  if (!frames)
    return with_place(frames.takeError(), path.str());
  std::string out;
  llvm::raw_string_ostream os(out);
  for (size_t i = 0; i < frames->size(); ++i) {
    const Frame &f = (*frames)[i];
    os << llvm::formatv("{0}{1}: insn {2}", i ? "  inlined into " : "", f.program, f.insn);
    if (!f.source.empty()) {
      llvm::SmallString<128> source(f.source);
      llvm::sys::path::remove_dots(source);
      os << " (" << source << ')';
    }
    os << '\n';
  }
  if (Error e = put_text({}, out))
    return e;
  return exit_done;
}

} // namespace

void add_symbolize(CLI::App &app, Action &action) {
  auto place = std::make_shared<std::string>();
  CLI::App *command =
      app.add_subcommand("symbolize", "Name program and instruction of an address in an image");
  command->add_option("PLACE", *place, "IMAGE+0xOFFSET, offset from the start of the text section")
      ->required();
  command->callback([=, &action] { action = [=] { return symbolize_place(*place); }; });
}

} // namespace ujit
