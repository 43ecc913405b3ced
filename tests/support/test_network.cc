#include "tests/support/test_network.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ujit {
namespace {

Error failed(const char *what) {
  return unsupported(std::string(what) + ": " + std::strerror(errno)).error();
}

Fd this_namespace() { return Fd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)); }

void enter(const Fd &network) {
  if (setns(network.get(), CLONE_NEWNET) != 0) {
    std::perror("cannot return to a network namespace");
    std::abort();
  }
}

/// `ip -batch` in the thread's namespace.
Error run_ip(std::string_view lines) {
  std::string command =
      "PATH=$PATH:/usr/sbin:/sbin ip -batch - 2>&1 <<'END'\n" + std::string(lines) + "\nEND\n";
  FILE *pipe = popen(command.c_str(), "r");
  if (!pipe)
    return failed("cannot run ip");
  std::string output;
  char buffer[512];
  while (size_t size = fread(buffer, 1, sizeof buffer, pipe))
    output.append(buffer, size);
  if (pclose(pipe) != 0)
    return unsupported("ip: " + output).error();
  return Error::success();
}

/// No address of its own making, no router solicitations: nothing but the tests' packets. `sys` shows the
/// thread's namespace.
void keep_quiet() {
  for (const char *setting : {"default/addr_gen_mode", "all/addr_gen_mode"})
    if (FILE *file = fopen((std::string("/proc/sys/net/ipv6/conf/") + setting).c_str(), "w")) {
      fputs("1\n", file);
      fclose(file);
    }
  for (const char *setting : {"default/accept_dad", "default/router_solicitations", "all/accept_dad"})
    if (FILE *file = fopen((std::string("/proc/sys/net/ipv6/conf/") + setting).c_str(), "w")) {
      fputs("0\n", file);
      fclose(file);
    }
}

/// Native XDP, with frags where the MTU needs them.
Expected<Fd> passing_program() {
  const bpf_insn code[] = {{0xb7, 0, 0, 0, XDP_PASS}, {0x95, 0, 0, 0, 0}};
  LIBBPF_OPTS(bpf_prog_load_opts, options, .prog_flags = BPF_F_XDP_HAS_FRAGS);
  Fd fd(bpf_prog_load(BPF_PROG_TYPE_XDP, "pass", "GPL", code, 2, &options));
  if (!fd)
    return failed("cannot load an XDP program");
  return fd;
}

/// A UDP socket which sends to itself.
Expected<Fd> marker_socket() {
  Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  if (!fd || bind(fd.get(), generic, size) != 0 || getsockname(fd.get(), generic, &size) != 0 ||
      connect(fd.get(), generic, size) != 0)
    return failed("cannot make a socket on the loopback interface");
  return fd;
}

} // namespace

std::string TestNetwork::device_address(unsigned link) {
  return "02:00:00:00:0" + std::to_string(link % 10) + ":01";
}
std::string TestNetwork::outer_address(unsigned link) {
  return "02:00:00:00:0" + std::to_string(link % 10) + ":02";
}

Expected<TestNetwork> TestNetwork::make(const TestNetworkOptions &options) {
  TestNetwork out;
  Fd before = this_namespace();
  if (!before || sched_getaffinity(0, sizeof out.cpus_, &out.cpus_) != 0)
    return failed("cannot read the thread's namespace and CPUs");
  if (unshare(CLONE_NEWNET) != 0)
    return failed("cannot make a private network namespace");
  out.before_ = std::move(before); // goes back from here on
  out.outside_ = this_namespace();
  keep_quiet();
  if (Error e = run_ip("link set lo up"))
    return e;
  if (unshare(CLONE_NEWNET) != 0)
    return failed("cannot make a private network namespace");
  out.device_ = this_namespace();
  keep_quiet();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  if (sched_setaffinity(0, sizeof one, &one) != 0)
    return failed("cannot stay on one CPU");
  out.pinned_ = true;

  std::string mtu = " mtu " + std::to_string(options.mtu);
  std::string outside = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(out.outside_.get());
  std::string here = "link set lo up\n", there;
  for (unsigned i = 0; i < options.links; i++) {
    std::string t = "t" + std::to_string(i), o = "o" + std::to_string(i);
    here += "link add " + t + " numrxqueues 1 numtxqueues 1 address " + device_address(i) + mtu +
            " type veth peer name " + o + " numrxqueues 1 numtxqueues 1 address " + outer_address(i) + mtu +
            " netns " + outside + "\nlink set " + t + " up\n";
    there += "link set " + o + " up\n";
  }
  if (Error e = run_ip(here))
    return e;
  if (options.outer_xdp) {
    Expected<Fd> pass = passing_program();
    if (!pass)
      return pass.takeError();
    out.pass_ = std::move(*pass);
  }
  Error error = out.ip_outside(there);
  if (error)
    return error;
  enter(out.outside_);
  for (unsigned i = 0; i < options.links && !error; i++) {
    out.outer_index_.push_back(int(if_nametoindex(("o" + std::to_string(i)).c_str())));
    if (out.pass_ && bpf_xdp_attach(out.outer_index_[i], out.pass_.get(), XDP_FLAGS_DRV_MODE, nullptr) != 0)
      error = failed("cannot attach an XDP program to a veth device");
  }
  enter(out.device_);
  if (error)
    return error;
  for (unsigned i = 0; i < options.links; i++)
    out.device_index_.push_back(int(if_nametoindex(("t" + std::to_string(i)).c_str())));
  Expected<Fd> marker = marker_socket();
  if (!marker)
    return marker.takeError();
  out.marker_ = std::move(*marker);
  return out;
}

TestNetwork::~TestNetwork() {
  if (before_)
    enter(before_);
  if (before_ && pinned_)
    sched_setaffinity(0, sizeof cpus_, &cpus_);
}

Error TestNetwork::ip(std::string_view lines) const { return run_ip(lines); }

Error TestNetwork::ip_outside(std::string_view lines) const {
  enter(outside_);
  Error error = run_ip(lines);
  enter(device_);
  return error;
}

Expected<Fd> TestNetwork::outside_socket(int domain, int type, int protocol) const {
  enter(outside_);
  Fd fd(socket(domain, type | SOCK_CLOEXEC, protocol));
  int error = errno;
  enter(device_);
  errno = error;
  if (!fd)
    return failed("cannot open a socket");
  return fd;
}

// A CPU works off its backlog and its devices in turn: a packet that passes through the loopback interface
// comes back after everything that stood before it has gone one hop further.
Error TestNetwork::settle() const {
  for (int hop = 0; hop < 7; hop++) {
    char byte = 0;
    pollfd ready{marker_.get(), POLLIN, 0};
    if (send(marker_.get(), &byte, 1, 0) != 1 || poll(&ready, 1, 10000) != 1 ||
        recv(marker_.get(), &byte, 1, 0) != 1)
      return failed("the marker packet is lost");
  }
  return Error::success();
}

} // namespace ujit
