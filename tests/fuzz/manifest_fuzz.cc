// Any bytes are a manifest or an error; what is accepted is printed and read back to the same text.
#include "lto/manifest.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using namespace ujit;
  Expected<Manifest> first =
      parse_manifest(std::string_view(reinterpret_cast<const char *>(data), size), "m.ujit.yaml");
  if (!first) {
    llvm::consumeError(first.takeError());
    return 0;
  }
  const std::string text = print_manifest(*first);
  Expected<Manifest> second = parse_manifest(text, "m.ujit.yaml");
  if (!second || print_manifest(*second) != text)
    std::abort();
  return 0;
}
