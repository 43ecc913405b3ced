// Maps of a pipeline as kernel objects: how each is created, and how its entries go in and out.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/map_contents.h"
#include "translator/program.h"

#include <span>
#include <string>
#include <vector>

namespace ujit {

bool is_per_cpu(MapType type);

/// A name that the kernel takes: at most 15 letters, digits, '_' and '.'.
std::string kernel_object_name(std::string_view name);

/// Creates every map of the pipeline (by MapId; none for templates), writes data contents with bound
/// constants laid over, and puts inner maps into their slots. Nothing is frozen yet. Maps that are pinned by
/// name in `pin_directory` (of the BPF file system; empty: none are) are taken from there as they are.
/// Errors: also a pin of another shape.
Expected<std::vector<Fd>> create_maps(const Pipeline &pipeline, const std::string &pin_directory = "");

/// Pins what is pinned by name and is not there yet; all or nothing.
Error pin_maps(const Pipeline &pipeline, std::span<const Fd> fds, const std::string &directory);

/// See LoadedPipeline::read() and write().
Expected<MapContents> read_map(const Map &map, int fd);
Error write_map(const Map &map, int fd, const MapContents &entries);

/// The error for a bpf() call that failed with `error`: says why where privileges are the cause.
LinkError bpf_error(int error, const std::string &what);

} // namespace ujit
