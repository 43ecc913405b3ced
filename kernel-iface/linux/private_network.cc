#include "kernel-iface/linux/private_network.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ujit {
namespace {

/// Test runs of skb programs belong to the loopback interface, which is down in a new namespace.
bool bring_loopback_up() {
  Fd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd)
    return false;
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING;
  return ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) == 0;
}

} // namespace

Expected<PrivateNetwork> PrivateNetwork::enter() {
  auto failed = [](const char *what) {
    return unsupported(std::string(what) + ": " + std::strerror(errno)).error();
  };
  Fd before(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!before)
    return failed("cannot open this thread's network namespace");
  if (unshare(CLONE_NEWNET) != 0)
    return failed("cannot make a private network namespace");
  PrivateNetwork out(std::move(before)); // goes back from here on
  if (!bring_loopback_up())
    return failed("cannot set up a loopback interface");
  return out;
}

PrivateNetwork::~PrivateNetwork() {
  if (before_ && setns(before_.get(), CLONE_NEWNET) != 0) {
    std::perror("ujit-lto: cannot return to the network namespace");
    std::abort();
  }
}

} // namespace ujit
