#include "kernel-iface/linux/maps.h"

#include "kernel-iface/linux/capabilities.h"
#include "kernel-iface/linux/load.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::formatv;

LinkError bpf_error(int error, const std::string &what) {
  LinkError out = unsupported(formatv("{0}: {1}", what, std::strerror(error)).str());
  if (error == EPERM)
    out.note("bpf() is not allowed here: " + bpf_refusal_reason())
        .with_hint("run as root, and see `ujit-lto doctor`");
  return out;
}

bool is_per_cpu(MapType type) {
  return type == MapType::percpu_array || type == MapType::percpu_hash || type == MapType::lru_percpu_hash;
}

bool has_contents(const Map &map) {
  switch (map.type) {
  case MapType::hash:
  case MapType::array:
  case MapType::percpu_hash:
  case MapType::percpu_array:
  case MapType::lru_hash:
  case MapType::lru_percpu_hash:
  case MapType::lpm_trie:
  case MapType::devmap:
  case MapType::devmap_hash:
  case MapType::cpumap: return !map.is_template;
  default: return false;
  }
}

std::string kernel_object_name(std::string_view name) {
  std::string out(name.substr(0, BPF_OBJ_NAME_LEN - 1));
  for (char &c : out)
    if (!llvm::isAlnum(c) && c != '_' && c != '.')
      c = '_';
  return out;
}

namespace {

std::string describe(const Map &map) {
  return formatv("map '{0}' ({1}, key {2}, value {3}, {4} entries, flags {5:x})", map.name, name_of(map.type),
                 map.key_size, map.value_size, map.max_entries, map.flags)
      .str();
}

uint32_t creation_flags(const Map &map) {
  // Together with freezing this is what lets the verifier take the contents as constants.
  return map.is_data() && map.frozen ? map.flags | BPF_F_RDONLY_PROG : map.flags;
}

uint32_t creation_entries(const Map &map) {
  // Object files leave the size of event arrays to the loader.
  return map.type == MapType::perf_event_array && map.max_entries == 0 ? possible_cpus() : map.max_entries;
}

Expected<Fd> create_map(const Map &map, int inner_fd) {
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = creation_flags(map), .map_extra = map.extra);
  if (inner_fd >= 0)
    options.inner_map_fd = inner_fd;
  Fd fd(bpf_map_create(static_cast<bpf_map_type>(map.type), kernel_object_name(map.name).c_str(),
                       map.key_size, map.value_size, creation_entries(map), &options));
  if (!fd)
    return bpf_error(errno, "the kernel cannot create " + describe(map)).error();
  return fd;
}

/// The value of key 0, as this instance has it.
Expected<std::vector<uint8_t>> data_contents(const Map &map) {
  std::vector<uint8_t> bytes = map.contents;
  if (bytes.size() != map.value_size)
    return input_error(formatv("map '{0}' has {1} bytes of contents for a value of {2}", map.name,
                               bytes.size(), map.value_size))
        .error();
  for (const BoundConstant &constant : map.bound) {
    if (constant.size > sizeof constant.value || constant.offset > bytes.size() ||
        constant.size > bytes.size() - constant.offset)
      return input_error(formatv("constant '{0}' lies outside of map '{1}'", constant.name, map.name))
          .error();
    std::memcpy(bytes.data() + constant.offset, &constant.value, constant.size);
  }
  return bytes;
}

bool valid(const Pipeline &pipeline, MapId id) { return index(id) < pipeline.maps.size(); }

/// Creates an outer map with the shape of its inner ones, and fills its slots.
Expected<Fd> create_outer_map(const Pipeline &pipeline, const Map &map, const std::vector<Fd> &made) {
  if (!map.inner || !valid(pipeline, *map.inner))
    return input_error(formatv("map '{0}' does not say what its inner maps look like", map.name)).error();
  const Map &inner = pipeline[*map.inner];
  if (inner.inner)
    return input_error(formatv("map '{0}': maps in maps nest only once", map.name)).error();
  Fd shape; // lives as long as the creation: the kernel copies what it needs
  int inner_fd = made[index(*map.inner)].get();
  if (inner_fd < 0) {
    Expected<Fd> fd = create_map(inner, -1);
    if (!fd)
      return fd.takeError();
    shape = std::move(*fd);
    inner_fd = shape.get();
  }
  Expected<Fd> outer = create_map(map, inner_fd);
  if (!outer)
    return outer.takeError();
  for (auto [slot, id] : map.inner_slots) {
    if (!valid(pipeline, id) || !made[index(id)])
      return input_error(formatv("slot {0} of map '{1}' names no map that exists", slot, map.name)).error();
    if (map.key_size != sizeof slot)
      return input_error(formatv("map '{0}': initial inner maps need keys of 4 bytes", map.name)).error();
    int fd = made[index(id)].get();
    if (bpf_map_update_elem(outer->get(), &slot, &fd, BPF_ANY) != 0)
      return bpf_error(errno, formatv("slot {0} of {1} does not take {2}", slot, describe(map),
                                      describe(pipeline[id])))
          .error();
  }
  return outer;
}

/// Bytes that the kernel moves for one value: the value itself, or one rounded up to 8 for each CPU.
struct ValueLayout {
  explicit ValueLayout(const Map &map)
      : size(map.value_size), copies(is_per_cpu(map.type) ? possible_cpus() : 1),
        stride(is_per_cpu(map.type) ? (map.value_size + 7) / 8 * 8 : map.value_size) {}
  size_t size, copies, stride;
};

bool is_shared(const Map &map, const std::string &directory) {
  return map.pinned && !map.is_template && !directory.empty();
}

std::string pin_path(const Map &map, const std::string &directory) { return directory + "/" + map.name; }

/// 0 if there is none.
uint32_t map_id(const Fd &fd) {
  bpf_map_info info{};
  uint32_t length = sizeof info;
  return fd && bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0 ? info.id : 0;
}

/// The pinned map; none if it is not pinned by name or the pin does not exist. Errors: another shape.
Expected<Fd> open_pinned(const Map &map, const std::string &directory) {
  if (!is_shared(map, directory))
    return Fd();
  Fd fd(bpf_obj_get(pin_path(map, directory).c_str()));
  if (!fd && errno == ENOENT)
    return fd;
  bpf_map_info info{};
  uint32_t length = sizeof info;
  if (!fd || bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0)
    return bpf_error(errno, "opening the pinned " + describe(map)).error();
  Map found = map, wanted = map;
  found.type = static_cast<MapType>(info.type);
  found.key_size = info.key_size;
  found.value_size = info.value_size;
  found.max_entries = info.max_entries;
  found.flags = info.map_flags;
  wanted.flags = creation_flags(map);
  wanted.max_entries = creation_entries(map);
  if (found == wanted)
    return fd;
  return input_error(formatv("{0} has another shape than {1}", pin_path(map, directory), describe(wanted)))
      .note("what is pinned: " + describe(found))
      .with_hint("remove the pin, or use a directory of its own for this pipeline")
      .error();
}

Error no_contents(const Map &map) {
  return unsupported(formatv("entries of map '{0}' ({1}) cannot be read or written as bytes", map.name,
                             name_of(map.type)))
      .error();
}

} // namespace

Expected<std::vector<Fd>> create_maps(const Pipeline &pipeline, const std::string &pin_directory) {
  std::vector<Fd> made(pipeline.maps.size());
  for (size_t i = 0; i < made.size(); i++) {
    const Map &map = pipeline.maps[i];
    if (map.is_template)
      continue;
    Expected<Fd> pinned = open_pinned(map, pin_directory);
    if (!pinned)
      return pinned.takeError();
    made[i] = std::move(*pinned);
    if (made[i] || map.inner)
      continue;
    Expected<Fd> fd = create_map(map, -1);
    if (!fd)
      return fd.takeError();
    made[i] = std::move(*fd);
    if (!map.is_data())
      continue;
    Expected<std::vector<uint8_t>> bytes = data_contents(map);
    if (!bytes)
      return bytes.takeError();
    uint32_t key = 0;
    if (bpf_map_update_elem(made[i].get(), &key, bytes->data(), BPF_ANY) != 0)
      return bpf_error(errno, "contents of " + describe(map)).error();
  }
  // Inner maps exist from here on.
  for (size_t i = 0; i < made.size(); i++) {
    const Map &map = pipeline.maps[i];
    if (map.is_template || !map.inner || made[i])
      continue;
    Expected<Fd> fd = create_outer_map(pipeline, map, made);
    if (!fd)
      return fd.takeError();
    made[i] = std::move(*fd);
  }
  return made;
}

Error pin_maps(const Pipeline &pipeline, std::span<const Fd> fds, const std::string &directory) {
  std::vector<std::string> added;
  for (size_t i = 0; i < fds.size(); i++) {
    const Map &map = pipeline.maps[i];
    if (!is_shared(map, directory))
      continue;
    const std::string path = pin_path(map, directory);
    if (bpf_obj_pin(fds[i].get(), path.c_str()) == 0) {
      added.push_back(path);
      continue;
    }
    const int error = errno;
    if (error == EEXIST && map_id(fds[i]) == map_id(Fd(bpf_obj_get(path.c_str()))))
      continue;
    for (const std::string &pin : added)
      unlink(pin.c_str());
    return bpf_error(error, formatv("pinning {0} at {1}", describe(map), path)).error();
  }
  return Error::success();
}

Expected<MapContents> read_map(const Map &map, int fd) {
  if (!has_contents(map))
    return no_contents(map);
  ValueLayout layout(map);
  bool array = map.type == MapType::array || map.type == MapType::percpu_array;
  std::vector<uint8_t> key(map.key_size), next(map.key_size), buffer(layout.stride * layout.copies);
  MapContents out;
  const void *previous = nullptr;
  while (bpf_map_get_next_key(fd, previous, next.data()) == 0) {
    key = next;
    previous = key.data();
    if (bpf_map_lookup_elem(fd, key.data(), buffer.data()) != 0) {
      if (errno == ENOENT) // empty devmap and cpumap slots have keys too
        continue;
      return bpf_error(errno, "reading " + describe(map)).error();
    }
    if (array && std::all_of(buffer.begin(), buffer.end(), [](uint8_t b) { return b == 0; }))
      continue;
    MapEntry entry{key, {}};
    for (size_t cpu = 0; cpu < layout.copies; cpu++) {
      auto at = buffer.begin() + cpu * layout.stride;
      entry.values.emplace_back(at, at + layout.size);
    }
    out.push_back(std::move(entry));
  }
  if (errno != ENOENT)
    return bpf_error(errno, "walking " + describe(map)).error();
  std::sort(out.begin(), out.end());
  return out;
}

Error write_map(const Map &map, int fd, const MapContents &entries) {
  if (!has_contents(map))
    return no_contents(map);
  ValueLayout layout(map);
  std::vector<uint8_t> buffer(layout.stride * layout.copies);
  for (const MapEntry &entry : entries) {
    auto refuse = [&](const llvm::Twine &what) {
      return input_error(formatv("map '{0}': key {1}: {2}", map.name, to_hex(entry.key), what.str())).error();
    };
    if (entry.key.size() != map.key_size)
      return refuse(formatv("{0} bytes of key, where the map has {1}", entry.key.size(), map.key_size));
    if (entry.values.size() != 1 && entry.values.size() != layout.copies)
      return refuse(formatv("{0} values, where 1 or {1} are possible", entry.values.size(), layout.copies));
    for (size_t cpu = 0; cpu < layout.copies; cpu++) {
      const std::vector<uint8_t> &value = entry.values[entry.values.size() == 1 ? 0 : cpu];
      if (value.size() != layout.size)
        return refuse(formatv("{0} bytes of value, where the map has {1}", value.size(), layout.size));
      std::copy(value.begin(), value.end(), buffer.begin() + cpu * layout.stride);
    }
    if (bpf_map_update_elem(fd, entry.key.data(), buffer.data(), BPF_ANY) != 0)
      return bpf_error(errno, formatv("key {0} of {1}", to_hex(entry.key), describe(map))).error();
  }
  return Error::success();
}

} // namespace ujit
