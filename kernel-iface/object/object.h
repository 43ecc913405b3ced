// Reads eBPF object files, as clang 14 to 19 (and, as far as it can be had, older ones) write them, into the
// model types. What a loader would do by then is done: subprograms are appended and calls bound, maps are
// defined, relocations are applied, prog-array slots are found. It needs no privileges and no Linux feature.
#pragma once

#include "translator/program.h"

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace ujit {

struct ObjectOptions {
  /// Program types by program name or by section name (a program's own name wins), where the section name
  /// does not say it or says it wrong.
  std::map<std::string, ProgType> types;

  /// Data sections whose relocations mean a variable's value and not its address. Objects for iproute2 with
  /// static data need `.data` here; it is found by itself where all maps are iproute2's.
  std::set<std::string> value_sections;
};

/// A program that cannot be had in object form. It is an error only where something uses it.
struct RefusedProgram {
  std::string name;
  std::string section;
  ProgType type = ProgType::unspec;
  LinkError error; ///< file and program are filled in
};

/// An initial prog-array slot that the object itself names.
struct ObjectSlot {
  MapId map{};
  uint32_t slot = 0;
  std::string program; ///< one of Object::programs, or of Object::refused
  friend bool operator==(const ObjectSlot &, const ObjectSlot &) = default;
};

/// A named variable in one of the object's data maps.
struct Variable {
  std::string name;
  MapId map{};
  uint32_t offset = 0; ///< bytes from the start of the map's value
  uint32_t size = 0;   ///< bytes
  friend bool operator==(const Variable &, const Variable &) = default;
};

/// A 64-bit immediate load that holds a variable's value (see ObjectOptions::value_sections).
struct InlinedValue {
  uint32_t program = 0; ///< index into Object::programs
  uint32_t insn = 0;
  MapId map{};
  uint32_t offset = 0;
  uint32_t size = 0; ///< 1, 2, 4 or 8 bytes
  friend bool operator==(const InlinedValue &, const InlinedValue &) = default;
};

/// One object file. MapIds are indices into `maps` here; Map::prog_slots are empty (the slots are in `slots`,
/// since they may name programs of `refused`).
struct Object {
  std::string path;
  std::string license;           ///< empty: none given
  uint32_t version = 0;          ///< contents of section `version`, for old kprobes
  std::vector<Program> programs; ///< by section, then by place in it
  std::vector<RefusedProgram> refused;
  std::vector<Map> maps;
  std::set<MapId>
      replaced; ///< pinned maps which replace what is pinned under their name: not shared between objects
  std::vector<ObjectSlot> slots; ///< sorted by (map, slot), no two alike
  std::vector<Variable> variables;
  std::vector<InlinedValue> inlined;
  std::vector<uint8_t> btf, btf_ext; ///< as in the file; Subprogram::btf_func counts in `btf`
};

/// Reads an object from memory; `path` is for messages and Program::object only. Any input bytes give an
/// object or a LinkError that names the file (and section, symbol, map or program).
Expected<Object> read_object(std::string path, std::span<const uint8_t> bytes,
                             const ObjectOptions &options = {});

/// The same for a file. Errors also: the file cannot be read.
Expected<Object> read_object_file(const std::string &path, const ObjectOptions &options = {});

/// What libbpf (and Cilium) take a section name for; unspec if it says nothing. A leading '?' is ignored.
ProgType type_of_section(std::string_view section);

} // namespace ujit
