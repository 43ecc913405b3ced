// Any bytes are an image or an error; without its debug sections it is the same image.
#include "lto/image.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using namespace ujit;
  const std::span<const uint8_t> bytes(data, size);
  Expected<ImageInfo> info = read_image_info(bytes, "fuzz.ujit");
  for (uint64_t offset : {0, 1, 64, 4096})
    llvm::consumeError(symbolize(bytes, offset).takeError());
  Expected<std::vector<uint8_t>> stripped = strip_debug(bytes);
  if (!info || !stripped) {
    llvm::consumeError(info.takeError());
    llvm::consumeError(stripped.takeError());
    return 0;
  }
  Expected<ImageInfo> again = read_image_info(*stripped, "fuzz.ujit");
  if (!again || *again != *info)
    std::abort();
  return 0;
}
