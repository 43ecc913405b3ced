#include "lto/output_file.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

namespace ujit {

namespace {

namespace fs = llvm::sys::fs;

Error cannot_write(const std::string &path, std::error_code cause) {
  return input_error("cannot write: " + cause.message()).in_file(path).error();
}

std::error_code write_all(int fd, std::string_view bytes) {
  llvm::raw_fd_ostream os(fd, /*shouldClose=*/false, /*unbuffered=*/true);
  os.write(bytes.data(), bytes.size());
  const std::error_code result = os.error();
  os.clear_error();
  return result;
}

std::error_code write_special(const std::string &path, std::string_view bytes) {
  int fd = -1;
  if (std::error_code ec = fs::openFileForWrite(path, fd, fs::CD_OpenExisting))
    return ec;
  const std::error_code written = write_all(fd, bytes);
  const std::error_code closed = llvm::sys::Process::SafelyCloseFileDescriptor(fd);
  return written ? written : closed;
}

} // namespace

Error write_file(const std::string &path, std::string_view bytes) {
  if (path.empty())
    return input_error("cannot write: the path is empty").error();
  fs::file_status status;
  if (!fs::status(path, status) && status.type() != fs::file_type::regular_file) {
    const std::error_code ec = status.type() == fs::file_type::directory_file
                                   ? std::make_error_code(std::errc::is_a_directory)
                                   : write_special(path, bytes);
    return ec ? cannot_write(path, ec) : Error::success();
  }
  auto temp = fs::TempFile::create(path + ".%%%%%%.tmp", fs::all_read | fs::all_write);
  if (!temp)
    return cannot_write(path, llvm::errorToErrorCode(temp.takeError()));
  if (std::error_code ec = write_all(temp->FD, bytes)) {
    llvm::consumeError(temp->discard());
    return cannot_write(path, ec);
  }
  if (Error e = temp->keep(path)) {
    llvm::consumeError(temp->discard());
    return cannot_write(path, llvm::errorToErrorCode(std::move(e)));
  }
  return Error::success();
}

Error write_file(const std::string &path, std::span<const uint8_t> bytes) {
  return write_file(path, std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()));
}

Error write_folder(const std::string &path, const std::string &marker,
                   const std::function<Error(const std::string &folder)> &fill) {
  const std::string target = llvm::StringRef(path).rtrim('/').str();
  if (target.empty())
    return input_error("cannot write: the path is empty").error();
  if (fs::exists(target)) {
    llvm::SmallString<128> known(target);
    llvm::sys::path::append(known, marker);
    if (!fs::is_directory(target) || !fs::exists(known))
      return input_error("exists and does not look like what would be written here, so it is not replaced")
          .in_file(target)
          .with_hint("remove it, or choose another path")
          .error();
  }
  llvm::SmallString<128> temp;
  fs::createUniquePath(target + ".%%%%%%.tmp", temp, /*MakeAbsolute=*/false);
  if (std::error_code ec = fs::create_directory(temp, /*IgnoreExisting=*/false))
    return cannot_write(target, ec);
  auto give_up = [&](Error e) {
    fs::remove_directories(temp);
    return e;
  };
  if (Error e = fill(std::string(temp)))
    return give_up(std::move(e));
  const std::string old = std::string(temp) + ".old";
  const bool replaces = fs::exists(target);
  if (replaces)
    if (std::error_code ec = fs::rename(target, old))
      return give_up(cannot_write(target, ec));
  if (std::error_code ec = fs::rename(temp, target)) {
    if (replaces)
      fs::rename(old, target);
    return give_up(cannot_write(target, ec));
  }
  if (replaces)
    fs::remove_directories(old);
  return Error::success();
}

} // namespace ujit
