// What becomes of an installation once it is in: looking at it, switching it off and on, taking it out.
#pragma once

#include "kernel-iface/linux/installation.h"

#include <string>
#include <vector>

namespace ujit {

// Names of pins in an installation's folder; N counts entries from 0, A prog arrays, I images.
inline constexpr char switch_pin[] = "switch"; ///< the kill switch: array, u32 at 0; not 0: originals run
std::string left_pin(size_t image); ///< "left_I": per-CPU array of u64 by prog array: times left through it
std::string stub_pin(size_t entry); ///< "stub_N"
std::string original_pin(size_t entry);   ///< "original_N"
std::string originals_pin(size_t entry);  ///< "originals_N": the prog array behind the kill switch
std::string link_pin(size_t entry);       ///< "link_N": links that install made
std::string prog_array_pin(size_t array); ///< "array_A"
std::string image_pin(size_t image);      ///< "image_I": the image's file, for `symbolize`

struct EntryStatus {
  InstalledEntry entry;
  std::optional<uint32_t> now; ///< id of the program that is attached
  bool fused() const { return now && entry.stub_id && *now == entry.stub_id; }
};

struct ModuleStatus {
  std::string name;
  bool loaded = false;
  uint64_t references = 0, bytes = 0; ///< as /sys/module tells
};

/// What /sys/module says of a module now.
ModuleStatus module_status(const std::string &name);

struct InstallationStatus {
  Installation installation;
  bool broken = false; ///< an install or uninstall that broke off
  bool enabled = false;
  std::vector<EntryStatus> entries;
  std::vector<ModuleStatus> modules;
  std::vector<std::vector<uint64_t>>
      left; ///< by image and prog array: times that the image was left through it
};

/// Errors: nothing of this name; missing privileges.
Expected<InstallationStatus> installation_status(const std::string &name);

/// One write to the kill switch: every packet from now on runs the image (or the originals).
Error set_enabled(const std::string &name, bool enabled);

struct Uninstalled {
  /// What was found changed by somebody else and left as it is.
  std::vector<std::string> notes;
};
/// Puts the originals back (or detaches what was attached fresh), removes pins, unloads modules. Works on
/// what an install left that died at any point, and again after an uninstall that died. Errors: an attach
/// point cannot be changed, a module stays in use; what was done till then stays done.
Expected<Uninstalled> uninstall(const std::string &name);

} // namespace ujit
