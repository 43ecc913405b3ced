#include "kernel-iface/linux/clsact.h"

#include "kernel-iface/linux/maps.h"

#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace ujit {

namespace {

struct Request {
  nlmsghdr header{};
  tcmsg tc{};
  alignas(NLMSG_ALIGNTO) char attributes[1024]{};

  Request(uint16_t type, uint16_t flags, uint32_t ifindex, ClsactSide side) {
    header.nlmsg_len = NLMSG_LENGTH(sizeof tc);
    header.nlmsg_type = type;
    header.nlmsg_flags = uint16_t(NLM_F_REQUEST | flags);
    tc.tcm_family = AF_UNSPEC;
    tc.tcm_ifindex = int(ifindex);
    tc.tcm_parent = TC_H_MAKE(TC_H_CLSACT, side == ClsactSide::ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
  }
  rtattr *add(uint16_t type, const void *data, size_t size) {
    auto *at = reinterpret_cast<rtattr *>(reinterpret_cast<char *>(&header) + NLMSG_ALIGN(header.nlmsg_len));
    at->rta_type = type;
    at->rta_len = uint16_t(RTA_LENGTH(size));
    if (size)
      std::memcpy(RTA_DATA(at), data, size);
    header.nlmsg_len = uint32_t(NLMSG_ALIGN(header.nlmsg_len) + RTA_ALIGN(at->rta_len));
    return at;
  }
  void add(uint16_t type, const std::string &text) { add(type, text.c_str(), text.size() + 1); }
  void add(uint16_t type, uint32_t word) { add(type, &word, sizeof word); }
  void end(rtattr *nest) const {
    nest->rta_len =
        uint16_t(reinterpret_cast<const char *>(&header) + header.nlmsg_len - reinterpret_cast<char *>(nest));
  }
};

/// Sends a request and hands each message of the answer to `each`. Returns the error that the kernel answers,
/// or 0.
template <class F>
int ask(const Request &request, F each) {
  Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!netlink || send(netlink.get(), &request, request.header.nlmsg_len, 0) < 0)
    return errno;
  alignas(nlmsghdr) char buffer[1 << 16];
  for (;;) {
    const ssize_t got = recv(netlink.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return errno;
    size_t left = size_t(got);
    for (auto *message = reinterpret_cast<const nlmsghdr *>(buffer); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE)
        return 0;
      if (message->nlmsg_type == NLMSG_ERROR)
        return -static_cast<const nlmsgerr *>(NLMSG_DATA(message))->error;
      each(*message);
    }
  }
}

/// Attributes of a netlink message, by type; later ones win.
std::vector<const rtattr *> attributes(const rtattr *at, int length, size_t count) {
  std::vector<const rtattr *> out(count);
  for (; RTA_OK(at, length); at = RTA_NEXT(at, length))
    if (size_t(at->rta_type & NLA_TYPE_MASK) < count)
      out[at->rta_type & NLA_TYPE_MASK] = at;
  return out;
}

uint32_t word(const rtattr *attribute) {
  uint32_t out = 0;
  if (attribute && RTA_PAYLOAD(attribute) >= sizeof out)
    std::memcpy(&out, RTA_DATA(attribute), sizeof out);
  return out;
}

std::string text(const rtattr *attribute) {
  if (!attribute)
    return {};
  const auto *at = static_cast<const char *>(RTA_DATA(attribute));
  return std::string(at, strnlen(at, RTA_PAYLOAD(attribute)));
}

void add_filter(const nlmsghdr &message, std::vector<ClsactFilter> &out) {
  if (message.nlmsg_type != RTM_NEWTFILTER || message.nlmsg_len < NLMSG_LENGTH(sizeof(tcmsg)))
    return;
  const auto *tc = static_cast<const tcmsg *>(NLMSG_DATA(&message));
  const auto all = attributes(TCA_RTA(tc), int(NLMSG_PAYLOAD(&message, sizeof *tc)), TCA_MAX + 1);
  const rtattr *options = all[TCA_OPTIONS];
  if (text(all[TCA_KIND]) != "bpf" || !options || word(all[TCA_CHAIN]) != 0)
    return;
  const auto bpf =
      attributes(static_cast<const rtattr *>(RTA_DATA(options)), int(RTA_PAYLOAD(options)), TCA_BPF_MAX + 1);
  ClsactFilter filter{.program_id = word(bpf[TCA_BPF_ID]),
                      .priority = TC_H_MAJ(tc->tcm_info) >> 16,
                      .handle = tc->tcm_handle,
                      .protocol = uint16_t(TC_H_MIN(tc->tcm_info)),
                      .class_id = word(bpf[TCA_BPF_CLASSID]),
                      .direct_action = (word(bpf[TCA_BPF_FLAGS]) & TCA_BPF_FLAG_ACT_DIRECT) != 0,
                      .actions = bpf[TCA_BPF_ACT] || bpf[TCA_BPF_POLICE],
                      .offload =
                          word(bpf[TCA_BPF_FLAGS_GEN]) & (TCA_CLS_FLAGS_SKIP_HW | TCA_CLS_FLAGS_SKIP_SW),
                      .name = text(bpf[TCA_BPF_NAME])};
  if (filter.program_id != 0) // without: a classic filter, or the head of a priority
    out.push_back(std::move(filter));
}

} // namespace

Expected<std::vector<ClsactFilter>> clsact_filters(uint32_t ifindex, ClsactSide side) {
  std::vector<ClsactFilter> out;
  const int error = ask(Request(RTM_GETTFILTER, NLM_F_DUMP, ifindex, side),
                        [&](const nlmsghdr &message) { add_filter(message, out); });
  if (error && error != EINVAL && error != ENOENT && error != ENODEV) // no clsact qdisc, or no such interface
    return bpf_error(error, "asking for filters").error();
  return out;
}

Error put_clsact_filter(uint32_t ifindex, ClsactSide side, const ClsactFilter &filter, int program_fd,
                        bool fresh) {
  if (filter.actions)
    return unsupported("the filter has actions of its own").error();
  Request request(RTM_NEWTFILTER, NLM_F_ACK | (fresh ? NLM_F_CREATE | NLM_F_EXCL : NLM_F_REPLACE), ifindex,
                  side);
  request.tc.tcm_handle = filter.handle;
  request.tc.tcm_info = TC_H_MAKE(filter.priority << 16, filter.protocol);
  request.add(TCA_KIND, std::string("bpf"));
  rtattr *options = request.add(TCA_OPTIONS, nullptr, 0);
  request.add(TCA_BPF_FD, uint32_t(program_fd));
  if (!filter.name.empty())
    request.add(TCA_BPF_NAME, filter.name.substr(0, 256));
  if (filter.class_id)
    request.add(TCA_BPF_CLASSID, filter.class_id);
  request.add(TCA_BPF_FLAGS, filter.direct_action ? uint32_t(TCA_BPF_FLAG_ACT_DIRECT) : 0u);
  if (filter.offload)
    request.add(TCA_BPF_FLAGS_GEN, filter.offload);
  request.end(options);
  if (const int error = ask(request, [](const nlmsghdr &) {}))
    return bpf_error(error, "changing the filter").error();
  return Error::success();
}

} // namespace ujit
