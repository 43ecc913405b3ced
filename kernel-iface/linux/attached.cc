// What is attached to a network interface.
#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/clsact.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

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

Error add_filters(const std::string &interface, uint32_t ifindex, AttachedProgram::Hook hook,
                  std::vector<AttachedProgram> &out) {
  Expected<std::vector<ClsactFilter>> filters =
      clsact_filters(ifindex, hook == AttachedProgram::tc_ingress ? ClsactSide::ingress : ClsactSide::egress);
  if (!filters)
    return filters.takeError();
  for (const ClsactFilter &f : *filters)
    out.push_back({.id = f.program_id, .hook = hook, .priority = f.priority, .handle = f.handle});
  return Error::success();
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
