#include "translator/json.h"

namespace ujit {

static bool nests_deeply(llvm::StringRef text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      in_string = c != '"';
    } else if (c == '"')
      in_string = true;
    else if ((c == '[' || c == '{') && ++depth > 32)
      return true;
    else if (c == ']' || c == '}')
      --depth;
  }
  return false;
}

Expected<llvm::json::Value> parse_json(llvm::StringRef text) {
  if (nests_deeply(text))
    return input_error("nested too deeply").error();
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(text);
  if (!value)
    return input_error(llvm::toString(value.takeError())).error();
  return value;
}

} // namespace ujit
