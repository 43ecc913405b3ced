// The assembler is the printer read backwards: a line is split into words, and the row whose pattern they
// fit gives the opcode and the selecting fields, while the placeholders give the others. Names stay open
// until the whole text is read and every label has its slot.
#include "translator/assembler.h"

#include "translator/helper.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"

#include <limits>
#include <map>

namespace ujit {
namespace {

using llvm::formatv;
using llvm::StringRef;

bool is_word_char(char c) { return llvm::isAlnum(c) || c == '_' || c == '.'; }

/// Words (names, registers, numbers) and single punctuation characters; a comment ends the line.
std::vector<StringRef> split_words(StringRef line) {
  std::vector<StringRef> words;
  for (size_t i = 0; i < line.size();) {
    if (line[i] == ';' || line[i] == '#' || line.substr(i).starts_with("//"))
      break;
    if (llvm::isSpace(line[i])) {
      i++;
      continue;
    }
    size_t end = i + 1;
    if (is_word_char(line[i]))
      while (end < line.size() && is_word_char(line[end]))
        end++;
    words.push_back(line.slice(i, end));
    i = end;
  }
  return words;
}

/// A pattern of the table as words; a placeholder is "$x".
std::vector<StringRef> split_pattern(StringRef pattern) {
  std::vector<StringRef> words;
  for (size_t i = 0; i < pattern.size();) {
    size_t end = i + 1;
    if (pattern[i] == ' ') {
      i++;
      continue;
    }
    if (pattern[i] == '$')
      end = i + 2;
    else if (is_word_char(pattern[i]))
      while (end < pattern.size() && is_word_char(pattern[end]))
        end++;
    words.push_back(pattern.slice(i, end));
    i = end;
  }
  return words;
}

struct Pattern {
  const InsnRow *row;
  std::vector<StringRef> words;
};

const std::vector<Pattern> &patterns() {
  static const std::vector<Pattern> all = [] {
    std::vector<Pattern> result;
    for (const InsnRow &row : isa_table())
      result.push_back({&row, split_pattern(row.mnemonic)});
    return result;
  }();
  return all;
}

bool is_name(StringRef word) { return !word.empty() && is_word_char(word[0]) && !llvm::isDigit(word[0]); }

/// An unsigned number, decimal or 0x.
bool parse_number(StringRef word, uint64_t &value) {
  return !word.empty() && llvm::isDigit(word[0]) &&
         !(word.consume_front_insensitive("0x") ? word.getAsInteger(16, value)
                                                : word.getAsInteger(10, value));
}

/// A number as written: the magnitude may need all 64 bits, so the sign stands apart.
struct Number {
  bool negative = false;
  uint64_t magnitude = 0;

  bool fits(int64_t low, uint64_t high) const {
    return negative ? magnitude <= uint64_t(0) - uint64_t(low) : magnitude <= high;
  }
  uint64_t bits() const { return negative ? uint64_t(0) - magnitude : magnitude; }
  std::string text() const { return (negative ? "-" : "") + std::to_string(magnitude); }
};

/// What a pattern's placeholders stood for.
struct Match {
  std::optional<unsigned> dst, src;
  std::optional<Number> imm, offset, high, wide;
  StringRef label, helper, map; ///< names, where one stands instead of a number
};

/// Fits the words of one line to one pattern.
class Matcher {
public:
  explicit Matcher(const std::vector<StringRef> &words) : words(words) {}

  bool match(const Pattern &pattern, Match &m) {
    at = 0;
    m = {};
    for (StringRef word : pattern.words)
      if (word[0] == '$' ? !placeholder(word[1], *pattern.row, m) : !literal(word))
        return false;
    return at == words.size();
  }

private:
  const std::vector<StringRef> &words;
  size_t at = 0;

  StringRef peek() const { return at < words.size() ? words[at] : StringRef(); }

  bool literal(StringRef word) {
    if (peek() != word)
      return false;
    at++;
    return true;
  }

  bool reg(char kind, std::optional<unsigned> &field) {
    StringRef word = peek();
    unsigned number;
    if (word.size() < 2 || word[0] != kind || !llvm::isDigit(word[1]) ||
        word.drop_front().getAsInteger(10, number) || number > 15 || (field && *field != number))
      return false;
    field = number;
    at++;
    return true;
  }

  /// Compilers write the value of a 32-bit or narrower memory access as wN.
  bool data_reg(bool is_data, const InsnRow &row, std::optional<unsigned> &field) {
    return reg('r', field) || (is_data && row.bits < 64 && reg('w', field));
  }

  bool number(std::optional<Number> &field) {
    Number n;
    size_t start = at;
    if (literal("-"))
      n.negative = true;
    if (!parse_number(peek(), n.magnitude)) {
      at = start;
      return false;
    }
    field = n;
    at++;
    return true;
  }

  /// "+3" or "-3".
  bool distance(std::optional<Number> &field) { return (literal("+") || peek() == "-") && number(field); }

  bool name(StringRef &field) {
    if (!is_name(peek()))
      return false;
    field = words[at++];
    return true;
  }

  bool placeholder(char kind, const InsnRow &row, Match &m) {
    bool load = row.op == Op::load || row.op == Op::load_acquire;
    bool store = row.op == Op::store || row.op == Op::store_release;
    switch (kind) {
    case 'd': return data_reg(load, row, m.dst);
    case 's': return data_reg(store, row, m.src);
    case 'D': return reg('w', m.dst);
    case 'S': return reg('w', m.src);
    case 'i': return number(m.imm);
    case 'x': return number(m.offset);
    case 'q': return number(m.wide);
    case 'v': return number(m.high);
    case 'o':
      if (distance(m.offset))
        return true;
      m.offset = Number();
      return true;
    case 'j': return distance(m.offset) || name(m.label);
    case 'J':
    case 'f': return distance(m.imm) || name(m.label);
    case 'c': return distance(m.imm);
    case 'h': return number(m.imm) || name(m.helper);
    case 'm': return number(m.imm) || name(m.map);
    default: llvm_unreachable("pattern letter that the assembler does not know");
    }
  }
};

class Assembler {
public:
  explicit Assembler(const AssemblerOptions &options) : options(options) {
    out.subprograms.push_back({options.name, 0, 0, 0});
  }

  Expected<Assembly> run(StringRef text) {
    line = options.first_line;
    while (!text.empty()) {
      auto [first, rest] = text.split('\n');
      text = rest;
      if (Error e = read_line(first.trim()))
        return e;
      line++;
    }
    if (Error e = resolve())
      return e;
    finish_subprograms();
    return std::move(out);
  }

private:
  /// A label is local to the subprogram (by number) whose text holds it.
  using LabelKey = std::pair<size_t, std::string>;
  struct Label {
    uint32_t slot;
    uint32_t line;
  };
  /// A name in an instruction that is a distance once all labels are known.
  struct Fixup {
    uint32_t at;
    uint32_t line;
    size_t scope;
    const InsnRow *row;
    std::string name;
  };

  const AssemblerOptions &options;
  Assembly out;
  uint32_t line = 1;
  std::map<LabelKey, Label> labels;
  std::map<std::string, Label> subs;
  std::vector<Fixup> fixups;

  Error fail(uint32_t at_line, std::string message) {
    return input_error(formatv("line {0}: {1}", at_line, message)).in_file(options.file).error();
  }

  template <class Map, class Key>
  Error define(Map &map, const Key &key, StringRef name) {
    auto [it, fresh] = map.try_emplace(key, Label{uint32_t(out.insns.size()), line});
    if (!fresh)
      return fail(line, formatv("`{0}` is defined twice (first in line {1})", name, it->second.line));
    return Error::success();
  }

  Error read_line(StringRef text) {
    std::vector<StringRef> words = split_words(text);
    if (words.size() == 3 && words[0] == "sub" && is_name(words[1]) && words[2] == ":") {
      if (Error e = define(subs, words[1].str(), words[1]))
        return e;
      out.subprograms.push_back({words[1].str(), uint32_t(out.insns.size()), 0, 0});
      return Error::success();
    }
    while (words.size() >= 2 && words[1] == ":" && is_name(words[0])) {
      if (Error e = define(labels, LabelKey(out.subprograms.size(), words[0].str()), words[0]))
        return e;
      words.erase(words.begin(), words.begin() + 2);
    }
    if (words.empty())
      return Error::success();
    out.lines.push_back({uint32_t(out.insns.size()), options.file, line, text.str()});
    if (words[0] == ".insn")
      return read_raw(words);
    Match m;
    Matcher matcher(words);
    for (const Pattern &pattern : patterns())
      if (matcher.match(pattern, m))
        return emit(*pattern.row, m);
    return fail(line, formatv("`{0}` is no instruction", text));
  }

  /// .insn OPCODE, DST, SRC, OFFSET, IMM
  Error read_raw(const std::vector<StringRef> &words) {
    std::vector<Number> fields;
    for (size_t i = 1; i < words.size(); i++) {
      Number n;
      if (words[i] == "-" && i + 1 < words.size()) {
        n.negative = true;
        i++;
      }
      if (!parse_number(words[i], n.magnitude))
        return fail(line, formatv("`{0}` is no number", words[i]));
      fields.push_back(n);
      if (i + 1 < words.size() && words[++i] != ",")
        return fail(line, formatv("`,` expected before `{0}`", words[i]));
    }
    if (fields.size() != 5)
      return fail(line, ".insn takes opcode, dst, src, offset and imm");
    Insn insn;
    if (!fields[0].fits(0, 255) || !fields[1].fits(0, 15) || !fields[2].fits(0, 15) ||
        !offset_fits(fields[3]) || !imm_fits(fields[4]))
      return fail(line, "a field of .insn does not fit");
    insn.opcode = uint8_t(fields[0].bits());
    insn.dst = fields[1].bits() & 15;
    insn.src = fields[2].bits() & 15;
    insn.offset = int16_t(fields[3].bits());
    insn.imm = int32_t(fields[4].bits());
    out.insns.push_back(insn);
    return Error::success();
  }

  static bool offset_fits(const Number &n) { return n.fits(INT16_MIN, INT16_MAX); }
  /// Both signed and unsigned spellings of 32 bits.
  static bool imm_fits(const Number &n) { return n.fits(INT32_MIN, UINT32_MAX); }

  Error emit(const InsnRow &row, const Match &m) {
    Insn insn;
    insn.opcode = row.opcode;
    insn.dst = m.dst.value_or(0) & 15;
    insn.src = (row.src.kind == FieldRule::equals ? row.src.value : m.src.value_or(0)) & 15;
    insn.offset = row.offset.kind == FieldRule::equals ? int16_t(row.offset.value) : int16_t(0);
    insn.imm = row.imm.kind == FieldRule::equals ? row.imm.value : 0;
    if (m.offset) {
      if (!offset_fits(*m.offset))
        return fail(line, formatv("offset {0} does not fit 16 bits", m.offset->text()));
      insn.offset = int16_t(m.offset->bits());
    }
    if (m.imm) {
      if (!imm_fits(*m.imm))
        return fail(line, formatv("immediate {0} does not fit 32 bits", m.imm->text()));
      insn.imm = int32_t(m.imm->bits());
    }
    if (!m.map.empty()) {
      auto id = options.find_map ? options.find_map(m.map) : std::nullopt;
      if (!id)
        return fail(line, formatv("map `{0}` does not exist", m.map));
      insn.imm = int32_t(index(*id));
    }
    if (StringRef name = m.label.empty() ? m.helper : m.label; !name.empty())
      fixups.push_back({uint32_t(out.insns.size()), line, out.subprograms.size(), &row, name.str()});

    Insn high;
    if (m.wide) {
      if (!m.wide->fits(INT64_MIN, UINT64_MAX))
        return fail(line, formatv("immediate {0} does not fit 64 bits", m.wide->text()));
      insn.imm = int32_t(m.wide->bits());
      high.imm = int32_t(m.wide->bits() >> 32);
    }
    if (m.high) {
      if (!imm_fits(*m.high))
        return fail(line, formatv("immediate {0} does not fit 32 bits", m.high->text()));
      high.imm = int32_t(m.high->bits());
    }
    out.insns.push_back(insn);
    if (is_wide(insn))
      out.insns.push_back(high);
    return Error::success();
  }

  Error resolve() {
    for (const Fixup &fixup : fixups) {
      Insn &insn = out.insns[fixup.at];
      Op op = fixup.row->op;
      bool call = op == Op::call_helper || op == Op::ld_func;
      const Label *label = nullptr;
      if (auto sub = subs.find(fixup.name); call && sub != subs.end())
        label = &sub->second;
      else if (auto own = labels.find({fixup.scope, fixup.name}); own != labels.end())
        label = &own->second;

      if (!label && op == Op::call_helper) {
        const Helper *helper = find_helper(fixup.name);
        if (!helper)
          helper = find_helper("bpf_" + fixup.name);
        if (!helper)
          return fail(fixup.line, formatv("`{0}` is neither a subprogram nor a helper", fixup.name));
        insn.imm = int32_t(helper->id);
        continue;
      }
      if (!label)
        return fail(fixup.line,
                    formatv("{0} `{1}` is not defined", call ? "subprogram" : "label", fixup.name));

      int64_t distance = int64_t(label->slot) - fixup.at - 1;
      if (call) {
        if (op == Op::call_helper)
          insn.src = 1; // call_local
        insn.imm = int32_t(distance);
        begin_subprogram(fixup.name, label->slot);
      } else if (op == Op::ja && fixup.row->width == 32) {
        insn.imm = int32_t(distance);
      } else if (distance < INT16_MIN || distance > INT16_MAX) {
        return fail(fixup.line, formatv("label `{0}` is {1} slots away, which does not fit 16 bits",
                                        fixup.name, distance));
      } else {
        insn.offset = int16_t(distance);
      }
    }
    return Error::success();
  }

  void begin_subprogram(const std::string &name, uint32_t slot) {
    auto at = std::ranges::lower_bound(out.subprograms, slot, {}, &Subprogram::start);
    if (at == out.subprograms.end() || at->start != slot)
      out.subprograms.insert(at, {name, slot, 0, 0});
  }

  void finish_subprograms() {
    for (size_t i = 0; i < out.subprograms.size(); i++)
      out.subprograms[i].end =
          i + 1 < out.subprograms.size() ? out.subprograms[i + 1].start : uint32_t(out.insns.size());
  }
};

} // namespace

Expected<Assembly> assemble(std::string_view text, const AssemblerOptions &options) {
  return Assembler(options).run(text);
}

std::vector<uint32_t> subprogram_starts(std::span<const Subprogram> subprograms) {
  std::vector<uint32_t> starts;
  for (const Subprogram &sub : subprograms)
    starts.push_back(sub.start);
  return starts;
}

} // namespace ujit
