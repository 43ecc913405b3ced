// Any bytes are an object file or an error; what is read can be gathered into a pipeline, or is refused.
#include "kernel-iface/object/gather.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using namespace ujit;
  Expected<Object> object = read_object("fuzz.bpf.o", {data, size});
  if (!object) {
    llvm::consumeError(object.takeError());
    return 0;
  }
  GatherRequest request;
  request.objects.push_back(std::move(*object));
  llvm::consumeError(gather(std::move(request)).takeError());
  return 0;
}
