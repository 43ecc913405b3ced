// Map definitions from before BTF: an array of structs in section `maps`, one symbol each.
#pragma once

#include "kernel-iface/object/map_defs.h"

namespace ujit {

/// Adds the maps of sections `maps` and `maps/...` to `out`, and sets MapDefs::iproute2 and legacy_ids.
Error read_legacy_maps(const ElfFile &elf, MapDefs &out);

} // namespace ujit
