// A small network for tests of programs that are attached: veth pairs between two network namespaces of their
// own. Nothing of it can be seen from outside, and it is gone with the object.
//
//     device namespace (the calling thread's)      outside namespace
//       t0  <------------------------------------->  o0
//       t1  <------------------------------------->  o1        ...
//
// Programs are attached to t0, t1, ... (the device under test); what is sent on o0 arrives on t0, and what
// leaves through t1 is seen on o1. All work is done on one CPU, which is what lets settle() know that it is
// finished.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/error.h"

#include <sched.h>

#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct TestNetworkOptions {
  unsigned links = 2;
  unsigned mtu = 1500;
  /// Native XDP programs that pass everything on the outer ends: without them a veth device takes neither
  /// packets that XDP redirects to it nor those that XDP sends back. With them, its kernel's side copies some
  /// packets, so tests of tc leave them out.
  bool outer_xdp = false;
};

class TestNetwork {
public:
  /// Made and destroyed by the same thread, which is in the device namespace and on one CPU meanwhile.
  /// Errors: no privileges, no veth devices, no `ip` program.
  static Expected<TestNetwork> make(const TestNetworkOptions &options = {});
  TestNetwork(TestNetwork &&) noexcept = default;
  TestNetwork &operator=(TestNetwork &&) = delete;
  ~TestNetwork();

  unsigned links() const { return unsigned(device_index_.size()); }
  int device(unsigned link) const { return device_index_[link]; } ///< interface index of t<link>, in there
  int outer(unsigned link) const { return outer_index_[link]; }   ///< interface index of o<link>, out there

  /// Lines for `ip -batch`, in the device or the outside namespace: addresses, routes, neighbours. Errors:
  /// what `ip` says.
  Error ip(std::string_view lines) const;
  Error ip_outside(std::string_view lines) const;

  /// Hardware address of an end, as text: t<link> has 02:00:00:00:<link>:01, o<link> 02:00:00:00:<link>:02.
  static std::string device_address(unsigned link);
  static std::string outer_address(unsigned link);

  /// Opens a socket of the outside namespace. Errors: the kernel's.
  Expected<Fd> outside_socket(int domain, int type, int protocol) const;

  /// Returns when every packet sent before has gone all its way: received, redirected, sent on, received
  /// again (up to six times). Errors: the marker packets do not come back.
  Error settle() const;

private:
  TestNetwork() = default;
  Fd before_; ///< the thread's namespace and CPUs, to go back to
  Fd device_; ///< the two namespaces
  Fd outside_;
  Fd marker_; ///< a UDP socket which is connected to itself
  Fd pass_;   ///< the program of the outer ends
  cpu_set_t cpus_{};
  bool pinned_ = false;
  std::vector<int> device_index_, outer_index_;
};

} // namespace ujit
