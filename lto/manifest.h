// The manifest: what one link is made of and what may be taken as fixed. docs/manifest.md is its reference.
#pragma once

#include "graph/call_graph.h"
#include "kernel-iface/embedded/fib.h"
#include "kernel-iface/linux/attach.h"
#include "lto/yaml.h"
#include "translator/program.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct NamedPlace {
  std::string name;
  Place place;
};

/// A config constant in an object's read-only data. Exactly one of `fold`, `bind` and `bytes` is set.
struct ManifestConstant {
  std::string name;
  std::optional<uint64_t> fold; ///< compiled in; negative numbers as two's complement
  std::optional<uint64_t> bind; ///< read from the instance; the value of the instance described here
  std::vector<uint8_t> bytes;   ///< all bytes of a variable that is compiled in, instead of `fold`
  Place place;
};

struct ManifestType {
  std::string section;
  ProgType type = ProgType::unspec;
  Place place;
};

struct ManifestObject {
  std::string path; ///< as written
  std::string file; ///< resolved against the manifest's folder
  std::vector<ManifestConstant> constants;
  std::vector<NamedPlace> value_sections; ///< see ObjectOptions::value_sections
  std::vector<ManifestType> types;        ///< program types of sections whose name does not say it
  Place place;
};

struct ManifestSlot {
  uint32_t slot = 0;
  std::string program;
  Place place;
};

struct ManifestProgArray {
  std::string map;
  EdgeKind edges = EdgeKind::guarded; ///< sealed or guarded
  std::vector<ManifestSlot> slots;    ///< beside those that the objects name; unique
  Place place;
};

/// What a map is made with instead of what its object says.
struct ManifestMap {
  std::string map;
  uint32_t max_entries = 0;
  Place place;
};

/// Limits that fail a build when they are passed.
struct ManifestGates {
  std::optional<uint64_t> stack;         ///< bytes of machine stack, worst chain
  std::optional<uint64_t> code_bytes;    ///< bytes of machine code
  std::optional<uint64_t> unfused_edges; ///< edges that are left, of reachable programs
};

/// One route that bpf_fib_lookup answers from in the embedded kernel: as written, and as it means.
struct ManifestRoute {
  std::string prefix, dmac, smac, gateway;
  FibRoute route;
  Place place;
};

/// Where a program is attached in the running kernel. With objects, `program` says which goes there; without,
/// what is attached there now is meant.
struct ManifestAttach {
  std::string program;
  AttachPoint point; ///< interface and hook, or prog array (by name, in `interface`) and slot
  Place place;
};

/// Whether the pipeline is fused.
enum class Fuse : uint8_t {
  measured, ///< unless the profile beside the manifest says that it would lose
  always,
  never,
};
std::string_view name_of(Fuse fuse);

struct Manifest {
  std::string file; ///< where it was read from
  std::string name = "pipeline";
  std::vector<ManifestObject> objects; ///< empty: the programs that run at `attach`
  std::vector<ManifestAttach> attach;
  std::vector<NamedPlace> entries; ///< empty: every program that no slot names
  std::vector<ManifestProgArray> prog_arrays;
  std::vector<NamedPlace> scratch_maps;
  std::vector<ManifestMap> maps;
  Fuse fuse = Fuse::measured;
  Place fuse_place;
  std::string cpu = "native";
  std::string kernel = "running";
  ManifestGates gates;
  std::vector<ManifestRoute> fib;
  std::string seed; ///< resolved path of a map dump (JSON) that run, check and bench start from; or empty
};

/// Checks and takes over a manifest's text. `file` is for messages and to resolve relative paths. Errors
/// (input): every one that was found, with line and column; an unknown key is named with the nearest known
/// one.
Expected<Manifest> parse_manifest(std::string_view text, const std::string &file);

/// The same from a file. Errors: also an unreadable file.
Expected<Manifest> read_manifest(const std::string &file);

/// A manifest's text, one that parse_manifest() reads back to the same; paths are printed as `path` and
/// `seed` have them.
std::string print_manifest(const Manifest &manifest);

/// A name as YAML: quoted where it would not be read back as it is.
std::string yaml_quoted(std::string_view text);

/// The candidate with the smallest edit distance to `word`, or an empty string where none is near.
std::string nearest(std::string_view word, const std::vector<std::string> &candidates);

/// `file: line N, column M: message` as an input error, for checks that follow parsing.
LinkError manifest_error(const Manifest &manifest, Place place, std::string message);

} // namespace ujit
