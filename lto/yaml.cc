// LLVM's YAML parser trusts its input more than we do: it recurses where values nest, and some of what a full
// YAML stream may hold (directives, tags, complex keys) meets only an assertion there. So the text is
// checked byte by byte before the parser sees it, and the tree is taken over lazily with a bound on its
// depth: the parser reads a nested value only when it is asked for, and it is never asked for more after the
// first error.
#include "lto/yaml.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/ConvertUTF.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/YAMLParser.h"

#include <algorithm>
#include <optional>
#include <set>

namespace ujit {

namespace {

constexpr size_t max_bytes = 1 << 20;
constexpr unsigned max_depth = 32;
constexpr unsigned max_commas = 32; ///< with nothing between them; the parser recurses for each

Error yaml_error(const std::string &path, Place place, std::string message) {
  return input_error(place.text() + ": " + std::move(message)).in_file(path).error();
}

/// What must hold of the bytes before they are parsed.
Error check_text(std::string_view text, const std::string &path) {
  if (text.size() > max_bytes)
    return input_error(llvm::formatv("the file has {0} bytes, more than the {1} that are read", text.size(),
                                     max_bytes))
        .in_file(path)
        .error();
  Place place{1, 1};
  bool line_start = true, comment = false;
  unsigned commas = 0;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const unsigned length =
        llvm::getUTF8SequenceSize(reinterpret_cast<const llvm::UTF8 *>(text.data()) + i,
                                  reinterpret_cast<const llvm::UTF8 *>(text.data() + text.size()));
    if (length == 0)
      return yaml_error(path, place, "not UTF-8 text");
    if (c == '\t' && line_start)
      return yaml_error(path, place, "a tab indents the line; YAML indents with spaces");
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f)
      return yaml_error(path, place, llvm::formatv("control character {0:x2}", unsigned(c)));
    if (c == '%' && place.column == 1)
      return yaml_error(path, place, "YAML directives are not used in manifests");
    comment = c != '\n' && c != '\r' &&
              (comment || (c == '#' && (i == 0 || llvm::StringRef(" \t\r\n,").contains(text[i - 1]))));
    if (c == ',' && !comment && ++commas > max_commas)
      return yaml_error(path, place, llvm::formatv("more than {0} commas in a row", max_commas));
    if (!comment && !llvm::StringRef(" \t\r\n,").contains(char(c)))
      commas = 0;
    if (c == '\n') {
      place = {place.line + 1, 1};
      line_start = true;
    } else {
      ++place.column;
      line_start = line_start && c == ' ';
    }
    i += length;
  }
  return Error::success();
}

class TreeReader {
public:
  TreeReader(std::string_view text, const std::string &path) : text_(text), path_(path) {
    for (size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n')
        line_starts_.push_back(i + 1);
    sources_.setDiagHandler(
        [](const llvm::SMDiagnostic &d, void *self) {
          auto &reader = *static_cast<TreeReader *>(self);
          if (!reader.error_ && d.getKind() == llvm::SourceMgr::DK_Error)
            reader.fail({uint32_t(std::max(d.getLineNo(), 1)), uint32_t(std::max(d.getColumnNo() + 1, 1))},
                        d.getMessage().str());
        },
        this);
  }

  Expected<YamlNode> read() {
    llvm::yaml::Stream stream(llvm::StringRef(text_.data(), text_.size()), sources_, false);
    YamlNode root;
    auto document = stream.begin();
    if (document != stream.end())
      if (llvm::yaml::Node *node = document->getRoot())
        root = take(node, 0);
    if (!error_ && stream.failed())
      fail({1, 1}, "not YAML");
    if (!error_) {
      ++document;
      if (!error_ && document != stream.end() && document->getRoot() &&
          !llvm::isa<llvm::yaml::NullNode>(document->getRoot()))
        fail(place_of(document->getRoot()), "a second document; a manifest is one");
    }
    if (error_)
      return yaml_error(path_, error_->first, error_->second);
    return root;
  }

private:
  void fail(Place place, std::string message) {
    if (!error_)
      error_.emplace(place, std::move(message));
  }

  Place place_of(const llvm::yaml::Node *node) const {
    const char *at = node->getSourceRange().Start.getPointer();
    if (!at || at < text_.data() || at > text_.data() + text_.size())
      return {1, 1};
    const auto offset = size_t(at - text_.data());
    const auto line = std::upper_bound(line_starts_.begin(), line_starts_.end(), offset) - 1;
    return {uint32_t(line - line_starts_.begin() + 1), uint32_t(offset - *line + 1)};
  }

  YamlNode take(llvm::yaml::Node *node, unsigned depth) {
    YamlNode out;
    out.place = place_of(node);
    if (depth > max_depth)
      fail(out.place, llvm::formatv("nested more than {0} deep", max_depth));
    else if (llvm::isa<llvm::yaml::AliasNode>(node) || !node->getAnchor().empty())
      fail(out.place, "anchors and aliases are not used in manifests: write the value out");
    else if (!node->getRawTag().empty())
      fail(out.place, "tags are not used in manifests");
    if (error_)
      return out;
    llvm::SmallString<64> storage;
    if (auto *scalar = llvm::dyn_cast<llvm::yaml::ScalarNode>(node)) {
      out.kind = YamlNode::scalar;
      out.text = scalar->getValue(storage).str();
    } else if (auto *block = llvm::dyn_cast<llvm::yaml::BlockScalarNode>(node)) {
      out.kind = YamlNode::scalar;
      out.text = block->getValue().str();
    } else if (auto *sequence = llvm::dyn_cast<llvm::yaml::SequenceNode>(node)) {
      out.kind = YamlNode::sequence;
      for (auto i = sequence->begin(), e = sequence->end(); !error_ && i != e;) {
        out.items.push_back(take(&*i, depth + 1));
        if (!error_)
          ++i;
      }
    } else if (auto *mapping = llvm::dyn_cast<llvm::yaml::MappingNode>(node)) {
      take_entries(*mapping, out, depth);
    }
    return out;
  }

  void take_entries(llvm::yaml::MappingNode &mapping, YamlNode &out, unsigned depth) {
    out.kind = YamlNode::mapping;
    std::set<std::string> seen;
    for (auto i = mapping.begin(), e = mapping.end(); !error_ && i != e;) {
      llvm::yaml::Node *key = i->getKey();
      if (!key || error_)
        return fail(out.place, "a key is missing");
      const Place place = place_of(key);
      if (!llvm::isa<llvm::yaml::ScalarNode>(key))
        return fail(place, "a key must be a plain word");
      YamlEntry entry{take(key, depth + 1).text, place, {}};
      if (error_)
        return;
      if (!seen.insert(entry.key).second)
        return fail(place, "key '" + entry.key + "' is there twice");
      if (llvm::yaml::Node *value = i->getValue(); value && !error_)
        entry.value = take(value, depth + 1);
      if (entry.value.place.line == 0 || entry.value.kind == YamlNode::null)
        entry.value.place = place;
      out.entries.push_back(std::move(entry));
      if (!error_)
        ++i;
    }
  }

  std::string_view text_;
  const std::string &path_;
  std::vector<size_t> line_starts_{0};
  llvm::SourceMgr sources_;
  std::optional<std::pair<Place, std::string>> error_;
};

} // namespace

std::string Place::text() const { return llvm::formatv("line {0}, column {1}", line, column); }

std::string_view name_of(YamlNode::Kind kind) {
  switch (kind) {
  case YamlNode::null: return "nothing";
  case YamlNode::scalar: return "a value";
  case YamlNode::sequence: return "a list";
  case YamlNode::mapping: return "a mapping";
  }
  return "";
}

Expected<YamlNode> read_yaml(std::string_view text, const std::string &path) {
  if (Error e = check_text(text, path))
    return e;
  return TreeReader(text, path).read();
}

} // namespace ujit
