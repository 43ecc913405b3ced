#include "lto/kernel_routes.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"

#include <arpa/inet.h>

#include <map>

namespace ujit {

namespace {

using llvm::formatv;

/// Indices of the veth pairs' other ends: out of the way of the manifest's.
constexpr uint32_t peer_index_base = 1u << 30;

std::string address_text(bool ipv6, const std::array<uint8_t, 16> &address) {
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(ipv6 ? AF_INET6 : AF_INET, address.data(), text, sizeof text);
  return text;
}

std::string mac_text(const std::array<uint8_t, 6> &mac) {
  std::string out;
  for (uint8_t byte : mac)
    out += formatv("{0}{1:x-2}", out.empty() ? "" : ":", byte);
  return out;
}

/// What `ip -batch` is to do.
Expected<std::string> ip_commands(std::span<const FibRoute> routes) {
  std::string out = "link set lo up\n";
  std::map<uint32_t, std::array<uint8_t, 6>> links;
  unsigned made_up = 0;
  for (const FibRoute &r : routes) {
    const std::string link = formatv("link{0}", r.ifindex);
    const auto [known, fresh] = links.emplace(r.ifindex, r.smac);
    if (fresh)
      out += formatv(
          "link add {0} index {1} address {2} type veth peer name peer{1} index {3}\nlink set {0} up\n"
          "link set peer{1} up\n",
          link, r.ifindex, mac_text(r.smac), peer_index_base + r.ifindex);
    else if (known->second != r.smac)
      return input_error(formatv("routes give interface {0} two source addresses", r.ifindex)).error();
    ++made_up;
    const std::string via = r.gateway != std::array<uint8_t, 16>{} ? address_text(r.ipv6, r.gateway)
                            : r.ipv6 ? formatv("fe80::{0:x-}:{1:x-}", r.ifindex, made_up).str()
                                     : formatv("169.254.{0}.{1}", made_up >> 8 & 255, made_up & 255).str();
    out += formatv("neigh replace {0} lladdr {1} nud permanent dev {2}\n", via, mac_text(r.dmac), link);
    out += formatv("route replace {0}/{1} via {2} dev {3} onlink mtu {4}\n", address_text(r.ipv6, r.prefix),
                   r.prefix_bits, via, link, r.mtu);
  }
  return out;
}

/// A kernel without one of the families has no such file, and no such route either.
void set_forwarding() {
  for (const char *path : {"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"}) {
    std::error_code ec;
    llvm::raw_fd_ostream os(path, ec, llvm::sys::fs::CD_OpenExisting);
    if (!ec) {
      os << "1\n";
      os.flush();
      os.clear_error();
    }
  }
}

} // namespace

Error add_kernel_routes(std::span<const FibRoute> routes) {
  if (routes.empty())
    return Error::success();
  llvm::ErrorOr<std::string> ip =
      llvm::sys::findProgramByName("ip", {"/usr/sbin", "/sbin", "/usr/bin", "/bin"});
  if (!ip)
    return unsupported("the manifest's routes need the `ip` tool").with_hint("install iproute2").error();
  Expected<std::string> commands = ip_commands(routes);
  if (!commands)
    return commands.takeError();
  set_forwarding();

  llvm::SmallString<64> batch, complaints;
  int fd = -1;
  if (llvm::sys::fs::createTemporaryFile("ujit-routes", "txt", fd, batch) ||
      llvm::sys::fs::createTemporaryFile("ujit-routes", "err", complaints))
    return unsupported("no temporary file for the manifest's routes").error();
  const auto remove = llvm::make_scope_exit([&] {
    llvm::sys::fs::remove(batch);
    llvm::sys::fs::remove(complaints);
  });
  {
    llvm::raw_fd_ostream os(fd, /*shouldClose=*/true);
    os << *commands;
  }
  const std::optional<llvm::StringRef> streams[] = {llvm::StringRef(), llvm::StringRef(),
                                                    llvm::StringRef(complaints)};
  if (llvm::sys::ExecuteAndWait(*ip, {*ip, "-batch", batch}, std::nullopt, streams, /*SecondsToWait=*/20) ==
      0)
    return Error::success();
  const auto text = llvm::MemoryBuffer::getFile(complaints);
  return unsupported(formatv("the running kernel does not take the manifest's routes: {0}",
                             text ? (*text)->getBuffer().split('\n').first : ""))
      .error();
}

} // namespace ujit
