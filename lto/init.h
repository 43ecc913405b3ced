// A first manifest for bare objects: what can be found is filled in, what must be said by hand is left as a
// comment that says so.
#pragma once

#include "kernel-iface/object/object.h"

#include <span>
#include <string>

namespace ujit {

/// The manifest's text; it reads back without errors. Entries are guessed: programs of a type that sees
/// packets and that no slot names.
std::string first_manifest(std::span<const Object> objects, const std::string &name);

/// A manifest of what is attached to an interface now: one attach point for each program. Errors: no such
/// interface, nothing is attached there.
Expected<std::string> running_manifest(const std::string &interface);

} // namespace ujit
