#include "tests/support/case_file.h"

#include "translator/assembler.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>
#include <filesystem>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

struct Section {
  uint32_t line;                ///< of its header
  std::vector<StringRef> words; ///< of the header, without "--"
  std::vector<StringRef> lines;

  StringRef kind() const { return words[0]; }
};

std::vector<StringRef> split_blanks(StringRef text) {
  llvm::SmallVector<StringRef> parts;
  llvm::SplitString(text, parts);
  return {parts.begin(), parts.end()};
}

bool is_comment(StringRef line) { return line.empty() || line.starts_with("#"); }

bool parse_signed(StringRef word, uint64_t &value) {
  bool negative = word.consume_front("-");
  if (word.getAsInteger(0, value))
    return false;
  value = negative ? 0 - value : value;
  return true;
}

std::optional<std::vector<uint8_t>> parse_hex(StringRef text) {
  std::string digits;
  for (StringRef part : split_blanks(text))
    digits += part;
  return from_hex(digits);
}

class CaseParser {
public:
  CaseParser(StringRef text, const std::string &path) : text(text) {
    c.path = path;
    c.name = std::filesystem::path(path).stem();
    file = std::filesystem::path(path).filename();
  }

  Expected<Case> run() {
    if (Error e = split())
      return e;
    for (auto step :
         {&CaseParser::declare, &CaseParser::fill_map, &CaseParser::read_program, &CaseParser::read_changes,
          &CaseParser::read_values})
      for (const Section &section : sections)
        if (Error e = (this->*step)(section))
          return e;
    if (Error e = finish())
      return e;
    return std::move(c);
  }

private:
  StringRef text;
  std::string file;
  Case c;
  std::vector<Section> sections;
  std::vector<std::string> entries;
  std::vector<uint64_t> results;
  std::vector<bool> typed; ///< by program: its type was given

  Error fail(uint32_t line, std::string message) {
    return input_error(formatv("line {0}: {1}", line, message)).in_file(file).error();
  }

  Error split() {
    uint32_t line = 0;
    for (StringRef rest = text; !rest.empty();) {
      StringRef current;
      std::tie(current, rest) = rest.split('\n');
      current = current.rtrim();
      line++;
      if (current.starts_with("-- ")) {
        sections.push_back({line, split_blanks(current.drop_front(3)), {}});
        if (sections.back().words.empty())
          return fail(line, "section without a name");
      } else if (!sections.empty()) {
        sections.back().lines.push_back(current);
      } else if (!is_comment(current)) {
        return fail(line, "text before the first section");
      }
    }
    return Error::success();
  }

  bool is_map_out(const Section &s) { return s.kind() == "map" && s.words.size() > 1 && s.words[1] == "out"; }
  bool is_map(const Section &s) { return s.kind() == "map" && !is_map_out(s); }

  /// Names first, so that sections may refer to each other in any order.
  Error declare(const Section &s) {
    if (s.kind() == "prog")
      return declare_program(s);
    if (s.kind() == "asm" || s.kind() == "raw") {
      c.rules = ImmediateRules::standard;
      if (c.pipeline.programs.empty()) { // a file may show its program in both forms
        add_program("main");
        typed.push_back(true);
      }
    } else if (is_map(s)) {
      return declare_map(s);
    }
    return Error::success();
  }

  Error declare_program(const Section &s) {
    if (s.words.size() < 2 || s.words.size() > 3)
      return fail(s.line, "`-- prog NAME [TYPE]` expected");
    if (c.pipeline.find_program(s.words[1]))
      return fail(s.line, formatv("program `{0}` is defined twice", s.words[1]));
    Program &program = add_program(s.words[1]);
    if (s.words.size() == 3) {
      auto type = prog_type_by_name(s.words[2]);
      if (!type)
        return fail(s.line, formatv("program type `{0}` does not exist", s.words[2]));
      program.type = *type;
    }
    typed.push_back(s.words.size() == 3);
    return Error::success();
  }

  Program &add_program(StringRef name) {
    Program &program = c.pipeline.programs.emplace_back();
    program.name = name.str();
    program.object = file;
    return program;
  }

  Error declare_map(const Section &s) {
    if (s.words.size() < 3)
      return fail(s.line, "`-- map NAME TYPE ...` expected");
    auto type = map_type_by_name(s.words[2]);
    if (!type)
      return fail(s.line, formatv("map type `{0}` does not exist", s.words[2]));
    Map map;
    map.name = s.words[1].str();
    map.type = *type;
    map.key_size = 4;
    map.value_size = 8;
    map.max_entries = 16;
    if (c.pipeline.find_map(map.name))
      return fail(s.line, formatv("map `{0}` is defined twice", map.name));
    if (*type == MapType::prog_array || *type == MapType::array_of_maps || *type == MapType::hash_of_maps)
      map.value_size = 4;
    for (StringRef word : llvm::ArrayRef(s.words).drop_front(3)) {
      auto [key, value] = word.split('=');
      uint32_t *number = key == "key"       ? &map.key_size
                         : key == "value"   ? &map.value_size
                         : key == "entries" ? &map.max_entries
                         : key == "flags"   ? &map.flags
                                            : nullptr;
      if (number) {
        if (value.getAsInteger(0, *number))
          return fail(s.line, formatv("`{0}` is no number", value));
      } else if (word == "frozen") {
        map.frozen = true;
      } else if (word == "pinned") {
        map.pinned = true;
      } else if (word == "template") {
        map.is_template = true;
      } else if (word == "scratch") {
        c.scratch.resize(c.pipeline.maps.size() + 1);
        c.scratch.back() = true;
      } else if (key == "edges") {
        c.edges.push_back({MapId(c.pipeline.maps.size()), value.str()});
      } else if (key != "inner") {
        return fail(s.line, formatv("`{0}` says nothing about a map", word));
      }
    }
    c.pipeline.maps.push_back(std::move(map));
    return Error::success();
  }

  Error fill_map(const Section &s) {
    if (!is_map(s))
      return Error::success();
    MapId id = *c.pipeline.find_map(s.words[1]);
    Map &map = c.pipeline.maps[index(id)];
    for (StringRef word : s.words)
      if (word.consume_front("inner=")) {
        map.inner = c.pipeline.find_map(word);
        if (!map.inner)
          return fail(s.line, formatv("map `{0}` does not exist", word));
      }
    MapContents entries;
    for (size_t i = 0; i < s.lines.size(); i++) {
      uint32_t line = s.line + 1 + uint32_t(i);
      if (is_comment(s.lines[i]))
        continue;
      auto [left, right] = s.lines[i].split(':');
      left = left.trim();
      right = right.trim();
      if (left == "bound") {
        if (Error e = add_bound(map, right, line))
          return e;
      } else if (left == "data") {
        auto bytes = parse_hex(right);
        if (!bytes)
          return fail(line, "hex bytes expected");
        map.contents = std::move(*bytes);
        map.value_size = uint32_t(map.contents.size());
        map.max_entries = 1;
      } else if (map.type == MapType::prog_array || map.inner) {
        if (Error e = add_slot(map, left, right, line))
          return e;
      } else if (Error e = add_entry(entries, left, right, line)) {
        return e;
      }
    }
    if (!entries.empty()) {
      std::ranges::sort(entries);
      c.seeds.push_back({map.name, std::move(entries)});
    }
    std::ranges::sort(map.prog_slots);
    std::ranges::sort(map.inner_slots);
    return Error::success();
  }

  Error add_bound(Map &map, StringRef text, uint32_t line) {
    auto words = split_blanks(text);
    BoundConstant bound;
    if (words.size() != 4 || words[1].getAsInteger(0, bound.offset) || words[2].getAsInteger(0, bound.size) ||
        words[3].getAsInteger(0, bound.value))
      return fail(line, "`bound: NAME OFFSET SIZE VALUE` expected");
    bound.name = words[0].str();
    map.bound.push_back(bound);
    return Error::success();
  }

  Error add_slot(Map &map, StringRef left, StringRef right, uint32_t line) {
    uint32_t slot;
    if (left.getAsInteger(0, slot))
      return fail(line, formatv("slot `{0}` is no number", left));
    if (map.type == MapType::prog_array) {
      auto program = c.pipeline.find_program(right);
      if (!program)
        return fail(line, formatv("program `{0}` does not exist", right));
      map.prog_slots.push_back({slot, *program});
    } else {
      auto inner = c.pipeline.find_map(right);
      if (!inner)
        return fail(line, formatv("map `{0}` does not exist", right));
      map.inner_slots.push_back({slot, *inner});
    }
    return Error::success();
  }

  Error read_changes(const Section &s) {
    if (s.kind() != "change")
      return Error::success();
    auto map = s.words.size() == 2 ? c.pipeline.find_map(s.words[1]) : std::nullopt;
    if (!map || c.pipeline[*map].type != MapType::prog_array)
      return fail(s.line, "`-- change MAP` of a prog array expected");
    for (size_t i = 0; i < s.lines.size(); i++) {
      if (is_comment(s.lines[i]))
        continue;
      auto [left, right] = s.lines[i].split(':');
      Case::Change change{*map, 0, c.pipeline.find_program(right.trim())};
      if (left.trim().getAsInteger(0, change.slot) || (!right.trim().empty() && !change.program))
        return fail(s.line + 1 + uint32_t(i), "`SLOT: PROGRAM` or `SLOT:` expected");
      c.changes.push_back(change);
    }
    return Error::success();
  }

  Error add_entry(MapContents &entries, StringRef left, StringRef right, uint32_t line) {
    auto key = parse_hex(left);
    if (!key)
      return fail(line, "key: hex bytes expected");
    MapEntry entry{std::move(*key), {}};
    llvm::SmallVector<StringRef> values; // one for each CPU
    right.split(values, '|');
    for (StringRef value : values) {
      auto bytes = parse_hex(value);
      if (!bytes)
        return fail(line, "value: hex bytes expected");
      entry.values.push_back(std::move(*bytes));
    }
    entries.push_back(std::move(entry));
    return Error::success();
  }

  Error read_program(const Section &s) {
    if (s.kind() == "asm")
      return read_conformance(s);
    if (s.kind() == "raw" && c.pipeline.programs[0].insns.empty())
      return read_raw(s);
    if (s.kind() != "prog")
      return Error::success();
    // The text with its subprograms, padded so that lines keep their numbers.
    std::string source;
    uint32_t line = s.line;
    for (const Section *part = &s; part != sections.data() + sections.size(); part++) {
      if (part != &s && part->kind() == "prog")
        break;
      if (part != &s && part->kind() != "sub")
        continue;
      for (; line < part->line; line++)
        source += "\n";
      if (part != &s) {
        if (part->words.size() != 2)
          return fail(part->line, "`-- sub NAME` expected");
        source += "sub " + part->words[1].str() + ":";
      }
      for (StringRef l : part->lines) {
        source += "\n" + l.str();
        line++;
      }
    }
    return set_code(*c.pipeline.find_program(s.words[1]), source, s.line);
  }

  Error read_conformance(const Section &s) {
    auto source = translate_conformance(llvm::join(s.lines, "\n"));
    if (!source)
      return with_place(source.takeError(), file);
    return set_code(ProgId(0), *source, s.line + 1);
  }

  Error set_code(ProgId id, const std::string &source, uint32_t first_line) {
    Program &program = c.pipeline.programs[index(id)];
    AssemblerOptions options;
    options.name = program.name;
    options.file = file;
    options.first_line = first_line;
    options.find_map = [this](std::string_view name) { return c.pipeline.find_map(name); };
    auto assembly = assemble(source, options);
    if (!assembly)
      return assembly.takeError();
    program.insns = std::move(assembly->insns);
    program.subprograms = std::move(assembly->subprograms);
    program.lines = std::move(assembly->lines);
    return Error::success();
  }

  Error read_raw(const Section &s) {
    std::vector<uint8_t> bytes;
    if (Error e = append_hex(s, bytes))
      return e;
    auto insns = decode_bytes(bytes);
    if (!insns)
      return with_place(insns.takeError(), file);
    Program &program = c.pipeline.programs[0];
    program.insns = std::move(*insns);
    program.subprograms = {{"main", 0, uint32_t(program.insns.size()), 0}};
    return Error::success();
  }

  Error append_hex(const Section &s, std::vector<uint8_t> &bytes) {
    for (size_t i = 0; i < s.lines.size(); i++) {
      auto line = parse_hex(s.lines[i].split('#').first);
      if (!line)
        return fail(s.line + 1 + uint32_t(i), "hex bytes expected");
      bytes.insert(bytes.end(), line->begin(), line->end());
    }
    return Error::success();
  }

  Error read_values(const Section &s) {
    StringRef kind = s.kind();
    if (kind == "entry") {
      for (StringRef name : llvm::ArrayRef(s.words).drop_front())
        entries.push_back(name.str());
    } else if (kind == "memory" || kind == "mem" || kind == "packet") {
      bool out = s.words.size() > 1 && s.words[1] == "out";
      if (out && c.inputs.empty())
        return fail(s.line, "output without an input before it");
      if (!out)
        c.inputs.emplace_back();
      c.packets |= kind == "packet";
      return append_hex(s, out ? c.inputs.back().out.emplace() : c.inputs.back().bytes);
    } else if (kind == "result") {
      for (size_t i = 0; i < s.lines.size(); i++)
        if (uint64_t value; !is_comment(s.lines[i])) {
          if (!parse_signed(s.lines[i].split('#').first.trim(), value))
            return fail(s.line + 1 + uint32_t(i), formatv("`{0}` is no number", s.lines[i]));
          results.push_back(value);
        }
    } else if (is_map_out(s)) {
      if (s.words.size() != 3 || !c.pipeline.find_map(s.words[2]))
        return fail(s.line, "`-- map out NAME` of a map expected");
      MapSeed out{s.words[2].str(), {}};
      for (size_t i = 0; i < s.lines.size(); i++)
        if (auto [left, right] = s.lines[i].split(':'); !is_comment(s.lines[i]))
          if (Error e = add_entry(out.entries, left, right, s.line + 1 + uint32_t(i)))
            return e;
      std::ranges::sort(out.entries);
      c.maps_out.push_back(std::move(out));
    } else if (kind == "error") {
      c.error = StringRef(llvm::join(s.lines, "\n")).trim().str();
    } else if (kind == "ir" || kind == "plan") {
      for (StringRef line : s.lines)
        if (!line.trim().empty())
          (kind == "ir" ? c.ir : c.plan).push_back(line.trim().str());
    } else if (kind == "option") {
      for (StringRef word : llvm::ArrayRef(s.words).drop_front())
        c.options[word.split('=').first.str()] = word.split('=').second.str();
    } else if (kind == "c" || kind == "no") {
      // bpf_conformance: the C source of a program, and remarks for its plugins
    } else if (kind != "prog" && kind != "sub" && kind != "map" && kind != "asm" && kind != "raw" &&
               kind != "change") {
      return fail(s.line, formatv("section `{0}` is unknown", kind));
    }
    return Error::success();
  }

  Error finish() {
    if (c.pipeline.programs.empty())
      return fail(1, "no program");
    if (c.inputs.empty())
      c.inputs.emplace_back();
    if (results.size() > c.inputs.size())
      return fail(1, formatv("{0} results for {1} inputs", results.size(), c.inputs.size()));
    for (size_t i = 0; i < results.size(); i++)
      c.inputs[i].result = results[i];
    for (size_t i = 0; i < typed.size(); i++)
      if (!typed[i] && c.packets)
        c.pipeline.programs[i].type = ProgType::xdp;
    if (entries.empty())
      entries.push_back(c.pipeline.programs[0].name);
    for (const std::string &name : entries) {
      auto id = c.pipeline.find_program(name);
      if (!id)
        return fail(1, formatv("entry `{0}` is no program", name));
      c.pipeline.entries.push_back(*id);
    }
    std::ranges::sort(c.pipeline.entries);
    c.scratch.resize(c.pipeline.maps.size());
    return Error::success();
  }
};

std::string text_of(const MapEntry &entry) {
  std::string text = to_hex(entry.key) + ":";
  for (auto &value : entry.values)
    text += " " + to_hex(value);
  return text;
}

} // namespace

Expected<Case> parse_case(std::string_view text, const std::string &path) {
  return CaseParser(text, path).run();
}

Expected<Case> read_case(const std::string &path) {
  auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/true);
  if (!buffer)
    return input_error("cannot be read: " + buffer.getError().message()).in_file(path).error();
  return parse_case((*buffer)->getBuffer(), path);
}

Error check_case(const Case &c) {
  for (const Program &program : c.pipeline.programs)
    if (Error e = check_program(program.insns, subprogram_starts(program.subprograms), c.rules))
      return with_place(std::move(e), program.object, program.name);
  return Error::success();
}

Pipeline changed_pipeline(const Case &c) {
  Pipeline out = c.pipeline;
  for (const Case::Change &change : c.changes) {
    auto &slots = out.maps[index(change.map)].prog_slots;
    std::erase_if(slots, [&](auto &slot) { return slot.first == change.slot; });
    if (change.program)
      slots.push_back({change.slot, *change.program});
    std::ranges::sort(slots);
  }
  return out;
}

Expected<std::vector<std::string>> find_cases(const std::string &path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_regular_file(path, error))
    return std::vector{path};
  std::vector<std::string> found;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
    if (auto extension = it->path().extension(); extension == ".case" || extension == ".data")
      found.push_back(it->path());
  if (error)
    return input_error("cannot be read: " + error.message()).in_file(path).error();
  std::ranges::sort(found);
  return found;
}

std::vector<std::string> differences(const Case &c, const CaseRun &run) {
  std::vector<std::string> found;
  if (run.results.size() != c.inputs.size() || run.outs.size() != c.inputs.size())
    found.push_back(formatv("{0} inputs, but {1} results", c.inputs.size(), run.results.size()));
  for (size_t i = 0; i < std::min(c.inputs.size(), run.results.size()); i++) {
    const CaseInput &input = c.inputs[i];
    if (input.result && *input.result != run.results[i])
      found.push_back(
          formatv("input {0}: result is {1:x}, should be {2:x}", i, run.results[i], *input.result));
    if (input.out && i < run.outs.size() && *input.out != run.outs[i])
      found.push_back(
          formatv("input {0}: bytes are {1}, should be {2}", i, to_hex(run.outs[i]), to_hex(*input.out)));
  }
  for (const MapSeed &wanted : c.maps_out) {
    auto got = std::ranges::find(run.maps, wanted.map, &MapSeed::map);
    if (got == run.maps.end()) {
      found.push_back(formatv("map {0}: no contents", wanted.map));
      continue;
    }
    for (const MapEntry &entry : wanted.entries)
      if (std::ranges::find(got->entries, entry) == got->entries.end())
        found.push_back(formatv("map {0}: no entry {1}", wanted.map, text_of(entry)));
    for (const MapEntry &entry : got->entries)
      if (std::ranges::find(wanted.entries, entry) == wanted.entries.end())
        found.push_back(formatv("map {0}: unexpected entry {1}", wanted.map, text_of(entry)));
  }
  return found;
}

} // namespace ujit
