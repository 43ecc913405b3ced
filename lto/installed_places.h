// From an address in a stack dump, a crash or a profile to the programs of what is installed: the kernel's
// name for a place (`ujit.entry.main+0x1a/0x90 [ujit_0123456789abcdef]`) or its address. The image's file is
// pinned beside what was made of it, so this needs no file and cannot mix up versions.
#pragma once

#include "lto/image.h"

namespace ujit {

struct InstalledPlace {
  std::string installation;
  std::vector<Frame> frames; ///< innermost first; empty: in code that every module has beside the image
};

/// `return_address`: the place behind a call, as all but the first of a stack dump are; the call is meant.
/// Errors: no module of ours is named or has the address; no such function; missing privileges.
Expected<InstalledPlace> find_installed_place(llvm::StringRef place, bool return_address);

/// Whether `place` is one of these forms: an address, or FUNCTION+0xOFFSET with a module behind it.
bool is_installed_place(llvm::StringRef place);

/// `dump` line by line; behind each line that names a place in a module of ours, where that is. Places in
/// lines with `RIP:` are those of the instruction itself, all others return addresses.
std::string annotate_dump(llvm::StringRef dump);

/// "main: insn 7 (file.c:12)", a line for each level of inlining.
std::string print_frames(const std::vector<Frame> &frames, llvm::StringRef indent = "");

} // namespace ujit
