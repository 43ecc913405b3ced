// symbolize: which program and instruction an address in an image belongs to: of a file, or of what is
// installed.
#include "lto/main/command.h"

#include "lto/installed_places.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>

namespace ujit {

namespace {

struct SymbolizeCommand {
  std::vector<std::string> words; ///< of one place: what is copied out of a dump has blanks in it
  bool return_address = false;

  Expected<std::string> in_file(llvm::StringRef place) const;
  Expected<std::string> text() const;
};

Expected<std::string> SymbolizeCommand::in_file(llvm::StringRef place) const {
  const auto [path, offset_text] = place.rsplit('+');
  uint64_t offset = 0;
  if (path.empty() || offset_text.empty() || offset_text.getAsInteger(0, offset))
    return input_error("'" + place.str() + "' is not a place in an image")
        .with_hint("write IMAGE+0xOFFSET, or what the kernel prints: FUNCTION+0xOFFSET [ujit_...]")
        .error();
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return input_error("cannot read: " + buffer.getError().message()).in_file(path.str()).error();
  Expected<std::vector<Frame>> frames = symbolize(llvm::arrayRefFromStringRef((*buffer)->getBuffer()),
                                                  offset - (return_address && offset ? 1 : 0));
  if (!frames)
    return with_place(frames.takeError(), path.str());
  return print_frames(*frames);
}

Expected<std::string> SymbolizeCommand::text() const {
  const std::string place = llvm::join(words, " ");
  if (place == "-") {
    auto dump = llvm::MemoryBuffer::getSTDIN();
    if (!dump)
      return input_error("cannot read: " + dump.getError().message()).in_file("stdin").error();
    return annotate_dump((*dump)->getBuffer());
  }
  if (!is_installed_place(place))
    return in_file(place);
  Expected<InstalledPlace> found = find_installed_place(place, return_address);
  if (!found)
    return found.takeError();
  if (found->frames.empty())
    return found->installation + ": code of the module itself, not of a program\n";
  return print_frames(found->frames);
}

} // namespace

void add_symbolize(CLI::App &app, Action &action) {
  auto c = std::make_shared<SymbolizeCommand>();
  CLI::App *command =
      app.add_subcommand("symbolize", "Name program and instruction of an address in an image");
  command
      ->add_option("PLACE", c->words,
                   "IMAGE+0xOFFSET from the start of the text section; of what is installed, an address or "
                   "FUNCTION+0xOFFSET [MODULE] as in the kernel's dumps; - annotates a dump on stdin")
      ->required();
  command->add_flag("-r,--return", c->return_address,
                    "The place is a return address, as all but the first of a stack dump");
  command->callback([=, &action] {
    action = [=]() -> Expected<int> {
      Expected<std::string> text = c->text();
      if (!text)
        return text.takeError();
      if (Error e = put_text({}, *text))
        return e;
      return exit_done;
    };
  });
}

} // namespace ujit
