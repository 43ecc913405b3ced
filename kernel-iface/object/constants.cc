#include "kernel-iface/object/constants.h"

#include "kernel-iface/object/nearest.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace ujit {

using llvm::formatv;

namespace {

/// Whether the upper bits of `value` are only the sign or zero extension of its low `size` bytes.
bool fits(uint64_t value, uint32_t size) {
  if (size >= 8)
    return true;
  uint64_t upper = value >> (8 * size);
  bool sign = value >> (8 * size - 1) & 1;
  return upper == 0 || (sign && upper == ~uint64_t(0) >> (8 * size));
}

Error set(Object &object, const Variable &variable, const ConstantSetting &setting) {
  Map &map = object.maps[index(variable.map)];
  bool scalar = variable.size == 1 || variable.size == 2 || variable.size == 4 || variable.size == 8;
  if (!setting.bytes.empty()) {
    if (setting.bytes.size() != variable.size || setting.mode == ConstantSetting::bind)
      return input_error(formatv("constant {0} has {1} bytes, not {2} that are compiled in", variable.name,
                                 variable.size, setting.bytes.size())
                             .str())
          .error();
    std::copy(setting.bytes.begin(), setting.bytes.end(), map.contents.begin() + variable.offset);
  } else {
    if (!scalar)
      return input_error(
                 formatv("constant {0} has {1} bytes and takes no number", variable.name, variable.size)
                     .str())
          .with_hint("give all its bytes")
          .error();
    if (!fits(setting.value, variable.size))
      return input_error(formatv("constant {0} has {1} bytes; {2} does not fit", variable.name, variable.size,
                                 setting.value)
                             .str())
          .error();
    std::memcpy(map.contents.data() + variable.offset, &setting.value, variable.size);
  }

  for (const InlinedValue &v : object.inlined) {
    if (v.map != variable.map || v.offset + v.size <= variable.offset ||
        v.offset >= variable.offset + variable.size)
      continue;
    Program &p = object.programs[v.program];
    if (setting.mode == ConstantSetting::bind)
      return unsupported(
                 formatv("constant {0} cannot differ by instance: its value is in the code", variable.name)
                     .str())
          .in_program(p.name)
          .at(v.insn)
          .with_hint("fold it, or read the variable through its address")
          .error();
    uint64_t value = 0;
    std::memcpy(&value, map.contents.data() + v.offset, v.size);
    p.insns[v.insn].imm = int32_t(value);
    p.insns[v.insn + 1].imm = int32_t(value >> 32);
  }

  // What is not frozen is no constant anyway: its value is only where the map starts from.
  if (setting.mode == ConstantSetting::bind && map.frozen) {
    uint64_t value = 0;
    std::memcpy(&value, map.contents.data() + variable.offset, variable.size);
    map.bound.push_back({variable.name, variable.offset, variable.size, value});
    std::sort(map.bound.begin(), map.bound.end(),
              [](const BoundConstant &a, const BoundConstant &b) { return a.offset < b.offset; });
  }
  return Error::success();
}

} // namespace

Error set_constants(Object &object, const std::vector<ConstantSetting> &settings) {
  std::set<const Variable *> done;
  for (const ConstantSetting &setting : settings) {
    std::vector<const Variable *> found;
    for (const std::string &name : {setting.variable, "__config_" + setting.variable}) {
      for (const Variable &v : object.variables)
        if (v.name == name)
          found.push_back(&v);
      if (!found.empty())
        break;
    }
    if (found.empty()) {
      std::vector<std::string_view> names;
      for (const Variable &v : object.variables)
        names.push_back(v.name);
      return input_error(formatv("constant {0} does not exist", setting.variable).str())
          .in_file(object.path)
          .with_hint(nearest_hint(setting.variable, names))
          .error();
    }
    if (found.size() > 1)
      return input_error(
                 formatv("constant {0} is the name of {1} variables", setting.variable, found.size()).str())
          .in_file(object.path)
          .error();
    if (!done.insert(found[0]).second)
      return input_error(formatv("constant {0} is set twice", found[0]->name).str())
          .in_file(object.path)
          .error();
    if (Error e = set(object, *found[0], setting))
      return with_place(std::move(e), object.path);
  }
  return Error::success();
}

} // namespace ujit
