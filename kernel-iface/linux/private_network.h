#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/error.h"

namespace ujit {

/// While it lives, the calling thread is in an empty network namespace of its own with nothing but a loopback
/// interface. Pipelines that are loaded and run inside can neither send packets to the machine's networks
/// (clone_redirect in a test run does) nor see its interfaces and routes (fib_lookup), so runs also give the
/// same answers on every machine. Made and destroyed by the same thread.
class PrivateNetwork {
public:
  /// Errors: CAP_SYS_ADMIN is missing, or the kernel has no network namespaces.
  static Expected<PrivateNetwork> enter();
  PrivateNetwork(PrivateNetwork &&) noexcept = default;
  PrivateNetwork &operator=(PrivateNetwork &&) = delete;
  ~PrivateNetwork();

private:
  explicit PrivateNetwork(Fd before) : before_(std::move(before)) {}
  Fd before_; ///< the namespace to go back to
};

} // namespace ujit
