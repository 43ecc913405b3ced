// Config constants of an object.
#pragma once

#include "kernel-iface/object/gather.h"

namespace ujit {

/// Writes values into the contents of data maps, into immediates that hold such values, and, for bound
/// constants of frozen maps, into Map::bound. Errors: see gather().
Error set_constants(Object &object, const std::vector<ConstantSetting> &settings);

} // namespace ujit
