// Many bytes through the kernel's own TCP, which makes the large, paged, cloned buffers of real traffic.
#include "tests/support/traffic.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace ujit {
namespace {

Error failed(const std::string &what) { return unsupported(what + ": " + std::strerror(errno)).error(); }

sockaddr_in address_of(unsigned link, uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(10u << 24 | 77u << 16 | link << 8 | 1);
  return out;
}

/// Bytes [done, size) as far as the socket takes them. -1 with errno as send().
ssize_t send_some(int fd, int file, const std::vector<uint8_t> &bytes, size_t done, BulkSource source) {
  size_t size = std::min<size_t>(bytes.size() - done, 64 << 10);
  off_t offset = off_t(done);
  switch (source) {
  case BulkSource::copied: return send(fd, bytes.data() + done, size, MSG_NOSIGNAL);
  case BulkSource::sendfile: return sendfile(fd, file, &offset, size);
  case BulkSource::zerocopy: return send(fd, bytes.data() + done, size, MSG_NOSIGNAL | MSG_ZEROCOPY);
  }
  return -1;
}

} // namespace

Error send_bulk(const TestNetwork &network, unsigned link, size_t size, BulkSource source) {
  std::string subnet = "10.77." + std::to_string(link) + ".", name = std::to_string(link);
  if (Error e = network.ip("address replace " + subnet + "1/24 dev t" + name))
    return e;
  if (Error e = network.ip_outside("address replace " + subnet + "2/24 dev o" + name))
    return e;

  std::vector<uint8_t> bytes(size), got;
  for (size_t i = 0; i < size; i++)
    bytes[i] = uint8_t(i ^ i >> 8 ^ i >> 16);
  Fd file(memfd_create("bulk", MFD_CLOEXEC));
  if (!file || write(file.get(), bytes.data(), size) != ssize_t(size))
    return failed("cannot make a file in memory");

  Fd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Expected<Fd> client = network.outside_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (!client)
    return client.takeError();
  int on = 1;
  if (source == BulkSource::zerocopy &&
      setsockopt(client->get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) != 0)
    return failed("no zero-copy sockets");
  sockaddr_in address = address_of(link, 0);
  socklen_t address_size = sizeof address;
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  if (!server || bind(server.get(), generic, sizeof address) != 0 || listen(server.get(), 1) != 0 ||
      getsockname(server.get(), generic, &address_size) != 0)
    return failed("cannot listen for TCP");
  if (connect(client->get(), generic, sizeof address) != 0 && errno != EINPROGRESS)
    return failed("cannot connect by TCP");
  pollfd accepting{server.get(), POLLIN, 0};
  if (poll(&accepting, 1, 20000) != 1)
    return unsupported("no TCP connection in 20 seconds").error();
  Fd peer(accept4(server.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!peer)
    return failed("cannot accept a TCP connection");

  size_t sent = 0;
  std::vector<uint8_t> buffer(256 << 10);
  while (got.size() < size) {
    pollfd both[2] = {{peer.get(), POLLIN, 0}, {client->get(), short(sent < size ? POLLOUT : 0), 0}};
    if (poll(both, 2, 20000) <= 0)
      return unsupported("TCP stands still after " + std::to_string(got.size()) + " bytes").error();
    if (both[1].revents & POLLERR) { // notes that the kernel is done with pages
      char note[128];
      msghdr message{};
      message.msg_control = note;
      message.msg_controllen = sizeof note;
      while (recvmsg(client->get(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
        message.msg_controllen = sizeof note;
    }
    if (both[1].revents & POLLOUT) {
      ssize_t part = send_some(client->get(), file.get(), bytes, sent, source);
      if (part < 0 && errno != EAGAIN && errno != ENOBUFS)
        return failed("cannot send by TCP");
      sent += size_t(std::max<ssize_t>(part, 0));
    }
    ssize_t part = recv(peer.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (part > 0)
      got.insert(got.end(), buffer.begin(), buffer.begin() + part);
    else if (part == 0)
      return unsupported("TCP ends after " + std::to_string(got.size()) + " bytes").error();
  }
  if (got != bytes)
    return unsupported("TCP brings other bytes than were sent").error();
  return Error::success();
}

} // namespace ujit
