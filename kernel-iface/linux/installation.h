// What is installed, remembered by the kernel itself: a folder under /sys/fs/bpf/ujit-lto with pins of
// everything that an installation needs to be taken out again, and `state`, a pinned array whose one value is
// a JSON text. It goes with the kernel objects that it describes: a reboot leaves nothing behind.
//
// The state is written before anything else, with all that uninstall needs at whatever point the tool dies:
// which module, which attach points, which originals. Readers ignore keys that they do not know and writers
// never change the meaning of one, so tools of different versions can take out each other's installations.
#pragma once

#include "kernel-iface/linux/attach.h"

#include "llvm/Support/JSON.h"

#include <span>
#include <string>
#include <vector>

namespace ujit {

struct InstalledEntry {
  std::string program;
  AttachPoint point;
  uint32_t original_id = 0;
  uint32_t stub_id = 0; ///< 0: not loaded yet
  bool fresh =
      false; ///< nothing was attached there before: uninstall detaches; else it puts the original back
};

struct Installation {
  std::string name;
  std::string tool;  ///< version that wrote it
  std::string phase; ///< "installing" until all entries are swapped, then "installed"
  std::vector<std::string> modules;
  std::vector<InstalledEntry> entries;
  llvm::json::Object image; ///< for status: programs, edges by kind, prog arrays, sizes
};

/// A name that an installation may have: letters, digits, '-' and '_', at most 64: bpffs takes no '.'.
Error check_installation_name(const std::string &name);

class InstallationFolder {
public:
  /// Errors: those of create(), where they can be told in advance.
  static Error check_free(const std::string &name);
  /// Makes the folder and the state. Errors: it exists already (installed, or left over by a crash), bpffs is
  /// not mounted, missing privileges.
  static Expected<InstallationFolder> create(const Installation &installation);
  /// Errors: nothing of this name is installed; a state that cannot be read.
  static Expected<InstallationFolder> open(const std::string &name);
  /// Names of all installations, sorted; also broken ones.
  static Expected<std::vector<std::string>> list();

  const Installation &installation() const { return installation_; }
  /// Rewrites the state. It may not become longer than at creation by more than ids take.
  Error update(Installation installation);

  Error pin(int fd, const std::string &pin_name) const;
  Error unpin(const std::string &pin_name) const;
  /// None where there is no such pin.
  Expected<Fd> get(const std::string &pin_name) const;
  std::vector<std::string> pins() const;
  /// Removes all pins and the folder.
  Error remove() const;

private:
  explicit InstallationFolder(std::string path) : path_(std::move(path)) {}
  Error write_state(int map) const;

  std::string path_;
  Installation installation_;
  uint32_t room_ = 0; ///< bytes of the state's value
};

/// Bytes that the kernel keeps as long as the array, whose one value they are, is open or pinned. Errors:
/// missing privileges, no memory.
Expected<Fd> keep_bytes(const char *name, std::span<const uint8_t> bytes);
Expected<std::vector<uint8_t>> kept_bytes(const Fd &map);

} // namespace ujit
