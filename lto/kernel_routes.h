// Gives the running kernel the routes of a manifest, so that its bpf_fib_lookup answers as the embedded
// kernel's does.
#pragma once

#include "kernel-iface/embedded/fib.h"

#include <span>

namespace ujit {

/// Makes interfaces (pairs of veth), permanent neighbours and routes in the network namespace of the calling
/// thread, which must be a private one. A route without a gateway gets a made-up one, since a neighbour is
/// what carries its MAC address. Errors (unsupported): no `ip` tool, or it refuses; (input) two source
/// addresses for one interface.
Error add_kernel_routes(std::span<const FibRoute> routes);

} // namespace ujit
