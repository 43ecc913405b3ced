// The `.ujit` section. JSON, so that `objcopy` and `jq` are enough to look at an image on a machine where
// this tool is not. Line tables are most of the text, so they are rows and name their files by number.
#include "lto/image_info.h"
#include "kernel-iface/image/elf.h"
#include "translator/json.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;
namespace json = llvm::json;

static constexpr uint32_t newest_format = 1;
static constexpr std::array<StringRef, 6> slot_kinds = {"map",     "values", "constant",
                                                        "program", "cpu",    "table"};

static void print_lines(json::OStream &out, const std::vector<LineInfo> &lines) {
  llvm::MapVector<StringRef, size_t> files;
  for (const LineInfo &l : lines)
    files.try_emplace(l.file, files.size());
  out.attributeArray("files", [&] {
    for (auto &[file, number] : files)
      out.value(json::fixUTF8(file));
  });
  out.attributeArray("lines", [&] {
    for (const LineInfo &l : lines)
      out.array([&] {
        out.value(l.insn);
        out.value(files[l.file]);
        out.value(l.line);
        out.value(json::fixUTF8(l.text));
      });
  });
}

std::string print_image_info(const ImageInfo &info) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  json::OStream out(stream);
  auto string = [&](StringRef key, StringRef value) { out.attribute(key, json::fixUTF8(value)); };
  out.object([&] {
    out.attribute("format", info.format);
    string("name", info.name);
    string("target", info.target);
    string("form", info.form);
    out.attribute("code_bytes", info.code_bytes);
    out.attribute("stack_bytes", info.stack_bytes);
    out.attributeArray("entries", [&] {
      for (const ImageEntry &e : info.entries)
        out.object([&] {
          string("program", e.program);
          string("symbol", e.symbol);
          out.attribute("type", uint32_t(e.type));
        });
    });
    out.attributeArray("programs", [&] {
      for (const ImageProgram &p : info.programs)
        out.object([&] {
          string("name", p.name);
          string("digest", p.digest);
          string("symbol", p.symbol);
          string("object", p.object);
          out.attribute("insns", p.insns);
          print_lines(out, p.lines);
        });
    });
    out.attributeArray("instance", [&] {
      for (const ImageSlot &s : info.instance)
        out.object([&] {
          string("kind", slot_kinds[s.slot.kind]);
          out.attribute("id", s.slot.id);
          out.attribute("sub", s.slot.sub);
          string("name", s.name);
        });
    });
    out.attributeArray("edges", [&] {
      for (const ImageEdge &e : info.edges)
        out.object([&] {
          string("from", e.from);
          string("to", e.to);
          string("map", e.map);
          string("kind", e.kind);
          string("treatment", e.treatment);
          out.attribute("insn", e.insn);
          out.attribute("slot", e.slot);
        });
    });
    out.attributeArray("helpers", [&] {
      for (const std::string &h : info.helpers)
        out.value(json::fixUTF8(h));
    });
    if (info.leave)
      out.attributeObject("leave", [&] {
        out.attribute("frame_bytes", info.leave->frame_bytes);
        out.attributeArray("prog_arrays", [&] {
          for (const std::string &name : info.leave->prog_arrays)
            out.value(json::fixUTF8(name));
        });
        out.attributeArray("points", [&] {
          for (const ImageLeave::Point &p : info.leave->points)
            out.object([&] {
              string("program", p.program);
              out.attribute("insn", p.insn);
              out.attribute("frame_bytes", p.frame_bytes);
            });
        });
      });
  });
  return text;
}

namespace {

/// The fields of one JSON object, each taken once; done() complains of what is left. The first problem is
/// kept and everything behind it reads as empty, so that a caller needs to ask only once.
class Fields {
public:
  Fields(const json::Value &value, std::string path, std::string &problem)
      : object_(value.getAsObject()), path_(std::move(path)), problem_(problem) {
    if (!object_)
      report("", "expected an object");
  }

  std::string string(StringRef key) {
    const json::Value *v = take(key);
    if (!v)
      return {};
    if (auto s = v->getAsString())
      return s->str();
    report(key, "expected a string");
    return {};
  }

  /// The value of a field that may be missing, or null.
  const json::Value *optional(StringRef key) { return object_ && object_->get(key) ? take(key) : nullptr; }

  uint32_t u32(StringRef key) {
    const json::Value *v = take(key);
    return v ? u32(*v, key) : 0;
  }

  uint32_t u32(const json::Value &v, StringRef key) {
    if (auto n = v.getAsUINT64(); n && *n <= UINT32_MAX)
      return *n;
    report(key, "expected a number from 0 to 4294967295");
    return 0;
  }

  int64_t i64(StringRef key) {
    const json::Value *v = take(key);
    if (!v)
      return 0;
    if (auto n = v->getAsInteger())
      return *n;
    report(key, "expected an integer");
    return 0;
  }

  /// Calls `each` with the elements and their paths.
  template <class F>
  void array(StringRef key, F each) {
    const json::Value *v = take(key);
    if (!v)
      return;
    const json::Array *a = v->getAsArray();
    if (!a)
      return report(key, "expected an array");
    for (size_t i = 0; i < a->size() && problem_.empty(); ++i)
      each((*a)[i], formatv("{0}{1}[{2}]", path_, key, i).str());
  }

  void done() {
    if (!object_)
      return;
    for (auto &[key, value] : *object_)
      if (!taken_.contains(StringRef(key)))
        report(StringRef(key), "unknown field");
  }

  void report(StringRef key, StringRef what) {
    if (!problem_.empty())
      return;
    std::string where = StringRef(path_ + key.str()).rtrim('.').str();
    problem_ = where + (where.empty() ? "" : ": ") + what.str();
  }

private:
  const json::Value *take(StringRef key) {
    if (!object_ || !problem_.empty())
      return nullptr;
    taken_.insert(key);
    const json::Value *v = object_->get(key);
    if (!v)
      report(key, "missing");
    return v;
  }

  const json::Object *object_;
  std::string path_;
  std::string &problem_;
  llvm::StringSet<> taken_;
};

class InfoReader {
public:
  Expected<ImageInfo> read(const json::Value &root) {
    Fields f(root, "", problem_);
    ImageInfo info;
    info.format = f.u32("format");
    if (problem_.empty() && info.format > newest_format)
      return unsupported(formatv("image format {0} is newer than {1}, the newest that this version knows",
                                 info.format, newest_format))
          .error();
    if (problem_.empty() && info.format == 0)
      f.report("format", "there is no format 0");
    info.name = f.string("name");
    info.target = f.string("target");
    info.form = f.string("form");
    if (info.form != "object" && info.form != "verified")
      f.report("form", "expected \"object\" or \"verified\"");
    info.code_bytes = f.u32("code_bytes");
    info.stack_bytes = f.u32("stack_bytes");
    f.array("entries", [&](auto &v, std::string path) { info.entries.push_back(entry(v, path + ".")); });
    f.array("programs", [&](auto &v, std::string path) { info.programs.push_back(program(v, path + ".")); });
    f.array("instance", [&](auto &v, std::string path) { info.instance.push_back(slot(v, path + ".")); });
    f.array("edges", [&](auto &v, std::string path) { info.edges.push_back(edge(v, path + ".")); });
    f.array("helpers", [&](auto &v, std::string path) {
      auto s = v.getAsString();
      if (!s || s->empty() || (!info.helpers.empty() && !(StringRef(info.helpers.back()) < *s)))
        f.report(path, "expected symbol names in ascending order");
      else
        info.helpers.push_back(s->str());
    });
    if (const json::Value *v = f.optional("leave"))
      info.leave = leave(*v, "leave.");
    f.done();
    check_names(info, f);
    if (!problem_.empty())
      return input_error("image description: " + problem_).error();
    return info;
  }

private:
  void check_names(const ImageInfo &info, Fields &f) {
    llvm::StringSet<> programs;
    for (const ImageProgram &p : info.programs)
      if (!programs.insert(p.name).second)
        f.report("programs", formatv("{0} is listed twice", p.name).str());
    for (const ImageEntry &e : info.entries)
      if (!programs.contains(e.program))
        f.report("entries", formatv("program {0} is not in the image", e.program).str());
    if (!info.leave)
      return;
    for (const ImageLeave::Point &p : info.leave->points) {
      auto program = std::ranges::find(info.programs, p.program, &ImageProgram::name);
      if (program == info.programs.end() || p.insn >= program->insns)
        f.report("leave", formatv("{0} has no instruction {1}", p.program, p.insn).str());
    }
    for (const std::string &name : info.leave->prog_arrays)
      if (std::ranges::none_of(info.instance, [&](const ImageSlot &s) {
            return s.slot.kind == InstanceSlot::map && s.name == name;
          }))
        f.report("leave", formatv("prog array {0} is not in the instance", name).str());
  }

  ImageEntry entry(const json::Value &value, std::string path) {
    Fields f(value, std::move(path), problem_);
    ImageEntry e;
    e.program = f.string("program");
    e.symbol = f.string("symbol");
    e.type = ProgType(f.u32("type"));
    if (e.symbol.empty())
      f.report("symbol", "an entry needs one");
    f.done();
    return e;
  }

  ImageLeave leave(const json::Value &value, std::string path) {
    constexpr uint32_t stack = 512;
    Fields f(value, path, problem_);
    ImageLeave l;
    auto frame = [&](Fields &from) {
      const uint32_t bytes = from.u32("frame_bytes");
      if (bytes > stack || bytes % 8 != 0)
        from.report("frame_bytes", "expected a multiple of 8, at most 512");
      return bytes;
    };
    l.frame_bytes = frame(f);
    f.array("prog_arrays", [&](auto &v, std::string at) {
      if (auto s = v.getAsString(); s && l.prog_arrays.size() < 0x7fff)
        l.prog_arrays.push_back(s->str());
      else
        f.report("prog_arrays", "expected at most 32767 names");
    });
    f.array("points", [&](auto &v, std::string at) {
      Fields p(v, at + ".", problem_);
      ImageLeave::Point point;
      point.program = p.string("program");
      point.insn = p.u32("insn");
      point.frame_bytes = frame(p);
      if (point.frame_bytes < 8 || point.frame_bytes > l.frame_bytes)
        p.report("frame_bytes", "smaller than a frame can be, or larger than the largest");
      p.done();
      l.points.push_back(std::move(point));
      if (l.points.size() > 0xffff)
        f.report("points", "more than 65535");
    });
    f.done();
    return l;
  }

  ImageProgram program(const json::Value &value, std::string path) {
    Fields f(value, path, problem_);
    ImageProgram p;
    p.name = f.string("name");
    p.digest = f.string("digest");
    p.symbol = f.string("symbol");
    p.object = f.string("object");
    p.insns = f.u32("insns");
    if (p.name.empty())
      f.report("name", "a program needs one");
    if (p.digest.size() != 64 || !std::ranges::all_of(p.digest, [](char c) {
          return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
        }))
      f.report("digest", "expected 64 hexadecimal digits");
    std::vector<std::string> files;
    f.array("files", [&](auto &v, std::string) {
      if (auto s = v.getAsString())
        files.push_back(s->str());
      else
        f.report("files", "expected strings");
    });
    f.array("lines", [&](auto &v, std::string) { read_line(f, v, files, p); });
    f.done();
    return p;
  }

  void read_line(Fields &f, const json::Value &value, const std::vector<std::string> &files,
                 ImageProgram &p) {
    const json::Array *row = value.getAsArray();
    if (!row || row->size() != 4 || !(*row)[3].getAsString())
      return f.report("lines", "expected rows of instruction, file, line and text");
    LineInfo line;
    line.insn = f.u32((*row)[0], "lines");
    uint32_t file = f.u32((*row)[1], "lines");
    line.line = f.u32((*row)[2], "lines");
    line.text = (*row)[3].getAsString()->str();
    if (file >= files.size() || line.insn >= p.insns || (!p.lines.empty() && line.insn < p.lines.back().insn))
      return f.report("lines", "instructions out of order or range, or no such file");
    line.file = files[file];
    p.lines.push_back(std::move(line));
  }

  ImageSlot slot(const json::Value &value, std::string path) {
    Fields f(value, std::move(path), problem_);
    ImageSlot s;
    std::string kind = f.string("kind");
    auto it = std::ranges::find(slot_kinds, kind);
    if (it == slot_kinds.end())
      f.report("kind", "no such kind of instance slot");
    else
      s.slot.kind = InstanceSlot::Kind(it - slot_kinds.begin());
    s.slot.id = f.u32("id");
    s.slot.sub = f.u32("sub");
    s.name = f.string("name");
    f.done();
    return s;
  }

  ImageEdge edge(const json::Value &value, std::string path) {
    Fields f(value, std::move(path), problem_);
    ImageEdge e;
    e.from = f.string("from");
    e.to = f.string("to");
    e.map = f.string("map");
    e.kind = f.string("kind");
    e.treatment = f.string("treatment");
    e.insn = f.u32("insn");
    e.slot = f.i64("slot");
    f.done();
    return e;
  }

  std::string problem_;
};

Error check_symbols(const ElfObject &object, const ImageInfo &info) {
  llvm::StringSet<> defined;
  uint32_t text = object.find_section(".text");
  for (size_t i = 1; i < object.symbols.size(); ++i) {
    const ImageElfSymbol &s = object.symbols[i];
    if (s.binding == llvm::ELF::STB_LOCAL)
      continue;
    if (!s.defined() && !std::ranges::binary_search(info.helpers, s.name.str()))
      return input_error(formatv("image: undefined symbol {0} is not among its helpers", s.name)).error();
    if (text != 0 && s.section == text)
      defined.insert(s.name);
  }
  for (const ImageEntry &e : info.entries)
    if (!defined.contains(e.symbol))
      return input_error(formatv("image: entry symbol {0} is not defined in its text", e.symbol)).error();
  for (const ImageProgram &p : info.programs)
    if (!p.symbol.empty() && !defined.contains(p.symbol))
      return input_error(
                 formatv("image: symbol {0} of program {1} is not defined in its text", p.symbol, p.name))
          .error();
  return Error::success();
}

Expected<ImageInfo> read_info(std::span<const uint8_t> image) {
  auto object = read_elf(image);
  if (!object)
    return object.takeError();
  uint32_t section = object->find_section(".ujit");
  if (section == 0)
    return input_error("not an image: there is no .ujit section")
        .with_hint("an image is what `ujit-lto link` writes")
        .error();
  if (Error e = check_checksum(*object, checksum_section))
    return e;
  auto contents = object->sections[section].contents;
  auto info = parse_image_info({reinterpret_cast<const char *>(contents.data()), contents.size()});
  if (!info)
    return info;
  if (Error e = check_symbols(*object, *info))
    return e;
  return info;
}

} // namespace

Expected<ImageInfo> parse_image_info(StringRef text) {
  auto root = parse_json(text);
  if (!root)
    return input_error("image description: " + llvm::toString(root.takeError())).error();
  return InfoReader().read(*root);
}

Expected<ImageInfo> read_image_info(std::span<const uint8_t> image, const std::string &path) {
  auto info = read_info(image);
  if (!info)
    return with_place(info.takeError(), path);
  return info;
}

} // namespace ujit
