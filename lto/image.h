// The image: one relocatable x86-64 ELF object. `.text` holds the fused programs, undefined symbols are
// the kernel's helpers, `.ujit` describes the rest as JSON: entries, instance layout, programs with their
// digests, edges with their kinds. Debug sections can be stripped without changing the text.
#pragma once

#include "translator/error.h"
#include "translator/instance.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

struct ImageEntry {
  std::string program;
  std::string symbol; ///< C ABI: uint64_t (void *context, const uint64_t *instance)
  ProgType type{};
  friend bool operator==(const ImageEntry &, const ImageEntry &) = default;
};

struct ImageProgram {
  std::string name;
  std::string digest; ///< hex SHA-256 over the canonical program and the maps it names
  std::string symbol; ///< of its function with the tail-call convention; empty: only inlined
  std::string object; ///< file it came from
  uint32_t insns = 0;
  std::vector<LineInfo> lines; ///< instruction to source line, for symbolize and crash reports
  friend bool operator==(const ImageProgram &, const ImageProgram &) = default;
};

struct ImageSlot { ///< one slot of the instance table, by name so that it can be matched elsewhere
  InstanceSlot slot;
  std::string name; ///< of the map or program; constant: "map:constant"
  friend bool operator==(const ImageSlot &, const ImageSlot &) = default;
};

struct ImageEdge {
  std::string from, to, map, kind, treatment;
  uint32_t insn = 0;
  int64_t slot = -1; ///< -1: not constant
  friend bool operator==(const ImageEdge &, const ImageEdge &) = default;
};

/// Calls that leave the image return to the stub and may come back (kernel-iface/linux/stub.h).
struct ImageLeave {
  struct Point {
    std::string program;
    uint32_t insn = 0;        ///< of the tail call
    uint32_t frame_bytes = 0; ///< of the leave frame with what is alive behind it
    friend bool operator==(const Point &, const Point &) = default;
  };
  uint32_t frame_bytes = 0;             ///< of the largest; a multiple of 8; 0: nothing leaves
  std::vector<std::string> prog_arrays; ///< by number
  std::vector<Point> points;            ///< point N is the element N - 1
  friend bool operator==(const ImageLeave &, const ImageLeave &) = default;
};

struct ImageInfo {
  uint32_t format = 1;
  std::string name;
  std::string target; ///< triple and CPU
  std::string form;   ///< "object" or "verified"
  std::vector<ImageEntry> entries;
  std::vector<ImageProgram> programs;
  std::vector<ImageSlot> instance;
  std::vector<ImageEdge> edges;
  std::vector<std::string> helpers; ///< undefined symbols, sorted: nothing else may be undefined
  uint32_t code_bytes = 0;
  uint32_t stack_bytes = 0;
  /// Given: the image is for a kernel; entries are uint64_t (void *context, const uint64_t *instance,
  /// uint32_t where, void *frame), and `helpers` are exactly the symbols to resolve.
  std::optional<ImageLeave> leave;
  friend bool operator==(const ImageInfo &, const ImageInfo &) = default;
};

/// Merges relocatable objects (as LLVM writes them) into one, in the given order, and adds `info` as section
/// `.ujit`. Sections of one name are concatenated, symbols resolved across objects; hidden symbols that are
/// defined become local. The symbols of `info.entries` and `info.programs` become global with default
/// visibility. `info` is written as it is: a caller that wants the merged object's worst_stack() in it writes
/// twice. Two checksum sections make damage visible. Errors (internal): a duplicate definition, an undefined
/// symbol that `info.helpers` does not list, an entry's or program's symbol that is not defined, writable
/// data, COMDAT groups, a relocation type outside the allow-list (relocation_size() in
/// kernel-iface/image/elf.h).
Expected<std::vector<uint8_t>> write_image(std::span<const std::vector<uint8_t>> objects,
                                           const ImageInfo &info);

/// Reads the description back. The input is untrusted: every field is checked, its checksum is compared,
/// entries and programs must have their symbols in `.text`, and nothing but `helpers` may be undefined.
/// `path` is for messages. Errors (input): the object is malformed or damaged; (unsupported): its format is
/// newer than ours.
Expected<ImageInfo> read_image_info(std::span<const uint8_t> image, const std::string &path);

/// Bytes of machine stack of the deepest chain of calls from any of the named symbols, from `.stack_sizes`
/// and the calls in the text (call adds a frame, jump replaces it); return addresses included, that of the
/// root as well. A helper costs its return address only. Errors (internal): no such root, recursion that is
/// not bounded, a function whose frame has no static size, code that cannot be decoded.
Expected<uint32_t> worst_stack(std::span<const uint8_t> object, std::span<const std::string> roots);

struct FunctionStack {
  std::string name;
  uint32_t bytes =
      0; ///< its frame and the deepest chain of calls below it; functions that it jumps to take its place
  uint32_t frame = 0; ///< of these, its own frame
};
/// The same for each function that can be reached from the roots, sorted by name. Errors: as worst_stack().
Expected<std::vector<FunctionStack>> stack_by_function(std::span<const uint8_t> object,
                                                       std::span<const std::string> roots);

struct Frame { ///< one level of inlining, innermost first
  std::string program;
  uint32_t insn = 0;
  std::string source; ///< "file:line", or empty
};
/// Which program and instruction a text offset belongs to, through inlining. Errors: no such address, no
/// debug information.
Expected<std::vector<Frame>> symbolize(std::span<const uint8_t> image, uint64_t offset);

/// `image` without debug sections; the bytes of every other section are unchanged.
Expected<std::vector<uint8_t>> strip_debug(std::span<const uint8_t> image);

} // namespace ujit
