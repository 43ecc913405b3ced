#include "kernel-iface/linux/installation.h"

#include "kernel-iface/linux/maps.h"
#include "translator/json.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>

#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

namespace ujit {

using llvm::formatv;
namespace fs = std::filesystem;
namespace json = llvm::json;

static constexpr const char bpffs[] = "/sys/fs/bpf";
static constexpr const char root[] = "/sys/fs/bpf/ujit-lto";
static constexpr const char state_pin[] = "state";
static constexpr long bpffs_magic = 0xcafe4a11;

static std::string folder_of(const std::string &name) { return std::string(root) + "/" + name; }

// --- JSON --------------------------------------------------------------------------------------------

static json::Value to_json(const InstalledEntry &e) {
  return json::Object{{"program", e.program},
                      {"hook", llvm::StringRef(name_of(e.point.hook))},
                      {"interface", e.point.interface},
                      {"ifindex", e.point.ifindex},
                      {"priority", e.point.priority},
                      {"handle", e.point.handle},
                      {"link", e.point.link_id},
                      {"map", e.point.map_id},
                      {"slot", e.point.slot},
                      {"original", e.original_id},
                      {"stub", e.stub_id},
                      {"fresh", e.fresh}};
}

static std::string to_text(const Installation &i) {
  json::Array entries;
  for (const InstalledEntry &e : i.entries)
    entries.push_back(to_json(e));
  json::Object o;
  o["format"] = 1;
  o["name"] = i.name;
  o["tool"] = i.tool;
  o["phase"] = i.phase;
  o["modules"] = json::Array(i.modules);
  o["entries"] = std::move(entries);
  o["image"] = json::Object(i.image);
  return formatv("{0}", json::Value(std::move(o)));
}

static uint32_t number(const json::Object &o, llvm::StringRef key) {
  return uint32_t(o.getInteger(key).value_or(0));
}

static Expected<Installation> from_text(llvm::StringRef text, const std::string &path) {
  auto damaged = [&](const llvm::Twine &why) {
    return input_error("the state of the installation cannot be read: " + why.str()).in_file(path).error();
  };
  Expected<json::Value> v = parse_json(text.rtrim('\0'));
  if (!v)
    return damaged(toString(v.takeError()));
  const json::Object *o = v->getAsObject();
  if (!o)
    return damaged("it is no object");
  Installation r;
  r.name = o->getString("name").value_or("").str();
  r.tool = o->getString("tool").value_or("").str();
  r.phase = o->getString("phase").value_or("").str();
  if (const json::Array *modules = o->getArray("modules"))
    for (const json::Value &m : *modules)
      r.modules.push_back(m.getAsString().value_or("").str());
  const json::Array *entries = o->getArray("entries");
  if (!entries)
    return damaged("it names no entries");
  for (const json::Value &value : *entries) {
    const json::Object *e = value.getAsObject();
    std::optional<HookKind> hook = e ? hook_by_name(e->getString("hook").value_or("").str()) : std::nullopt;
    if (!hook)
      return damaged("an entry's hook is not known to this version");
    InstalledEntry entry;
    entry.program = e->getString("program").value_or("").str();
    entry.point.hook = *hook;
    entry.point.interface = e->getString("interface").value_or("").str();
    entry.point.ifindex = number(*e, "ifindex");
    entry.point.priority = number(*e, "priority");
    entry.point.handle = number(*e, "handle");
    entry.point.link_id = number(*e, "link");
    entry.point.map_id = number(*e, "map");
    entry.point.slot = number(*e, "slot");
    entry.original_id = number(*e, "original");
    entry.stub_id = number(*e, "stub");
    entry.fresh = e->getBoolean("fresh").value_or(false);
    r.entries.push_back(std::move(entry));
  }
  if (const json::Object *image = o->getObject("image"))
    r.image = *image;
  return r;
}

// --- Bytes -------------------------------------------------------------------------------------------

Expected<Fd> keep_bytes(const char *name, std::span<const uint8_t> bytes) {
  LIBBPF_OPTS(bpf_map_create_opts, options);
  Fd map(bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, uint32_t(bytes.size()), 1, &options));
  const uint32_t zero = 0;
  if (!map || bpf_map_update_elem(map.get(), &zero, bytes.data(), BPF_ANY))
    return bpf_error(errno, formatv("keeping {0} bytes in map {1}", bytes.size(), name)).error();
  return map;
}

Expected<std::vector<uint8_t>> kept_bytes(const Fd &map) {
  bpf_map_info info{};
  uint32_t size = sizeof info, zero = 0;
  std::vector<uint8_t> out;
  int e = bpf_obj_get_info_by_fd(map.get(), &info, &size);
  if (!e) {
    out.resize(info.value_size);
    e = bpf_map_lookup_elem(map.get(), &zero, out.data());
  }
  if (e)
    return bpf_error(-e, "reading what an installation keeps").error();
  return out;
}

// --- The folder --------------------------------------------------------------------------------------

Error check_installation_name(const std::string &name) {
  auto good = [](char c) { return llvm::isAlnum(c) || c == '-' || c == '_'; };
  if (name.empty() || name.size() > 64 || !std::all_of(name.begin(), name.end(), good))
    return input_error(formatv("'{0}' cannot be the name of an installation", name))
        .with_hint("letters, digits, '-' and '_', at most 64")
        .error();
  return Error::success();
}

static Error check_bpffs() {
  struct statfs s{};
  if (statfs(bpffs, &s) || s.f_type != bpffs_magic)
    return input_error(formatv("{0} is no BPF file system", bpffs))
        .with_hint("mount it: mount -t bpf bpf /sys/fs/bpf")
        .error();
  return Error::success();
}

static Error already_there(const std::string &name) {
  return input_error(formatv("'{0}' is installed already, or an earlier attempt broke off", name))
      .with_hint(formatv("see `ujit-lto status {0}`; `ujit-lto uninstall {0}` takes it out", name))
      .error();
}

Error InstallationFolder::check_free(const std::string &name) {
  if (Error e = check_installation_name(name))
    return e;
  if (Error e = check_bpffs())
    return e;
  return access(folder_of(name).c_str(), F_OK) == 0 ? already_there(name) : Error::success();
}

Expected<InstallationFolder> InstallationFolder::create(const Installation &installation) {
  if (Error e = check_installation_name(installation.name))
    return e;
  if (Error e = check_bpffs())
    return e;
  if (mkdir(root, 0700) && errno != EEXIST)
    return bpf_error(errno, formatv("making {0}", root)).error();
  InstallationFolder folder(folder_of(installation.name));
  if (mkdir(folder.path_.c_str(), 0700)) {
    if (errno == EEXIST)
      return already_there(installation.name);
    return bpf_error(errno, "making " + folder.path_).error();
  }
  folder.installation_ = installation;
  // Ids and the phase grow: ten digits each is the most.
  std::string text = to_text(installation);
  text.resize(text.size() + 64 + 64 * installation.entries.size(), '\0');
  folder.room_ = uint32_t(text.size());
  Expected<Fd> map = keep_bytes("ujit_state", llvm::arrayRefFromStringRef(text));
  Error e = map ? folder.pin(map->get(), state_pin) : map.takeError();
  if (e) {
    rmdir(folder.path_.c_str());
    return e;
  }
  return folder;
}

Expected<InstallationFolder> InstallationFolder::open(const std::string &name) {
  if (Error e = check_installation_name(name))
    return e;
  InstallationFolder folder(folder_of(name));
  if (access(folder.path_.c_str(), F_OK))
    return errno == ENOENT ? input_error(formatv("nothing named '{0}' is installed", name))
                                 .with_hint("see `ujit-lto list`")
                                 .error()
                           : bpf_error(errno, "looking for " + folder.path_).error();
  Expected<Fd> map = folder.get(state_pin);
  if (!map)
    return map.takeError();
  folder.installation_.name = name;
  folder.installation_.phase = "empty";
  if (!*map) // died before there was anything to take out
    return folder;
  Expected<std::vector<uint8_t>> text = kept_bytes(*map);
  if (!text)
    return text.takeError();
  folder.room_ = uint32_t(text->size());
  Expected<Installation> read =
      from_text(llvm::toStringRef(llvm::ArrayRef(*text)), folder.path_ + "/" + state_pin);
  if (!read)
    return read.takeError();
  folder.installation_ = std::move(*read);
  folder.installation_.name = name;
  return folder;
}

Expected<std::vector<std::string>> InstallationFolder::list() {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(root, ec), end; !ec && it != end; it.increment(ec))
    names.push_back(it->path().filename());
  if (ec && ec != std::errc::no_such_file_or_directory)
    return bpf_error(ec.value(), formatv("reading {0}", root)).error();
  std::sort(names.begin(), names.end());
  return names;
}

Error InstallationFolder::write_state(int map) const {
  std::string text = to_text(installation_);
  if (text.size() > room_)
    return internal_error("an installation's state has outgrown its room").error();
  text.resize(room_, '\0');
  uint32_t zero = 0;
  if (int e = bpf_map_update_elem(map, &zero, text.data(), BPF_ANY))
    return bpf_error(-e, "writing the state of " + installation_.name).error();
  return Error::success();
}

Error InstallationFolder::update(Installation installation) {
  installation_ = std::move(installation);
  Expected<Fd> map = get(state_pin);
  if (!map)
    return map.takeError();
  if (!*map)
    return input_error("the state of " + installation_.name + " is gone").error();
  return write_state(map->get());
}

Error InstallationFolder::pin(int fd, const std::string &pin_name) const {
  if (int e = bpf_obj_pin(fd, (path_ + "/" + pin_name).c_str()))
    return bpf_error(-e, "pinning " + path_ + "/" + pin_name).error();
  return Error::success();
}

Error InstallationFolder::unpin(const std::string &pin_name) const {
  if (unlink((path_ + "/" + pin_name).c_str()) && errno != ENOENT)
    return bpf_error(errno, "removing " + path_ + "/" + pin_name).error();
  return Error::success();
}

Expected<Fd> InstallationFolder::get(const std::string &pin_name) const {
  Fd fd(bpf_obj_get((path_ + "/" + pin_name).c_str()));
  if (!fd && errno != ENOENT)
    return bpf_error(errno, "opening " + path_ + "/" + pin_name).error();
  return fd;
}

std::vector<std::string> InstallationFolder::pins() const {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(path_, ec), end; !ec && it != end; it.increment(ec))
    names.push_back(it->path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

Error InstallationFolder::remove() const {
  // The state goes last: what is left of an interrupted removal can be removed again.
  for (const std::string &name : pins())
    if (name != state_pin)
      if (Error e = unpin(name))
        return e;
  if (Error e = unpin(state_pin))
    return e;
  if (rmdir(path_.c_str()) && errno != ENOENT)
    return bpf_error(errno, "removing " + path_).error();
  rmdir(root); // stays while others are installed
  return Error::success();
}

} // namespace ujit
