// Any bytes are an object file or an error; what is read can be gathered into a pipeline, alone and beside a
// copy of itself, with slots and constants set as a manifest would, or is refused.
#include "kernel-iface/object/gather.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using namespace ujit;
  Expected<Object> object = read_object("fuzz.bpf.o", {data, size});
  if (!object) {
    llvm::consumeError(object.takeError());
    return 0;
  }
  GatherRequest alone, beside_a_copy;
  alone.objects = {*object};
  std::vector<ConstantSetting> &constants = alone.constants[object->path];
  for (const Variable &v : object->variables)
    constants.push_back({v.name, v.offset % 8 ? ConstantSetting::fold : ConstantSetting::bind, 1, {}});
  for (const Map &map : object->maps)
    if (map.type == MapType::prog_array && !object->programs.empty())
      alone.slots.push_back({map.name, 0, object->programs.back().name});
  llvm::consumeError(gather(std::move(alone)).takeError());

  beside_a_copy.objects = {*object, *object};
  beside_a_copy.objects[1].path = "copy.bpf.o";
  llvm::consumeError(gather(std::move(beside_a_copy)).takeError());
  return 0;
}
