// Test cases as text files: programs, maps, inputs and what must come out. A file is a list of sections;
// a line that begins with "-- " starts one, `#` lines before the first section are comments.
//
//     -- prog NAME [TYPE]        assembly (translator/assembler.h); the first one is the entry
//     -- sub NAME                a subprogram of the program before it
//     -- entry NAME...           other entries than the first program
//     -- map NAME TYPE [key=4] [value=8] [entries=16] [flags=0] [frozen] [pinned] [template] [inner=MAP]
//             [edges=sealed|guarded|left] [scratch]
//         3: leaf                prog arrays: the program in slot 3; maps of maps: the map in slot 3
//         00000000: 0102         others: key bytes, value bytes
//         data: 0102             data maps: all bytes of the value
//         bound: NAME 0 4 0x7    data maps: a bound constant: offset, size, value
//     -- change MAP              slots of a prog array set after the link and before the run: `3: leaf`, `3:` empties
//     -- memory                  hex bytes: r1 points there, r2 is their number (TYPE unspec)
//     -- packet                  hex bytes; any number of sections (TYPE xdp unless given)
//     -- result                  r0, one line for each input
//     -- packet out              the packet before it, afterwards
//     -- map out NAME            all entries afterwards
//     -- error                   the exact text of the error
//     -- ir, -- plan             texts that must occur, in this order
//     -- option KEY=VALUE...     modes=interpreter: that only; kernel=REASON: not in the running kernel;
//                                kernel-from=6.13: only in that one and later ones
//
// Files of the bpf_conformance suite (`-- asm`, `-- raw`, `-- mem`, `-- result`) are read as well.
#pragma once

#include "translator/map_contents.h"
#include "translator/program.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ujit {

struct CaseInput {
  std::vector<uint8_t> bytes;
  std::optional<uint64_t> result;
  std::optional<std::vector<uint8_t>> out;
};

struct Case {
  std::string name; ///< of the file, without folder and extension
  std::string path;
  Pipeline pipeline;    ///< Program::object is the file's name without folder
  bool packets = false; ///< inputs are packets, not plain memory
  ImmediateRules rules = ImmediateRules::kernel;
  std::vector<CaseInput> inputs; ///< at least one
  std::vector<MapSeed> seeds, maps_out;
  std::vector<std::pair<MapId, std::string>> edges; ///< policy by name, where a map gives one
  std::vector<bool> scratch;                        ///< by MapId: LinkOptions::scratch
  struct Change {
    MapId map{};
    uint32_t slot = 0;
    std::optional<ProgId> program;
  };
  std::vector<Change> changes; ///< of prog arrays, after the link
  std::optional<std::string> error;
  std::vector<std::string> ir, plan;
  std::map<std::string, std::string> options;
};

/// Errors name the file's line. Programs are assembled but not checked (check_case()).
Expected<Case> parse_case(std::string_view text, const std::string &path);
Expected<Case> read_case(const std::string &path);

/// check_program() for each program; the first error, with its place.
Error check_case(const Case &c);

/// The pipeline as it is when it runs: with the changes.
Pipeline changed_pipeline(const Case &c);

/// The .case and .data files of a folder, sorted; a path that is a file gives that one.
Expected<std::vector<std::string>> find_cases(const std::string &path);

/// What one way of running a case gave.
struct CaseRun {
  std::vector<uint64_t> results;          ///< r0 for each input
  std::vector<std::vector<uint8_t>> outs; ///< memory or packet afterwards
  std::vector<MapSeed> maps;              ///< afterwards, for each of Case::maps_out
};

/// What is not as the case says, one line each.
std::vector<std::string> differences(const Case &c, const CaseRun &run);

/// The assembly of bpf_conformance (`mov32 %r0, 1`) in the syntax of our assembler, line by line.
Expected<std::string> translate_conformance(std::string_view text);

} // namespace ujit
