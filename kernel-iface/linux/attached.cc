// What is attached to a network interface. XDP and tcx are asked by libbpf and bpf(); filters of the clsact
// qdisc are only told by a netlink dump, one for each direction.
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::formatv;

namespace {

// Of newer kernels than the headers that we build with.
constexpr uint32_t attach_tcx_ingress = 46, attach_tcx_egress = 47;
constexpr uint32_t link_type_xdp = 6;

struct ProgQuery { // union bpf_attr of BPF_PROG_QUERY, from 6.6 on
  uint32_t target, attach_type, query_flags, attach_flags;
  uint64_t prog_ids;
  uint32_t count, padding;
  uint64_t prog_attach_flags, link_ids, link_attach_flags, revision;
};

Error refused(int error, const char *what, const std::string &interface) {
  return bpf_error(error, formatv("{0} of interface '{1}'", what, interface)).error();
}

/// Whether a link holds this program at the XDP hook of the interface.
Expected<bool> attached_by_xdp_link(uint32_t program, uint32_t ifindex) {
  uint32_t id = 0;
  while (bpf_link_get_next_id(id, &id) == 0) {
    Fd fd(bpf_link_get_fd_by_id(id));
    if (!fd && errno == ENOENT)
      continue;
    if (!fd)
      return bpf_error(errno, "reading links").error();
    bpf_link_info info{};
    uint32_t length = sizeof info;
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0 && info.type == link_type_xdp &&
        info.prog_id == program && info.xdp.ifindex == ifindex)
      return true;
  }
  return false;
}

Error add_xdp(const std::string &interface, uint32_t ifindex, std::vector<AttachedProgram> &out) {
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  if (const int error = bpf_xdp_query(int(ifindex), 0, &query))
    return refused(-error, "asking for XDP programs", interface);
  const std::pair<uint32_t, uint32_t> modes[] = {{query.drv_prog_id, XDP_FLAGS_DRV_MODE},
                                                 {query.skb_prog_id, XDP_FLAGS_SKB_MODE},
                                                 {query.hw_prog_id, XDP_FLAGS_HW_MODE}};
  for (auto [id, mode] : modes) {
    if (id == 0)
      continue;
    Expected<bool> by_link = attached_by_xdp_link(id, ifindex);
    if (!by_link)
      return by_link.takeError();
    AttachedProgram program;
    program.id = id;
    program.hook = AttachedProgram::xdp;
    program.flags = mode;
    program.by_link = *by_link;
    out.push_back(program);
  }
  return Error::success();
}

/// Kernels before 6.6 have no tcx: nothing is attached there.
Error add_tcx(const std::string &interface, uint32_t ifindex, AttachedProgram::Hook hook,
              std::vector<AttachedProgram> &out) {
  std::vector<uint32_t> ids(64), links(64);
  ProgQuery query{};
  query.target = ifindex;
  query.attach_type = hook == AttachedProgram::tcx_ingress ? attach_tcx_ingress : attach_tcx_egress;
  query.prog_ids = reinterpret_cast<uint64_t>(ids.data());
  query.link_ids = reinterpret_cast<uint64_t>(links.data());
  query.count = uint32_t(ids.size());
  if (syscall(__NR_bpf, BPF_PROG_QUERY, &query, sizeof query) != 0) {
    if (errno == EINVAL || errno == ENOENT || errno == E2BIG)
      return Error::success();
    return refused(errno, "asking for tcx programs", interface);
  }
  for (uint32_t i = 0; i < std::min<size_t>(query.count, ids.size()); i++) {
    AttachedProgram program;
    program.id = ids[i];
    program.hook = hook;
    program.by_link = links[i] != 0;
    out.push_back(program);
  }
  return Error::success();
}

// --- filters

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

void add_filter(const nlmsghdr *message, AttachedProgram::Hook hook, std::vector<AttachedProgram> &out) {
  if (message->nlmsg_type != RTM_NEWTFILTER || message->nlmsg_len < NLMSG_LENGTH(sizeof(tcmsg)))
    return;
  const auto *tc = static_cast<const tcmsg *>(NLMSG_DATA(message));
  const auto all = attributes(TCA_RTA(tc), int(NLMSG_PAYLOAD(message, sizeof *tc)), TCA_MAX + 1);
  const rtattr *kind = all[TCA_KIND], *options = all[TCA_OPTIONS];
  if (!kind || !options || strncmp(static_cast<const char *>(RTA_DATA(kind)), "bpf", RTA_PAYLOAD(kind)) != 0)
    return;
  const auto bpf =
      attributes(static_cast<const rtattr *>(RTA_DATA(options)), int(RTA_PAYLOAD(options)), TCA_BPF_MAX + 1);
  AttachedProgram program;
  program.id = word(bpf[TCA_BPF_ID]);
  program.hook = hook;
  program.priority = TC_H_MAJ(tc->tcm_info) >> 16;
  program.handle = tc->tcm_handle;
  program.flags = word(bpf[TCA_BPF_FLAGS]);
  if (program.id != 0) // without: a classic filter, or the head of a priority
    out.push_back(program);
}

Error add_filters(const std::string &interface, uint32_t ifindex, AttachedProgram::Hook hook,
                  std::vector<AttachedProgram> &out) {
  Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  struct {
    nlmsghdr header{};
    tcmsg tc{};
  } request;
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof(tcmsg));
  request.header.nlmsg_type = RTM_GETTFILTER;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.tc.tcm_family = AF_UNSPEC;
  request.tc.tcm_ifindex = int(ifindex);
  request.tc.tcm_parent =
      TC_H_MAKE(TC_H_CLSACT, hook == AttachedProgram::tc_ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
  auto failed = [&](int error) { return refused(error, "asking for filters", interface); };
  if (!netlink || send(netlink.get(), &request, request.header.nlmsg_len, 0) < 0)
    return failed(errno);
  alignas(nlmsghdr) char buffer[1 << 16];
  for (;;) {
    const ssize_t got = recv(netlink.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return failed(errno);
    size_t left = size_t(got);
    for (auto *message = reinterpret_cast<const nlmsghdr *>(buffer); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE)
        return Error::success();
      if (message->nlmsg_type == NLMSG_ERROR) {
        const int error = -static_cast<const nlmsgerr *>(NLMSG_DATA(message))->error;
        if (error == EINVAL || error == ENOENT || error == 0) // no clsact qdisc
          return Error::success();
        return failed(error);
      }
      add_filter(message, hook, out);
    }
  }
}

} // namespace

Expected<std::vector<AttachedProgram>> attached_programs(const std::string &interface) {
  const uint32_t ifindex = if_nametoindex(interface.c_str());
  if (ifindex == 0)
    return input_error("there is no network interface '" + interface + "'")
        .with_hint("see `ip link`; interfaces belong to a network namespace")
        .error();
  std::vector<AttachedProgram> out;
  if (Error e = add_xdp(interface, ifindex, out))
    return e;
  for (auto hook : {AttachedProgram::tcx_ingress, AttachedProgram::tcx_egress})
    if (Error e = add_tcx(interface, ifindex, hook, out))
      return e;
  for (auto hook : {AttachedProgram::tc_ingress, AttachedProgram::tc_egress})
    if (Error e = add_filters(interface, ifindex, hook, out))
      return e;
  return out;
}

} // namespace ujit
