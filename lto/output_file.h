// Output files appear whole or not at all: they are written under a temporary name in their own folder and
// renamed when they are complete.
#pragma once

#include "translator/error.h"

#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace ujit {

/// Writes `bytes` to `path`, replacing what was there. What is not a regular file (/dev/null, a pipe) is
/// written directly. Errors (input): the path cannot be written; nothing is left behind then.
Error write_file(const std::string &path, std::string_view bytes);
Error write_file(const std::string &path, std::span<const uint8_t> bytes);

/// Makes folder `path` through `fill`, which gets a temporary folder beside it to write into. An existing
/// folder is replaced only if it holds `marker` (so that nobody's home directory is), else refused. Errors:
/// those of `fill`, and a path that cannot be written; nothing is left behind then.
Error write_folder(const std::string &path, const std::string &marker,
                   const std::function<Error(const std::string &folder)> &fill);

} // namespace ujit
